//! Which parts of the IPA space are RAM: the promise that faults keep.

use crate::level::Level;

/// Most RAM slots a VM may have.
pub(crate) const SLOTS: usize = 16;

/// One contiguous range of RAM, page-aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Slot {
    /// Returns whether the block of `level` around `ipa` lies inside.
    pub(crate) fn holds_block(&self, ipa: u64, level: Level) -> bool {
        let start = ipa & !level.span().wrapping_sub(1);
        start >= self.start && start.saturating_add(level.span()) <= self.end
    }
}

/// The RAM slots of a VM, none overlapping another.
#[derive(Debug, Default)]
pub(crate) struct Slots([Option<Slot>; SLOTS]);

impl Slots {
    /// Returns the slot that holds `ipa`.
    pub(crate) fn find(&self, ipa: u64) -> Option<Slot> {
        self.overlap(ipa, ipa.saturating_add(1))
    }

    /// Returns a slot that shares a byte with `start..end`.
    pub(crate) fn overlap(&self, start: u64, end: u64) -> Option<Slot> {
        let mut slots = self.0.iter().flatten();
        slots.find(|s| s.start < end && start < s.end).copied()
    }

    /// Adds a slot, or returns `None` if all are used.
    pub(crate) fn add(&mut self, slot: Slot) -> Option<()> {
        let free = self.0.iter_mut().find(|s| s.is_none())?;
        *free = Some(slot);
        Some(())
    }
}
