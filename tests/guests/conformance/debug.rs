//! C5: a guest's own breakpoints, watchpoints and single step, and what they must not reach.
#![expect(unsafe_code, reason = "it enables debug exceptions on code of its own")]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};
use guest_abi::map::{GICD_BASE, UART_BASE};
use payload::sysreg::{ID_AA64DFR0_EL1, MDSCR_EL1, OSLAR_EL1, OSLSR_EL1, encoding};
use payload::{Fault, TestResult, catch, cpu, expect, expect_eq, machine, mem, psci, stub};

/// MDSCR_EL1: SS, KDE, MDE.
const SS: u64 = 1 << 0;
const KDE: u64 = 1 << 13;
const MDE: u64 = 1 << 15;
/// Exception classes of the same level: breakpoint, single step, watchpoint.
const BREAKPOINT: u64 = 0x31;
const STEP: u64 = 0x33;
const WATCHPOINT: u64 = 0x35;
/// DBGBCR: all four bytes, EL1 (PMC = 1), E.
const BCR_EL1: u64 = 0xf << 5 | 1 << 1 | 1;
/// DBGWCR: all eight bytes, loads and stores, EL1 (PAC = 1), E.
const WCR_EL1: u64 = 0xff << 5 | LOAD | STORE | 1 << 1 | 1;
const LOAD: u64 = 1 << 3;
const STORE: u64 = 1 << 4;

const DBGBVR: u32 = encoding(2, 0, 0, 0, 4);
const DBGBCR: u32 = encoding(2, 0, 0, 0, 5);
const DBGWVR: u32 = encoding(2, 0, 0, 0, 6);
const DBGWCR: u32 = encoding(2, 0, 0, 0, 7);
/// From one comparator to the next: CRm.
const NEXT: u32 = 1 << 3;

// Code at known addresses: what is stepped over, and where it goes then.
global_asm!(
    ".section .text.debug_steps, \"ax\"",
    ".global debug_nop",
    "debug_nop: nop",
    "nop",
    "ret",
    ".global debug_step",
    // x0: what to run, x1: SPSR with SS; x3 for the code itself; x30 is where it returns to.
    "debug_step: msr elr_el1, x0",
    "msr spsr_el1, x1",
    "mov x0, x2",
    "isb",
    "eret",
    ".global debug_hvc",
    "debug_hvc: hvc #0",
    "nop",
    "ret",
    ".global debug_load",
    "debug_load: ldr w0, [x0]",
    "nop",
    "ret",
    ".global debug_mrs",
    "debug_mrs: mrs x0, id_aa64pfr0_el1",
    "nop",
    "ret",
);

unsafe extern "C" {
    fn debug_nop();
    fn debug_step(at: u64, spsr: u64, x0: u64) -> u64;
    fn debug_hvc();
    fn debug_load();
    fn debug_mrs();
}

fn address(f: unsafe extern "C" fn()) -> u64 {
    (f as *const ()).addr() as u64
}

fn write(register: u32, value: u64) -> Result<(), Fault> {
    // SAFETY: Debug registers bring debug exceptions, which are caught, and nothing else.
    unsafe { stub::write_sysreg(register, value) }
}

/// Lets debug exceptions in while `f` runs.
fn with_debug<R>(mdscr: u64, f: impl FnOnce() -> R) -> Result<R, Fault> {
    OSLAR_EL1.write(0);
    MDSCR_EL1.write(mdscr);
    let result = catch(|| {
        // SAFETY: The exceptions that come are caught by `catch`.
        unsafe { asm!("msr daifclr, #8", "isb", options(nostack)) }
        let result = f();
        // SAFETY: As before, the other way round.
        unsafe { asm!("msr daifset, #8", "isb", options(nostack)) }
        result
    });
    MDSCR_EL1.write(0);
    result
}

fn counts() -> (u32, u32) {
    let dfr0 = ID_AA64DFR0_EL1.read();
    let count = |lsb: u32| (dfr0 >> lsb & 15) as u32 + 1;
    (count(12), count(20))
}

