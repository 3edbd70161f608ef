//! First contact: one interrupt of each kind through a list register and back.

use vgic::{Level, Lr, LrSet, Vgic, Width};

const GICD_CTLR: u64 = 0x0000;
const GICR_IGROUPR0: u64 = 0x1_0080;
const GICR_ISENABLER0: u64 = 0x1_0100;
const GICR_ISPENDR0: u64 = 0x1_0200;

/// Two vCPUs with everything private in group 1 and enabled.
fn two_vcpus() -> Vgic {
    let mut gic = Vgic::new(2);
    let _ = gic.dist_write(GICD_CTLR, Width::Word, 0x13);
    for vcpu in 0..2 {
        let _ = gic.redist_write(vcpu, GICR_IGROUPR0, Width::Word, 0xffff_ffff);
        let _ = gic.redist_write(vcpu, GICR_ISENABLER0, Width::Word, 0xffff_ffff);
    }
    gic
}

#[test]
fn an_sgi_goes_into_a_list_register_and_is_gone_after_the_guest_ended_it() {
    let mut gic = two_vcpus();
    let mut lrs = LrSet::new(4);
    assert_eq!(gic.sgi(0, 5 << 24 | 0b10).bits(), 0b10);
    assert!(gic.pending(1) && gic.wants_refill(1));
    let _ = gic.fill(1, &mut lrs);
    assert_eq!(lrs.used, 1);
    assert_eq!(lrs.lr[0].raw(), 0x5000_0000_0000_0005);
    lrs.lr[0] = Lr::from_raw(0x1000_0000_0000_0005);
    let _ = gic.fold(1, &lrs);
    assert!(!gic.pending(1));
    let _ = gic.fill(1, &mut lrs);
    assert_eq!((lrs.used, lrs.write, lrs.lr[0].raw()), (0, 1, 0));
}

#[test]
fn a_hardware_timer_is_low_after_the_guest_deactivated_it() {
    let mut gic = two_vcpus();
    let mut lrs = LrSet::new(4);
    let _ = gic.set_hardware(0, 27, Some(27));
    assert_eq!(gic.set_level(0, 27, Level::High).bits(), 1);
    assert_eq!(gic.redist_read(0, GICR_ISPENDR0, Width::Word), 1 << 27);
    let _ = gic.fill(0, &mut lrs);
    assert_eq!(lrs.lr[0].raw(), 0x7000_001b_0000_001b);
    lrs.lr[0] = Lr::from_raw(0x3000_001b_0000_001b);
    let _ = gic.fold(0, &lrs);
    assert_eq!(gic.redist_read(0, GICR_ISPENDR0, Width::Word), 0);
    assert!(!gic.pending(0) && !gic.owes_deactivation(0));
}

#[test]
fn a_software_level_still_high_at_the_end_pends_again() {
    let mut gic = two_vcpus();
    let mut lrs = LrSet::new(4);
    let _ = gic.set_level(0, 26, Level::High);
    let _ = gic.fill(0, &mut lrs);
    // The EOI bit asks for the maintenance interrupt that makes core fold.
    assert_eq!(lrs.lr[0].raw(), 0x5000_0200_0000_001a);
    lrs.lr[0] = Lr::from_raw(0x1000_0200_0000_001a);
    let _ = gic.fill(0, &mut lrs);
    assert_eq!(lrs.lr[0].raw(), 0x5000_0200_0000_001a);
}
