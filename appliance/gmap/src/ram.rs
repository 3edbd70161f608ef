//! RAM as a promise: slots come, lose frames, and go.
//!
//! Where RAM is promised the tables hold *empty* tokens, elsewhere *holes*. Taking frames
//! away follows one protocol: entry to token, TLBI complete, frame freed; and every ticket
//! given before is void.

use crate::desc::{Descriptor, Entry};
use crate::gather::Gather;
use crate::level::Level;
use crate::machine::Machine;
use crate::range::{Budget, next, uniform};
use crate::slots::{Slot, State};
use crate::space::{Error, Gmap, address, with_cache};
use crate::walk::{Flags, Place};
use arch::Ipa;

/// What [`Gmap::cut`] cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Leaves only: tokens may be passed over.
    Leaves,
    /// Tokens too: they will change.
    All,
}

impl Gmap {
    /// Makes `bytes` from `ipa` RAM, to be populated by fault. Nothing is mapped.
    ///
    /// Fails with [`Error::Unaligned`], [`Error::OutOfSpace`], [`Error::TooManySlots`],
    /// [`Error::Occupied`] where another slot or a mapping is, or [`Error::NoTables`]: a slot
    /// whose ends are not multiples of 1 GiB needs up to two tables an end.
    pub fn add_ram(
        &mut self,
        machine: &mut impl Machine,
        ipa: Ipa,
        bytes: u64,
    ) -> Result<(), Error> {
        let end = self.check_range(ipa, bytes)?;
        let start = ipa.raw();
        self.check_no_slot(start, end)?;
        self.check_unmapped(machine, ipa, end)?;
        if !self.slots.has_room() {
            return Err(Error::TooManySlots);
        }
        self.cut(machine, start, end, Cut::All)?;
        let mut at = start;
        while at < end {
            let mut place = self.place(machine, address(at));
            loop {
                place.swap(machine, Descriptor::EMPTY);
                at = next(at, place.level);
                if at >= end || !place.advance(machine) {
                    break;
                }
            }
        }
        // Tables of an older neighbour may be all RAM now.
        let mut gather = Gather::new(self.vmid, false);
        for at in [start, end.saturating_sub(1)] {
            self.prune(machine, address(at), &mut gather);
        }
        gather.complete(machine);
        let state = State::Here;
        self.slots.add(Slot { start, end, state });
        Ok(())
    }

    /// Deletes the RAM slot that begins at `ipa`, a slice at a time; its frames are freed.
    ///
    /// Returns the address reached: call again while there is one. From the first call on no
    /// fault finds RAM there. Fails with [`Error::NotRam`] if no slot begins at `ipa`, or
    /// [`Error::NoTables`] if it shares a table with a neighbour and none is left.
    pub fn delete_ram(
        &mut self,
        machine: &mut impl Machine,
        ipa: Ipa,
        budget: Budget,
    ) -> Result<Option<Ipa>, Error> {
        let slot = self.slots.overlap(ipa.raw(), ipa.raw().saturating_add(1));
        let slot = slot.filter(|slot| slot.start == ipa.raw());
        let slot = slot.ok_or(Error::NotRam)?;
        let from = match slot.state {
            State::Moving { .. } | State::Arriving => return Err(Error::NotRam),
            State::Leaving(at) => at,
            State::Here => slot.start,
        };
        // Again in each slice: a neighbour may have been folded into an entry with the rest.
        self.cut(machine, from, slot.end, Cut::All)?;
        let reached = self.clear(machine, from, slot.end, budget, Descriptor::HOLE);
        if reached >= slot.end {
            self.slots.set(slot.start, None);
            return Ok(None);
        }
        let state = State::Leaving(reached);
        self.slots.set(slot.start, Some(Slot { state, ..slot }));
        Ok(Some(address(reached)))
    }

    /// Takes the frames of `bytes` from `ipa` away, a slice at a time: what was there is
    /// lost, and the next touch finds zeroes.
    ///
    /// Blocks that reach out of the range are split. Returns the address to go on from.
    /// Fails with [`Error::Unaligned`], [`Error::OutOfSpace`], [`Error::NotRam`] unless one
    /// slot holds the range, or [`Error::NoTables`] for a split; then nothing is taken.
    pub fn reclaim(
        &mut self,
        machine: &mut impl Machine,
        ipa: Ipa,
        bytes: u64,
        budget: Budget,
    ) -> Result<Option<Ipa>, Error> {
        let end = self.check_range(ipa, bytes)?;
        let slot = self.slots.find(ipa.raw()).ok_or(Error::NotRam)?;
        if end > slot.end {
            return Err(Error::NotRam);
        }
        self.cut(machine, ipa.raw(), end, Cut::Leaves)?;
        let reached = self.clear(machine, ipa.raw(), end, budget, Descriptor::EMPTY);
        Ok((reached < end).then(|| address(reached)))
    }

