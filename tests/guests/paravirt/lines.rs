//! Lines of stolen time: where they are, who may write them, what they count.

use crate::{DEVICE, FAULT, GENERATION, HINT, Masked, QUEUED, STOLEN, call, line, masked};
use guest_abi::map::{PV_BASE, RAM_BASE};
use guest_abi::pv::{LINES_BYTES, PV_TIME_FEATURES, PV_TIME_ST, STRIDE};
use payload::{TestResult, catch, expect, expect_eq, machine, mem, timer};

const ARCH_FEATURES: u32 = 0x8000_0001;

/// Returns the answer to PV_TIME_ST.
fn structure() -> u64 {
    call(PV_TIME_ST, [0; 3])[0]
}

/// C07: a VM's lines are its own, whoever had the frame before.
pub(crate) fn are_new() -> TestResult {
    if masked() == Masked::Time {
        return Ok(());
    }
    for vcpu in 1..machine::cpus() {
        for offset in (0..STRIDE).step_by(8).filter(|at| *at != GENERATION) {
            expect_eq!(
                mem::read64(line(vcpu) + offset),
                0,
                "vCPU {vcpu} at {offset}"
            );
        }
        expect_eq!(
            mem::read64(line(vcpu) + GENERATION),
            1,
            "vCPU {vcpu} is off"
        );
    }
    for at in (machine::cpus() as u64 * STRIDE..LINES_BYTES).step_by(8) {
        expect_eq!(mem::read64(PV_BASE + at), 0, "past the lines, at {at:#x}");
    }
    Ok(())
}

/// C02, C04: the structure of DEN 0057A, 3.2.3.
pub(crate) fn layout() -> TestResult {
    let here = structure();
    if masked() == Masked::Time {
        expect_eq!(here, u64::MAX, "PV_TIME_ST");
        return Ok(());
    }
    expect_eq!(here, line(0), "PV_TIME_ST");
    expect_eq!(here % 64, 0, "alignment of {here:#x}");
    let outside = here < RAM_BASE || here >= RAM_BASE + machine::ram_bytes();
    expect!(outside, "{here:#x} is in RAM");
    for vcpu in 0..machine::cpus() {
        expect_eq!(mem::read32(line(vcpu)), 0, "revision");
        expect_eq!(mem::read32(line(vcpu) + 4), 0, "attributes");
        for padding in [17, 18, 19, 56] {
            expect_eq!(mem::read8(line(vcpu) + padding), 0, "at {padding}");
        }
    }
    expect_eq!(structure(), here, "asked again");
    Ok(())
}

/// C02: the guest reads, and does not write.
pub(crate) fn read_only() -> TestResult {
    if masked() == Masked::Time {
        return Ok(());
    }
    for at in [line(0), line(0) + HINT, line(1) + STOLEN] {
        let before = mem::read8(at);
        let fault = catch(|| mem::write8(at, !before));
        let aborted = matches!(&fault, Err(fault) if fault.esr >> 26 == 0x25 && fault.far == at);
        expect!(aborted, "a store to {at:#x}: {fault:x?}");
    }
    expect_eq!(mem::read8(line(0)), 0, "the revision's first byte");
    Ok(())
}

/// C03: each cause is counted by itself. This vCPU's own line is read while it runs, when only
/// a fault of its own can change it.
pub(crate) fn causes() -> TestResult {
    if masked() == Masked::Time {
        return Ok(());
    }
    let read = || [STOLEN, QUEUED, FAULT, DEVICE].map(|at| mem::read64(line(0) + at));
    // Longer than a turn: the other vCPUs of this core have theirs.
    timer::spin(30_000_000);
    let first = settled(read);
    timer::spin(30_000_000);
    let [stolen, queued, fault, device] = settled(read);
    expect_eq!(stolen, queued + fault + device, "the sum");
    expect!(
        queued > first[1],
        "nothing stolen by who else runs: {queued}"
    );
    expect_eq!(fault, first[2], "a fault without one");
    expect_eq!(device, 0, "no device");
    let Some(block) = machine::fresh_blocks().nth(2) else {
        return Ok(());
    };
    mem::write64(block, 1);
    let [stolen, queued, fault_after, device] = settled(read);
    expect_eq!(
        stolen,
        queued + fault_after + device,
        "the sum after a fault"
    );
    expect!(fault_after > fault, "a fault took no time: {fault_after}");
    Ok(())
}

/// Reads until two readings are alike: no turn ended between.
fn settled(read: impl Fn() -> [u64; 4]) -> [u64; 4] {
    let mut last = read();
    loop {
        let now = read();
        if now == last {
            return now;
        }
        last = now;
    }
}

/// C04: as a stock kernel asks.
pub(crate) fn discovery() -> TestResult {
    let there = masked() != Masked::Time;
    let yes = if there { 0 } else { u64::MAX };
    let features = |function: u32| call(PV_TIME_FEATURES, [u64::from(function), 0, 0])[0];
    let arch = call(ARCH_FEATURES, [u64::from(PV_TIME_FEATURES), 0, 0])[0];
    expect_eq!(arch, yes, "SMCCC_ARCH_FEATURES");
    expect_eq!(features(PV_TIME_FEATURES), yes, "of itself");
    expect_eq!(features(PV_TIME_ST), yes, "of PV_TIME_ST");
    expect_eq!(features(PV_TIME_ST + 1), u64::MAX, "of what is not there");
    // The 32-bit forms do not exist.
    for id in [PV_TIME_FEATURES, PV_TIME_ST] {
        expect_eq!(call(id & !(1 << 30), [0; 3])[0], u64::MAX, "{id:#x}");
    }
    Ok(())
}
