//! The ITS and its LPIs; nothing on a machine that has none.

use guest_abi::map::{GICD_BASE, ITS_BASE, ITS_TRANSLATER};
use payload::stats::splitmix64;
use payload::sysreg::ICC_PMR_EL1;
use payload::{TestResult, cpu, expect, expect_eq, gic, its, machine, mem, mmu, psci, smp, timer};

use core::sync::atomic::{AtomicBool, Ordering};

const QUIET_NS: u64 = 100_000;
/// Enabled, of priority 0xa0.
const ON: u64 = 0xa1;

/// Makes GIC and ITS ready, interrupts masked; LPIs 0 to 3 are events 0 to 3 on vCPU 0.
fn prepare() -> bool {
    cpu::mask_irq();
    gic::init_distributor();
    gic::init_cpu();
    let Some(block) = machine::fresh_blocks().next_back() else {
        return false;
    };
    if !its::start(block) {
        return false;
    }
    for n in 0..4 {
        its::configure(n, ON);
        its::map(n, n, 0);
        its::invalidate(n);
    }
    its::sync()
}

/// Lets interrupts in until vCPU 0 has taken `n` more than `before`.
fn take(before: u64, n: u64) -> bool {
    cpu::unmask_irq();
    let done = smp::wait(|| gic::taken(0) >= before + n);
    cpu::mask_irq();
    done
}

/// Lets interrupts in for a while and returns how many came.
fn come() -> u64 {
    let before = gic::taken(0);
    cpu::unmask_irq();
    timer::spin(QUIET_NS);
    cpu::mask_irq();
    gic::taken(0) - before
}

pub(crate) fn identification() -> TestResult {
    if !its::is_there() {
        // A machine without devices has neither LPIs nor an ITS.
        expect_eq!(mem::read64(gic::redistributor(0) + 8) & 1, 0);
        if machine::on_skete() {
            expect_eq!(mem::read32(ITS_BASE + gic::PIDR2), 0);
        }
        return Ok(());
    }
    expect_eq!(mem::read32(ITS_BASE + gic::PIDR2) >> 4 & 15, 3);
    let typer = mem::read64(ITS_BASE + its::TYPER);
    expect_eq!(typer & 1, 1, "physical LPIs");
    // INTIDs of 14 bits at least.
    expect!(mem::read32(GICD_BASE + gic::GICD_TYPER) >> 19 & 31 >= 13);
    for n in 0..machine::cpus() {
        expect_eq!(
            mem::read64(gic::redistributor(n) + 8) & 1,
            1,
            "PLPIS of {n}"
        );
    }
    Ok(())
}

pub(crate) fn by_command() -> TestResult {
    if !its::is_there() {
        return Ok(());
    }
    expect!(prepare());
    for n in 0..4 {
        let before = gic::taken(0);
        its::interrupt(n);
        expect!(take(before, 1), "LPI {n}");
        expect_eq!(gic::nth(0, before), its::FIRST + n as u32);
    }
    // Twice before it is taken is once.
    its::interrupt(1);
    its::interrupt(1);
    expect_eq!(come(), 1);
    // Cleared before it is taken is never.
    its::interrupt(1);
    its::clear(1);
    expect_eq!(come(), 0);
    its::interrupt(1);
    its::discard(1);
    its::interrupt(1);
    expect_eq!(come(), 0);
    // A CPU's store to GITS_TRANSLATER is no device's.
    mem::write32(ITS_TRANSLATER, 0);
    expect_eq!(come(), 0);
    Ok(())
}

