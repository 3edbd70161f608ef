//! The vendor service: the preempt hint, and what it says.

use crate::{CORE, GENERATION, Masked, RESUMED, TURNS, call, line, masked, order, preempted, tell};
use core::sync::atomic::Ordering;
use guest_abi::map::PV_BASE;
use guest_abi::pv::{Call, Hints, STRIDE};
use payload::{TestResult, expect, expect_eq, machine, mem, psci, smp, timer};

const UID: u32 = 0x8600_ff01;
const REVISION: u32 = 0x8600_ff03;
const FEATURES: u32 = 0x8600_0000;
const INVALID_PARAMETER: u64 = (-3_i64).cast_unsigned();
/// Part of a turn, in nanoseconds: longer than two switches.
const PART_NS: u64 = 1_000_000;

/// C05: the service says who it is, and which functions there are.
pub(crate) fn discovery() -> TestResult {
    let uid = [0x524c_1f6f, 0x6e4b_0a9d, 0x1e5a_378c, 0xc8b2_940d];
    expect_eq!(call(UID, [0; 3]), uid, "UID");
    expect!(call(REVISION, [0; 3])[0] < 1 << 16, "major revision");
    let hint = masked().has_hint();
    let [functions, ..] = call(FEATURES, [0; 3]);
    let has = |call: Call| functions >> call.number() & 1 == 1;
    expect!(functions & 1 == 1, "FEATURES itself: {functions:#x}");
    expect_eq!(has(Call::PvPreemptInfo), hint, "{functions:#x}");
    expect_eq!(has(Call::YieldTo), masked() != Masked::Yield, "YIELD_TO");
    expect_eq!(has(Call::PcpuInfo), masked() != Masked::Core, "PCPU_INFO");
    let info = call(Call::PvPreemptInfo as u32, [0; 3]);
    if hint {
        expect_eq!(info, [0, PV_BASE, STRIDE, 16 | 1 << 32], "PV_PREEMPT_INFO");
        let hints = Hints::found(info).map(|hints| hints.byte(1));
        expect_eq!(hints, Some(line(1) + 16), "where the hint of vCPU 1 is");
    } else {
        expect_eq!(info[0], u64::MAX, "PV_PREEMPT_INFO, masked");
    }
    let core = machine::argument("core").unwrap_or(0);
    let (told, shown) = match masked() {
        Masked::Core => (u64::MAX, 0),
        Masked::Time => (core, 0),
        _ => (core, core),
    };
    expect_eq!(call(Call::PcpuInfo as u32, [0; 3])[0], told, "PCPU_INFO");
    for vcpu in 0..machine::cpus() {
        expect_eq!(mem::read32(line(vcpu) + CORE), shown, "vCPU {vcpu}'s core");
    }
    Ok(())
}

/// Looks at vCPU 1 as long as it takes for its core to have gone to and fro some times; counts
/// the looks at which it was preempted, and at which it was not.
fn look(turns: u64) -> (u64, u64) {
    let (mut yes, mut no) = (0, 0);
    let generation = || mem::read64(line(1) + GENERATION);
    let end = generation() + 2 * turns;
    let patience = timer::now() + timer::ticks(smp::PATIENCE_NS);
    while generation() < end && timer::now() < patience {
        if preempted(1) {
            yes += 1;
        } else {
            no += 1;
        }
    }
    (yes, no)
}

/// C06: whenever this vCPU runs on the only core, one that spins has lost it.
pub(crate) fn spinner() -> TestResult {
    tell(1, order::SPIN);
    for vcpu in 2..machine::cpus() {
        tell(vcpu, order::WAIT);
    }
    timer::spin(30_000_000);
    if masked() == Masked::Time {
        // No lines: the window reads as zero.
        expect_eq!(mem::read64(line(1) + GENERATION), 0, "a line");
        expect!(!preempted(1), "a hint without a line");
        return Ok(());
    }
    let (yes, no) = look(10);
    if masked() == Masked::Hint {
        expect_eq!(yes, 0, "hints of a VM that has none");
        expect!(no > 0, "it never ran");
        return Ok(());
    }
    expect!(yes > 100, "{yes} looks saw it preempted");
    expect_eq!(no, 0, "looks saw it running, while this one ran");
    expect!(!preempted(0), "who looks is running");
    Ok(())
}

/// C06: one that waits for an interrupt, gave its core away or is off was not switched out
/// against its will.
pub(crate) fn willing() -> TestResult {
    tell(1, order::WAIT);
    timer::spin(30_000_000);
    for _ in 0..100 {
        expect!(!preempted(1), "it waits");
    }
    if masked() == Masked::Nothing {
        tell(1, order::YIELD);
        // Each time it has the core it yields it to this one, long before its turn is over.
        timer::spin(30_000_000);
        let before = TURNS[1].load(Ordering::Acquire);
        let (yes, no) = look(10);
        expect!(TURNS[1].load(Ordering::Acquire) > before, "it never ran");
        expect!(no > 10 * yes, "preempted {yes} times, and {no} times not");
    }
    tell(1, order::WAIT);
    Ok(())
}

/// C08: YIELD_TO hands the core to the one that is named, out of some, at once.
pub(crate) fn directed() -> TestResult {
    for vcpu in 1..machine::cpus() {
        tell(vcpu, order::SPIN);
    }
    let yield_to = |affinity: u64| psci::hvc(Call::YieldTo as u32, affinity, 0, 0);
    if masked() == Masked::Yield {
        for affinity in [0, 1, 77] {
            expect_eq!(yield_to(affinity), psci::NOT_SUPPORTED, "YIELD_TO, masked");
        }
        return Ok(());
    }
    expect_eq!(
        yield_to(77).cast_unsigned(),
        INVALID_PARAMETER,
        "to a vCPU that is not there"
    );
    // All have had a turn, and this one's is new.
    timer::spin(100_000_000);
    let part = timer::ticks(PART_NS);
    for round in 0..12 {
        let target = 1 + round % (machine::cpus() - 1);
        // At the beginning of a turn of this vCPU.
        // Every second time it is the one whose turn has just been, so it is not its turn.
        let (mut last, start) = (timer::now(), timer::now());
        while timer::now() - last < part {
            last = timer::now();
            let patient = last - start < timer::ticks(smp::PATIENCE_NS);
            expect!(patient, "nobody else has the core in round {round}");
        }
        let asked = timer::now();
        expect_eq!(yield_to(target as u64), 0, "YIELD_TO");
        let away = timer::now() - asked;
        expect!(away > part, "nobody had the core: away for {away} ticks");
        for other in (1..machine::cpus()).filter(|other| *other != target) {
            let resumed = RESUMED[other].load(Ordering::Acquire);
            let first = resumed > asked && resumed - asked < part;
            expect!(!first, "vCPU {other} had the core first, not {target}");
        }
    }
    Ok(())
}
