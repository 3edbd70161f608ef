//! Every register, with the values of IHI 0069H's tables in numbers.

use vgic::{Level, Vgic, Width};

fn dist(gic: &mut Vgic, offset: u64) -> u64 {
    gic.dist_read(offset, Width::Word)
}

fn write(gic: &mut Vgic, offset: u64, value: u64) {
    let _ = gic.dist_write(offset, Width::Word, value);
}

fn sgi_base(gic: &mut Vgic, vcpu: usize, offset: u64) -> u64 {
    gic.redist_read(vcpu, 0x1_0000 + offset, Width::Word)
}

fn write_sgi_base(gic: &mut Vgic, vcpu: usize, offset: u64, value: u64) {
    let _ = gic.redist_write(vcpu, 0x1_0000 + offset, Width::Word, value);
}

#[test]
fn gicd_ctlr_keeps_the_group_enables_and_shows_one_security_state_with_affinity_routing() {
    let mut gic = Vgic::new(1);
    assert_eq!(dist(&mut gic, 0x0000), 0x50);
    write(&mut gic, 0x0000, 0xffff_ffff);
    assert_eq!(dist(&mut gic, 0x0000), 0x53);
    // What Linux writes: ARE_NS, EnableGrp1A, EnableGrp1.
    write(&mut gic, 0x0000, 0x12);
    assert_eq!(dist(&mut gic, 0x0000), 0x52);
    write(&mut gic, 0x0000, 0);
    assert_eq!(dist(&mut gic, 0x0000), 0x50);
}

#[test]
fn gicd_typer_has_256_intids_of_ten_bits_messages_and_no_lpis() {
    let mut gic = Vgic::new(8);
    // ITLinesNumber 7, MBIS, IDbits 9; LPIS, A3V, RSS and SecurityExtn clear.
    assert_eq!(dist(&mut gic, 0x0004), 0x0049_0007);
    write(&mut gic, 0x0004, 0);
    assert_eq!(dist(&mut gic, 0x0004), 0x0049_0007);
}

#[test]
fn identification_is_that_of_a_gicv3() {
    let mut gic = Vgic::new(2);
    assert_eq!(dist(&mut gic, 0x0008), 0x5300_043b);
    assert_eq!(dist(&mut gic, 0xffe8) >> 4 & 0xf, 3);
    let cidr = [0xfff0, 0xfff4, 0xfff8, 0xfffc].map(|o| dist(&mut gic, o));
    assert_eq!(cidr, [0x0d, 0xf0, 0x05, 0xb1]);
    for vcpu in 0..2 {
        let read = |gic: &mut Vgic, o| gic.redist_read(vcpu, o, Width::Word);
        assert_eq!(read(&mut gic, 0x0004), 0x5300_043b);
        assert_eq!(read(&mut gic, 0xffe8) >> 4 & 0xf, 3);
        assert_eq!(read(&mut gic, 0xfff0), 0x0d);
    }
}

#[test]
fn what_is_reserved_or_not_implemented_reads_as_zero_and_ignores_writes() {
    let mut gic = Vgic::new(2);
    // TYPER2, STATUSR, SETSPI_SR, CLRSPI_SR, ITARGETSR, IGRPMODR, NSACR, SGIR, CPENDSGIR,
    // SPENDSGIR, IROUTER of private interrupts and beyond the last, reserved.
    let offsets = [
        0x000c, 0x0010, 0x0014, 0x0020, 0x0050, 0x0058, 0x0800, 0x0820, 0x0d00, 0x0d04, 0x0e00,
        0x0e08, 0x0f00, 0x0f10, 0x0f20, 0x1000, 0x6000, 0x60f8, 0x6800, 0x7fd8, 0xc000,
    ];
    for offset in offsets {
        write(&mut gic, offset, 0xffff_ffff);
        assert_eq!(dist(&mut gic, offset), 0, "GICD {offset:#x}");
    }
    // CTLR, STATUSR, SETLPIR, PROPBASER, PENDBASER, INVLPIR, SYNCR; IGRPMODR0, NSACR.
    let offsets = [
        0x0000, 0x0010, 0x0040, 0x0048, 0x0070, 0x0078, 0x00a0, 0x00b0, 0x00c0, 0x0100, 0x1_0000,
        0x1_0084, 0x1_0104, 0x1_0420, 0x1_0c08, 0x1_0d00, 0x1_0d04, 0x1_0e00, 0x1_ffe8, 0x2_0000,
    ];
    for offset in offsets {
        let _ = gic.redist_write(1, offset, Width::Word, 0xffff_ffff);
        assert_eq!(
            gic.redist_read(1, offset, Width::Word),
            0,
            "GICR {offset:#x}"
        );
    }
    assert_eq!(gic.redist_read(2, 0x0004, Width::Word), 0, "no such vCPU");
    assert_eq!(gic.dist_read(0x1_0004, Width::Word), 0, "outside the frame");
    assert_eq!(gic.dist_read(u64::MAX - 3, Width::Word), 0);
}