pub(crate) fn configuration() -> TestResult {
    if !its::is_there() {
        return Ok(());
    }
    expect!(prepare());
    its::configure(0, ON & !1);
    its::invalidate(0);
    its::interrupt(0);
    expect_eq!(come(), 0, "disabled");
    its::configure(0, ON);
    let before = gic::taken(0);
    its::invalidate(0);
    expect!(take(before, 1), "enabled again");
    // Masked by priority.
    ICC_PMR_EL1.write(0xa0);
    its::interrupt(0);
    expect_eq!(come(), 0, "as urgent as the mask");
    its::configure(0, 0x91);
    // INVALL: everything is looked at again.
    its::command([0x0d, 0, 0, 0]);
    expect_eq!(come(), 1, "more urgent");
    ICC_PMR_EL1.write(0xf0);
    // The distributor's group holds LPIs back, too.
    mem::write32(GICD_BASE + gic::GICD_CTLR, 0x10);
    its::interrupt(0);
    expect_eq!(come(), 0, "group off");
    mem::write32(GICD_BASE + gic::GICD_CTLR, 0x12);
    expect_eq!(come(), 1, "group on");
    // With the ITS off nothing is done.
    mem::write32(ITS_BASE + its::CTLR, 0);
    its::interrupt(0);
    expect_eq!(come(), 0, "ITS off");
    mem::write32(ITS_BASE + its::CTLR, 1);
    expect_eq!(come(), 1, "ITS on");
    Ok(())
}

/// Far more than there are list registers, more than one write handles, and the most urgent
/// first.
pub(crate) fn many() -> TestResult {
    const N: u64 = 100;
    if !its::is_there() {
        return Ok(());
    }
    expect!(prepare());
    let urgency = |n: u64| n * 7 % 25;
    for n in 0..N {
        its::configure(n, 0x21 + (urgency(n) << 3));
        its::map(n, n, 0);
    }
    its::command([0x0d, 0, 0, 0]);
    expect!(its::sync());
    for _ in 0..3 {
        // All with one write of CWRITER.
        let mut at = mem::read64(ITS_BASE + its::CWRITER);
        for n in 0..N {
            at = its::put(at, [its::DEVICE << 32 | 0x03, n, 0, 0]);
        }
        mem::write64(ITS_BASE + its::CWRITER, at);
        expect!(smp::wait(|| mem::read64(ITS_BASE + its::CREADR) == at));
        // An SGI of the same priority as the last joins them.
        gic::send_sgi(3, 1);
        let before = gic::taken(0);
        cpu::unmask_irq();
        let mut seen = 0;
        let mut last = 0;
        while gic::taken(0) < before + N + 1 {
            expect!(smp::wait(|| gic::taken(0) > before + seen), "after {seen}");
            seen = gic::taken(0) - before;
        }
        cpu::mask_irq();
        // The last sixteen: all of the least urgent levels, in order.
        for n in before + N + 1 - 16..before + N + 1 {
            let intid = gic::nth(0, n);
            if intid >= its::FIRST {
                let rank = urgency(u64::from(intid - its::FIRST));
                expect!(rank >= last, "{intid} after one of {last}");
                last = rank;
            }
        }
        expect_eq!(come(), 0);
    }
    Ok(())
}

/// EnableLPIs off writes what pends to the pending table; on reads it.
pub(crate) fn pending_table() -> TestResult {
    if !its::is_there() {
        return Ok(());
    }
    expect!(prepare());
    its::interrupt(2);
    expect!(its::sync());
    let rd = gic::redistributor(0);
    mem::write32(rd + its::GICR_CTLR, 0);
    let word = its::pending_table(0) + 1024;
    expect_eq!(mem::read32(word), 1 << 2);
    expect_eq!(come(), 0);
    mem::write32(word, 1 << 1 | 1 << 3);
    // The table is not all zeroes.
    mem::write64(rd + its::PENDBASER, its::pending_table(0) | 0x780);
    mem::write32(rd + its::GICR_CTLR, 1);
    let before = gic::taken(0);
    expect!(take(before, 2));
    let got = [gic::nth(0, before), gic::nth(0, before + 1)].map(|id| id - its::FIRST);
    expect!(got == [1, 3] || got == [3, 1], "{got:?}");
    expect_eq!(come(), 0);
    Ok(())
}

static READY: AtomicBool = AtomicBool::new(false);
static DONE: AtomicBool = AtomicBool::new(false);

extern "C" fn receiver() {
    mmu::enable();
    gic::init_cpu();
    READY.store(true, Ordering::Release);
    while !DONE.load(Ordering::Acquire) {
        cpu::wfi();
        cpu::unmask_irq();
        cpu::isb();
        cpu::mask_irq();
    }
}

