//! Where the machine's BARs are: addresses, given out once and never taken back.

use crate::bar::{Bar, Kind};
use crate::bridge::Span;

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

    /// Returns an address for `bar`, a multiple of its size, at a place that gets there through
    /// what is above it. `None` if there is none.
    pub fn take(&mut self, bar: Bar, reach: Reach) -> Option<u64> {
        match (bar.kind, reach) {
            (Kind::Io, _) => None,
            (Kind::Memory64, Reach::Host) => {
                self.take_high(bar, 1).or_else(|| self.take_low(bar, 1))
            }
            (Kind::Memory32, Reach::Host) => self.take_low(bar, 1),
            // What bridges pass on below 4 GiB is not prefetchable, which suits every BAR.
            (Kind::Memory64, Reach::Behind { wide: true }) if bar.prefetchable => {
                let high = self.take_high(bar, BRIDGE_BYTES);
                high.or_else(|| self.take_low(bar, BRIDGE_BYTES))
            }
            (Kind::Memory32 | Kind::Memory64, Reach::Behind { .. }) => {
                self.take_low(bar, BRIDGE_BYTES)
            }
        }
    }

    fn take_low(&mut self, bar: Bar, granule: u64) -> Option<u64> {
        take(&mut self.low, bar.size, granule)
    }

    fn take_high(&mut self, bar: Bar, granule: u64) -> Option<u64> {
        take(&mut self.high, bar.size, granule)
    }

    /// Begins what a bridge is to pass on.
    pub fn mark(&mut self) -> Mark {
        Mark {
            low: align(&mut self.low),
            high: align(&mut self.high),
        }
    }

    /// Ends what a bridge is to pass on, below and above 4 GiB: all that was taken since `mark`.
    pub fn close(&mut self, mark: Mark) -> (Option<Span>, Option<Span>) {
        let span = |first: u64, end: u64| {
            let last = end.checked_sub(1).filter(|last| *last > first)?;
            Some(Span { first, last })
        };
        let end = self.mark();
        (span(mark.low, end.low), span(mark.high, end.high))
    }
}

/// What a bridge's windows are multiples of.
const BRIDGE_BYTES: u64 = 1 << 20;

/// What is between a function and the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Nothing.
    Host,
    /// Bridges.
    Behind {
        /// All of them pass prefetchable memory above 4 GiB on.
        wide: bool,
    },
}

impl Reach {
    /// Returns how one gets behind a bridge that is reached so.
    pub const fn behind(self, wide: bool) -> Self {
        match self {
            Self::Host => Self::Behind { wide },
            Self::Behind { wide: above } => Self::Behind {
                wide: above && wide,
            },
        }
    }
}

/// How far windows were used when a bridge was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    low: u64,
    high: u64,
}

/// Goes on to where a bridge's window may begin or end; returns that.
fn align(window: &mut Option<(Window, u64)>) -> u64 {
    let Some((_, used)) = window else { return 0 };
    *used = used.checked_next_multiple_of(BRIDGE_BYTES).unwrap_or(*used);
    *used
}

/// Takes `size` bytes of a window, whole pieces of `granule` of which must lie in it.
fn take(window: &mut Option<(Window, u64)>, size: u64, granule: u64) -> Option<u64> {
    let (window, used) = window.as_mut()?;
    // Two small BARs do not share a page: a mapping of one would show the other.
    let at = used.checked_next_multiple_of(size.max(4096))?;
    let end = at.checked_add(size)?.checked_next_multiple_of(granule)?;
    if !window.holds(at, end.checked_sub(at)?) {
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
        assert_eq!(
            windows.take(bar(Kind::Memory32, 256), Reach::Host),
            Some(0x1000_0000)
        );
        assert_eq!(
            windows.take(bar(Kind::Memory32, 16), Reach::Host),
            Some(0x1000_1000)
        );
        assert_eq!(
            windows.take(bar(Kind::Memory32, 0x8_0000), Reach::Host),
            Some(0x1008_0000)
        );
        assert_eq!(windows.take(bar(Kind::Memory32, 16), Reach::Host), None);
        assert_eq!(
            windows.take(bar(Kind::Memory64, 4096), Reach::Host),
            Some(0x80_0000_0000)
        );
        let gigabyte = bar(Kind::Memory64, 1 << 30);
        assert_eq!(windows.take(gigabyte, Reach::Host), Some(0x80_4000_0000));
        assert_eq!(windows.take(gigabyte, Reach::Host), Some(0x80_8000_0000));
        assert_eq!(windows.take(gigabyte, Reach::Host), Some(0x80_c000_0000));
        assert_eq!(windows.take(gigabyte, Reach::Host), None);
        assert_eq!(windows.take(bar(Kind::Io, 16), Reach::Host), None);
    }

    #[test]
    fn a_64_bit_bar_may_lie_low_and_a_32_bit_bar_not_high() {
        let window = Window {
            base: 0x1000_0000,
            bytes: 0x1_0000,
        };
        let mut windows = Windows::new(Some(window), None);
        assert_eq!(
            windows.take(bar(Kind::Memory64, 4096), Reach::Host),
            Some(0x1000_0000)
        );
        let mut windows = Windows::new(None, Some(window));
        assert_eq!(windows.take(bar(Kind::Memory32, 4096), Reach::Host), None);
        assert!(!window.holds(u64::MAX, 2));
        assert!(!window.holds(0xfff_ffff, 2));
    }
}