fn quiet() {
    let (breakpoints, watchpoints) = counts();
    for n in 0..breakpoints {
        let _ = write(DBGBCR + n * NEXT, 0);
    }
    for n in 0..watchpoints {
        let _ = write(DBGWCR + n * NEXT, 0);
    }
    MDSCR_EL1.write(0);
}

fn call_nop() {
    // SAFETY: Two NOPs and a return.
    unsafe { debug_nop() }
}

pub(crate) fn breakpoints() -> TestResult {
    let (count, _) = counts();
    for n in 0..count {
        expect_eq!(write(DBGBVR + n * NEXT, address(debug_nop)), Ok(()), "{n}");
        expect_eq!(write(DBGBCR + n * NEXT, BCR_EL1), Ok(()), "{n}");
        let hit = with_debug(MDE | KDE, call_nop);
        let fault = hit.err().map(|fault| (fault.class(), fault.elr));
        expect_eq!(fault, Some((BREAKPOINT, address(debug_nop))), "{n}");
        // Not enabled, or EL0 only: nothing.
        for control in [BCR_EL1 & !1, BCR_EL1 & !(0b11 << 1) | 0b10 << 1] {
            expect_eq!(write(DBGBCR + n * NEXT, control), Ok(()), "{n}");
            expect_eq!(with_debug(MDE | KDE, call_nop), Ok(()), "{n}");
        }
        expect_eq!(write(DBGBCR + n * NEXT, BCR_EL1), Ok(()), "{n}");
        expect_eq!(with_debug(KDE, call_nop), Ok(()), "without MDE {n}");
        quiet();
    }
    // Beyond the last there is nothing.
    if count < 16 {
        for register in [DBGBVR, DBGBCR] {
            let beyond = stub::read_sysreg(register + count * NEXT);
            expect!(beyond.is_err_and(|fault| fault.is_undefined()), "{count}");
        }
    }
    Ok(())
}

static WATCHED: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

fn watched(n: usize) -> u64 {
    (&raw const WATCHED[n]).addr() as u64
}

pub(crate) fn watchpoints() -> TestResult {
    let (_, count) = counts();
    for n in 0..count {
        expect_eq!(write(DBGWVR + n * NEXT, watched(1)), Ok(()), "{n}");
        for (control, load, store) in [
            (WCR_EL1, true, true),
            (WCR_EL1 & !STORE, true, false),
            (WCR_EL1 & !LOAD, false, true),
            (WCR_EL1 & !1, false, false),
        ] {
            expect_eq!(write(DBGWCR + n * NEXT, control), Ok(()), "{n}");
            let found = with_debug(MDE | KDE, || WATCHED[1].load(Ordering::SeqCst)).err();
            let found = found.map(|fault| (fault.class(), fault.far));
            let expected = load.then_some((WATCHPOINT, watched(1)));
            expect_eq!(found, expected, "load {n} {control:#x}");
            let found = with_debug(MDE | KDE, || WATCHED[1].store(1, Ordering::SeqCst)).err();
            let found = found.map(|fault| (fault.class(), fault.far));
            let expected = store.then_some((WATCHPOINT, watched(1)));
            expect_eq!(found, expected, "store {n} {control:#x}");
            let next = with_debug(MDE | KDE, || WATCHED[2].load(Ordering::SeqCst));
            expect!(next.is_ok(), "the one beside it {n}");
        }
        quiet();
    }
    Ok(())
}

/// Steps over one instruction at `at`; returns where that ended.
fn step(at: u64, x0: u64) -> Option<(u64, u64)> {
    // EL1h; A, I and F masked, D not; SS.
    const SPSR: u64 = 0b0101 | 0b0111 << 6 | 1 << 21;
    OSLAR_EL1.write(0);
    MDSCR_EL1.write(SS | KDE);
    // SAFETY: It runs the code at `at`, which returns to where this was called from. Until
    // then debug exceptions are masked, and the one that comes is caught.
    let result = catch(|| unsafe { debug_step(at, SPSR, x0) });
    MDSCR_EL1.write(0);
    cpu::mask_all();
    result.err().map(|fault| (fault.class(), fault.elr))
}

