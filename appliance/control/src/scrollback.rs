//! The last of what a guest printed, by absolute position.

use alloc::collections::VecDeque;

use api::limits::SCROLLBACK_BYTES;

/// A ring that remembers the last [`SCROLLBACK_BYTES`] bytes. Grows as it fills.
#[derive(Debug, Default)]
pub(crate) struct Scrollback {
    ring: VecDeque<u8>,
    end: u64,
}

impl Scrollback {
    /// One in which `end` bytes were printed, of which the last are still there.
    pub(crate) fn resume(end: u64, last: &[u8]) -> Self {
        let bytes = u64::try_from(last.len()).unwrap_or(u64::MAX);
        let mut scrollback = Self {
            end: end.saturating_sub(bytes),
            ..Self::default()
        };
        scrollback.push(last);
        scrollback
    }

    /// Adds output.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let keep_from = bytes.len().saturating_sub(SCROLLBACK_BYTES);
        let kept = bytes.get(keep_from..).unwrap_or_default();
        let room = SCROLLBACK_BYTES.saturating_sub(self.ring.len());
        self.ring.drain(..kept.len().saturating_sub(room));
        self.ring.extend(kept);
        self.end = self
            .end
            .saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    }

    /// Returns the position after the last byte ever printed.
    pub(crate) const fn end(&self) -> u64 {
        self.end
    }

    /// Returns the position of the oldest byte remembered.
    pub(crate) fn start(&self) -> u64 {
        self.end
            .saturating_sub(u64::try_from(self.ring.len()).unwrap_or(u64::MAX))
    }

    /// Returns what is remembered from position `from` on, as one contiguous piece of at
    /// most `max` bytes, and the position after it. A reader that fell too far behind goes
    /// on with the oldest byte remembered.
    pub(crate) fn read(&self, from: u64, max: usize) -> (&[u8], u64) {
        let from = from.clamp(self.start(), self.end);
        let index = usize::try_from(from.saturating_sub(self.start())).unwrap_or(usize::MAX);
        let (front, back) = self.ring.as_slices();
        let piece = match front.get(index..) {
            Some(piece) if !piece.is_empty() => piece,
            _ => back
                .get(index.saturating_sub(front.len())..)
                .unwrap_or_default(),
        };
        let piece = piece.get(..max).unwrap_or(piece);
        let next = from.saturating_add(u64::try_from(piece.len()).unwrap_or(0));
        (piece, next)
    }
}
