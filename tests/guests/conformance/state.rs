//! C4 and C3: every register of EL1 and EL0 keeps its value over exits and sleeps.
//!
//! Alone it shows that exits change nothing; beside a second VM that does the same on the
//! same core, that nothing passes from one to the other. Interrupts are masked throughout.

use guest_abi::map::GICD_BASE;
use payload::stats::splitmix64;
use payload::sysreg::{
    AFSR0_EL1, AFSR1_EL1, AMAIR_EL1, CNTKCTL_EL1, CNTP_CVAL_EL0, CNTVCT_EL0, CONTEXTIDR_EL1,
    CSSELR_EL1, DBGBVR0_EL1, DBGBVR1_EL1, DBGWVR0_EL1, DBGWVR1_EL1, ELR_EL1, ESR_EL1, FAR_EL1,
    FPCR, FPSR, MAIR_EL1, MDSCR_EL1, MPIDR_EL1, PAR_EL1, SP_EL0, SPSR_EL1, TCR_EL1, TPIDR_EL0,
    TPIDR_EL1, TPIDRRO_EL0, TTBR0_EL1, TTBR1_EL1,
};
use payload::timer::{self, Timer};
use payload::{TestResult, cpu, expect_eq, fail, fp, gic, machine, mem, psci};

const ROUNDS: u64 = 50;

/// A register under test, and the bits that may be set in it without side effects.
struct Kept {
    name: &'static str,
    bits: u64,
    read: fn() -> u64,
    write: fn(u64),
}

macro_rules! kept {
    ($($register:ident & $bits:expr),* $(,)?) => {
        &[$(Kept {
            name: stringify!($register),
            bits: $bits,
            read: || $register.read(),
            write: |value| $register.write(value),
        }),*]
    };
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

fn seed() -> u64 {
    machine::argument("seed").unwrap_or_else(|| CNTVCT_EL0.read() ^ MPIDR_EL1.read())
}

fn rounds() -> u64 {
    machine::argument("rounds").unwrap_or(ROUNDS)
}

/// Of the ways to [`disturb`], the only one; with `always=`.
fn always() -> Option<u64> {
    machine::argument("always")
}

/// Does something that may let another vCPU have the core.
fn disturb(round: u64, always: Option<u64>) {
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
