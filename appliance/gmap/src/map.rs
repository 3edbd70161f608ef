//! Fixed mappings: devices, and root's windows onto frames it was granted.
//!
//! Such leaves are *special*: the frames are somebody else's, so they are neither scrubbed
//! nor freed here, and never counted as resident.

use crate::desc::{Attr, Descriptor, Entry, Leaf, Perm};
use crate::gather::Gather;
use crate::level::Level;
use crate::machine::Machine;
use crate::space::{Error, Gmap, address};
use crate::tables::Spare;
use crate::walk;
use arch::{Ipa, Pa};

impl Gmap {
    /// Maps `bytes` from `ipa` to `pa` with the largest leaves that alignment allows.
    ///
    /// Device memory is never executable, whatever `perm` says. Fails with
    /// [`Error::Unaligned`], [`Error::OutOfSpace`], [`Error::Occupied`] where a mapping or a
    /// RAM slot is, or [`Error::NoTables`]; then nothing is mapped and all tables are back.
    pub fn map(
        &mut self,
        machine: &mut impl Machine,
        ipa: Ipa,
        pa: Pa,
        bytes: u64,
        attr: Attr,
        perm: Perm,
    ) -> Result<(), Error> {
        let end = self.check_range(ipa, bytes)?;
        if !pa.is_aligned(4096) {
            return Err(Error::Unaligned);
        }
        // The last byte must be an address; the end itself may be 2^48.
        pa.checked_add(bytes.saturating_sub(1))
            .ok_or(Error::OutOfSpace)?;
        self.check_no_slot(ipa.raw(), end)?;
        self.check_unmapped(machine, ipa, end)?;
        let mut done = 0_u64;
        while done < bytes {
            let (at, to) = (ipa.checked_add(done), pa.checked_add(done));
            let (Some(at), Some(to)) = (at, to) else {
                return Err(Error::OutOfSpace);
            };
            let level = largest(self.shape.start(), at, to, bytes.saturating_sub(done));
            let leaf = Leaf::new(to, level, attr, perm, self.features.fwb).with_special();
            if !self.install(machine, at, leaf, level) {
                if done > 0 {
                    self.clear(machine, ipa.raw(), at.raw(), usize::MAX);
                }
                return Err(Error::NoTables);
            }
            done = done.saturating_add(level.span());
        }
        Ok(())
    }

    /// Removes the fixed mappings in `bytes` from `ipa`, splitting leaves that reach out of
    /// the range. Parts with no mapping are passed over. No TLB holds a removed mapping when
    /// this returns.
    ///
    /// Fails with [`Error::Unaligned`], [`Error::OutOfSpace`], [`Error::NotFixed`] where a
    /// RAM slot is, or [`Error::NoTables`] for a split; then nothing is unmapped.
    pub fn unmap(&mut self, machine: &mut impl Machine, ipa: Ipa, bytes: u64) -> Result<(), Error> {
        let end = self.check_range(ipa, bytes)?;
        if let Some(slot) = self.slots.overlap(ipa.raw(), end) {
            return Err(Error::NotFixed {
                at: address(slot.start.max(ipa.raw())),
            });
        }
        self.split_ends(machine, ipa.raw(), end)?;
        self.clear(machine, ipa.raw(), end, usize::MAX);
        Ok(())
    }

    /// Links `leaf` at `ipa`, where nothing is, with the tables on the way.
    ///
    /// Returns whether there were frames for the tables; if not, nothing has changed.
    pub(crate) fn install(
        &mut self,
        machine: &mut impl Machine,
        ipa: Ipa,
        leaf: Leaf,
        level: Level,
    ) -> bool {
        let place = self.place(machine, ipa);
        let missing = level.number().saturating_sub(place.level.number());
        let Some(mut spare) = Spare::take(machine, usize::from(missing)) else {
            return false;
        };
        // From the leaf up, so that what gets linked in the end is a finished path.
        let (mut entry, mut at) = (leaf.descriptor(), level);
        while at > place.level {
            let (Some(table), Some(above)) = (spare.next(), at.above()) else {
                break;
            };
            let (page, index) = walk::slot(self.shape, table, ipa, at);
            machine.store(page, index, entry.raw());
            self.stats.table_bytes = self.stats.table_bytes.saturating_add(4096);
            (entry, at) = (Descriptor::table(table), above);
        }
        machine.store(place.table, place.index, entry.raw());
        self.count_leaf(leaf, level);
        true
    }

    /// Fails at the first address of the range that is mapped.
    pub(crate) fn check_unmapped(
        &self,
        machine: &impl Machine,
        ipa: Ipa,
        end: u64,
    ) -> Result<(), Error> {
        let mut at = ipa.raw();
        while at < end {
            let place = self.place(machine, address(at));
            if place.entry() != Entry::Empty {
                return Err(Error::Occupied { at: address(at) });
            }
            at = next(at, place.level);
        }
        Ok(())
    }

    /// Splits the leaves that straddle the ends of a range.
    fn split_ends(
        &mut self,
        machine: &mut impl Machine,
        start: u64,
        end: u64,
    ) -> Result<(), Error> {
        let mut count = 0_usize;
        for level in [Level::L1, Level::L2] {
            let first = self.needs_split(machine, start, level);
            let last = self.needs_split(machine, end, level);
            // Ends inside one block share its table.
            let shared = start >> level.shift() == end >> level.shift();
            count = count.saturating_add(match (first, last) {
                (false, false) => 0,
                (true, true) if !shared => 2,
                _ => 1,
            });
        }
        let mut spare = Spare::take(machine, count).ok_or(Error::NoTables)?;
        for at in [start, end] {
            for level in [Level::L1, Level::L2] {
                if self.needs_split(machine, at, level) {
                    let Some(table) = spare.next() else { break };
                    self.split(machine, address(at), table);
                }
            }
        }
        spare.give_back(machine);
        Ok(())
    }

