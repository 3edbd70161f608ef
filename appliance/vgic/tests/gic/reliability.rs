//! RELIABILITY.md, rows G1 to G4, each case by hand.

use crate::machine::{Machine, pintid};
use vgic::{Level, SgiRegister, Vgic, Width};

/// Hardware with `lrs` list registers, all vCPUs running, everything in group 1, at priority
/// 0x80, and enabled.
fn open(vcpus: usize, lrs: u8, hardware: &[(usize, u32)]) -> Machine {
    let mut m = Machine::new(vcpus, lrs, hardware);
    m.gicd_write(0x0, 4, 0x12);
    for n in 1..8 {
        m.gicd_write(0x080 + 4 * n, 4, 0xffff_ffff);
        m.gicd_write(0x100 + 4 * n, 4, 0xffff_ffff);
    }
    for n in 8..64 {
        m.gicd_write(0x400 + 4 * n, 4, 0x8080_8080);
    }
    for v in 0..vcpus {
        m.gicr_write(v, 0x1_0080, 4, 0xffff_ffff);
        m.gicr_write(v, 0x1_0100, 4, 0xffff_ffff);
        for n in 0..8 {
            m.gicr_write(v, 0x1_0400 + 4 * n, 4, 0x8080_8080);
        }
        m.unpark(v);
    }
    m.serve();
    m
}

fn pulse(m: &mut Machine, v: usize, intid: u32) {
    let kick = m.gic.pulse(v, intid);
    m.check_kick(kick);
    m.serve();
}

fn wire(m: &mut Machine, intid: u32, high: bool) {
    m.wire(0, intid, high);
    m.serve();
}

fn take(m: &mut Machine, v: usize) -> u32 {
    let intid = m.acknowledge(v, true);
    m.serve();
    intid
}

fn end(m: &mut Machine, v: usize, intid: u32) {
    m.end(v, intid);
    m.serve();
}

/// Handles everything that is signalled to `v` and returns it in order.
fn handle_all(m: &mut Machine, v: usize) -> Vec<u32> {
    let mut seen = Vec::new();
    loop {
        match take(m, v) {
            1023 => return seen,
            intid => {
                seen.push(intid);
                end(m, v, intid);
            }
        }
        assert!(seen.len() < 1000, "without end: {seen:?}");
    }
}

const NOTHING: u32 = 1023;

#[test]
fn what_pends_while_disabled_is_signalled_once_when_it_is_enabled() {
    let mut m = open(1, 4, &[]);
    for (intid, clear, set) in [(50, 0x184, 0x104), (255, 0x19c, 0x11c)] {
        m.gicd_write(clear, 4, 1 << (intid % 32));
        pulse(&mut m, 0, intid);
        assert_eq!(take(&mut m, 0), NOTHING);
        m.gicd_write(set, 4, 1 << (intid % 32));
        m.serve();
        assert_eq!(handle_all(&mut m, 0), [intid]);
    }
}

#[test]
fn disabling_takes_it_out_of_the_list_register_and_enabling_brings_it_back() {
    let mut m = open(1, 4, &[]);
    pulse(&mut m, 0, 50);
    m.gicd_write(0x184, 4, 1 << 18);
    m.serve();
    assert_eq!(take(&mut m, 0), NOTHING);
    assert_eq!(m.gicd_read(0x204, 4), 1 << 18, "it still pends");
    m.gicd_write(0x104, 4, 1 << 18);
    m.serve();
    assert_eq!(handle_all(&mut m, 0), [50]);
}

#[test]
fn an_interrupt_disabled_by_its_handler_is_ended_and_stays_inactive() {
    for intid in [20, 50] {
        let mut m = open(1, 4, &[]);
        pulse(&mut m, 0, intid);
        assert_eq!(take(&mut m, 0), intid);
        m.gicr_write(0, 0x1_0180, 4, 0xffff_ffff);
        m.gicd_write(0x184, 4, 0xffff_ffff);
        m.serve();
        end(&mut m, 0, intid);
        assert_eq!(m.gicd_read(0x304, 4) | m.gicr_read(0, 0x1_0300, 4), 0);
        pulse(&mut m, 0, intid);
        assert_eq!(take(&mut m, 0), NOTHING);
        m.gicr_write(0, 0x1_0100, 4, 0xffff_ffff);
        m.gicd_write(0x104, 4, 0xffff_ffff);
        m.serve();
        assert_eq!(handle_all(&mut m, 0), [intid]);
    }
}

