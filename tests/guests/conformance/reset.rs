//! C7: what a vCPU finds at its first instruction.

use core::sync::atomic::{AtomicU64, Ordering};
use payload::entry::{NAMES, ResetState, reset_state};
use payload::sysreg::{CONTEXTIDR_EL1, CPACR_EL1, TPIDR_EL0, TPIDR_EL1};
use payload::{TestResult, expect, expect_eq, fail, fp, machine, println, psci, smp};

/// SCTLR_EL1: M, C, I.
const MMU_AND_CACHES: u64 = 1 | 1 << 2 | 1 << 12;
/// Those of [`NAMES`] that are not zero at reset, or of which the machine decides.
const NOT_ZERO: [&str; 6] = [
    "CurrentEL",
    "DAIF",
    "SPSel",
    "SCTLR_EL1",
    "MPIDR_EL1",
    "taken",
];

fn mode(state: &ResetState) -> TestResult {
    expect_eq!(state.special("CurrentEL"), Some(0b01 << 2));
    expect_eq!(state.special("DAIF"), Some(0x3c0));
    expect_eq!(state.special("SPSel"), Some(1));
    let sctlr = state.special("SCTLR_EL1").unwrap_or(MMU_AND_CACHES);
    expect_eq!(sctlr & MMU_AND_CACHES, 0);
    Ok(())
}

/// Every general register from `first` and every special one is zero: nothing was left
/// behind by whoever had them before.
fn nothing_left(state: &ResetState, first: usize) -> TestResult {
    for (n, value) in state.x.iter().enumerate().skip(first) {
        expect_eq!(value.load(Ordering::Relaxed), 0, "in x{n}");
    }
    for name in NAMES.iter().filter(|name| !NOT_ZERO.contains(name)) {
        expect_eq!(state.special(name).unwrap_or(0), 0, "in {name}");
    }
    Ok(())
}

pub(crate) fn first_instruction() -> TestResult {
    let state = reset_state(0);
    mode(state)?;
    for n in 1..=3 {
        expect_eq!(state.x[n].load(Ordering::Relaxed), 0, "in x{n}");
    }
    expect_eq!(state.x[0].load(Ordering::Relaxed), machine::device_tree().0);
    if machine::on_skete() {
        // QEMU's own boot loader leaves the entry point in x4.
        nothing_left(state, 1)?;
    }
    Ok(())
}

pub(crate) fn first_fp() -> TestResult {
    fp::enable();
    let registers = match fp::store() {
        Ok(registers) => registers,
        Err(fault) => fail!("no FP: {fault:x?}"),
    };
    expect!(registers.iter().all(|half| *half == 0), "{registers:x?}");
    Ok(())
}

static RUNS: AtomicU64 = AtomicU64::new(0);

/// Leaves something in registers that the next switching-on has to clear.
extern "C" fn dirty() {
    CPACR_EL1.write(0b11 << 20);
    TPIDR_EL0.write(0x5ec7_e700);
    TPIDR_EL1.write(0x5ec7_e701);
    CONTEXTIDR_EL1.write(0x5ec7_e702);
    RUNS.store(RUNS.load(Ordering::Relaxed) + 1, Ordering::Release);
}

pub(crate) fn second_vcpu() -> TestResult {
    if machine::cpus() < 2 {
        println!("# c7_second_vcpu: one vCPU only");
        return Ok(());
    }
    for run in 1..=3 {
        expect_eq!(smp::start(1, dirty), psci::SUCCESS, "run {run}");
        expect!(smp::wait_off(1), "vCPU 1 is not off, run {run}");
        expect_eq!(RUNS.load(Ordering::Acquire), run);
        let state = reset_state(1);
        mode(state)?;
        let context = (dirty as *const ()).addr() as u64;
        expect_eq!(state.x[0].load(Ordering::Relaxed), context);
        nothing_left(state, 1)?;
    }
    Ok(())
}
