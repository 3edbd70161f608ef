//! RAM that appears at another address, with what it holds.

use crate::cache::Cache;
use crate::desc::{Descriptor, Entry};
use crate::gather::Gather;
use crate::level::Level;
use crate::machine::Machine;
use crate::ram::Cut;
use crate::range::{Budget, next};
use crate::sidecar::{Pgx, SIDECAR_PAGES};
use crate::slots::{Slot, State};
use crate::space::{Error, Gmap, address, with_cache};
use crate::walk::Flags;
use arch::Ipa;

/// A slot under way.
#[derive(Clone, Copy)]
struct Way {
    from: u64,
    to: u64,
    end: u64,
}

impl Way {
    /// Returns where `at` is to go.
    fn target(&self, at: u64) -> Ipa {
        address(self.to.saturating_add(at.saturating_sub(self.from)))
    }
}

impl Gmap {
    /// Moves the RAM slot that begins at `from` to `to`, a slice at a time: frames, dirty
    /// state, keys and page states. Where blocks do not fit at the new address they are split.
    ///
    /// Returns the address reached: call again, with the same arguments, while there is one.
    /// From the first call to the last no fault finds RAM at either address, so the VM must
    /// not run. Fails, changing nothing, with [`Error::NotRam`] if no slot begins at `from`,
    /// or as [`Self::add_ram`] does for `to`; and with [`Error::NoTables`] where it has come
    /// to: calling again goes on.
    pub fn move_ram(
        &mut self,
        machine: &mut impl Machine,
        from: Ipa,
        to: Ipa,
        budget: Budget,
    ) -> Result<Option<Ipa>, Error> {
        let slot = self.slots.overlap(from.raw(), from.raw().saturating_add(1));
        let slot = slot.filter(|slot| slot.start == from.raw());
        let slot = slot.ok_or(Error::NotRam)?;
        let way = Way {
            from: slot.start,
            to: to.raw(),
            end: slot.end,
        };
        let mut at = match slot.state {
            State::Here => self.begin_move(machine, slot, to)?,
            State::Moving { at, to } if to == way.to => {
                // A neighbour may have been folded into an entry with the rest.
                self.cut(machine, at, slot.end, Cut::All)?;
                at
            }
            State::Moving { .. } | State::Leaving(_) | State::Arriving => {
                return Err(Error::NotRam);
            }
        };
        let mut gather = Gather::new(self.vmid, false);
        let (mut budget, mut result) = (budget, Ok(()));
        self.sequence.begin(way.from, way.end);
        while at < way.end && !budget.spent() {
            match self.move_entry(machine, way, at, &mut budget, &mut gather) {
                Ok(reached) => at = reached,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        gather.complete(machine);
        self.sequence.end();
        let (start, to) = (slot.start, way.to);
        if at < way.end || result.is_err() {
            let state = State::Moving { to, at };
            self.slots.set(start, Some(Slot { state, ..slot }));
            return result.map(|()| Some(address(at)));
        }
        self.slots.set(start, None);
        self.slots.set_state(to, State::Here);
        Ok(None)
    }

    /// Makes room for a slot at `to`, which nobody finds yet.
    fn begin_move(
        &mut self,
        machine: &mut impl Machine,
        slot: Slot,
        to: Ipa,
    ) -> Result<u64, Error> {
        self.cut(machine, slot.start, slot.end, Cut::All)?;
        let bytes = slot.end.saturating_sub(slot.start);
        if let Err(error) = self.add_ram(machine, to, bytes) {
            let mut gather = Gather::new(self.vmid, false);
            for at in [slot.start, slot.end.saturating_sub(1)] {
                self.prune(machine, address(at), &mut gather);
            }
            gather.complete(machine);
            return Err(error);
        }
        self.slots.set_state(to.raw(), State::Arriving);
        Ok(slot.start)
    }

    /// Moves the entry at `at`, or the first 2 MiB of it where words must move too.
    fn move_entry(
        &mut self,
        machine: &mut impl Machine,
        way: Way,
        at: u64,
        budget: &mut Budget,
        gather: &mut Gather,
    ) -> Result<u64, Error> {
        let (ipa, target) = (address(at), way.target(at));
        let mut place = self.place(machine, ipa);
        budget.pay(machine, place.entry());
        let words = self.sidecar.exists();
        let large = words && place.level < Level::L2;
        let leaf = matches!(place.entry(), Entry::Leaf(_));
        if leaf && (large || !target.is_aligned(place.level.span())) {
            with_cache(machine, |machine, cache| {
                cache.topup(machine, 1)?;
                self.split(machine, cache, ipa, &mut place)
                    .map_err(Error::from)
            })?;
            return Ok(at);
        }
        let entry_end = next(at, place.level);
        let end = if large {
            next(at, Level::L2).min(way.end)
        } else {
            entry_end
        };
        // All that may fail comes before anything moves.
        with_cache(machine, |machine, cache| {
            self.ensure_words(machine, cache, way, at, end)
        })?;
        match place.entry() {
            Entry::Leaf(_) => {
                let level = place.level;
                let need = self.tables_missing(machine, target, level)?;
                let mut there = with_cache(machine, |machine, cache| -> Result<_, Error> {
                    cache.topup(machine, need)?;
                    Ok(self.walk(machine, cache, target, level, Flags::ALLOC)?)
                })?;
                let hole = Descriptor::HOLE;
                if let Some(leaf) = self.take(machine, ipa, &mut place, hole, &mut gather.flush) {
                    let leaf = leaf.with_no_notice();
                    assert!(there.swap(machine, leaf.descriptor()), "RAM in a new slot");
                    self.counters.leaves(leaf, level, 1);
                }
            }
            Entry::Empty if end == entry_end => {
                place.swap(machine, Descriptor::HOLE);
            }
            _ => {}
        }
        self.move_words(machine, way, at, end);
        if end == entry_end {
            self.prune(machine, ipa, gather);
        }
        Ok(end)
    }

    /// Makes sure that the words of the pages in `at..end`, 2 MiB at most, have room where
    /// they go.
    fn ensure_words(
        &self,
        machine: &mut impl Machine,
        cache: &mut Cache,
        way: Way,
        at: u64,
        end: u64,
    ) -> Result<(), Error> {
        if !self.sidecar.has_words(machine, address(at)) {
            return Ok(());
        }
        for target in [way.target(at), way.target(end.saturating_sub(1))] {
            if !self.sidecar.has_words(machine, target) {
                cache.topup(machine, SIDECAR_PAGES)?;
                self.sidecar.ensure(machine, cache, target)?;
            }
        }
        Ok(())
    }

    /// Moves the words of the pages in `at..end`, if they have any.
    fn move_words(&self, machine: &impl Machine, way: Way, at: u64, end: u64) {
        if !self.sidecar.has_words(machine, address(at)) {
            return;
        }
        for page in (at..end).step_by(4096) {
            let word = self.sidecar.get(machine, address(page));
            self.sidecar.update(machine, way.target(page), |_| word);
            let none = Pgx::default();
            self.sidecar.update(machine, address(page), |_| none);
        }
    }
}