#[test]
fn an_edge_during_its_handler_is_signalled_once_more() {
    for intid in [5, 20, 50] {
        let mut m = open(1, 4, &[]);
        pulse(&mut m, 0, intid);
        assert_eq!(take(&mut m, 0), intid);
        pulse(&mut m, 0, intid);
        pulse(&mut m, 0, intid);
        assert_eq!(take(&mut m, 0), NOTHING, "not while it is active");
        end(&mut m, 0, intid);
        assert_eq!(handle_all(&mut m, 0), [intid]);
    }
}

#[test]
fn with_every_list_register_active_one_more_pending_is_signalled_and_all_are_ended() {
    for lrs in 1..=6u8 {
        let mut m = open(1, lrs, &[]);
        // Nested as deep as there are list registers and twice as deep again.
        let depth = u32::from(lrs) * 3;
        for n in 0..depth {
            m.gicd_write(0x440 + u64::from(n), 1, u64::from(0xf0 - 8 * n));
            pulse(&mut m, 0, 64 + n);
            assert_eq!(take(&mut m, 0), 64 + n, "level {n} of {lrs}");
        }
        let refills = m.refills;
        for n in (0..depth).rev() {
            end(&mut m, 0, 64 + n);
        }
        assert!(m.refills - refills <= u64::from(depth) + 1);
        m.fold(0);
        m.serve();
        for word in 1..8 {
            assert_eq!(m.gicd_read(0x300 + 4 * word, 4), 0);
        }
        assert_eq!(take(&mut m, 0), NOTHING);
    }
}

#[test]
fn more_pending_than_list_registers_come_in_order_of_priority_in_bounded_entries() {
    for lrs in 1..=4u8 {
        let mut m = open(1, lrs, &[]);
        for n in 0..200u32 {
            let priority = (n * 7 % 31) << 3;
            m.gicd_write(0x420 + u64::from(n), 1, u64::from(priority));
        }
        for n in 0..200 {
            pulse(&mut m, 0, 32 + n);
        }
        let refills = m.refills;
        let seen = handle_all(&mut m, 0);
        let mut expected: Vec<u32> = (32..232).collect();
        expected.sort_by_key(|id| (id - 32) * 7 % 31);
        let rank = |id: &u32| (id - 32) * 7 % 31;
        assert!(seen.is_sorted_by_key(rank), "{seen:?}");
        let mut sorted = seen;
        sorted.sort_unstable();
        assert_eq!(sorted, (32..232).collect::<Vec<u32>>());
        // One list register is for what is being handled; with only one there is an entry
        // for its acknowledgement and one for its end.
        let bound = match u64::from(lrs) {
            1 => 2 * 200,
            n => 200 / (n - 1) + 2,
        };
        let entries = m.refills - refills;
        assert!(entries <= bound, "{entries} with {lrs}");
    }
}

#[test]
fn a_more_urgent_interrupt_displaces_a_less_urgent_one_from_a_full_set() {
    let mut m = open(1, 4, &[]);
    for intid in 32..40 {
        pulse(&mut m, 0, intid);
    }
    m.gicd_write(0x4ff, 1, 0x10);
    pulse(&mut m, 0, 255);
    assert_eq!(take(&mut m, 0), 255);
    end(&mut m, 0, 255);
    assert_eq!(handle_all(&mut m, 0).len(), 8);
}

#[test]
fn a_disabled_group_in_the_list_registers_does_not_starve_the_other() {
    let mut m = open(1, 2, &[]);
    // 32 to 39 are in group 0, more urgent, and the guest has group 0 off.
    m.cpu[0].vmcr = 0xf800_0002;
    m.gicd_write(0x0, 4, 0x13);
    m.gicd_write(0x084, 4, 0xffff_ff00);
    for n in 0..8 {
        m.gicd_write(0x420 + n, 1, 0);
    }
    for intid in (32..40).chain([60, 61, 62]) {
        pulse(&mut m, 0, intid);
    }
    let mut seen = handle_all(&mut m, 0);
    seen.sort_unstable();
    assert_eq!(seen, [60, 61, 62]);
    // Enabling it in the CPU interface traps nowhere, but has its maintenance interrupt.
    m.cpu[0].vmcr = 0xf800_0003;
    m.serve();
    for _ in 0..8 {
        let intid = m.acknowledge(0, false);
        assert!((32..40).contains(&intid), "{intid}");
        m.serve();
        end(&mut m, 0, intid);
    }
}