pub(crate) fn single_step() -> TestResult {
    let psci_version = psci::VERSION;
    for (name, code, x0) in [
        ("nop", address(debug_nop), 0),
        ("hvc", address(debug_hvc), u64::from(psci_version)),
        ("device", address(debug_load), UART_BASE + 0x18),
        ("distributor", address(debug_load), GICD_BASE + 8),
        ("mrs", address(debug_mrs), 0),
    ] {
        for _ in 0..3 {
            expect_eq!(step(code, x0), Some((STEP, code + 4)), "{name}");
        }
    }
    Ok(())
}

pub(crate) fn os_lock() -> TestResult {
    let locked = || OSLSR_EL1.read() & 0b10 != 0;
    expect_eq!(write(DBGBVR, address(debug_nop)), Ok(()));
    expect_eq!(write(DBGBCR, BCR_EL1), Ok(()));
    OSLAR_EL1.write(1);
    expect!(locked(), "after OSLAR_EL1 = 1");
    MDSCR_EL1.write(MDE | KDE);
    expect_eq!(MDSCR_EL1.read(), MDE | KDE);
    let silent = catch(|| {
        // SAFETY: The exception that may come is caught.
        unsafe { asm!("msr daifclr, #8", "isb", options(nostack)) }
        call_nop();
        // SAFETY: As before, the other way round.
        unsafe { asm!("msr daifset, #8", "isb", options(nostack)) }
    });
    // QEMU's own machine has breakpoints behind the lock too.
    if machine::on_skete() {
        expect_eq!(silent, Ok(()), "while it is closed");
    }
    OSLAR_EL1.write(0);
    expect!(!locked(), "after OSLAR_EL1 = 0");
    expect!(with_debug(MDE | KDE, call_nop).is_err(), "once it is open");
    quiet();
    Ok(())
}

/// Where core is linked, where it sees physical memory, and the end of each space.
const OF_OTHERS: [u64; 4] = [
    0x6000_0000_0000,
    0x4000_4000_0000,
    0x6000_0020_0000,
    0xffff_ffff_ffff_fff8,
];

pub(crate) fn nothing_at_el2() -> TestResult {
    let (breakpoints, watchpoints) = counts();
    for round in 0..u64::from(breakpoints.max(watchpoints)) {
        for (n, at) in (0..).zip(OF_OTHERS) {
            let at = at.wrapping_add(round * 0x1000);
            // HMC and SSC ask for EL2 as well.
            let el2 = 1 << 13 | 0b11 << 1;
            if n < breakpoints {
                expect_eq!(write(DBGBVR + n * NEXT, at), Ok(()));
                expect_eq!(write(DBGBCR + n * NEXT, BCR_EL1 | el2), Ok(()));
            }
            if n < watchpoints {
                expect_eq!(write(DBGWVR + n * NEXT, at), Ok(()));
                // MASK 12: a page.
                expect_eq!(write(DBGWCR + n * NEXT, WCR_EL1 | el2 | 12 << 24), Ok(()));
            }
        }
        let result = with_debug(MDE | KDE, || {
            psci::hvc(psci::VERSION, 0, 0, 0);
            mem::read32(GICD_BASE + 8);
            mem::read32(UART_BASE + 0x18);
            ID_AA64DFR0_EL1.read();
            cpu::wfe();
        });
        expect_eq!(result, Ok(()));
        quiet();
    }
    Ok(())
}

/// What DBGBVR<n> and the others keep, they keep while nothing is enabled too.
pub(crate) fn values_are_kept() -> TestResult {
    let (breakpoints, watchpoints) = counts();
    let values = [(DBGBVR, breakpoints), (DBGWVR, watchpoints)];
    for (register, count) in values {
        for n in 0..count {
            let value = (0x1234_5678_9abc + u64::from(n) * 8) & !7;
            expect_eq!(write(register + n * NEXT, value), Ok(()), "{n}");
        }
    }
    psci::hvc(psci::VERSION, 0, 0, 0);
    for (register, count) in values {
        for n in 0..count {
            let value = (0x1234_5678_9abc + u64::from(n) * 8) & !7;
            expect_eq!(stub::read_sysreg(register + n * NEXT), Ok(value), "{n}");
        }
    }
    Ok(())
}
