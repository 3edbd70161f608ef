//! Which parts of the IPA space are RAM: the promise that faults keep.
//!
//! The tables say the same with *empty* and *hole* tokens; slots say where a promise begins
//! and ends, which is what a large leaf must not cross.

use crate::level::Level;

/// Most RAM slots a VM may have.
pub(crate) const SLOTS: usize = 16;

/// One contiguous range of RAM, page-aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) state: State,
}

/// Whether a slot's RAM can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Faults find it.
    Here,
    /// Being deleted: what is below this address is gone.
    Leaving(u64),
    /// Being moved: what is below `at` lies in the slot that begins at `to`.
    Moving { to: u64, at: u64 },
    /// Another slot is being moved here.
    Arriving,
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
    /// Returns the slot that promises RAM at `ipa`.
    pub(crate) fn find(&self, ipa: u64) -> Option<Slot> {
        let slot = self.overlap(ipa, ipa.saturating_add(1))?;
        (slot.state == State::Here).then_some(slot)
    }

    /// Returns a slot that shares a byte with `start..end`.
    pub(crate) fn overlap(&self, start: u64, end: u64) -> Option<Slot> {
        let mut slots = self.0.iter().flatten();
        slots.find(|s| s.start < end && start < s.end).copied()
    }

    /// Returns whether another slot fits in.
    pub(crate) fn has_room(&self) -> bool {
        self.0.iter().any(Option::is_none)
    }

    /// Adds a slot if there is room.
    pub(crate) fn add(&mut self, slot: Slot) {
        if let Some(free) = self.0.iter_mut().find(|s| s.is_none()) {
            *free = Some(slot);
        }
    }

    /// Replaces the slot that begins at `start`, or removes it.
    pub(crate) fn set(&mut self, start: u64, slot: Option<Slot>) {
        let begins = |s: &&mut Option<Slot>| s.is_some_and(|s| s.start == start);
        if let Some(entry) = self.0.iter_mut().find(begins) {
            *entry = slot;
        }
    }

    /// Changes the state of the slot that begins at `start`.
    pub(crate) fn set_state(&mut self, start: u64, state: State) {
        if let Some(slot) = self.0.iter_mut().flatten().find(|s| s.start == start) {
            slot.state = state;
        }
    }

    /// Returns the first address past all slots.
    pub(crate) fn end(&self) -> u64 {
        self.0.iter().flatten().map(|s| s.end).max().unwrap_or(0)
    }

    /// Returns the bytes promised.
    pub(crate) fn bytes(&self) -> u64 {
        let slots = self.0.iter().flatten();
        let slots = slots.filter(|s| s.state != State::Arriving);
        let sizes = slots.map(|s| s.end.saturating_sub(s.start));
        sizes.fold(0, u64::saturating_add)
    }
}