#[test]
fn a_line_still_high_at_the_end_pends_again_and_one_lowered_does_not() {
    for hardware in [&[][..], &[(0, 27), (0, 40)]] {
        for intid in [27, 40] {
            let mut m = open(1, 4, hardware);
            wire(&mut m, intid, true);
            for _ in 0..3 {
                assert_eq!(take(&mut m, 0), intid);
                assert_eq!(take(&mut m, 0), NOTHING);
                end(&mut m, 0, intid);
            }
            assert_eq!(take(&mut m, 0), intid);
            wire(&mut m, intid, false);
            end(&mut m, 0, intid);
            assert_eq!(take(&mut m, 0), NOTHING);
            assert!(m.physical.values().all(|p| !p.active));
        }
    }
}

#[test]
fn a_line_lowered_before_the_acknowledgement_is_withdrawn() {
    for hardware in [&[][..], &[(0, 27), (0, 40)]] {
        for intid in [27, 40] {
            let mut m = open(1, 4, hardware);
            wire(&mut m, intid, true);
            wire(&mut m, intid, false);
            assert_eq!(take(&mut m, 0), NOTHING);
            assert!(m.physical.values().all(|p| !p.active), "given back");
        }
    }
}

#[test]
fn a_hardware_interrupt_that_fires_again_before_the_fold_is_not_lost() {
    let mut m = open(1, 4, &[(0, 27)]);
    wire(&mut m, 27, true);
    // Twice without an exit in between but for the physical interrupt itself.
    for _ in 0..2 {
        assert_eq!(m.acknowledge(0, true), 27);
        m.end(0, 27);
        assert!(
            m.physical[&(0, 27)].active,
            "the physical GIC fired at once"
        );
        m.serve();
    }
    assert_eq!(take(&mut m, 0), 27);
}

#[test]
fn the_physical_interrupt_of_a_timer_stays_active_until_the_guest_ends_it_wherever_it_runs() {
    let mut m = open(1, 4, &[(0, 30)]);
    wire(&mut m, 30, true);
    assert_eq!(take(&mut m, 0), 30);
    m.park(0);
    assert_eq!(m.gic.held_ppis(0), 1 << 30);
    assert!(!m.gic.pending(0) && !m.gic.owes_deactivation(0));
    m.unpark(0);
    m.serve();
    wire(&mut m, 30, false);
    end(&mut m, 0, 30);
    assert!(!m.physical[&(0, 30)].active);
    m.park(0);
    assert_eq!(m.gic.held_ppis(0), 0);
}

#[test]
fn clearing_the_active_state_by_register_gives_the_physical_interrupt_back() {
    let mut m = open(2, 4, &[(0, 40)]);
    wire(&mut m, 40, true);
    assert_eq!(take(&mut m, 0), 40);
    wire(&mut m, 40, false);
    m.gicd_write(0x384, 4, 1 << 8);
    m.serve();
    assert!(!m.physical[&(0, 40)].active);
    assert_eq!(m.gicd_read(0x304, 4), 0);
}

#[test]
fn a_physical_interrupt_given_back_by_a_register_write_brings_core_to_deactivate_it() {
    let mut gic = Vgic::new(2);
    for intid in [27, 40] {
        let _ = gic.set_hardware(1, intid, Some(pintid(intid)));
        let _ = gic.set_level(1, intid, Level::High);
    }
    assert_eq!(gic.sample(1, 27, Level::Low).bits(), 0b10);
    assert!(gic.owes_deactivation(1) && !gic.owes_deactivation(0));
    assert_eq!(gic.next_deactivation(1), Some(27));
    assert_eq!(gic.sample(1, 40, Level::Low).bits(), 0b01);
    assert_eq!(gic.next_deactivation(0), Some(140));
    assert!(!gic.owes_deactivation(0));
}

#[test]
fn untying_or_tearing_down_gives_physical_interrupts_back() {
    let mut gic = Vgic::new(1);
    for intid in [27, 40] {
        let _ = gic.set_hardware(0, intid, Some(pintid(intid)));
        let _ = gic.set_level(0, intid, Level::High);
    }
    let _ = gic.set_hardware(0, 27, None);
    assert_eq!(gic.next_deactivation(0), Some(27));
    assert_eq!(gic.next_deactivation(0), None);
    assert_eq!(gic.release_all().bits(), 1, "vCPU 0 has to see to it");
    assert_eq!(gic.next_deactivation(0), Some(140));
    assert_eq!(gic.next_deactivation(0), None);
    assert!(!gic.owes_deactivation(0));
}