#[test]
fn the_distributor_has_no_private_interrupts() {
    let mut gic = Vgic::new(1);
    for offset in [
        0x080, 0x100, 0x180, 0x200, 0x280, 0x300, 0x380, 0x400, 0x41c, 0xc00, 0xc04,
    ] {
        write(&mut gic, offset, 0xffff_ffff);
        assert_eq!(dist(&mut gic, offset), 0, "{offset:#x}");
    }
    assert_eq!(sgi_base(&mut gic, 0, 0x100), 0);
}

#[test]
fn enables_are_set_and_cleared_by_ones_only() {
    let mut gic = Vgic::new(1);
    for word in 1..8 {
        let (set, clear) = (0x100 + 4 * word, 0x180 + 4 * word);
        write(&mut gic, set, 0x8000_0101);
        write(&mut gic, set, 0x0000_0010);
        assert_eq!(dist(&mut gic, set), 0x8000_0111);
        write(&mut gic, clear, 0x8000_0001);
        assert_eq!(dist(&mut gic, set), 0x0000_0110);
        assert_eq!(dist(&mut gic, clear), 0x0000_0110);
    }
    // INTIDs 256 and up do not exist.
    write(&mut gic, 0x120, 0xffff_ffff);
    assert_eq!(dist(&mut gic, 0x120), 0);
}

#[test]
fn pending_and_active_states_are_set_and_cleared_by_ones_only() {
    let mut gic = Vgic::new(2);
    for (set, clear) in [(0x200, 0x280), (0x300, 0x380)] {
        write(&mut gic, set + 28, 0x8000_0003);
        write(&mut gic, clear + 28, 0x0000_0001);
        assert_eq!(dist(&mut gic, set + 28), 0x8000_0002);
        assert_eq!(dist(&mut gic, clear + 28), 0x8000_0002);
        write_sgi_base(&mut gic, 1, set, 0x8001_0003);
        write_sgi_base(&mut gic, 1, clear, 0x0000_0001);
        assert_eq!(sgi_base(&mut gic, 1, set), 0x8001_0002);
        assert_eq!(sgi_base(&mut gic, 0, set), 0, "banked");
    }
}

#[test]
fn groups_read_back() {
    let mut gic = Vgic::new(2);
    write(&mut gic, 0x084, 0xdead_beef);
    assert_eq!(dist(&mut gic, 0x084), 0xdead_beef);
    write_sgi_base(&mut gic, 1, 0x080, 0x1234_5678);
    assert_eq!(sgi_base(&mut gic, 1, 0x080), 0x1234_5678);
    assert_eq!(sgi_base(&mut gic, 0, 0x080), 0);
}

#[test]
fn priorities_keep_five_bits_by_word_and_by_byte() {
    let mut gic = Vgic::new(1);
    write(&mut gic, 0x4fc, 0xffff_ffff);
    assert_eq!(dist(&mut gic, 0x4fc), 0xf8f8_f8f8);
    let _ = gic.dist_write(0x4fe, Width::Byte, 0xa5);
    assert_eq!(dist(&mut gic, 0x4fc), 0xf8a0_f8f8);
    assert_eq!(gic.dist_read(0x4fe, Width::Byte), 0xa0);
    let _ = gic.dist_write(0x4fc, Width::Half, 0);
    let _ = gic.dist_write(0x4fd, Width::Word, 0);
    assert_eq!(dist(&mut gic, 0x4fc), 0xf8a0_f8f8);
    write(&mut gic, 0x500, 0xffff_ffff);
    assert_eq!(dist(&mut gic, 0x500), 0, "INTID 256");
    let _ = gic.redist_write(0, 0x1_041f, Width::Byte, 0xff);
    assert_eq!(sgi_base(&mut gic, 0, 0x41c), 0xf800_0000);
}

#[test]
fn triggers_of_spis_can_be_changed_those_of_private_interrupts_cannot() {
    let mut gic = Vgic::new(1);
    write(&mut gic, 0xc08, 0xffff_ffff);
    assert_eq!(dist(&mut gic, 0xc08), 0xaaaa_aaaa);
    assert_eq!(dist(&mut gic, 0xc0c), 0);
    write(&mut gic, 0xc0c, 0x8000_0002);
    assert_eq!(dist(&mut gic, 0xc0c), 0x8000_0002);
    assert_eq!(sgi_base(&mut gic, 0, 0xc00), 0xaaaa_aaaa);
    write_sgi_base(&mut gic, 0, 0xc00, 0);
    write_sgi_base(&mut gic, 0, 0xc04, 0xffff_ffff);
    assert_eq!(sgi_base(&mut gic, 0, 0xc00), 0xaaaa_aaaa);
    assert_eq!(sgi_base(&mut gic, 0, 0xc04), 0);
}

#[test]
fn routes_are_written_whole_or_by_halves() {
    let mut gic = Vgic::new(2);
    let _ = gic.dist_write(0x6100, Width::Double, u64::MAX);
    assert_eq!(gic.dist_read(0x6100, Width::Double), 0x80ff_ffff);
    assert_eq!(dist(&mut gic, 0x6104), 0);
    write(&mut gic, 0x6100, 1);
    write(&mut gic, 0x6104, 0xff);
    assert_eq!(gic.dist_read(0x6100, Width::Double), 1);
    let _ = gic.dist_write(0x6104, Width::Double, u64::MAX);
    let _ = gic.dist_write(0x6100, Width::Half, 0);
    assert_eq!(gic.dist_read(0x6100, Width::Double), 1);
    let _ = gic.dist_write(0x67f8, Width::Double, 1);
    assert_eq!(gic.dist_read(0x67f8, Width::Double), 1);
}

