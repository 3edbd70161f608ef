//! How many use a frame, where it is more than one.
//!
//! Sixteen bits a frame count the users besides the first, and a set with summaries says
//! which frames have any: so a block of which none is shared is freed as quickly as ever.

use super::bits::Set;
use super::{FRAME, ORDER_MAX, Pool, PoolError};
use arch::Pa;

/// Counts in one word.
const COUNTS: u64 = 4;
/// A word whose frames all have one user besides the first.
const ONE_EACH: u64 = 0x0001_0001_0001_0001;
/// A frame that is nobody's to free.
const KEPT: u16 = u16::MAX;

/// Where the counts lie in the pool's words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares {
    /// Frames that have users besides the first.
    more: Set,
    counts: usize,
}

impl Shares {
    /// Lays out the counts of `frames` frames from word `at`; returns them and their end.
    pub(super) fn layout(frames: u64, at: usize) -> (Self, usize) {
        let (more, counts) = Set::layout(frames, at);
        let words = usize::try_from(frames.div_ceil(COUNTS)).unwrap_or(usize::MAX);
        (Self { more, counts }, counts.saturating_add(words))
    }

    /// Returns whether any frame of `from..to` has users besides the first.
    pub(super) fn any(&self, words: &[u64], from: u64, to: u64) -> bool {
        self.more.any(words, from, to)
    }

    fn slot(&self, frame: u64) -> (usize, u32) {
        let word = usize::try_from(frame / COUNTS).unwrap_or(usize::MAX);
        let shift = u32::try_from(frame % COUNTS).unwrap_or(0);
        (self.counts.saturating_add(word), shift.saturating_mul(16))
    }

    fn get(&self, words: &[u64], frame: u64) -> u16 {
        let (word, shift) = self.slot(frame);
        let word = words.get(word).copied().unwrap_or(0);
        let [low, high, ..] = (word >> shift).to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// Replaces all counts of the word that begins with `frame`, if they are what is expected and
    /// none of them is of a frame at or past `end`. Returns whether it did.
    fn swap_word(&self, words: &mut [u64], frame: u64, end: u64, (from, to): (u64, u64)) -> bool {
        let (word, shift) = self.slot(frame);
        let behind = frame.saturating_add(COUNTS);
        if shift != 0 || behind > end {
            return false;
        }
        match words.get_mut(word) {
            Some(word) if *word == from => *word = to,
            _ => return false,
        }
        match to {
            0 => self.more.remove_range(words, frame, behind),
            _ => self.more.add_range(words, frame, behind),
        }
        true
    }

    fn set(&self, words: &mut [u64], frame: u64, count: u16) {
        let (word, shift) = self.slot(frame);
        if let Some(word) = words.get_mut(word) {
            *word = *word & !(0xffff << shift) | u64::from(count) << shift;
        }
        match count {
            0 => self.more.remove(words, frame),
            _ => self.more.add(words, frame),
        }
    }
}

impl Pool<'_> {
    /// Counts another user of every frame of `4096 << order` bytes from `pa`.
    ///
    /// Refused if any of them is free or not the pool's, or has
    /// [`PoolError::TooManyUsers`]; then nothing is counted. At most 65,535 use a frame.
    pub fn share(&mut self, pa: Pa, order: u8) -> Result<(), PoolError> {
        let (from, to) = self.allocated(pa, order)?;
        let full = |frame| self.shares.get(self.words, frame) == KEPT.saturating_sub(1);
        if self.shares.any(self.words, from, to) && (from..to).any(full) {
            return Err(PoolError::TooManyUsers);
        }
        let mut frame = from;
        while frame < to {
            // A block that was nobody else's: a word at a time.
            if self.shares.swap_word(self.words, frame, to, (0, ONE_EACH)) {
                frame = frame.saturating_add(COUNTS);
                continue;
            }
            let count = self.shares.get(self.words, frame);
            // What is kept for ever stays so.
            let count = count.saturating_add(1);
            self.shares.set(self.words, frame, count);
            frame = frame.saturating_add(1);
        }
        Ok(())
    }

    /// Keeps `4096 << order` bytes from `pa` for ever: [`Self::release`] does not free them,
    /// however often it is called.
    pub fn keep(&mut self, pa: Pa, order: u8) -> Result<(), PoolError> {
        let (from, to) = self.allocated(pa, order)?;
        for frame in from..to {
            self.shares.set(self.words, frame, KEPT);
        }
        Ok(())
    }

    /// Returns whether any of `4096 << order` bytes from `pa` has more than one user, or is
    /// kept.
    pub fn is_shared(&self, pa: Pa, order: u8) -> bool {
        self.allocated(pa, order)
            .is_ok_and(|(from, to)| self.shares.any(self.words, from, to))
    }

    /// Ends one use of `4096 << order` bytes from `pa`: each frame is freed with its last
    /// user. Fails as [`Self::free`] does.
    pub fn release(&mut self, pa: Pa, order: u8) -> Result<(), PoolError> {
        let (from, to) = self.allocated(pa, order)?;
        if !self.shares.any(self.words, from, to) {
            return self.free(pa, order);
        }
        let mut frame = from;
        while frame < to {
            if self.shares.swap_word(self.words, frame, to, (ONE_EACH, 0)) {
                frame = frame.saturating_add(COUNTS);
                continue;
            }
            match self.shares.get(self.words, frame) {
                0 => self.insert(frame.saturating_add(self.base), 0),
                KEPT => {}
                count => self.shares.set(self.words, frame, count.saturating_sub(1)),
            }
            frame = frame.saturating_add(1);
        }
        Ok(())
    }

    /// Returns the frames of a block, counted from the span's first, all of which are in use.
    pub(super) fn allocated(&self, pa: Pa, order: u8) -> Result<(u64, u64), PoolError> {
        if order > ORDER_MAX || !pa.is_aligned(FRAME << order) {
            return Err(PoolError::Unaligned);
        }
        let frame = pa.raw() / FRAME;
        let from = frame.checked_sub(self.base).ok_or(PoolError::Foreign)?;
        let to = from.saturating_add(1 << order);
        if to > self.frames || self.foreign.any(self.words, from, to) {
            return Err(PoolError::Foreign);
        }
        if self.free_within(frame, u32::from(order)) {
            return Err(PoolError::AlreadyFree);
        }
        Ok((from, to))
    }
}
