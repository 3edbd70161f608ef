//! Memory taken back without loss: pages the guest said are of no use, pages that hold
//! zeroes, pages whose content the guest can do without.
//!
//! In this order, so that a VM gives first what costs it nothing. What is dropped becomes
//! empty; the next touch finds zeroes.

use crate::desc::{Descriptor, Entry, Leaf};
use crate::gather::Gather;
use crate::half::Part;
use crate::level::Level;
use crate::machine::Machine;
use crate::range::{Budget, next};
use crate::sidecar::{Pgx, Usage};
use crate::space::{Gmap, address};
use crate::teardown::Progress;
use crate::walk::Place;
use arch::Ipa;

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
    /// time: unused ones, then such of zeroes, then volatile ones.
    ///
    /// `report` is told of what holds zeroes now and the migration log would have reported;
    /// whoever keeps the log notes it.
    pub fn shrink(
        &mut self,
        machine: &mut impl Machine,
        shrink: &mut Shrink,
        target: u64,
        budget: Budget,
        mut report: impl FnMut(Ipa, u64),
    ) -> Progress {
        let end = self.slots.end().min(self.limit());
        let mut gather = Gather::new(self.vmid, self.wipes());
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
            budget.pay(machine, place.entry());
            if let Entry::Leaf(leaf) = place.entry()
                && !leaf.special()
            {
                let gone = match shrink.stage {
                    Stage::Unused => self.drop_page(machine, ipa, &mut gather, unused),
                    Stage::Volatile => self.drop_page(machine, ipa, &mut gather, volatile),
                    Stage::Zero => {
                        let base = ipa.align_down(place.level.span());
                        match self.drop_zero(machine, base, place, &mut gather, &mut report) {
                            Part::More => continue,
                            part => part == Part::Whole,
                        }
                    }
                    Stage::Done => false,
                };
                if gone {
                    shrink.count(place.level.span());
                }
            }
            shrink.at = next(shrink.at, place.level);
        }
        gather.complete(machine);
        let zeroes = shrink.stage == Stage::Zero;
        self.end_half_before(machine, zeroes.then_some(shrink.at));
        self.sequence.end();
        match shrink.bytes() >= target || shrink.stage == Stage::Done {
            true => Progress::Done,
            false => Progress::More,
        }
    }

    /// Only a VM that uses page states has unused and volatile pages.
    fn following(&self, stage: Stage) -> Stage {
        match stage {
            Stage::Unused => Stage::Zero,
            Stage::Zero if self.states => Stage::Volatile,
            Stage::Zero | Stage::Volatile | Stage::Done => Stage::Done,
        }
    }

    /// Takes the frames of leaves in `start..end` that hold nothing but zeroes, a slice at a
    /// time. `report` is told as by [`Self::shrink`]. Returns the address to go on from.
    ///
    /// That a page is zero is seen once no vCPU can write to it any more. Pages that are
    /// shared or pinned, fixed mappings, and leaves of 1 GiB stay.
    pub fn drop_zeroes(
        &mut self,
        machine: &mut impl Machine,
        (start, end): (u64, u64),
        budget: Budget,
        mut report: impl FnMut(Ipa, u64),
    ) -> Option<Ipa> {
        let end = end.min(self.limit());
        let mut gather = Gather::new(self.vmid, self.wipes());
        let (mut at, mut budget) = (start, budget);
        self.sequence.begin(start, end);
        while at < end && !budget.spent() {
            let ipa = address(at);
            let place = self.place(machine, ipa);
            budget.pay(machine, place.entry());
            if matches!(place.entry(), Entry::Leaf(_)) {
                let base = ipa.align_down(place.level.span());
                if self.drop_zero(machine, base, place, &mut gather, &mut report) == Part::More {
                    continue;
                }
            }
            at = next(at, place.level);
        }
        gather.complete(machine);
        self.end_half_before(machine, Some(at).filter(|at| *at < end));
        self.sequence.end();
        (at < end).then(|| address(at))
    }

    /// Drops the page at `place` if it holds zeroes, or looks at a part of the block and drops it
    /// once all of it was seen. Otherwise [`Part::Lost`].
    fn drop_zero(
        &mut self,
        machine: &mut impl Machine,
        base: Ipa,
        place: Place,
        gather: &mut Gather,
        report: &mut impl FnMut(Ipa, u64),
    ) -> Part {
        let (mut place, level) = (place, place.level);
        let Entry::Leaf(leaf) = place.entry() else {
            return Part::Lost;
        };
        let kept = leaf.special() || leaf.shared() || leaf.pinned() || level < Level::L2;
        let kept = kept || machine.holds(base, level);
        // A look while the guest runs saves the invalidation for most that are not.
        if kept || !leaf.held() && !seems_zero(machine, leaf, level) {
            return Part::Lost;
        }
        let old = if level < Level::L3 {
            let part = self.look_part(machine, base, &mut place);
            if part != Part::Whole {
                return part;
            }
            let empty = Descriptor::EMPTY;
            self.take(machine, base, &mut place, empty, &mut gather.flush)
        } else {
            let made = self.remake(machine, base, &mut place, |machine, old| {
                match machine.is_zero(old.base(), level.order()) {
                    true => Descriptor::EMPTY,
                    false => old.with_no_notice().descriptor(),
                }
            });
            made.filter(|_| place.entry() == Entry::Empty)
        };
        let Some(old) = old else {
            return Part::Lost;
        };
        if old.soft_dirty() {
            report(base, level.span());
        }
        self.counters.zeroed(level);
        gather.frame(machine, old, level);
        self.prune(machine, base, gather);
        Part::Whole
    }

    /// Takes out the page at `ipa` if `may` says so of its word and leaf; returns whether it
    /// did. Blocks, fixed mappings, pinned pages and those a device may reach stay.
    pub(crate) fn drop_page(
        &self,
        machine: &mut impl Machine,
        ipa: Ipa,
        gather: &mut Gather,
        may: impl Fn(Pgx, Leaf) -> bool,
    ) -> bool {
        if !self.states || !self.contains(ipa) || self.slots.find(ipa.raw()).is_none() {
            return false;
        }
        let word = self.sidecar.get(machine, ipa);
        let mut place = self.place(machine, ipa);
        while let Entry::Leaf(leaf) = place.entry() {
            let page = place.level == Level::L3;
            let kept = leaf.special() || leaf.pinned() || machine.holds(ipa, Level::L3);
            if !page || kept || !may(word, leaf) {
                return false;
            }
            let empty = Descriptor::EMPTY;
            if self.replace(machine, ipa, &mut place, empty, &mut gather.flush) {
                self.counters.unleaf(leaf, place.level);
                self.sidecar
                    .update(machine, ipa, |word| word.with_zero(true));
                gather.frame(machine, leaf, Level::L3);
                self.prune(machine, ipa, gather);
                return true;
            }
        }
        false
    }
}

/// Returns whether a leaf may hold nothing but zeroes: of a block some pages are looked at, since
/// all of one takes long, and is looked at afterwards.
fn seems_zero(machine: &impl Machine, leaf: Leaf, level: Level) -> bool {
    const SAMPLES: u64 = 8;
    if level == Level::L3 {
        return machine.is_zero(leaf.base(), 0);
    }
    let apart = level.span() / SAMPLES;
    (0..SAMPLES).all(|n| {
        let page = leaf.base().checked_add(n.saturating_mul(apart));
        page.is_some_and(|page| machine.is_zero(page, 0))
    })
}

/// Said to be unused, and not written since.
pub(crate) fn unused(word: Pgx, leaf: Leaf) -> bool {
    word.usage() == Usage::Unused && word.hint() && !leaf.dirty()
}

/// Volatile, or volatile while unchanged and unchanged.
pub(crate) fn volatile(word: Pgx, leaf: Leaf) -> bool {
    match word.usage() {
        Usage::Volatile => true,
        Usage::PotentiallyVolatile => !word.changed() && !leaf.dirty(),
        Usage::Stable | Usage::Unused => false,
    }
}