    /// Makes sure that entries begin at `start` and at `end`: splits blocks and tokens that
    /// reach across. Fails, changing nothing, if there are no frames for the tables.
    pub(crate) fn cut(
        &self,
        machine: &mut impl Machine,
        start: u64,
        end: u64,
        what: Cut,
    ) -> Result<(), Error> {
        let need = self.cut_cost(machine, start, end, what);
        let bytes = u64::try_from(need).unwrap_or(u64::MAX).saturating_mul(4096);
        if self.counters.table_bytes().saturating_add(bytes) > self.policy.table_limit {
            return Err(Error::NoTables);
        }
        with_cache(machine, |machine, cache| {
            cache.topup(machine, need)?;
            for at in [start, end] {
                let Some(ipa) = Ipa::new(at).filter(|ipa| self.contains(*ipa)) else {
                    continue;
                };
                let tables = [Level::L0, Level::L1, Level::L2].into_iter();
                if !tables
                    .clone()
                    .any(|level| self.cuts_at(machine, at, level, what))
                {
                    continue;
                }
                let mut levels = tables.filter(|level| *level >= self.shape.start());
                let target = levels.find(|level| ipa.is_aligned(level.span()));
                let flags = Flags::SPLIT | Flags::ALLOC | Flags::IGN_HOLES;
                self.walk(machine, cache, ipa, target.unwrap_or(Level::L3), flags)?;
            }
            Ok(())
        })
    }

    /// Returns the tables that [`Self::cut`] needs.
    fn cut_cost(&self, machine: &impl Machine, start: u64, end: u64, what: Cut) -> usize {
        let mut count = 0_usize;
        for level in [Level::L0, Level::L1, Level::L2] {
            let first = self.cuts_at(machine, start, level, what);
            let last = self.cuts_at(machine, end, level, what);
            // Ends inside one entry share its table.
            let shared = start >> level.shift() == end >> level.shift();
            count = count.saturating_add(match (first, last) {
                (false, false) => 0,
                (true, true) if !shared => 2,
                _ => 1,
            });
        }
        count
    }

    /// Returns whether an entry of `level` must become a table for one to begin at `at`.
    ///
    /// True at level 2 also where an entry of level 1 is still in the way.
    fn cuts_at(&self, machine: &impl Machine, at: u64, level: Level, what: Cut) -> bool {
        let Some(ipa) = Ipa::new(at).filter(|ipa| self.contains(*ipa)) else {
            return false;
        };
        let place = self.place(machine, ipa);
        let counts = what == Cut::All || matches!(place.entry(), Entry::Leaf(_));
        counts && place.level <= level && !ipa.is_aligned(level.span())
    }

    /// Takes out what lies in `start..end`, where entries begin and end, until the budget is
    /// spent: RAM becomes `ram` (empty or a hole), fixed mappings become holes, and tables
    /// full of one token are folded. Returns the address reached.
    pub(crate) fn clear(
        &mut self,
        machine: &mut impl Machine,
        start: u64,
        end: u64,
        budget: Budget,
        ram: Descriptor,
    ) -> u64 {
        self.sequence.begin(start, end);
        let mut gather = Gather::new(self.vmid, self.wipes());
        let (mut at, mut budget) = (start, budget);
        while at < end && !budget.spent() {
            let ipa = address(at);
            let mut place = self.place(machine, ipa);
            budget.pay(machine, place.entry());
            self.clear_entry(machine, ipa, &mut place, ram, &mut gather);
            let following = next(at, place.level);
            // A table is looked at once, when its last entry in the range is done.
            let leaves_table = place
                .level
                .above()
                .is_none_or(|above| at >> above.shift() != following >> above.shift());
            if leaves_table || following >= end || budget.spent() {
                self.prune(machine, ipa, &mut gather);
            }
            at = following;
        }
        gather.complete(machine);
        self.sequence.end();
        at
    }

    fn clear_entry(
        &self,
        machine: &mut impl Machine,
        ipa: Ipa,
        place: &mut Place,
        ram: Descriptor,
        gather: &mut Gather,
    ) {
        match place.entry() {
            Entry::Leaf(leaf) => {
                let token = if leaf.special() {
                    Descriptor::HOLE
                } else {
                    ram
                };
                let gone = self.take(machine, ipa, place, token, &mut gather.flush);
                if let Some(leaf) = gone.filter(|leaf| !leaf.special()) {
                    gather.frame(machine, leaf, place.level);
                }
            }
            Entry::Empty if ram != Descriptor::EMPTY => {
                place.swap(machine, ram);
            }
            Entry::Empty | Entry::Hole(_) => {}
            Entry::Busy | Entry::Table(_) | Entry::Reserved => crate::walk::corrupt(),
        }
    }

    /// Folds tables towards `ipa` that hold one token only, from the lowest up.
    pub(crate) fn prune(&self, machine: &mut impl Machine, ipa: Ipa, gather: &mut Gather) {
        loop {
            let place = self.place(machine, ipa);
            let Some((above, index)) = place.parent else {
                return;
            };
            let Some(token) = uniform(machine, place.table) else {
                return;
            };
            machine.store(above, index, token.raw());
            self.counters.untables(1);
            gather.table(machine, ipa, place.table);
        }
    }
}
