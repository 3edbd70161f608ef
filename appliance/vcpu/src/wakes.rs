//! How others make a vCPU look up, and the order of steps by which nothing is lost.
//!
//! Whoever wants something of a vCPU (an interrupt to take, an SError, a page to pin again, its
//! end) first says what, then raises the vCPU's flag, then looks whether it waits. The core that
//! has it lowers the flag first, and looks for what there is second: what comes too late for that
//! raises the flag again, which the way to the guest finds, or the kick that follows. And under the
//! lock that guards whether it waits it gives up its core only while the flag is down
//! ([`may_wait`]).

use core::sync::atomic::{AtomicBool, Ordering};

/// The flag: an atomic, or what a test has for one.
pub trait Flag {
    /// Raises it, after all that was written before.
    fn raise(&self);
    /// Lowers it, before all that is read afterwards; returns whether it was raised.
    fn lower(&self) -> bool;
    /// Returns whether it is raised.
    fn is_raised(&self) -> bool;
}

impl Flag for AtomicBool {
    #[inline]
    fn raise(&self) {
        // Not a plain store: whoever lowers the flag sees what all wrote that had raised it, and
        // not the last one alone.
        self.swap(true, Ordering::Release);
    }

    #[inline]
    fn lower(&self) -> bool {
        // Read and written in one step: a flag that is raised in between is not lowered.
        self.swap(false, Ordering::AcqRel)
    }

    #[inline]
    fn is_raised(&self) -> bool {
        self.load(Ordering::Acquire)
    }
}

/// Returns whether a vCPU may give up its core to wait. The caller holds the lock under which
/// whoever raised the flag looks whether it waits.
#[inline]
pub fn may_wait(flag: &impl Flag) -> bool {
    !flag.is_raised()
}
