//! Where the machine's BARs are: addresses, given out once and never taken back.

use crate::bar::{Bar, Kind};

/// A range of memory addresses that a PCI host passes on unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Window {
    /// Returns whether `bytes` from `at` lie in it.
    pub const fn holds(&self, at: u64, bytes: u64) -> bool {
        match (at.checked_sub(self.base), at.checked_add(bytes)) {
            (Some(_), Some(end)) => end <= self.base.saturating_add(self.bytes),
            _ => false,
        }
    }
}

/// A host's windows, and how far each is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    low: Option<(Window, u64)>,
    high: Option<(Window, u64)>,
}

impl Windows {
    /// Windows below 4 GiB, for BARs of 32 bits, and above, for those of 64.
    pub fn new(low: Option<Window>, high: Option<Window>) -> Self {
        let unused = |window: Window| (window, window.base);
        Self {
            low: low.map(unused),
            high: high.map(unused),
        }
    }

    /// Returns an address for `bar`, a multiple of its size. One of 64 bits goes above 4 GiB
    /// where there is room. `None` if there is none.
    pub fn take(&mut self, bar: Bar) -> Option<u64> {
        match bar.kind {
            Kind::Io => None,
            Kind::Memory32 => take(&mut self.low, bar.size),
            Kind::Memory64 => {
                take(&mut self.high, bar.size).or_else(|| take(&mut self.low, bar.size))
            }
        }
    }
}

fn take(window: &mut Option<(Window, u64)>, size: u64) -> Option<u64> {
    let (window, used) = window.as_mut()?;
    // Two small BARs do not share a page: a mapping of one would show the other.
    let at = used.checked_next_multiple_of(size.max(4096))?;
    if !window.holds(at, size) {
        return None;
    }
    *used = at.checked_add(size.max(4096))?;
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(kind: Kind, size: u64) -> Bar {
        Bar {
            kind,
            size,
            prefetchable: false,
        }
    }

    #[test]
    fn bars_are_aligned_to_their_size_and_share_no_page() {
        let low = Window {
            base: 0x1000_0000,
            bytes: 0x10_0000,
        };
        let high = Window {
            base: 0x80_0000_0000,
            bytes: 1 << 32,
        };
        let mut windows = Windows::new(Some(low), Some(high));
        assert_eq!(windows.take(bar(Kind::Memory32, 256)), Some(0x1000_0000));
        assert_eq!(windows.take(bar(Kind::Memory32, 16)), Some(0x1000_1000));
        assert_eq!(
            windows.take(bar(Kind::Memory32, 0x8_0000)),
            Some(0x1008_0000)
        );
        assert_eq!(windows.take(bar(Kind::Memory32, 16)), None);
        assert_eq!(
            windows.take(bar(Kind::Memory64, 4096)),
            Some(0x80_0000_0000)
        );
        let gigabyte = bar(Kind::Memory64, 1 << 30);
        assert_eq!(windows.take(gigabyte), Some(0x80_4000_0000));
        assert_eq!(windows.take(gigabyte), Some(0x80_8000_0000));
        assert_eq!(windows.take(gigabyte), Some(0x80_c000_0000));
        assert_eq!(windows.take(gigabyte), None);
        assert_eq!(windows.take(bar(Kind::Io, 16)), None);
    }

    #[test]
    fn a_64_bit_bar_may_lie_low_and_a_32_bit_bar_not_high() {
        let window = Window {
            base: 0x1000_0000,
            bytes: 0x1_0000,
        };
        let mut windows = Windows::new(Some(window), None);
        assert_eq!(windows.take(bar(Kind::Memory64, 4096)), Some(0x1000_0000));
        let mut windows = Windows::new(None, Some(window));
        assert_eq!(windows.take(bar(Kind::Memory32, 4096)), None);
        assert!(!window.holds(u64::MAX, 2));
        assert!(!window.holds(0xfff_ffff, 2));
    }
}
