//! Memory taken back from a whole VM, down to what is asked for: pages the guest said are of
//! no use, then pages of zeroes, then pages whose content the guest can do without.
//!
//! In this order, so that a VM gives first what costs it nothing.

use crate::desc::Entry;
use crate::gather::Gather;
use crate::machine::Machine;
use crate::range::{Budget, next};
use crate::sift::Sift;
use crate::space::{Gmap, address};
use crate::teardown::Progress;

/// What is taken next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Unused,
    Zero,
    Volatile,
    Done,
}

/// How far a VM was shrunk: where to go on, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shrink {
    stage: Stage,
    at: u64,
    /// Bytes of unused pages taken.
    pub unused: u64,
    /// Bytes of zeroes taken.
    pub zero: u64,
    /// Bytes of volatile pages taken.
    pub volatile: u64,
}

impl Shrink {
    /// Returns the bytes taken.
    pub fn bytes(&self) -> u64 {
        let some = self.unused.saturating_add(self.zero);
        some.saturating_add(self.volatile)
    }

    fn count(&mut self, bytes: u64) {
        let part = match self.stage {
            Stage::Unused => &mut self.unused,
            Stage::Zero => &mut self.zero,
            Stage::Volatile | Stage::Done => &mut self.volatile,
        };
        *part = part.saturating_add(bytes);
    }
}

impl Gmap {
    /// Takes pages back until `target` bytes are taken or there are no more, a slice at a
    /// time: unused ones, then such of zeroes, then volatile ones. The next touch of any of
    /// them finds zeroes.
    pub fn shrink(
        &mut self,
        machine: &mut impl Machine,
        shrink: &mut Shrink,
        target: u64,
        budget: Budget,
    ) -> Progress {
        let end = self.slots.end().min(self.limit());
        let mut gather = Gather::new(self.vmid, self.policy.wipe);
        let mut budget = budget;
        self.sequence.begin(0, end);
        while shrink.bytes() < target && shrink.stage != Stage::Done && !budget.spent() {
            if shrink.at >= end {
                shrink.at = 0;
                shrink.stage = self.following(shrink.stage);
                continue;
            }
            let ipa = address(shrink.at);
            let place = self.place(machine, ipa);
            budget.pay(place.entry());
            if matches!(place.entry(), Entry::Leaf(_)) {
                let gather = &mut gather;
                let taken = match shrink.stage {
                    Stage::Unused => self.sift_page(machine, ipa, place, gather, Sift::UNUSED),
                    Stage::Zero => self.sift_zero(machine, ipa, place, gather),
                    Stage::Volatile => self.sift_page(machine, ipa, place, gather, Sift::VOLATILE),
                    Stage::Done => false,
                };
                if taken {
                    shrink.count(place.level.span());
                }
            }
            shrink.at = next(shrink.at, place.level);
        }
        gather.complete(machine);
        self.sequence.end();
        match shrink.bytes() >= target || shrink.stage == Stage::Done {
            true => Progress::Done,
            false => Progress::More,
        }
    }

    /// Only a VM that uses page states has volatile pages.
    fn following(&self, stage: Stage) -> Stage {
        match stage {
            Stage::Unused => Stage::Zero,
            Stage::Zero if self.states => Stage::Volatile,
            Stage::Zero | Stage::Volatile | Stage::Done => Stage::Done,
        }
    }
}
