//! Core calls (guest-abi, `core_call`).

#![expect(unsafe_code, reason = "HVC")]

use core::arch::asm;

use guest_abi::core_call::{CoreCall, Status};

/// Makes a core call with up to four arguments, and returns what x1 and x2 hold then.
///
/// # Errors
/// The status, if it is not [`Status::Ok`]; a number that is no status counts as
/// [`Status::NotSupported`].
pub(crate) fn call(call: CoreCall, arguments: [u64; 4]) -> Result<[u64; 2], Status> {
    let [a1, a2, a3, a4] = arguments;
    match call_long(call, [a1, a2, a3, a4, 0, 0, 0]) {
        (Status::Ok, [r1, r2, _]) => Ok([r1, r2]),
        (status, _) => Err(status),
    }
}

/// Makes a core call again for as long as core is looking for the memory that it takes: in what
/// guests can do without, a piece at a time.
pub(crate) fn call_patiently(what: CoreCall, arguments: [u64; 4]) -> Result<[u64; 2], Status> {
    loop {
        match call(what, arguments) {
            Err(Status::Again) => {}
            other => return other,
        }
    }
}

/// Makes a core call with up to seven arguments, and returns its status and what x1 to x3
/// hold then: where to go on, if it is [`Status::Again`].
pub(crate) fn call_long(call: CoreCall, arguments: [u64; 7]) -> (Status, [u64; 3]) {
    let [a1, a2, a3, a4, a5, a6, a7] = arguments;
    let (status, r1, r2, r3): (u64, u64, u64, u64);
    // SAFETY: core reads and writes only memory that the arguments name, which core checks
    // to be granted to root; every caller names memory that it owns. Not `nomem`, for that
    // memory is read and written. SMCCC 1.4, 2.6: x0 to x17 may change.
    unsafe {
        asm!(
            "hvc #0",
            inlateout("x0") u64::from(call as u32) => status,
            inlateout("x1") a1 => r1,
            inlateout("x2") a2 => r2,
            inlateout("x3") a3 => r3,
            inlateout("x4") a4 => _,
            inlateout("x5") a5 => _,
            inlateout("x6") a6 => _,
            inlateout("x7") a7 => _,
            lateout("x8") _,
            lateout("x9") _, lateout("x10") _, lateout("x11") _, lateout("x12") _,
            lateout("x13") _, lateout("x14") _, lateout("x15") _, lateout("x16") _,
            lateout("x17") _,
            options(nostack),
        )
    }
    let status = Status::from_x0(status).unwrap_or(Status::NotSupported);
    (status, [r1, r2, r3])
}

/// Switches the machine off, by PSCI, or resets it. Returns only if core refuses.
pub(crate) fn system_power(off: bool) {
    const SYSTEM_OFF: u64 = 0x8400_0008;
    if !off {
        // PSCI SYSTEM_RESET would end root alone.
        let refused = call(CoreCall::MachineReset, [0; 4]);
        debug_assert!(refused.is_err(), "the machine is reset");
        return;
    }
    // SAFETY: takes no memory; either nothing runs afterwards or nothing has changed.
    unsafe {
        asm!(
            "hvc #0",
            inlateout("x0") SYSTEM_OFF => _,
            clobber_abi("C"),
            options(nostack),
        )
    }
}