    /// Returns whether a block of `level` must be split for a leaf to begin at `at`.
    ///
    /// True at level 2 also where a block of level 1 is still in the way.
    fn needs_split(&self, machine: &impl Machine, at: u64, level: Level) -> bool {
        let Some(ipa) = Ipa::new(at).filter(|ipa| self.contains(*ipa)) else {
            return false;
        };
        let place = self.place(machine, ipa);
        let leaf = matches!(place.entry(), Entry::Leaf(_));
        leaf && place.level <= level && !ipa.is_aligned(level.span())
    }

    /// Replaces the block that maps `ipa` by a table of the next smaller leaves.
    ///
    /// Break-before-make (DDI 0487 D8.16.1): in between, an access faults and waits for the
    /// VM's lock.
    pub(crate) fn split(&mut self, machine: &mut impl Machine, ipa: Ipa, table: Pa) {
        let place = self.place(machine, ipa);
        let (Entry::Leaf(_), Some(below)) = (place.entry(), place.level.below()) else {
            machine.free(table, 0);
            return;
        };
        let base = ipa.align_down(place.level.span());
        let Some(leaf) = take_leaf(machine, place) else {
            machine.free(table, 0);
            return;
        };
        machine.invalidate_ipa(self.vmid, base, place.level.number());
        let mut offset = 0_u64;
        for index in 0..512 {
            machine.store(table, index, leaf.child(offset, below).descriptor().raw());
            offset = offset.saturating_add(below.span());
        }
        machine.store(place.table, place.index, Descriptor::table(table).raw());
        self.stats.table_bytes = self.stats.table_bytes.saturating_add(4096);
        self.uncount_leaf(leaf, place.level);
        for _ in 0..512 {
            self.count_leaf(leaf, below);
        }
    }

    /// Removes up to `budget` leaves that lie wholly in `start..end`, and the tables that
    /// become empty; frees the frames of RAM. Returns the address reached.
    pub(crate) fn clear(
        &mut self,
        machine: &mut impl Machine,
        start: u64,
        end: u64,
        budget: usize,
    ) -> u64 {
        let mut gather = Gather::new(self.vmid);
        let (mut at, mut left) = (start, budget);
        while at < end && left > 0 {
            let ipa = address(at);
            let place = self.place(machine, ipa);
            if let Entry::Leaf(_) = place.entry() {
                left = left.saturating_sub(1);
                if let Some(leaf) = take_leaf(machine, place) {
                    self.uncount_leaf(leaf, place.level);
                    let frame = (!leaf.special()).then(|| leaf.base());
                    gather.leaf(machine, ipa, place.level, frame);
                }
            }
            let following = next(at, place.level);
            // A table is looked at once, when its last entry in the range is done.
            let leaves_table = place
                .level
                .above()
                .is_none_or(|above| at >> above.shift() != following >> above.shift());
            if leaves_table || following >= end || left == 0 {
                self.prune(machine, ipa, &mut gather);
            }
            at = following;
        }
        gather.flush(machine);
        at
    }

    /// Unlinks the tables towards `ipa` that hold nothing, from the lowest up.
    fn prune(&mut self, machine: &mut impl Machine, ipa: Ipa, gather: &mut Gather) {
        loop {
            let place = self.place(machine, ipa);
            let Some((above, index)) = place.parent else {
                return;
            };
            if (0..512).any(|entry| machine.load(place.table, entry) != 0) {
                return;
            }
            machine.store(above, index, Descriptor::EMPTY.raw());
            self.stats.table_bytes = self.stats.table_bytes.saturating_sub(4096);
            gather.table(machine, ipa, place.table);
        }
    }
}

/// Takes a leaf out of its table, with the AF and dirty state that hardware gave it last.
fn take_leaf(machine: &impl Machine, place: walk::Place) -> Option<Leaf> {
    let mut found = place.found;
    // Hardware can set AF and dirty once each; software is kept out by the VM's lock.
    for _ in 0..4 {
        let Entry::Leaf(leaf) = found.decode(place.level) else {
            return None;
        };
        let empty = Descriptor::EMPTY.raw();
        match machine.compare_exchange(place.table, place.index, found.raw(), empty) {
            Ok(()) => return Some(leaf),
            Err(other) => found = Descriptor::from_raw(other),
        }
    }
    panic!("a stage-2 entry changed under the VM's lock");
}

/// Returns the level of the largest leaf that may begin at `ipa`, map `pa` and fit.
fn largest(start: Level, ipa: Ipa, pa: Pa, bytes: u64) -> Level {
    Level::LEAVES
        .into_iter()
        .filter(|level| *level >= start)
        .find(|level| {
            let span = level.span();
            ipa.is_aligned(span) && pa.is_aligned(span) && bytes >= span
        })
        .unwrap_or(Level::L3)
}

/// Returns the first address after the entry of `level` that covers `at`.
pub(crate) fn next(at: u64, level: Level) -> u64 {
    (at & !level.span().wrapping_sub(1)).saturating_add(level.span())
}
