//! Calls by HVC and SMC (DEN 0028), and PSCI by HVC (DEN 0022).
#![expect(unsafe_code, reason = "HVC and SMC")]

use core::arch::asm;

/// What x0 to x17 hold before a call, and after it.
pub type Registers = [u64; 18];

/// The instruction that makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// HVC #0.
    Hvc,
    /// SMC #0.
    Smc,
}

/// PSCI_VERSION.
pub const VERSION: u32 = 0x8400_0000;
/// CPU_SUSPEND, 64-bit.
pub const CPU_SUSPEND: u32 = 0xc400_0001;
/// CPU_OFF.
pub const CPU_OFF: u32 = 0x8400_0002;
/// CPU_ON, 64-bit.
pub const CPU_ON: u32 = 0xc400_0003;
/// AFFINITY_INFO, 64-bit.
pub const AFFINITY_INFO: u32 = 0xc400_0004;
/// MIGRATE_INFO_TYPE.
pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
/// SYSTEM_OFF.
pub const SYSTEM_OFF: u32 = 0x8400_0008;
/// SYSTEM_RESET.
pub const SYSTEM_RESET: u32 = 0x8400_0009;
/// PSCI_FEATURES.
pub const FEATURES: u32 = 0x8400_000a;
/// SYSTEM_RESET2, 64-bit.
pub const SYSTEM_RESET2: u32 = 0xc400_0012;
/// SMCCC_VERSION.
pub const SMCCC_VERSION: u32 = 0x8000_0000;

/// PSCI and SMCCC: done.
pub const SUCCESS: i64 = 0;
/// PSCI and SMCCC: no such call.
pub const NOT_SUPPORTED: i64 = -1;
/// PSCI: an argument is wrong.
pub const INVALID_PARAMETERS: i64 = -2;
/// PSCI: the vCPU is on.
pub const ALREADY_ON: i64 = -4;
/// PSCI: somebody is switching the vCPU on.
pub const ON_PENDING: i64 = -5;
/// PSCI: the entry point is not an address a vCPU can start at.
pub const INVALID_ADDRESS: i64 = -9;

/// Makes a call with all of x0 to x17, and returns all of them.
///
/// An SMC that is undefined faults; under [`crate::catch`] the registers come back as sent.
pub fn call(conduit: Conduit, mut registers: Registers) -> Registers {
    let at = registers.as_mut_ptr();
    // x18 holds the address because a call leaves it alone (SMCCC 1.1, 2.6).
    macro_rules! conduit {
        ($insn:literal) => {
            // SAFETY: `at` points to 18 doublewords of ours, which the call's results
            // replace. A call changes no memory of the guest but what its arguments name.
            unsafe {
                asm!(
                    "stp x18, x19, [sp, #-16]!",
                    "mov x18, {at}",
                    "ldp x0, x1, [x18, #0]", "ldp x2, x3, [x18, #16]",
                    "ldp x4, x5, [x18, #32]", "ldp x6, x7, [x18, #48]",
                    "ldp x8, x9, [x18, #64]", "ldp x10, x11, [x18, #80]",
                    "ldp x12, x13, [x18, #96]", "ldp x14, x15, [x18, #112]",
                    "ldp x16, x17, [x18, #128]",
                    $insn,
                    "stp x0, x1, [x18, #0]", "stp x2, x3, [x18, #16]",
                    "stp x4, x5, [x18, #32]", "stp x6, x7, [x18, #48]",
                    "stp x8, x9, [x18, #64]", "stp x10, x11, [x18, #80]",
                    "stp x12, x13, [x18, #96]", "stp x14, x15, [x18, #112]",
                    "stp x16, x17, [x18, #128]",
                    "ldp x18, x19, [sp], #16",
                    at = in(reg) at,
                    clobber_abi("C")
                )
            }
        };
    }
    match conduit {
        Conduit::Hvc => conduit!("hvc #0"),
        Conduit::Smc => conduit!("smc #0"),
    }
    registers
}

/// Makes a call by HVC with up to three arguments and returns x0.
pub fn hvc(function: u32, x1: u64, x2: u64, x3: u64) -> i64 {
    let mut registers = [0; 18];
    (registers[0], registers[1]) = (u64::from(function), x1);
    (registers[2], registers[3]) = (x2, x3);
    call(Conduit::Hvc, registers)[0].cast_signed()
}

/// Makes the cheapest call, SMCCC_VERSION, in one instruction between two moves.
#[inline(always)]
pub fn hvc_bare() {
    // SAFETY: SMCCC_VERSION has no effect but its result in x0 to x3.
    unsafe {
        asm!(
            "hvc #0",
            inout("x0") u64::from(SMCCC_VERSION) => _,
            lateout("x1") _, lateout("x2") _, lateout("x3") _,
            options(nostack)
        )
    }
}

/// A result of a 32-bit PSCI call, which is in w0.
pub const fn result32(x0: i64) -> i64 {
    let [a, b, c, d, ..] = x0.to_le_bytes();
    i32::from_le_bytes([a, b, c, d]) as i64
}

/// Switches the machine off. Prints and spins if that is not supported.
pub fn system_off() -> ! {
    hvc(SYSTEM_OFF, 0, 0, 0);
    crate::println!("FATAL SYSTEM_OFF returned");
    loop {
        crate::cpu::wfi();
    }
}

/// Switches this vCPU off.
pub fn cpu_off() -> ! {
    crate::cpu::mask_all();
    hvc(CPU_OFF, 0, 0, 0);
    loop {
        crate::cpu::wfi();
    }
}

/// Switches vCPU `mpidr` on at `entry` with `context` in its x0.
pub fn cpu_on(mpidr: u64, entry: u64, context: u64) -> i64 {
    result32(hvc(CPU_ON, mpidr, entry, context))
}

/// Returns 0 if the vCPU is on, 1 if off, 2 if pending, or an error.
pub fn affinity_info(mpidr: u64, level: u64) -> i64 {
    result32(hvc(AFFINITY_INFO, mpidr, level, 0))
}
