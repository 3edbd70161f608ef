//! What of RAM nobody occupies: whole frames, as a complement.

use crate::Range;

/// Bytes of a frame.
const FRAME: u64 = 4096;

/// The runs of free frames in one bank of RAM, from the lowest up.
///
/// A frame is free if all of it lies in the bank and no byte of it is occupied. Occupied ranges
/// may overlap, touch the bank's ends, or lie elsewhere.
#[derive(Clone, Debug)]
pub struct FreeRuns<I> {
    occupied: I,
    at: u64,
    end: u64,
}

impl<I: Iterator<Item = Range> + Clone> FreeRuns<I> {
    /// Looks for what `occupied` leaves of `bank`.
    pub fn new(bank: Range, occupied: I) -> Self {
        Self {
            occupied,
            at: up(bank.pa),
            end: down(bank.end()),
        }
    }
}

impl<I: Iterator<Item = Range> + Clone> Iterator for FreeRuns<I> {
    type Item = Range;

    fn next(&mut self) -> Option<Range> {
        while self.at < self.end {
            let (at, end) = (self.at, self.end);
            // The nearest occupied range at or after `at` bounds the run.
            let near = |r: &Range| r.bytes != 0 && r.end() > at && r.pa < end;
            let nearest = self.occupied.clone().filter(near).min_by_key(|r| r.pa);
            let (run_end, resume) = match nearest {
                Some(r) => (down(r.pa.max(at)), up(r.end())),
                None => (end, end),
            };
            self.at = resume;
            if run_end > at {
                return Range::new(at, run_end.saturating_sub(at));
            }
        }
        None
    }
}

fn down(address: u64) -> u64 {
    address & !(FRAME - 1)
}

fn up(address: u64) -> u64 {
    down(address.saturating_add(FRAME - 1))
}