#[test]
fn an_spi_routed_elsewhere_while_pending_or_active_goes_there_once() {
    let mut m = open(2, 4, &[]);
    pulse(&mut m, 0, 50);
    m.gicd_write(0x6000 + 8 * 50, 8, 1);
    m.serve();
    assert_eq!(take(&mut m, 0), NOTHING);
    assert_eq!(take(&mut m, 1), 50);
    // Pending again while active on vCPU 1, then routed back.
    pulse(&mut m, 0, 50);
    m.gicd_write(0x6000 + 8 * 50, 8, 0);
    m.serve();
    assert_eq!(take(&mut m, 0), NOTHING);
    end(&mut m, 1, 50);
    assert_eq!(take(&mut m, 1), NOTHING);
    assert_eq!(handle_all(&mut m, 0), [50]);
}

#[test]
fn an_spi_for_any_vcpu_goes_to_exactly_one_that_is_awake() {
    let mut m = open(3, 4, &[]);
    m.gicr_write(2, 0x14, 4, 0);
    m.gicd_write(0x6000 + 8 * 50, 8, 0x8000_0000);
    pulse(&mut m, 0, 50);
    let seen = [take(&mut m, 0), take(&mut m, 1), take(&mut m, 2)];
    assert_eq!(seen, [NOTHING, NOTHING, 50]);
    end(&mut m, 2, 50);
    m.gicr_write(1, 0x14, 4, 0);
    m.gicr_write(2, 0x14, 4, 2);
    pulse(&mut m, 0, 50);
    assert_eq!(take(&mut m, 1), 50);
    // To a vCPU that does not exist: it waits.
    end(&mut m, 1, 50);
    m.gicd_write(0x6000 + 8 * 50, 8, 3);
    pulse(&mut m, 0, 50);
    assert!((0..3).all(|v| take(&mut m, v) == NOTHING));
    m.gicd_write(0x6000 + 8 * 50, 8, 2);
    m.serve();
    assert_eq!(take(&mut m, 2), 50);
}

#[test]
fn an_sgi_reaches_exactly_the_named_vcpus() {
    for vcpus in 1..=8usize {
        let mut gic = Vgic::new(u32::try_from(vcpus).unwrap());
        let enabled = |gic: &mut Vgic| {
            let _ = gic.dist_write(0, Width::Word, 0x13);
            for v in 0..vcpus {
                let _ = gic.redist_write(v, 0x1_0080, Width::Word, 0xffff_ffff);
                let _ = gic.redist_write(v, 0x1_0100, Width::Word, 0xffff_ffff);
            }
        };
        enabled(&mut gic);
        let present = (1u64 << vcpus) - 1;
        for list in 0..=0xffffu64 {
            // SGI 7, every filter.
            let kick = gic.sgi(0, 7 << 24 | list);
            assert_eq!(kick.bits(), list & present);
            for v in 0..vcpus {
                assert_eq!(gic.pending(v), list >> v & 1 == 1);
                let _ = gic.redist_write(v, 0x1_0280, Width::Word, 1 << 7);
            }
        }
        // Any affinity above Aff0, and any range, names nobody.
        for bit in (16..24).chain(32..40).chain(44..56) {
            assert!(
                gic.sgi(0, 7 << 24 | 0xffff | 1 << bit).is_empty(),
                "bit {bit}"
            );
        }
        // RES0 bits have no meaning.
        for bit in (28..32).chain(41..44).chain(56..64) {
            assert_eq!(gic.sgi(0, 7 << 24 | 1 | 1 << bit).bits(), 1, "bit {bit}");
            let _ = gic.redist_write(0, 0x1_0280, Width::Word, 1 << 7);
        }
        // IRM: all but the sender, whatever else is said.
        for sender in 0..vcpus {
            let kick = gic.sgi(sender, 7 << 24 | 1 << 40 | 0xff << 48 | 1 << sender);
            assert_eq!(kick.bits(), present & !(1 << sender));
            for v in 0..vcpus {
                let _ = gic.redist_write(v, 0x1_0280, Width::Word, 1 << 7);
            }
        }
    }
}

