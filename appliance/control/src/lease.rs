//! Counted use of something there is only so much of.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};

/// A number of units that can be leased.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    used: Arc<AtomicUsize>,
    units: usize,
}

/// Units leased from a [`Pool`]; dropping it gives them back.
#[derive(Debug)]
#[must_use = "dropping a lease ends it"]
pub(crate) struct Lease {
    used: Arc<AtomicUsize>,
    units: usize,
}

impl Pool {
    /// Creates a pool.
    pub(crate) fn new(units: usize) -> Self {
        Self {
            used: Arc::new(AtomicUsize::new(0)),
            units,
        }
    }

    /// Takes `units`, or none at all.
    pub(crate) fn lease(&self, units: usize) -> Option<Lease> {
        let add = |used: usize| used.checked_add(units).filter(|sum| *sum <= self.units);
        self.used
            .try_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .ok()?;
        Some(Lease {
            used: Arc::clone(&self.used),
            units,
        })
    }

    /// Returns how many units are in use.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.used.fetch_sub(self.units, Ordering::Relaxed);
    }
}
