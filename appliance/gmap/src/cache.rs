//! Table pages taken before a change, so that the change itself never allocates.
//!
//! Each vCPU may keep one, filled while it holds no lock. Operations on a whole VM use one
//! for their own time. Whatever path is taken, what is left goes back or stays in the cache.

use crate::machine::Machine;
use arch::Pa;
use core::fmt;

/// Most pages one operation needs: two ends of a range, each with a path from level 0 and
/// one in the sidecar.
pub const CACHE_PAGES: usize = 12;

/// The pool had too few frames. The cache keeps what it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

impl fmt::Display for NoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no frame left for a table")
    }
}

impl core::error::Error for NoMemory {}

/// Zeroed pages that nothing points to yet.
#[derive(Debug, Default)]
pub struct Cache([Option<Pa>; CACHE_PAGES]);

impl Cache {
    /// Returns an empty cache.
    pub const fn new() -> Self {
        Self([None; CACHE_PAGES])
    }

    /// Fills the cache up to `pages` (at most [`CACHE_PAGES`]).
    pub fn topup(&mut self, machine: &mut impl Machine, pages: usize) -> Result<(), NoMemory> {
        while self.len() < pages.min(CACHE_PAGES) {
            self.put(machine.alloc_zeroed(0).ok_or(NoMemory)?);
        }
        Ok(())
    }

    /// Returns the number of pages.
    pub fn len(&self) -> usize {
        self.0.iter().flatten().count()
    }

    /// Returns whether there is no page.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns every page to the pool.
    pub fn release(&mut self, machine: &mut impl Machine) {
        while let Some(page) = self.take() {
            machine.free(page, 0);
        }
    }

    /// Takes a page out.
    pub(crate) fn take(&mut self) -> Option<Pa> {
        self.0.iter_mut().rev().find_map(Option::take)
    }

    /// Puts a page back, zeroed.
    pub(crate) fn put(&mut self, page: Pa) {
        let slot = self.0.iter_mut().find(|slot| slot.is_none());
        *slot.expect("no more pages come back than were taken") = Some(page);
    }
}
