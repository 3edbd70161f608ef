//! Pages that lost their frames between two questions to a migration's log.
//!
//! The log is in the tables, a bit a leaf; with the leaf it goes. Whoever takes memory back
//! notes here what went, and the next dirty scan tells of it once.

use alloc::vec::Vec;

/// Pages, counted from the first of RAM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    bytes: Vec<u8>,
}

impl Dropped {
    /// Returns whether no page is noted.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Notes the pages from `first` on whose bits are set in the first `pages` of `bitmap`.
    pub fn note(&mut self, first: u64, pages: u64, bitmap: &[u8]) {
        for n in bits(bitmap, pages) {
            let Some((byte, mask)) = place(first.saturating_add(n)) else {
                continue;
            };
            if self.bytes.len() <= byte {
                self.bytes.resize(byte.saturating_add(1), 0);
            }
            if let Some(byte) = self.bytes.get_mut(byte) {
                *byte |= mask;
            }
        }
    }

    /// Sets the bits of noted pages of the `pages` from `first` on in `bitmap`, and forgets
    /// them. Returns how many were not set there already.
    pub fn take(&mut self, first: u64, pages: u64, bitmap: &mut [u8]) -> u64 {
        let mut more = 0_u64;
        for n in 0..pages {
            let Some((from, noted)) = place(first.saturating_add(n)) else {
                break;
            };
            let Some(from) = self.bytes.get_mut(from) else {
                break;
            };
            if *from & noted == 0 {
                continue;
            }
            let Some((to, mask)) = place(n) else { break };
            let Some(to) = bitmap.get_mut(to) else { break };
            *from &= !noted;
            more = more.saturating_add(u64::from(*to & mask == 0));
            *to |= mask;
        }
        while self.bytes.last() == Some(&0) {
            self.bytes.pop();
        }
        more
    }
}

/// Returns the byte that page `n` is in, and its bit there.
fn place(n: u64) -> Option<(usize, u8)> {
    let bit = u32::try_from(n % 8).ok()?;
    Some((usize::try_from(n / 8).ok()?, 1_u8.checked_shl(bit)?))
}

fn bits(bitmap: &[u8], pages: u64) -> impl Iterator<Item = u64> + '_ {
    (0..pages).filter(|n| {
        place(*n).is_some_and(|(byte, mask)| bitmap.get(byte).is_some_and(|b| b & mask != 0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_is_told_once_and_where_it_was() {
        let mut dropped = Dropped::default();
        assert!(dropped.is_empty());
        // Pages 100, 103 and 116; what lies past the range is not looked at.
        dropped.note(100, 17, &[0b1001, 0, 0b111]);
        assert!(!dropped.is_empty());
        // A scan that begins elsewhere, and found 103 itself.
        let mut bitmap = [0, 0b1000, 0, 0, 0];
        assert_eq!(dropped.take(92, 12, &mut bitmap), 1);
        assert_eq!(bitmap, [0, 0b1001, 0, 0, 0]);
        let mut rest = [0; 3];
        assert_eq!(dropped.take(100, 24, &mut rest), 1);
        assert_eq!(rest, [0, 0, 1]);
        assert!(dropped.is_empty());
        assert_eq!(dropped.take(0, 1 << 20, &mut [0; 1 << 17]), 0);
    }

    #[test]
    fn noting_twice_is_noting_once() {
        let mut dropped = Dropped::default();
        dropped.note(0, 8, &[0xff]);
        dropped.note(4, 8, &[0x0f]);
        let mut bitmap = [0; 2];
        assert_eq!(dropped.take(0, 16, &mut bitmap), 8);
        assert_eq!(bitmap, [0xff, 0]);
    }
}
