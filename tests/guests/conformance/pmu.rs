//! C6: the performance monitors, where the guest has them: they count for it and for nobody
//! else, and their interrupt comes.
#![expect(unsafe_code, reason = "it writes registers by encoding")]

use payload::sysreg::{ID_AA64DFR0_EL1, PMUSERENR_EL0, encoding};
use payload::timer::{self, Timer};
use payload::{Fault, TestResult, cpu, expect, expect_eq, gic, machine, println, psci, smp, stub};

const PMCR: u32 = encoding(3, 3, 9, 12, 0);
const PMCNTENSET: u32 = encoding(3, 3, 9, 12, 1);
const PMCNTENCLR: u32 = encoding(3, 3, 9, 12, 2);
const PMOVSCLR: u32 = encoding(3, 3, 9, 12, 3);
const PMSWINC: u32 = encoding(3, 3, 9, 12, 4);
const PMSELR: u32 = encoding(3, 3, 9, 12, 5);
const PMCCNTR: u32 = encoding(3, 3, 9, 13, 0);
const PMXEVTYPER: u32 = encoding(3, 3, 9, 13, 1);
const PMXEVCNTR: u32 = encoding(3, 3, 9, 13, 2);
const PMINTENSET: u32 = encoding(3, 0, 9, 14, 1);
const PMINTENCLR: u32 = encoding(3, 0, 9, 14, 2);
const PMEVCNTR0: u32 = encoding(3, 3, 14, 8, 0);
const PMEVTYPER0: u32 = encoding(3, 3, 14, 12, 0);
const PMCCFILTR: u32 = encoding(3, 3, 14, 15, 7);
const CYCLES: u64 = 1 << 31;
/// PMCR: E, P, C, LC.
const RUN: u64 = 1 | 1 << 6;
const CLEAR: u64 = 0b110 | 1 << 6;
/// The PMU's interrupt, PPI 7.
const INTID: u32 = 23;
const SOON_NS: u64 = 200_000;

fn is_there() -> bool {
    let version = ID_AA64DFR0_EL1.read() >> 8 & 15;
    let there = version != 0 && version != 15;
    if !there {
        println!("# no PMU");
    }
    there
}

fn read(register: u32) -> Result<u64, Fault> {
    stub::read_sysreg(register)
}

fn write(register: u32, value: u64) -> TestResult {
    // SAFETY: The PMU's registers count, and change nothing of the program.
    let result = unsafe { stub::write_sysreg(register, value) };
    expect_eq!(result, Ok(()), "{register:#x}");
    Ok(())
}

fn reset() -> TestResult {
    write(PMCR, CLEAR)?;
    for (register, value) in [
        (PMCNTENCLR, !0 >> 32),
        (PMINTENCLR, !0 >> 32),
        (PMOVSCLR, !0 >> 32),
        (PMCCFILTR, 0),
        (PMSELR, 0),
    ] {
        write(register, value)?;
    }
    Ok(())
}

/// Cycles over `f`.
fn cycles(f: impl FnOnce()) -> Result<u64, Fault> {
    let before = read(PMCCNTR)?;
    f();
    Ok(read(PMCCNTR)?.wrapping_sub(before))
}

pub(crate) fn counts() -> TestResult {
    if !is_there() {
        return Ok(());
    }
    reset()?;
    let wait = || timer::spin(SOON_NS);
    expect_eq!(cycles(wait), Ok(0), "off");
    write(PMCNTENSET, CYCLES)?;
    expect_eq!(cycles(wait), Ok(0), "enabled, and PMCR.E is zero");
    write(PMCR, RUN)?;
    let running = cycles(wait);
    expect!(running.is_ok_and(|n| n > 0), "{running:?}");
    // EL1 excluded: P.
    write(PMCCFILTR, 1 << 31)?;
    expect_eq!(cycles(wait), Ok(0), "EL1 excluded");
    // NSH asks for EL2; what it keeps of that is its affair.
    write(PMCCFILTR, 0)?;
    write(PMCNTENCLR, CYCLES)?;
    expect_eq!(cycles(wait), Ok(0), "disabled");
    write(PMCR, CLEAR)?;
    expect_eq!(read(PMCCNTR), Ok(0));
    reset()
}