#[test]
fn messages_pend_spis_and_nothing_else() {
    let mut gic = Vgic::new(1);
    for intid in [0, 15, 16, 31, 32, 255, 256, 1019, 1023] {
        write(&mut gic, 0x40, intid);
    }
    assert_eq!(dist(&mut gic, 0x204), 1);
    assert_eq!(dist(&mut gic, 0x21c), 0x8000_0000);
    assert_eq!(sgi_base(&mut gic, 0, 0x200), 0);
    // A level-sensitive one is asserted until CLRSPI: ICPENDR does not help.
    write(&mut gic, 0x284, 1);
    assert_eq!(dist(&mut gic, 0x204), 1);
    let _ = gic.dist_write(0x48, Width::Half, 32);
    assert_eq!(dist(&mut gic, 0x204), 0);
    // An edge-triggered one is pended.
    write(&mut gic, 0xc08, 0x8);
    write(&mut gic, 0x40, 33);
    assert_eq!(dist(&mut gic, 0x204), 2);
    write(&mut gic, 0x284, 2);
    assert_eq!(dist(&mut gic, 0x204), 0);
}

#[test]
fn each_redistributor_says_whose_it_is_and_the_last_one_that_it_is_the_last() {
    for n in 1..=8u32 {
        let mut gic = Vgic::new(n);
        for vcpu in 0..u64::from(n) {
            let mut read = |o, w| gic.redist_read(usize::try_from(vcpu).unwrap(), o, w);
            let last = u64::from(vcpu + 1 == u64::from(n));
            let typer = vcpu << 32 | vcpu << 8 | last << 4;
            assert_eq!(read(0x8, Width::Double), typer);
            assert_eq!(read(0x8, Width::Word), typer & 0xffff_ffff);
            assert_eq!(read(0xc, Width::Word), typer >> 32);
            assert_eq!(read(0xc, Width::Double), 0);
        }
        assert_eq!(gic.vcpus(), n);
        assert_eq!(vgic::mpidr(n - 1), 0x8000_0000 | u64::from(n - 1));
    }
    assert_eq!(Vgic::new(0).vcpus(), 1);
    assert_eq!(Vgic::new(9).vcpus(), 8);
}

#[test]
fn children_sleep_and_wake_with_their_processor() {
    let mut gic = Vgic::new(2);
    let read = |gic: &mut Vgic, vcpu| gic.redist_read(vcpu, 0x14, Width::Word);
    assert_eq!(read(&mut gic, 1), 0b110);
    let _ = gic.redist_write(1, 0x14, Width::Word, 0);
    assert_eq!((read(&mut gic, 0), read(&mut gic, 1)), (0b110, 0));
    let _ = gic.redist_write(1, 0x14, Width::Word, 0b100);
    assert_eq!(read(&mut gic, 1), 0, "ChildrenAsleep is read-only");
    let _ = gic.redist_write(1, 0x14, Width::Word, 0b010);
    assert_eq!(read(&mut gic, 1), 0b110);
}

#[test]
fn both_timers_show_their_lines_in_gicr_ispendr0() {
    let mut gic = Vgic::new(2);
    for intid in [27, 30] {
        let _ = gic.set_hardware(1, intid, Some(intid));
        let _ = gic.sample(1, intid, Level::High);
    }
    assert_eq!(sgi_base(&mut gic, 1, 0x200), 1 << 30 | 1 << 27);
    write_sgi_base(&mut gic, 1, 0x280, 0xffff_ffff);
    assert_eq!(
        sgi_base(&mut gic, 1, 0x200),
        1 << 30 | 1 << 27,
        "the lines are high"
    );
    let _ = gic.sample(1, 27, Level::Low);
    assert_eq!(sgi_base(&mut gic, 1, 0x200), 1 << 30);
    assert_eq!(sgi_base(&mut gic, 0, 0x200), 0);
}

#[test]
fn only_whole_aligned_words_reach_bit_arrays() {
    let mut gic = Vgic::new(1);
    write(&mut gic, 0x104, 0xffff_ffff);
    for width in Width::ALL {
        for offset in 0x101..0x108 {
            let expected = if (offset, width) == (0x104, Width::Word) {
                0xffff_ffff
            } else {
                0
            };
            assert_eq!(
                gic.dist_read(offset, width),
                expected,
                "{offset:#x} {width:?}"
            );
        }
    }
    let _ = gic.dist_write(0x184, Width::Byte, 0xff);
    let _ = gic.dist_write(0x184, Width::Half, 0xffff);
    let _ = gic.dist_write(0x180, Width::Double, u64::MAX);
    assert_eq!(dist(&mut gic, 0x104), 0xffff_ffff);
}