#[test]
fn an_sgi_of_group_0_needs_a_target_that_has_it_in_group_0() {
    let mut m = open(2, 4, &[]);
    m.gicd_write(0, 4, 0x13);
    m.gicr_write(1, 0x1_0080, 4, 0xffff_fffe);
    let value = |sgi: u64| sgi << 24 | 0b11;
    let kick = m.gic.sgi_from(0, SgiRegister::Group0, value(0));
    assert_eq!(kick.bits(), 0b10);
    assert!(m.gic.sgi_from(0, SgiRegister::Group0, value(1)).is_empty());
    let kick = m.gic.sgi_from(0, SgiRegister::Group1, value(0));
    assert_eq!(kick.bits(), 0b01, "vCPU 1 has it pending");
}

#[test]
fn an_sgi_sent_twice_before_it_is_taken_is_signalled_once() {
    let mut m = open(2, 4, &[]);
    for _ in 0..2 {
        let kick = m.gic.sgi(0, 3 << 24 | 0b10);
        m.check_kick(kick);
        m.serve();
    }
    assert_eq!(handle_all(&mut m, 1), [3]);
}

#[test]
fn a_line_never_lowered_or_a_storm_of_edges_costs_only_the_vcpu_it_goes_to() {
    let mut m = open(2, 4, &[]);
    wire(&mut m, 50, true);
    let mut own = 0;
    for _ in 0..1000 {
        assert_eq!(take(&mut m, 0), 50);
        assert!(!m.gic.wants_refill(1));
        end(&mut m, 0, 50);
        own += 1;
    }
    // One entry of its own for each time round, none of anybody else.
    assert!(m.refills <= own + 20, "{}", m.refills);
    let before = m.refills;
    for _ in 0..1000 {
        let kick = m.gic.pulse(0, 60);
        assert!(!kick.contains(1));
    }
    m.serve();
    assert!(m.refills <= before + 1, "edges that were not taken are one");
}

#[test]
fn deactivation_apart_from_priority_drop_works_in_any_order_and_for_any_vcpu() {
    let mut m = open(2, 2, &[(0, 40)]);
    for v in 0..2 {
        m.cpu[v].vmcr |= 1 << 9;
    }
    wire(&mut m, 40, true);
    let mut handled = Vec::new();
    for intid in [40, 50, 51, 52, 53] {
        if intid != 40 {
            pulse(&mut m, 0, intid);
        }
        assert_eq!(take(&mut m, 0), intid);
        end(&mut m, 0, intid);
        handled.push(intid);
    }
    wire(&mut m, 40, false);
    assert_eq!(m.gicd_read(0x304, 4), 1 << 8 | 0xf << 18);
    for (n, intid) in handled.iter().enumerate() {
        m.deactivate(n % 2, *intid);
        m.serve();
    }
    assert_eq!(m.gicd_read(0x304, 4), 0);
    assert!(!m.physical[&(0, 40)].active);
    m.serve();
    assert_eq!(take(&mut m, 0), NOTHING);
}

#[test]
fn waiting_looks_at_the_priority_mask_and_the_group_enables() {
    let mut m = open(1, 4, &[]);
    m.park(0);
    let kick = m.gic.pulse(0, 50);
    m.check_kick(kick);
    assert!(m.gic.pending(0));
    assert!(m.gic.signals(0, 0xf800_0002));
    assert!(!m.gic.signals(0, 0xf800_0001), "group 1 is off");
    assert!(!m.gic.signals(0, 0x8000_0002), "masked at its own priority");
    assert!(m.gic.signals(0, 0x8800_0002));
    m.gicd_write(0, 4, 0x11);
    assert!(!m.gic.pending(0));
}

#[test]
fn nothing_needs_refilling_when_nothing_changed() {
    let mut m = open(2, 4, &[]);
    pulse(&mut m, 0, 50);
    // Reads, writes of what is already so, pending but disabled: none of it is news.
    let _ = m.gic.dist_read(0x8, Width::Word);
    m.gicd_write(0x104, 4, 0xffff_ffff);
    m.gicd_write(0x000, 4, 0x12);
    m.gicd_write(0x6000 + 8 * 50, 8, 0);
    m.gicd_write(0x184, 4, 1 << 20);
    let _ = m.gic.pulse(0, 52);
    wire(&mut m, 33, false);
    assert!(!m.gic.wants_refill(0) && !m.gic.wants_refill(1));
}