/// Only so many cycles as the guest itself ran: exits, and whoever has the core meanwhile, do not
/// count. QEMU's cycle counter counts nanoseconds.
pub(crate) fn exits_do_not_count() -> TestResult {
    if !is_there() || !machine::on_skete() {
        return Ok(());
    }
    reset()?;
    write(PMCNTENSET, CYCLES)?;
    // P and NSH: EL2 alone, which must not be had.
    write(PMCCFILTR, 1 << 31 | 1 << 27)?;
    write(PMCR, RUN)?;
    let elsewhere = cycles(|| {
        for _ in 0..1000 {
            psci::hvc(psci::VERSION, 0, 0, 0);
        }
    });
    expect_eq!(elsewhere, Ok(0), "of EL2");
    write(PMCCFILTR, 0)?;
    let slept = cycles(|| {
        let timer = Timer::Virtual;
        timer.set_compare(timer.now() + timer::ticks(20_000_000));
        timer.set_control(timer::ENABLE | timer::IMASK);
        while timer.control() & timer::ISTATUS == 0 {
            cpu::wfe();
        }
        timer.set_control(0);
    });
    expect!(slept.is_ok(), "{slept:?}");
    println!("# c6: {slept:?} cycles in 20 ms");
    reset()
}

pub(crate) fn software_increments() -> TestResult {
    let events = read(PMCR).unwrap_or(0) >> 11 & 31;
    if !is_there() || events == 0 {
        return Ok(());
    }
    reset()?;
    write(PMEVTYPER0, 0)?;
    write(PMEVCNTR0, 0xffff_fffe)?;
    write(PMCNTENSET, 1)?;
    write(PMSWINC, 1)?;
    expect_eq!(read(PMEVCNTR0), Ok(0xffff_fffe), "PMCR.E is zero");
    write(PMCR, RUN)?;
    write(PMSWINC, 1)?;
    expect_eq!(read(PMEVCNTR0), Ok(0xffff_ffff));
    expect_eq!(read(PMOVSCLR), Ok(0));
    write(PMSWINC, 1)?;
    let count = read(PMEVCNTR0).map(|count| count & 0xffff_ffff);
    expect_eq!(count, Ok(0));
    // PMUv3p5, which a guest of Skete does not see, has 64 bits to overflow.
    if machine::on_skete() {
        expect_eq!(read(PMOVSCLR), Ok(1), "it overflowed");
    }
    // By way of PMSELR as well.
    write(PMSELR, 0)?;
    write(PMXEVCNTR, 7)?;
    expect_eq!(read(PMEVCNTR0), Ok(7));
    write(PMXEVTYPER, 1 << 31)?;
    expect_eq!(read(PMEVTYPER0), Ok(1 << 31));
    reset()
}

pub(crate) fn interrupts() -> TestResult {
    if !is_there() {
        return Ok(());
    }
    cpu::mask_irq();
    gic::init_distributor();
    gic::init_cpu();
    gic::set_bit(gic::ISENABLER, INTID);
    reset()?;
    for round in 0..5 {
        let before = gic::count(0, INTID);
        write(PMCCNTR, u64::MAX - 50_000)?;
        write(PMINTENSET, CYCLES)?;
        write(PMCNTENSET, CYCLES)?;
        expect!(!gic::bit(gic::ISPENDR, INTID), "early {round}");
        write(PMCR, RUN)?;
        // The handler clears the overflow, and with it the level.
        cpu::unmask_irq();
        let came = smp::wait(|| gic::count(0, INTID) > before);
        cpu::mask_irq();
        expect!(came, "no interrupt {round}");
        expect_eq!(gic::count(0, INTID), before + 1, "{round}");
        expect_eq!(read(PMOVSCLR), Ok(0), "{round}");
        expect!(!gic::bit(gic::ISPENDR, INTID), "still pending {round}");
        reset()?;
    }
    Ok(())
}

/// What EL0 may do is written, read, and gone after.
pub(crate) fn user_access() -> TestResult {
    if !is_there() {
        return Ok(());
    }
    PMUSERENR_EL0.write(0b1111);
    psci::hvc(psci::VERSION, 0, 0, 0);
    expect_eq!(PMUSERENR_EL0.read(), 0b1111);
    PMUSERENR_EL0.write(0);
    expect_eq!(PMUSERENR_EL0.read(), 0);
    Ok(())
}
