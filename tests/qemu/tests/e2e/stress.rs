//! A vCPU that is moved from core to core, and timer interrupts on four vCPUs: shorter than
//! `cargo xtask stress`, or as long, where that takes seconds.

use qemu::Cpu;
use qemu::stress::{self, Outcome};

use crate::common::{PATIENCE, alone, logs};

on_both_cpus!(
    d02_a_vcpu_that_is_moved_5000_times_keeps_all_of_its_state,
    d03_one_core_is_skipped_and_not_passed,
    timer_interrupts_on_four_vcpus_are_neither_early_nor_lost,
    s6_of_all_that_switch_on_or_off_at_once_one_wins,
);

fn d02_a_vcpu_that_is_moved_5000_times_keeps_all_of_its_state(cpu: Cpu) {
    let _alone = alone();
    let moved = stress::migrations(cpu, 2, 5_000, true, &logs(), PATIENCE * 2);
    let outcome = moved.expect("every check holds");
    assert!(matches!(outcome, Outcome::Passed(_)), "{outcome:?}");
}

fn d03_one_core_is_skipped_and_not_passed(cpu: Cpu) {
    let _alone = alone();
    let outcome = stress::migrations(cpu, 1, 10, true, &logs(), PATIENCE).expect("says so");
    assert!(matches!(outcome, Outcome::Skipped(_)), "{outcome:?}");
}

fn timer_interrupts_on_four_vcpus_are_neither_early_nor_lost(cpu: Cpu) {
    let _alone = alone();
    let outcome = stress::timers(cpu, 10, 7, &logs(), PATIENCE).expect("each of ten runs passes");
    assert!(matches!(outcome, Outcome::Passed(_)), "{outcome:?}");
}

fn s6_of_all_that_switch_on_or_off_at_once_one_wins(cpu: Cpu) {
    let _alone = alone();
    let outcome = stress::power(cpu, 200, 50, &logs(), PATIENCE).expect("one wins each time");
    assert!(matches!(outcome, Outcome::Passed(_)), "{outcome:?}");
}
