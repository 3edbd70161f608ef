//! Core's own accesses to devices that others have: what the device does not answer is an error
//! of the access, and not core's end (C10).
//!
//! A guest can have core make such an access, where a page of a BAR is emulated, with a width of
//! its choice; and so can root. A synchronous external abort of theirs comes to EL2.
#![expect(
    unsafe_code,
    reason = "registers are reached by address, from assembly"
)]

use arch::Width;

// SAFETY: two functions that obey the calling convention, and labels around them.
core::arch::global_asm!(include_str!("guarded.S"));

/// What both functions return, in x0 and x1.
#[repr(C)]
struct Answer {
    value: u64,
    failed: u64,
}

unsafe extern "C" {
    fn guarded_load(at: u64, bytes: u64) -> Answer;
    fn guarded_store(at: u64, bytes: u64, value: u64) -> Answer;
}

const fn bytes(width: Width) -> u64 {
    match width {
        Width::Byte => 1,
        Width::Half => 2,
        Width::Word => 4,
        Width::Double => 8,
    }
}

/// Loads from `at`, mapped and a multiple of the width; `None` if nothing answers.
///
/// # Safety
/// No Rust object is there.
pub(crate) unsafe fn load(at: u64, width: Width) -> Option<u64> {
    // SAFETY: the caller's promise; the function uses registers alone.
    let answer = unsafe { guarded_load(at, bytes(width)) };
    (answer.failed == 0).then_some(answer.value)
}

/// Stores to `at`, mapped and a multiple of the width; `None` if nothing answers.
///
/// # Safety
/// No Rust object is there.
pub(crate) unsafe fn store(at: u64, width: Width, value: u64) -> Option<()> {
    // SAFETY: as above.
    let answer = unsafe { guarded_store(at, bytes(width), value) };
    (answer.failed == 0).then_some(())
}

/// An exception at EL2 within the functions above: returns 1 if the device is why, and they end
/// with an error.
#[unsafe(no_mangle)]
extern "C" fn guarded_exception(esr: u64) -> u64 {
    u64::from(::vcpu::exit::is_unanswered(esr))
}
