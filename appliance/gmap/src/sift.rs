//! Memory taken back by what is in it: pages the guest said it can do without, and pages of
//! zeroes.
//!
//! A page is taken only if nobody has written it since that was true: it is made clean, looked
//! at, and taken by a compare-and-swap that a write makes fail.

use crate::desc::{Descriptor, Entry, Leaf};
use crate::gather::Gather;
use crate::level::Level;
use crate::machine::Machine;
use crate::range::{Budget, next};
use crate::sidecar::{Pgx, Usage};
use crate::space::{Gmap, address};
use crate::walk::Place;
use arch::{Ipa, Pa};

/// Which pages [`Gmap::sift_states`] may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sift {
    /// Said to be unused, and not written since.
    pub unused: bool,
    /// Said to be volatile, or volatile while unchanged and unchanged.
    pub volatile: bool,
}

impl Sift {
    fn takes(self, word: Pgx, leaf: Leaf) -> bool {
        if leaf.special() || leaf.pinned() {
            return false;
        }
        match word.usage() {
            Usage::Stable => false,
            Usage::Unused => self.unused && word.hint() && !leaf.dirty(),
            Usage::Volatile => self.volatile,
            Usage::PotentiallyVolatile => self.volatile && !word.changed() && !leaf.dirty(),
        }
    }
}

impl Gmap {
    /// Takes the pages of `start..end` whose state is one of `sift`, a slice at a time; the
    /// next touch finds zeroes.
    ///
    /// Returns the bytes freed and the address to go on from.
    pub fn sift_states(
        &mut self,
        machine: &mut impl Machine,
        start: u64,
        end: u64,
        sift: Sift,
        budget: Budget,
    ) -> (u64, Option<Ipa>) {
        let end = end.min(self.slots.end());
        let mut gather = Gather::new(self.vmid, self.policy.wipe);
        let (mut at, mut budget, mut freed) = (start & !0xfff, budget, 0_u64);
        while at < end && !budget.spent() {
            let ipa = address(at);
            if !self.contains(ipa) {
                break;
            }
            let mut place = self.place(machine, ipa);
            budget.pay(place.entry());
            // A page with a state of its own has a leaf of its own.
            if place.level == Level::L3 {
                let takes = |leaf: Leaf| sift.takes(self.sidecar.get(machine, ipa), leaf);
                if let Some(leaf) = self.take_if(machine, ipa, &mut place, &mut gather, takes) {
                    self.sidecar
                        .update(machine, ipa, |word| word.with_zero(true));
                    gather.frame(machine, leaf.base(), Level::L3);
                    freed = freed.saturating_add(4096);
                }
            }
            let following = next(at, place.level);
            if following & Level::L2.span().wrapping_sub(1) == 0 || following >= end {
                self.prune(machine, ipa, &mut gather);
            }
            at = following;
        }
        gather.complete(machine);
        (freed, (at < end).then(|| address(at)))
    }

    /// Takes the leaf at `ipa` if its frame holds zeroes only, as `is_zero` says of an address
    /// and a number of bytes. The guest cannot tell. Returns the bytes freed.
    pub fn drop_zero<M: Machine>(
        &mut self,
        machine: &mut M,
        ipa: Ipa,
        is_zero: impl Fn(&M, Pa, u64) -> bool,
    ) -> u64 {
        if !self.contains(ipa) || self.slots.find(ipa.raw()).is_none() {
            return 0;
        }
        let mut gather = Gather::new(self.vmid, self.policy.wipe);
        let mut place = self.place(machine, ipa);
        let base = ipa.align_down(place.level.span());
        let usable = |leaf: Leaf| !leaf.special() && !leaf.pinned();
        let make_clean = |leaf: Leaf| {
            if usable(leaf) {
                leaf.with_clean()
            } else {
                leaf
            }
        };
        self.alter(machine, base, &mut place, &mut gather.flush, make_clean);
        // From here on a write shows in the entry.
        gather.flush.complete(machine);
        let span = place.level.span();
        let zero =
            |leaf: Leaf| usable(leaf) && !leaf.dirty() && is_zero(machine, leaf.base(), span);
        let taken = self.take_if(machine, base, &mut place, &mut gather, zero);
        if let Some(leaf) = taken {
            gather.frame(machine, leaf.base(), place.level);
            self.prune(machine, base, &mut gather);
        }
        gather.complete(machine);
        if taken.is_some() { span } else { 0 }
    }

    /// Takes the leaf at `place` out if `takes` says so, unless it changes meanwhile.
    fn take_if(
        &self,
        machine: &impl Machine,
        ipa: Ipa,
        place: &mut Place,
        gather: &mut Gather,
        takes: impl Fn(Leaf) -> bool,
    ) -> Option<Leaf> {
        let Entry::Leaf(leaf) = place.entry() else {
            return None;
        };
        if !takes(leaf) || !self.replace(machine, ipa, place, Descriptor::EMPTY, &mut gather.flush)
        {
            return None;
        }
        self.counters.unleaf(leaf, place.level);
        Some(leaf)
    }
}
