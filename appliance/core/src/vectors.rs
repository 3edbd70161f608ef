//! `vectors.S`, and the first way into a guest.
#![expect(unsafe_code, reason = "enters a guest")]

use crate::guest::Vcpu;

// SAFETY: the vectors save a guest's registers to the Vcpu that PerCpu::current names,
// before any Rust runs, and restore them from the one that Rust returns.
core::arch::global_asm!(include_str!("vectors.S"));

unsafe extern "C" {
    /// The argument is a `*mut Vcpu`.
    fn enter_guest(vcpu: u64) -> !;
}

/// Enters a guest and does not come back: from now on exits call core.
pub(crate) fn enter(vcpu: *mut Vcpu) -> ! {
    // SAFETY: `schedule::choose` returned it: loaded on this core, and ready to run. The
    // stack below is never returned to; exits start over at its top.
    unsafe { enter_guest(vcpu as u64) }
}
