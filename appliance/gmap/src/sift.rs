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
use arch::Ipa;

/// Which pages [`Gmap::sift_states`] may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sift {
    /// Said to be unused, and not written since.
    pub unused: bool,
    /// Said to be volatile, or volatile while unchanged and unchanged.
    pub volatile: bool,
}

impl Sift {
    /// Pages said to be unused.
    pub const UNUSED: Self = Self {
        unused: true,
        volatile: false,
    };
    /// Pages said to be volatile.
    pub const VOLATILE: Self = Self {
        unused: false,
        volatile: true,
    };

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
        let mut gather = Gather::new(self.vmid, self.policy.wipe);
        self.each_place(start, end, budget, |gmap, ipa, budget| {
            let place = gmap.place(machine, ipa);
            budget.pay(place.entry());
            let taken = gmap.sift_page(machine, ipa, place, &mut gather, sift);
            (place.level, taken)
        })
        .finish(machine, gather)
    }

    /// Takes the leaves of `start..end` that hold nothing but zeroes, a slice at a time. The
    /// guest cannot tell. Returns the bytes freed and the address to go on from.
    pub fn drop_zeroes(
        &mut self,
        machine: &mut impl Machine,
        (start, end): (u64, u64),
        budget: Budget,
    ) -> (u64, Option<Ipa>) {
        let mut gather = Gather::new(self.vmid, self.policy.wipe);
        self.each_place(start, end, budget, |gmap, ipa, budget| {
            let place = gmap.place(machine, ipa);
            budget.pay(place.entry());
            let taken = gmap.sift_zero(machine, ipa, place, &mut gather);
            (place.level, taken)
        })
        .finish(machine, gather)
    }

    /// Takes the leaf at `ipa` if it holds nothing but zeroes. Returns the bytes freed.
    ///
    /// Shared frames stay, and so do pages that the migration log has still to report while
    /// it is in use.
    pub fn drop_zero(&mut self, machine: &mut impl Machine, ipa: Ipa) -> u64 {
        if !self.contains(ipa) {
            return 0;
        }
        let mut gather = Gather::new(self.vmid, self.policy.wipe);
        let place = self.place(machine, ipa);
        let taken = self.sift_zero(machine, ipa, place, &mut gather);
        gather.complete(machine);
        if taken { place.level.span() } else { 0 }
    }

    /// Goes through the entries of `start..end`; `take` returns the entry's level and whether
    /// it took the leaf.
    fn each_place(
        &mut self,
        start: u64,
        end: u64,
        budget: Budget,
        mut take: impl FnMut(&Self, Ipa, &mut Budget) -> (Level, bool),
    ) -> Taken {
        let end = end.min(self.slots.end()).min(self.limit());
        let (mut at, mut budget, mut freed) = (start & !0xfff, budget, 0_u64);
        self.sequence.begin(start, end);
        while at < end && !budget.spent() {
            let (level, taken) = take(self, address(at), &mut budget);
            if taken {
                freed = freed.saturating_add(level.span());
            }
            at = next(at, level);
        }
        self.sequence.end();
        let next = (at < end).then(|| address(at));
        Taken { freed, next }
    }

    /// Takes the page at `place`, if it is one with a state that `sift` takes.
    pub(crate) fn sift_page(
        &self,
        machine: &mut impl Machine,
        ipa: Ipa,
        place: Place,
        gather: &mut Gather,
        sift: Sift,
    ) -> bool {
        // A page with a state of its own has a leaf of its own.
        if !self.states || place.level != Level::L3 {
            return false;
        }
        let word = self.sidecar.get(machine, ipa);
        let taken = self.take_if(machine, ipa, place, gather, |leaf| sift.takes(word, leaf));
        if taken {
            self.sidecar
                .update(machine, ipa, |word| word.with_zero(true));
        }
        taken
    }

    /// Takes the leaf at `place` if it holds zeroes.
    pub(crate) fn sift_zero(
        &self,
        machine: &mut impl Machine,
        ipa: Ipa,
        mut place: Place,
        gather: &mut Gather,
    ) -> bool {
        let (base, order) = (ipa.align_down(place.level.span()), place.level.order());
        let usable = |leaf: Leaf| {
            let wanted = self.logging() && leaf.soft_dirty();
            !(wanted || leaf.special() || leaf.pinned() || leaf.shared())
        };
        let Entry::Leaf(leaf) = place.entry() else {
            return false;
        };
        // A look while the guest may write saves the invalidation for most that are not.
        if !usable(leaf) || place.level < Level::L2 || !machine.is_zero(leaf.base(), order) {
            return false;
        }
        self.alter(
            machine,
            base,
            &mut place,
            &mut gather.flush,
            Leaf::with_clean,
        );
        // From here on a write shows in the entry.
        gather.flush.complete(machine);
        let zero =
            |leaf: Leaf| usable(leaf) && !leaf.dirty() && machine.is_zero(leaf.base(), order);
        if !matches!(place.entry(), Entry::Leaf(leaf) if zero(leaf)) {
            return false;
        }
        let taken = self.take_if(machine, base, place, gather, |leaf| !leaf.dirty());
        if taken {
            self.counters.zeroed(place.level);
        }
        taken
    }

    /// Takes the leaf at `place` out if `takes` says so, unless it changes meanwhile.
    fn take_if(
        &self,
        machine: &mut impl Machine,
        ipa: Ipa,
        mut place: Place,
        gather: &mut Gather,
        takes: impl Fn(Leaf) -> bool,
    ) -> bool {
        let Entry::Leaf(leaf) = place.entry() else {
            return false;
        };
        let (level, empty) = (place.level, Descriptor::EMPTY);
        if !takes(leaf) || !self.replace(machine, ipa, &mut place, empty, &mut gather.flush) {
            return false;
        }
        self.counters.unleaf(leaf, level);
        gather.frame(machine, leaf, level);
        self.prune(machine, ipa, gather);
        true
    }
}

/// What a slice has freed, and where to go on.
struct Taken {
    freed: u64,
    next: Option<Ipa>,
}

impl Taken {
    fn finish(self, machine: &mut impl Machine, mut gather: Gather) -> (u64, Option<Ipa>) {
        gather.complete(machine);
        (self.freed, self.next)
    }
}
