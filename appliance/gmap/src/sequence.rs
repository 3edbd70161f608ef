//! Whether what was looked up may still be linked.
//!
//! A fault looks a frame up without the VM's lock, takes the lock, and links it. Whoever
//! invalidates a range in between must win. So the fault takes a [`Ticket`] before it looks,
//! and linking refuses a ticket that an invalidation has overtaken.

use core::sync::atomic::{AtomicU64, Ordering};

/// How many invalidations there were when a lookup began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// Invalidations under way and past. Changes are made with the VM's lock held exclusively.
#[derive(Debug, Default)]
pub struct Sequence {
    past: AtomicU64,
    active: AtomicU64,
    low: AtomicU64,
    high: AtomicU64,
}

impl Sequence {
    /// Takes a ticket. Whatever is read after this is covered by it.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.past.load(Ordering::Acquire))
    }

    /// Begins to invalidate `start..end`. Calls may nest; the range covers them all.
    pub fn begin(&self, start: u64, end: u64) {
        if self.active.fetch_add(1, Ordering::AcqRel) == 0 {
            self.low.store(start, Ordering::Release);
            self.high.store(end, Ordering::Release);
        } else {
            self.low.fetch_min(start, Ordering::AcqRel);
            self.high.fetch_max(end, Ordering::AcqRel);
        }
    }

    /// Ends what [`Self::begin`] began: older tickets are void.
    pub fn end(&self) {
        self.past.fetch_add(1, Ordering::AcqRel);
        self.active.fetch_sub(1, Ordering::AcqRel);
    }

    /// Returns whether what was looked up under `ticket` for `start..end` is still good.
    ///
    /// Without the VM's lock the answer is only a hint that saves work.
    pub fn good(&self, ticket: Ticket, start: u64, end: u64) -> bool {
        let touched = self.active.load(Ordering::Acquire) > 0
            && start < self.high.load(Ordering::Acquire)
            && self.low.load(Ordering::Acquire) < end;
        !touched && self.past.load(Ordering::Acquire) == ticket.0
    }
}
