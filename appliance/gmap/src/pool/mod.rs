//! The frame pool: a buddy allocator whose only state is bitmaps.
//!
//! A frame is 4 KiB; a block of order `n` is `2^n` frames, aligned to its size in physical
//! memory. For each order there is a set of free blocks; two free buddies are always
//! merged, so large extents survive. One more set remembers which frames were never given
//! to the pool. That is three bits a frame and their summaries: 0.01 % of memory. Frames that
//! more than one VM uses are counted (`shares`), in sixteen bits a frame: 0.05 %.
//!
//! Frames are handed out as they are: whoever maps one scrubs it first.

mod bits;
mod shares;

use arch::Pa;
use bits::Set;
use core::fmt;
use core::ops::Range;
use shares::Shares;

/// Bytes of a frame.
pub const FRAME: u64 = 4096;
/// Largest order: 1 GiB.
pub const ORDER_MAX: u8 = 18;
const ORDERS: usize = 19;

/// Why the pool refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolError {
    /// An address is not a multiple of what its order or the page size asks for, or an
    /// order is above [`ORDER_MAX`].
    Unaligned,
    /// Some of it is not the pool's: outside its span, or never donated.
    Foreign,
    /// Some of it is free already, or was donated before.
    AlreadyFree,
    /// Somebody else uses some of it still.
    Shared,
    /// Some of it has as many users as can be counted.
    TooManyUsers,
    /// The metadata has fewer words than [`Pool::metadata_words`] asks for.
    Metadata,
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unaligned => "address or order not aligned",
            Self::Foreign => "not a frame of this pool",
            Self::AlreadyFree => "free already",
            Self::Shared => "in use by somebody else",
            Self::TooManyUsers => "too many users",
            Self::Metadata => "metadata too small",
        })
    }
}

impl core::error::Error for PoolError {}

/// A pool of frames in one span of physical memory.
#[derive(Debug)]
pub struct Pool<'m> {
    words: &'m mut [u64],
    /// Free blocks of each order, numbered from the block that holds the first frame.
    free: [Set; ORDERS],
    /// Frames that are not the pool's.
    foreign: Set,
    shares: Shares,
    /// First frame of the span, as a frame number of the machine.
    base: u64,
    frames: u64,
    free_frames: u64,
    owned_frames: u64,
}

/// Where everything lies in the pool's words.
struct Layout {
    free: [Set; ORDERS],
    foreign: Set,
    shares: Shares,
    words: usize,
}

impl<'m> Pool<'m> {
    /// Returns the words of metadata that a span of `frames` frames needs.
    pub fn metadata_words(frames: u64) -> usize {
        Self::layout(frames).words
    }

    /// Creates a pool over `frames` frames from `base`, rounded down to a frame; all of them
    /// in use until [`Self::donate`] gives them.
    ///
    /// The contents of `meta` do not matter. Fails if it is too small.
    pub fn new(meta: &'m mut [u64], base: Pa, frames: u64) -> Result<Self, PoolError> {
        let Layout {
            free,
            foreign,
            shares,
            words: need,
        } = Self::layout(frames);
        let words = meta.get_mut(..need).ok_or(PoolError::Metadata)?;
        words.fill(0);
        foreign.add_range(words, 0, frames);
        Ok(Self {
            words,
            free,
            foreign,
            shares,
            base: base.raw() / FRAME,
            frames,
            free_frames: 0,
            owned_frames: 0,
        })
    }

    fn layout(frames: u64) -> Layout {
        let (foreign, mut end) = Set::layout(frames, 0);
        let mut free = [foreign; ORDERS];
        for (order, set) in (0_u32..).zip(&mut free) {
            // A span may begin and end in the middle of a block, and a buddy lie past it.
            let blocks = (frames >> order).saturating_add(3);
            (*set, end) = Set::layout(blocks, end);
        }
        let (shares, words) = Shares::layout(frames, end);
        Layout {
            free,
            foreign,
            shares,
            words,
        }
    }

