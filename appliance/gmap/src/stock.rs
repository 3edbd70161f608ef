//! Frames scrubbed ahead of time, so that a fault need not.
//!
//! Ownership as types: an [`Unscrubbed`] frame becomes [`Zeroed`] by [`Unscrubbed::scrub`] and
//! in no other way, and only a zeroed one can be had from a [`Stock`]. Core fills its stock
//! in idle time and draws on it in [`Machine::alloc_zeroed`].

use crate::machine::Machine;
use arch::Pa;

/// A frame whose content is somebody's.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a frame that is dropped is lost"]
pub struct Unscrubbed {
    pa: Pa,
    order: u8,
}

/// A frame of zeroes, clean to the point of coherency.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a frame that is dropped is lost"]
pub struct Zeroed {
    pa: Pa,
    order: u8,
}

impl Unscrubbed {
    /// Takes `4096 << order` bytes from the pool.
    pub fn alloc(machine: &mut impl Machine, order: u8) -> Option<Self> {
        let pa = machine.alloc(order)?;
        Some(Self { pa, order })
    }

    /// Takes over a frame of `4096 << order` bytes that is the caller's.
    pub fn from_frame(pa: Pa, order: u8) -> Self {
        Self { pa, order }
    }

    /// Zeroes it.
    pub fn scrub(self, machine: &impl Machine) -> Zeroed {
        machine.scrub(self.pa, self.order);
        Zeroed {
            pa: self.pa,
            order: self.order,
        }
    }
}

/// A frame whose first bytes are zeroed: a large one is done a part at a time.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a frame that is dropped is lost"]
pub struct Scrubbing {
    pa: Pa,
    order: u8,
    done: u64,
}

/// Order of the part that one step zeroes: 64 KiB.
const STEP: u8 = 4;

impl Unscrubbed {
    /// Begins to zero it.
    pub fn begin(self) -> Scrubbing {
        Scrubbing {
            pa: self.pa,
            order: self.order,
            done: 0,
        }
    }
}

impl Scrubbing {
    /// Zeroes 64 KiB more, or all of a smaller frame.
    pub fn step(self, machine: &impl Machine) -> Result<Zeroed, Self> {
        let (pa, order) = (self.pa, self.order);
        let part = order.min(STEP);
        let at = pa.checked_add(self.done);
        machine.scrub(at.expect("inside the frame"), part);
        let done = self.done.saturating_add(4096 << part);
        if done >= 4096 << order {
            Ok(Zeroed { pa, order })
        } else {
            Err(Self { pa, order, done })
        }
    }

    /// Returns its bytes.
    pub fn bytes(&self) -> u64 {
        4096 << self.order
    }

    /// Returns the frame to the pool as it is.
    pub fn free(self, machine: &mut impl Machine) {
        machine.free(self.pa, self.order);
    }
}

impl Zeroed {
    /// Gives the frame to whoever will map it.
    pub fn into_pa(self) -> Pa {
        self.pa
    }

    /// Returns the frame to the pool.
    pub fn free(self, machine: &mut impl Machine) {
        machine.free(self.pa, self.order);
    }
}

/// Pages kept ready.
const PAGES: usize = 32;
/// Blocks of 2 MiB kept ready.
const BLOCKS: usize = 8;

/// Zeroed frames, ready.
#[derive(Debug, Default)]
pub struct Stock {
    pages: [Option<Zeroed>; PAGES],
    blocks: [Option<Zeroed>; BLOCKS],
}

impl Stock {
    /// Returns an empty stock.
    pub const fn new() -> Self {
        Self {
            pages: [const { None }; PAGES],
            blocks: [const { None }; BLOCKS],
        }
    }

    /// Scrubs one more frame into the stock: pages first, they are quick and tables need
    /// them. Returns whether there was anything to do, and a frame to do it with.
    pub fn fill_one(&mut self, machine: &mut impl Machine) -> bool {
        let pages = self.pages.iter_mut().map(|slot| (slot, 0));
        let blocks = self.blocks.iter_mut().map(|slot| (slot, 9));
        let Some((slot, order)) = pages.chain(blocks).find(|(slot, _)| slot.is_none()) else {
            return false;
        };
        let Some(frame) = Unscrubbed::alloc(machine, order) else {
            return false;
        };
        *slot = Some(frame.scrub(machine));
        true
    }

    /// Returns the order of the frame it lacks: pages first, they are quick and tables need
    /// them. `None` if it is full.
    pub fn wants(&self) -> Option<u8> {
        if self.pages.iter().any(Option::is_none) {
            Some(0)
        } else if self.blocks.iter().any(Option::is_none) {
            Some(9)
        } else {
            None
        }
    }

    /// Puts a frame in, or gives it back if there is no place for it.
    pub fn put(&mut self, frame: Zeroed) -> Result<(), Zeroed> {
        let slot = match frame.order {
            0 => self.pages.iter_mut().find(|slot| slot.is_none()),
            9 => self.blocks.iter_mut().find(|slot| slot.is_none()),
            _ => None,
        };
        match slot {
            Some(slot) => {
                *slot = Some(frame);
                Ok(())
            }
            None => Err(frame),
        }
    }

    /// Returns the bytes of all frames.
    pub fn bytes(&self) -> u64 {
        let frames = self.pages.iter().chain(&self.blocks).flatten();
        frames.fold(0, |sum, frame| sum.saturating_add(4096 << frame.order))
    }

    /// Takes a frame of `order`, if there is one.
    pub fn take(&mut self, order: u8) -> Option<Zeroed> {
        match order {
            0 => self.pages.iter_mut().find_map(Option::take),
            9 => self.blocks.iter_mut().find_map(Option::take),
            _ => None,
        }
    }

    /// Returns all frames to the pool: when it runs dry, they are somebody's need.
    pub fn release(&mut self, machine: &mut impl Machine) {
        let frames = self.pages.iter_mut().chain(&mut self.blocks);
        for frame in frames.filter_map(Option::take) {
            frame.free(machine);
        }
    }
}
