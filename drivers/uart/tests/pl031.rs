//! The PL031 as DDI 0224 documents it and as Linux uses it.

use uart::Pl031;

const DR: u64 = 0x00;
const MR: u64 = 0x04;
const LR: u64 = 0x08;
const CR: u64 = 0x0c;
const IMSC: u64 = 0x10;
const RIS: u64 = 0x14;
const MIS: u64 = 0x18;
const ICR: u64 = 0x1c;

/// 2026-11-22 21:00:00 UTC.
const NOW: u64 = 1_795_381_200;

#[test]
fn it_shows_the_time_of_day_and_runs() {
    let mut rtc = Pl031::new();
    assert_eq!(u64::from(rtc.read(DR, NOW)), NOW);
    assert_eq!(u64::from(rtc.read(DR, NOW + 5)), NOW + 5);
    assert_eq!(rtc.read(CR, NOW), 1);
    rtc.write(CR, 0, NOW);
    assert_eq!(rtc.read(CR, NOW), 1);
}

#[test]
fn setting_it_moves_it_and_it_runs_on() {
    let mut rtc = Pl031::new();
    rtc.write(LR, 1000, NOW);
    assert_eq!(rtc.read(LR, NOW), 1000);
    assert_eq!(rtc.read(DR, NOW), 1000);
    assert_eq!(rtc.read(DR, NOW + 60), 1060);
}

#[test]
fn it_wraps_at_32_bits() {
    let mut rtc = Pl031::new();
    rtc.write(LR, u32::MAX, NOW);
    assert_eq!(rtc.read(DR, NOW + 1), 0);
    assert_eq!(Pl031::new().read(DR, (1 << 32) + 7), 7);
}

#[test]
fn an_alarm_goes_off_at_its_second_and_once() {
    let mut rtc = Pl031::new();
    rtc.write(IMSC, 1, NOW);
    let at = u32::try_from(NOW).unwrap() + 10;
    rtc.write(MR, at, NOW);
    assert_eq!(rtc.read(MR, NOW), at);
    assert_eq!(rtc.next_alarm(), Some(NOW + 10));
    assert_eq!((rtc.read(RIS, NOW + 9), rtc.irq_level()), (0, false));
    rtc.update(NOW + 11);
    assert!(rtc.irq_level());
    assert_eq!((rtc.read(RIS, NOW + 11), rtc.read(MIS, NOW + 11)), (1, 1));
    assert_eq!(rtc.next_alarm(), None);
    rtc.write(ICR, 1, NOW + 12);
    assert!(!rtc.irq_level());
    assert_eq!(rtc.read(RIS, NOW + 1000), 0);
}

#[test]
fn a_masked_alarm_is_pending_but_does_not_interrupt() {
    let mut rtc = Pl031::new();
    rtc.write(MR, u32::try_from(NOW).unwrap(), NOW);
    assert_eq!((rtc.read(RIS, NOW), rtc.read(MIS, NOW)), (1, 0));
    assert!(!rtc.irq_level());
    rtc.write(IMSC, 1, NOW);
    assert!(rtc.irq_level());
}

#[test]
fn an_alarm_moves_with_the_clock_that_it_is_set_on() {
    let mut rtc = Pl031::new();
    rtc.write(IMSC, 1, NOW);
    rtc.write(MR, 1000, NOW);
    rtc.write(LR, 990, NOW);
    assert_eq!(rtc.next_alarm(), Some(NOW + 10));
}

#[test]
fn an_alarm_in_the_past_waits_for_the_wrap() {
    let mut rtc = Pl031::new();
    rtc.write(IMSC, 1, NOW);
    rtc.write(MR, u32::try_from(NOW).unwrap() - 1, NOW);
    assert_eq!(rtc.next_alarm(), Some(NOW + 0xffff_ffff));
}

#[test]
fn the_identification_is_that_of_an_arm_pl031() {
    let mut rtc = Pl031::new();
    let mut word = |base: u64| {
        (0..4u32).fold(0, |word, n| {
            word | rtc.read(base + u64::from(n) * 4, NOW) << (n * 8)
        })
    };
    // Linux's rtc-pl031 wants 0x00041031 in the low 20 bits, and any PrimeCell.
    assert_eq!(word(0xfe0) & 0xf_ffff, 0x4_1031);
    assert_eq!(word(0xff0), 0xb105_f00d);
}

#[test]
fn what_is_not_there_reads_as_zero_and_ignores_writes() {
    let mut rtc = Pl031::new();
    let before = rtc;
    for offset in [DR, RIS, MIS, 0x20, 0x02, 0xfdc, 0xfe0, 0x1000, u64::MAX] {
        rtc.write(offset, u32::MAX, NOW);
        assert_eq!(rtc, before, "{offset:#x}");
    }
    for offset in [ICR, 0x20, 0x02, 0xfdc, 0x1000, u64::MAX] {
        assert_eq!(rtc.read(offset, NOW), 0, "{offset:#x}");
    }
}

proptest::proptest! {
    #[test]
    fn any_time_and_any_value_are_survived(offset in 0..0x1000u64, value: u32, now: u64, later: u64) {
        let mut rtc = Pl031::new();
        rtc.write(offset, value, now);
        rtc.update(later);
        let _ = rtc.read(offset, later);
    }
}
