//! A set of numbers as a bitmap with summaries, so that finding one is a few loads.
//!
//! Row 0 has a bit a number; each further row has a bit for every word of the row below,
//! set while that word is not zero; the last row is one word.

/// Rows a set may have: 64 to the fifth power is more frames than 48 bits of memory hold.
const ROWS: usize = 6;

/// Where a set's rows lie in the shared array of words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Set {
    starts: [usize; ROWS],
    rows: usize,
}

impl Set {
    /// Lays out a set of numbers below `len` from word `at`; returns it and its end.
    pub(super) fn layout(len: u64, at: usize) -> (Self, usize) {
        let mut set = Self {
            starts: [0; ROWS],
            rows: 0,
        };
        let (mut bits, mut end) = (len.max(1), at);
        for start in &mut set.starts {
            *start = end;
            set.rows = set.rows.saturating_add(1);
            let words = bits.div_ceil(64);
            end = end.saturating_add(to_usize(words));
            if words <= 1 {
                break;
            }
            bits = words;
        }
        (set, end)
    }

    /// Returns whether `n` is in the set.
    pub(super) fn has(&self, words: &[u64], n: u64) -> bool {
        self.word(words, 0, n >> 6) >> (n & 63) & 1 == 1
    }

    /// Adds `n`.
    pub(super) fn add(&self, words: &mut [u64], n: u64) {
        self.add_word(words, n >> 6, 1 << (n & 63));
    }

    /// Removes `n`.
    pub(super) fn remove(&self, words: &mut [u64], n: u64) {
        self.remove_word(words, n >> 6, 1 << (n & 63));
    }

    /// Adds every number in `from..to`.
    pub(super) fn add_range(&self, words: &mut [u64], from: u64, to: u64) {
        each_word(from, to, |word, mask| self.add_word(words, word, mask));
    }

    /// Removes every number in `from..to`.
    pub(super) fn remove_range(&self, words: &mut [u64], from: u64, to: u64) {
        each_word(from, to, |word, mask| self.remove_word(words, word, mask));
    }

    /// Returns whether any number in `from..to` is in the set.
    pub(super) fn any(&self, words: &[u64], from: u64, to: u64) -> bool {
        let (mut from, mut to) = (from, to);
        for row in 0..self.rows {
            if from >= to {
                return false;
            }
            let (first, last) = (from >> 6, to.saturating_sub(1) >> 6);
            if first == last {
                return self.word(words, row, first) & mask(from, to) != 0;
            }
            // The two ends may be partial; the summary row answers for what is between.
            if self.word(words, row, first) >> (from & 63) != 0
                || self.word(words, row, last) & mask(last << 6, to) != 0
            {
                return true;
            }
            (from, to) = (first.saturating_add(1), last);
        }
        false
    }

    /// Returns whether every number in `from..to` is in the set.
    pub(super) fn all(&self, words: &[u64], from: u64, to: u64) -> bool {
        let mut all = true;
        each_word(from, to, |word, mask| {
            all &= self.word(words, 0, word) & mask == mask;
        });
        all
    }

    /// Returns the smallest number in the set.
    pub(super) fn first(&self, words: &[u64]) -> Option<u64> {
        let mut n = 0_u64;
        for row in (0..self.rows).rev() {
            let word = self.word(words, row, n);
            if word == 0 {
                return None;
            }
            n = n << 6 | u64::from(word.trailing_zeros());
        }
        Some(n)
    }

    fn add_word(&self, words: &mut [u64], word: u64, mask: u64) {
        let (mut at, mut bits) = (word, mask);
        for row in 0..self.rows {
            let Some(slot) = self.slot(words, row, at) else {
                return;
            };
            let was = *slot;
            *slot = was | bits;
            if was != 0 {
                return;
            }
            (at, bits) = (at >> 6, 1 << (at & 63));
        }
    }

    fn remove_word(&self, words: &mut [u64], word: u64, mask: u64) {
        let (mut at, mut bits) = (word, mask);
        for row in 0..self.rows {
            let Some(slot) = self.slot(words, row, at) else {
                return;
            };
            *slot &= !bits;
            if *slot != 0 {
                return;
            }
            (at, bits) = (at >> 6, 1 << (at & 63));
        }
    }

    fn word(&self, words: &[u64], row: usize, at: u64) -> u64 {
        let start = self.starts.get(row).copied().unwrap_or(usize::MAX);
        let index = start.saturating_add(to_usize(at));
        words.get(index).copied().unwrap_or(0)
    }

    fn slot<'w>(&self, words: &'w mut [u64], row: usize, at: u64) -> Option<&'w mut u64> {
        let start = self.starts.get(row).copied()?;
        words.get_mut(start.checked_add(to_usize(at))?)
    }
}

/// Calls `f` with every word that `from..to` meets and the bits of it that are inside.
fn each_word(from: u64, to: u64, mut f: impl FnMut(u64, u64)) {
    let mut at = from;
    while at < to {
        let end = (at | 63).saturating_add(1).min(to);
        f(at >> 6, mask(at, end));
        at = end;
    }
}

/// Returns the bits of `from..to` inside the word of `from`; both lie in one word.
const fn mask(from: u64, to: u64) -> u64 {
    let count = to.saturating_sub(from);
    if count >= 64 {
        u64::MAX
    } else {
        (1_u64 << count).wrapping_sub(1) << (from & 63)
    }
}

fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