pub(crate) fn moves() -> TestResult {
    if !its::is_there() || machine::cpus() < 2 {
        return Ok(());
    }
    expect!(prepare());
    DONE.store(false, Ordering::Release);
    READY.store(false, Ordering::Release);
    expect_eq!(smp::start(1, receiver), psci::SUCCESS);
    expect!(smp::wait(|| READY.load(Ordering::Acquire)));
    let came = |n: u64, before: u64| smp::wait(|| gic::taken(1) >= before + n);
    // What pends here moves with MOVI, and what comes afterwards goes there.
    let before = gic::taken(1);
    its::interrupt(0);
    its::move_to(0, 1);
    expect!(came(1, before), "moved while pending");
    expect_eq!(gic::nth(1, before), its::FIRST);
    its::interrupt(0);
    expect!(came(2, before), "moved");
    expect_eq!(come(), 0, "nothing is left here");
    // MOVALL moves what pends, and nothing else.
    its::interrupt(1);
    its::interrupt(2);
    its::move_all(0, 1);
    expect!(came(4, before), "moved together");
    expect_eq!(come(), 0, "nothing is left here");
    its::interrupt(1);
    expect_eq!(come(), 1, "its event still leads here");
    // A collection that is mapped elsewhere takes its events along.
    its::command([0x09, 0, 1 << 63 | 1 << 16, 0]);
    its::interrupt(3);
    expect!(came(5, before), "collection mapped elsewhere");
    DONE.store(true, Ordering::Release);
    gic::send_sgi(5, 1 << 1);
    expect!(smp::wait_off(1));
    Ok(())
}

/// Random commands and register accesses, `n` of them.
fn act(seed: &mut u64, n: u64) {
    let own = gic::redistributor(cpu::index());
    for _ in 0..n {
        let dice = splitmix64(seed);
        let mut number = |few: u64| match splitmix64(seed) {
            any if any & 15 == 0 => any,
            any => any % few,
        };
        let (device, event, icid) = (number(32), number(8), number(4));
        match dice % 8 {
            0 => mem::write64(ITS_BASE + (dice >> 32 & 0x1_ff8), number(1 << 40)),
            1 => {
                mem::read64(ITS_BASE + (dice >> 32 & 0x1_fff8));
            }
            2 => mem::write64(ITS_BASE + its::CWRITER, number(4096) & !31),
            3 => mem::write32(own + its::GICR_CTLR, dice >> 32 & 1),
            _ => {
                let code = dice >> 16 & 15;
                let second = number(0x8002_0000_0000) & !7 | event;
                let third = number(1 << 52) | icid;
                its::command([device << 32 | code, second, third, dice]);
            }
        }
    }
}

/// After whatever was done to it, everything can be set up anew, and works.
fn works_again() -> TestResult {
    expect!(prepare());
    let before = gic::taken(0);
    its::interrupt(3);
    expect!(take(before, 1));
    Ok(())
}

/// Random commands and register accesses harm nobody but who makes them.
pub(crate) fn random() -> TestResult {
    // What QEMU's does with these is its own affair.
    if !its::is_there() || !machine::on_skete() {
        return Ok(());
    }
    let mut seed = machine::argument("seed").unwrap_or(5);
    for _ in 0..machine::argument("rounds").unwrap_or(20) {
        expect!(prepare());
        act(&mut seed, 300);
    }
    works_again()
}

extern "C" fn rival() {
    mmu::enable();
    gic::init_cpu();
    let mut seed = 77 + cpu::index() as u64;
    act(&mut seed, 2000);
}

/// The same from every vCPU at once: they switch each other's ITS off, move the queue under each
/// other's commands, and change what is in it.
pub(crate) fn rivals() -> TestResult {
    if !its::is_there() || !machine::on_skete() {
        return Ok(());
    }
    expect!(prepare());
    smp::start_all(rival);
    let mut seed = 77;
    act(&mut seed, 2000);
    for index in 1..machine::cpus() {
        expect!(smp::wait_off(index), "vCPU {index} goes on for ever");
    }
    works_again()
}
