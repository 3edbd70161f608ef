//! C4 and C3: every register of EL1 and EL0 keeps its value over exits and sleeps.
//!
//! Alone it shows that exits change nothing; beside a second VM that does the same on the
//! same core, that nothing passes from one to the other. Interrupts are masked throughout.

use guest_abi::map::GICD_BASE;
use payload::stats::splitmix64;
use payload::sysreg::{
    AFSR0_EL1, AFSR1_EL1, AMAIR_EL1, CNTKCTL_EL1, CNTP_CVAL_EL0, CNTVCT_EL0, CONTEXTIDR_EL1,
    CPACR_EL1, CSSELR_EL1, DBGBVR0_EL1, DBGBVR1_EL1, DBGWVR0_EL1, DBGWVR1_EL1, ELR_EL1, ESR_EL1,
    FAR_EL1, FPCR, FPSR, MAIR_EL1, MDSCR_EL1, MPIDR_EL1, PAR_EL1, Reg, SP_EL0, SPSR_EL1, TCR_EL1,
    TPIDR_EL0, TPIDR_EL1, TPIDRRO_EL0, TTBR0_EL1, TTBR1_EL1, encoding,
};
use payload::timer::{self, Timer};
use payload::{TestResult, cpu, expect, expect_eq, fail, fp, gic, machine, mem, psci};

const ROUNDS: u64 = 50;

/// A register under test, and the bits that may be set in it without side effects.
struct Kept {
    name: &'static str,
    encoding: u32,
    bits: u64,
    read: fn() -> u64,
    write: fn(u64),
}

macro_rules! kept {
    ($($register:ident & $bits:expr),* $(,)?) => {
        &[$(Kept {
            name: stringify!($register),
            encoding: encoding_of($register),
            bits: $bits,
            read: || $register.read(),
            write: |value| $register.write(value),
        }),*]
    };
}

const fn encoding_of<const ENCODING: u32>(_: Reg<ENCODING>) -> u32 {
    ENCODING
}

macro_rules! encodings {
    ($($name:ident = $reg:literal ($op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal),)*) => {
        &[$(($reg, encoding($op0, $op1, $crn, $crm, $op2))),*]
    };
}

/// Every register that core moves with a vCPU.
const CONTEXT: &[(&str, u32)] = vcpu::el1_context!(encodings);

/// Those of [`CONTEXT`] that [`REGISTERS`] cannot hold, and what shows that they are kept.
const ELSEWHERE: &[&str] = &[
    // The program would not go on, or not find its handlers; the stack pointer is in use.
    "sctlr_el1",
    "vbar_el1",
    "sp_el1",
    // EL2's: what a guest sees of them is MPIDR_EL1, CNTVCT_EL0 and the GIC's own tests.
    "vmpidr_el2",
    "cntvoff_el2",
    "s3_4_c12_c11_7",
    "s3_4_c12_c8_0",
    "s3_4_c12_c9_0",
    // `disturb` sleeps by it; timers have tests of their own.
    "cntv_cval_el0",
    "cntv_ctl_el0",
    "cntp_ctl_el0",
];

/// C4 is about all that core moves: nothing is left out here without a reason.
pub(crate) fn list_is_complete() -> TestResult {
    for (name, encoding) in CONTEXT {
        let listed = REGISTERS.iter().any(|kept| kept.encoding == *encoding);
        let elsewhere = ELSEWHERE.contains(name);
        expect!(listed != elsewhere, "{name}");
    }
    Ok(())
}

/// The list. With the MMU off, translation registers are data like any other.
const REGISTERS: &[Kept] = kept![
    TTBR0_EL1 & 0xffff_0000_ffff_f000,
    TTBR1_EL1 & 0xffff_0000_ffff_f000,
    // T0SZ, T1SZ 16 to 31, and IRGN, ORGN.
    TCR_EL1 & 0x0f0f_0f0f,
    MAIR_EL1 & u64::MAX,
    AMAIR_EL1 & u64::MAX,
    CONTEXTIDR_EL1 & 0xffff_ffff,
    TPIDR_EL0 & u64::MAX,
    TPIDRRO_EL0 & u64::MAX,
    TPIDR_EL1 & u64::MAX,
    PAR_EL1 & 0x0000_ffff_ffff_f000,
    FAR_EL1 & u64::MAX,
    ESR_EL1 & 0xffff_ffff,
    AFSR0_EL1 & u64::MAX,
    AFSR1_EL1 & u64::MAX,
    ELR_EL1 & 0x0000_ffff_ffff_fffc,
    SPSR_EL1 & 0xf000_03c0,
    SP_EL0 & u64::MAX,
    CSSELR_EL1 & 0b11,
    // FPEN: nothing here uses FP.
    CPACR_EL1 & (0b11 << 20),
    // What EL0 may use of the timers.
    CNTKCTL_EL1 & 0x3ff,
    // TDCC only: nothing that takes exceptions.
    MDSCR_EL1 & (1 << 12),
    CNTP_CVAL_EL0 & u64::MAX,
    DBGBVR0_EL1 & 0x0000_ffff_ffff_fffc,
    DBGBVR1_EL1 & 0x0000_ffff_ffff_fffc,
    DBGWVR0_EL1 & 0x0000_ffff_ffff_fffc,
    DBGWVR1_EL1 & 0x0000_ffff_ffff_fffc,
];

