//! A window of a guest onto device memory.

use arch::{Ipa, Pa};
use core::fmt;

/// How the memory behind a window is to be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Normal, write-back: memory that takes part in coherency.
    Cached,
    /// Normal, non-cacheable: prefetchable memory, stores may be merged.
    WriteCombining,
    /// Device-nGnRE: registers.
    Device,
}

/// `len` bytes of device memory at `pa`, shown to a guest at `ipa` in a BAR of `bar_size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    ipa: Ipa,
    pa: Pa,
    len: u64,
    bar_size: u64,
    memory: Memory,
}

/// Why a [`Region`] cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionError {
    /// There is no memory in it.
    Empty,
    /// The BAR is no power of two of at least 16 bytes, or smaller than its memory.
    BarSize,
    /// An address is no multiple of 4 KiB, though the BAR is not smaller than that.
    Unaligned,
    /// The window or the memory ends past 48 bits.
    TooHigh,
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "no memory in the region",
            Self::BarSize => "BAR size no power of two, or below the memory's",
            Self::Unaligned => "address not a multiple of 4 KiB",
            Self::TooHigh => "region ends past 2^48",
        })
    }
}

impl core::error::Error for RegionError {}

impl Region {
    /// Makes a region.
    ///
    /// `len` need not be a multiple of a page: the rest of its last page is not the device's,
    /// so that page is never mapped.
    ///
    /// # Errors
    /// See [`RegionError`].
    pub fn new(
        ipa: Ipa,
        pa: Pa,
        len: u64,
        bar_size: u64,
        memory: Memory,
    ) -> Result<Self, RegionError> {
        if len == 0 {
            return Err(RegionError::Empty);
        }
        if !bar_size.is_power_of_two() || bar_size < 16 || bar_size < len {
            return Err(RegionError::BarSize);
        }
        let page = bar_size.min(4096);
        if !ipa.is_aligned(page) || !pa.is_aligned(page) {
            return Err(RegionError::Unaligned);
        }
        let last = |size: u64| size.wrapping_sub(1);
        if ipa.checked_add(last(bar_size)).is_none() || pa.checked_add(last(len)).is_none() {
            return Err(RegionError::TooHigh);
        }
        Ok(Self {
            ipa,
            pa,
            len,
            bar_size,
            memory,
        })
    }

    /// First address in the guest.
    pub fn ipa(&self) -> Ipa {
        self.ipa
    }

    /// First address in the machine.
    pub fn pa(&self) -> Pa {
        self.pa
    }

    /// Bytes of memory.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Always false: a region without memory cannot be made.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Bytes of the BAR: the memory, and what reads as ones behind it.
    pub fn bar_size(&self) -> u64 {
        self.bar_size
    }

    /// How the memory is to be accessed.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Returns the offset of `at` in the BAR, if it is in it.
    pub fn offset(&self, at: Ipa) -> Option<u64> {
        at.raw()
            .checked_sub(self.ipa.raw())
            .filter(|offset| *offset < self.bar_size)
    }

    /// Returns the same memory, seen from `ipa`.
    ///
    /// # Errors
    /// As [`Region::new`].
    pub fn moved(&self, ipa: Ipa) -> Result<Self, RegionError> {
        Self::new(ipa, self.pa, self.len, self.bar_size, self.memory)
    }
}
