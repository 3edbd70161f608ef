//! When nobody looks any more at a record that was taken out of its table.
//!
//! Whoever takes it out counts that ([`Grace::begin`]). Every core notes the count whenever it holds no
//! reference from the table ([`pass`]). Once a core has noted a count that includes the record, it
//! no longer uses what it found before, and does not find it again: when that is so of all cores the
//! record can be freed. A core that runs a guest or idles has to be brought here for that: it is kicked
//! after the count, and notes after it has taken the kick ([`woken`]).

use core::sync::atomic::{AtomicU64, Ordering};

/// A counter: an atomic, or what a test has for one.
pub trait Counter {
    /// Counts one more, after all that was written before and before all that is read
    /// afterwards; returns the count.
    fn count(&self) -> u64;
    /// Returns the count, before all that is read afterwards.
    fn now(&self) -> u64;
    /// Notes a count, after all that was read before.
    fn note(&self, count: u64);
}

impl Counter for AtomicU64 {
    #[inline]
    fn count(&self) -> u64 {
        self.fetch_add(1, Ordering::AcqRel).wrapping_add(1)
    }

    #[inline]
    fn now(&self) -> u64 {
        self.load(Ordering::Acquire)
    }

    #[inline]
    fn note(&self, count: u64) {
        self.store(count, Ordering::Release);
    }
}

/// A moment after which something cannot be found any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace(u64);

impl Grace {
    /// Something was just taken out of its table.
    #[inline]
    pub fn begin(taken: &impl Counter) -> Self {
        Self(taken.count())
    }

    /// Returns whether the core whose note it is has let go of it.
    #[inline]
    pub fn is_over(self, noted: &impl Counter) -> bool {
        noted.now() >= self.0
    }
}

/// This core was brought out of a guest or of idling: takes its interrupts, then notes.
///
/// Not the other way round: a core that something else woke would note the count before, then take
/// the kick that came meanwhile, and go back to sleep; nobody would wake it again.
#[inline]
pub fn woken(take: impl FnOnce(), taken: &impl Counter, noted: &impl Counter) {
    take();
    pass(taken, noted);
}

/// This core holds no reference from the table.
#[inline]
pub fn pass(taken: &impl Counter, noted: &impl Counter) {
    noted.note(taken.now());
}