pub(crate) fn seed() -> u64 {
    machine::argument("seed").unwrap_or_else(|| CNTVCT_EL0.read() ^ MPIDR_EL1.read())
}

pub(crate) fn rounds() -> u64 {
    machine::argument("rounds").unwrap_or(ROUNDS)
}

/// Of the ways to [`disturb`], the only one; with `always=`.
fn always() -> Option<u64> {
    machine::argument("always")
}

/// Does something that may let another vCPU have the core.
pub(crate) fn disturb(round: u64, always: Option<u64>) {
    match always.unwrap_or(round) % 5 {
        0 => sleep(100_000),
        1 => {
            psci::hvc(psci::VERSION, 0, 0, 0);
        }
        2 => {
            mem::read32(GICD_BASE + gic::GICD_TYPER);
        }
        3 => timer::spin(200_000),
        _ => cpu::wfe(),
    }
}

/// Sleeps by the virtual timer, whose interrupt stays masked and is cleared here.
fn sleep(ns: u64) {
    let timer = Timer::Virtual;
    timer.set_compare(timer.now() + timer::ticks(ns));
    timer.set_control(timer::ENABLE);
    while timer.control() & timer::ISTATUS == 0 {
        cpu::wfi();
    }
    timer.set_control(0);
    // It was never taken: while it is pending, WFI does not wait.
    gic::set_bit(gic::ICPENDR, timer.intid());
}

pub(crate) fn registers() -> TestResult {
    gic::init_distributor();
    gic::init_cpu();
    gic::set_bit(gic::ISENABLER, Timer::Virtual.intid());
    let mut state = seed();
    let before = REGISTERS.iter().map(|register| (register.read)());
    let mut saved = [0; REGISTERS.len()];
    saved
        .iter_mut()
        .zip(before)
        .for_each(|(to, from)| *to = from);

    let mut result = Ok(());
    let always = always();
    for round in 0..rounds() {
        result = one_round(&mut state, round, always);
        if result.is_err() {
            break;
        }
    }
    for (register, value) in REGISTERS.iter().zip(saved) {
        (register.write)(value);
    }
    result
}

fn one_round(state: &mut u64, round: u64, always: Option<u64>) -> TestResult {
    let mut held = [0; REGISTERS.len()];
    for register in REGISTERS {
        (register.write)(splitmix64(state) & register.bits);
    }
    // What a register keeps of a value is its own affair; from here on it keeps that.
    for (held, register) in held.iter_mut().zip(REGISTERS) {
        *held = (register.read)();
    }
    disturb(round, always);
    for (held, register) in held.iter().zip(REGISTERS) {
        expect_eq!((register.read)(), *held, "{} round {round}", register.name);
    }
    Ok(())
}

pub(crate) fn fp() -> TestResult {
    fp::enable();
    let mut state = seed();
    let always = always();
    for round in 0..rounds() {
        let mut registers = [0; 64];
        registers.fill_with(|| splitmix64(&mut state));
        // Rounding mode, flush to zero, default NaN; cumulative flags.
        let control = splitmix64(&mut state) & 0x07c0_0000;
        let status = splitmix64(&mut state) & 0x0800_009f;
        FPCR.write(control);
        FPSR.write(status);
        if let Err(fault) = fp::load(&registers) {
            fail!("loading V registers: {fault:x?}");
        }
        disturb(round, always);
        match fp::store() {
            Ok(now) => expect_eq!(now, registers, "round {round}"),
            Err(fault) => fail!("storing V registers: {fault:x?}"),
        }
        expect_eq!(FPCR.read(), control, "round {round}");
        expect_eq!(FPSR.read(), status, "round {round}");
    }
    FPCR.write(0);
    Ok(())
}