    /// Gives the page-aligned `range` to the pool. Ranges may leave holes between them.
    ///
    /// Refused if any of it lies outside the span or was given before.
    pub fn donate(&mut self, range: Range<Pa>) -> Result<(), PoolError> {
        let (start, end) = (range.start.raw(), range.end.raw());
        if start % FRAME != 0 || end % FRAME != 0 {
            return Err(PoolError::Unaligned);
        }
        if start >= end {
            return Ok(());
        }
        let from = (start / FRAME)
            .checked_sub(self.base)
            .ok_or(PoolError::Foreign)?;
        let to = (end / FRAME).saturating_sub(self.base);
        if to > self.frames {
            return Err(PoolError::Foreign);
        }
        if !self.foreign.all(self.words, from, to) {
            return Err(PoolError::AlreadyFree);
        }
        self.foreign.remove_range(self.words, from, to);
        self.owned_frames = self.owned_frames.saturating_add(to.saturating_sub(from));
        let mut frame = from.saturating_add(self.base);
        let end = to.saturating_add(self.base);
        while frame < end {
            let fits = end.saturating_sub(frame).ilog2();
            let order = frame.trailing_zeros().min(fits).min(u32::from(ORDER_MAX));
            self.insert(frame, order);
            frame = frame.saturating_add(1 << order);
        }
        Ok(())
    }

    /// Takes `4096 << order` bytes, aligned to their size.
    ///
    /// The smallest free block that is large enough is used, at the lowest address.
    pub fn alloc(&mut self, order: u8) -> Option<Pa> {
        let order = u32::from(order);
        let (found, block) = (0_u32..)
            .zip(&self.free)
            .skip(usize::try_from(order).ok()?)
            .find_map(|(at, set)| Some((at, set.first(self.words)?)))?;
        let frame = block.saturating_add(self.base >> found) << found;
        self.mark(frame, found, false);
        for half in order..found {
            self.mark(frame.saturating_add(1 << half), half, true);
        }
        self.free_frames = self.free_frames.saturating_sub(1 << order);
        Pa::new(frame.saturating_mul(FRAME))
    }

    /// Returns `4096 << order` bytes from `pa`.
    ///
    /// They may be a part of a larger allocation, but must all be allocated, and nobody else
    /// may use any of them.
    pub fn free(&mut self, pa: Pa, order: u8) -> Result<(), PoolError> {
        let (from, to) = self.allocated(pa, order)?;
        if self.shares.any(self.words, from, to) {
            return Err(PoolError::Shared);
        }
        self.insert(from.saturating_add(self.base), u32::from(order));
        Ok(())
    }

    /// Returns the bytes that are free.
    pub fn free_bytes(&self) -> u64 {
        self.free_frames.saturating_mul(FRAME)
    }

    /// Returns the bytes that were donated, free or not.
    pub fn total_bytes(&self) -> u64 {
        self.owned_frames.saturating_mul(FRAME)
    }

    /// Returns the largest order that [`Self::alloc`] could satisfy now.
    pub fn largest_order(&self) -> Option<u8> {
        (0_u8..)
            .zip(&self.free)
            .filter(|(_, set)| set.first(self.words).is_some())
            .map(|(order, _)| order)
            .last()
    }

    /// Returns whether any frame of the block is free, alone or in a larger block.
    fn free_within(&self, frame: u64, order: u32) -> bool {
        (0_u32..).zip(&self.free).any(|(at, set)| {
            let first = (frame >> at).saturating_sub(self.base >> at);
            let count = 1_u64 << order.saturating_sub(at);
            if count == 1 {
                return set.has(self.words, first);
            }
            set.any(self.words, first, first.saturating_add(count))
        })
    }

    /// Makes a block free that is not, merging it with its buddies.
    fn insert(&mut self, frame: u64, order: u32) {
        self.free_frames = self.free_frames.saturating_add(1 << order);
        let (mut frame, mut order) = (frame, order);
        while order < u32::from(ORDER_MAX) {
            let buddy = frame ^ 1 << order;
            if !self.is_free(buddy, order) {
                break;
            }
            self.mark(buddy, order, false);
            frame &= !(1 << order);
            order = order.saturating_add(1);
        }
        self.mark(frame, order, true);
    }

    fn is_free(&self, frame: u64, order: u32) -> bool {
        let Some(block) = (frame >> order).checked_sub(self.base >> order) else {
            return false;
        };
        self.set(order)
            .is_some_and(|set| set.has(self.words, block))
    }

    fn mark(&mut self, frame: u64, order: u32, free: bool) {
        let block = (frame >> order).saturating_sub(self.base >> order);
        let Some(set) = self.set(order).copied() else {
            return;
        };
        if free {
            set.add(self.words, block);
        } else {
            set.remove(self.words, block);
        }
    }

    fn set(&self, order: u32) -> Option<&Set> {
        self.free.get(usize::try_from(order).ok()?)
    }
}
