//! Two spaces over the same frames: clones, and VMs that booted from one image.
//!
//! Both sides get shared leaves, which are read-only; module `cow` has the rest. Each leaf
//! that is made shared counts as one user of each of its frames.

use crate::cache::Cache;
use crate::desc::{Entry, Leaf};
use crate::gather::Flush;
use crate::level::Level;
use crate::machine::Machine;
use crate::ram::Cut;
use crate::range::{Budget, next};
use crate::space::{Error, Gmap, address, with_cache};
use crate::walk::{Flags, WalkError};
use crate::want::{LinkError, Want};
use arch::{Ipa, Pa};

impl Gmap {
    /// Shares what RAM holds in `start..end` with `child`, at the same addresses, a slice at a
    /// time. Pages that are not populated are passed over.
    ///
    /// Needs both VMs' locks exclusively. The child sees what was there when a slice
    /// returned: for one moment's state the VM must not run in between. What is shared is
    /// new to the child's migration log; for the host it is as dirty as here. Returns the
    /// address to go on from.
    ///
    /// Fails with [`Error::NotShared`]; [`Error::NotRam`] unless one slot of each holds the
    /// range; [`Error::Occupied`] where the child has another frame already;
    /// [`Error::TooManyUsers`]; or [`Error::NoTables`]. What was shared stays shared, and
    /// calling again from the same address goes on.
    pub fn share_with(
        &mut self,
        child: &mut Self,
        machine: &mut impl Machine,
        (start, end): (u64, u64),
        budget: Budget,
    ) -> Result<Option<Ipa>, Error> {
        if !self.may_share() || !child.may_share() {
            return Err(Error::NotShared);
        }
        let bytes = end.saturating_sub(start);
        for space in [&*self, &*child] {
            space.check_range(Ipa::new(start).ok_or(Error::OutOfSpace)?, bytes)?;
            let slot = space.slots.find(start).ok_or(Error::NotRam)?;
            if end > slot.end {
                return Err(Error::NotRam);
            }
        }
        self.cut(machine, start, end, Cut::Leaves)?;
        let largest = child.policy.largest.max(Level::L2);
        let reached = self.protect(machine, start, end, largest, budget)?;
        let mut at = start;
        while at < reached {
            let place = self.place(machine, address(at));
            if let Entry::Leaf(leaf) = place.entry()
                && leaf.shared()
            {
                child.adopt(machine, address(at), leaf, place.level)?;
            }
            at = next(at, place.level);
        }
        Ok((reached < end).then(|| address(reached)))
    }

    /// Makes the leaves of `start..end` shared, none larger than `largest`. No TLB may write
    /// through them when this returns. Returns the address reached.
    fn protect(
        &mut self,
        machine: &mut impl Machine,
        start: u64,
        end: u64,
        largest: Level,
        budget: Budget,
    ) -> Result<u64, Error> {
        let mut flush = Flush::new(self.vmid);
        let (mut at, mut budget, mut result) = (start, budget, Ok(()));
        // A copy that was made before is of what the frame held then: it may have been this
        // VM's alone for a while, and written.
        self.sequence.begin(start, end);
        while at < end && !budget.spent() {
            let ipa = address(at);
            let mut place = self.place(machine, ipa);
            budget.pay(machine, place.entry());
            if let Entry::Leaf(leaf) = place.entry() {
                if place.level < largest {
                    result = with_cache(machine, |machine, cache| {
                        cache.topup(machine, 1)?;
                        self.split(machine, cache, ipa, &mut place)
                            .map_err(Error::from)
                    });
                    if result.is_err() {
                        break;
                    }
                    continue;
                }
                let old = self.alter(machine, ipa, &mut place, &mut flush, Leaf::with_shared);
                if old.is_some() && !leaf.shared() {
                    let level = place.level;
                    self.counters.releaf(leaf, leaf.with_shared(), level);
                }
            }
            at = next(at, place.level);
        }
        flush.complete(machine);
        self.sequence.end();
        result.map(|()| at)
    }

    /// Links a `leaf` that another space shares at `ipa`, unless it is linked there already.
    fn adopt(
        &self,
        machine: &mut impl Machine,
        ipa: Ipa,
        leaf: Leaf,
        level: Level,
    ) -> Result<(), Error> {
        let there = self.leaf(machine, ipa);
        if there.is_some_and(|(own, at)| at == level && own.shared() && own.base() == leaf.base()) {
            return Ok(());
        }
        let leaf = leaf.with_no_notice().with_soft_dirty();
        with_cache(machine, |machine, cache| {
            self.link_use(machine, cache, ipa, leaf, level)
        })
    }

    /// Links `4096 << level.order()` bytes from `frame`, which the caller holds and nobody
    /// writes any more, into empty RAM at `ipa`: read-only, and copied when it is written.
    ///
    /// The mapping is a use of its own: it lasts when the caller's has ended. Fails with
    /// [`Error::NotShared`], [`Error::Unaligned`], [`Error::NotRam`] unless a slot holds all
    /// of it, [`Error::Occupied`] if anything is populated there, [`Error::TooManyUsers`] or
    /// [`Error::NoTables`]; then nothing has changed.
    pub fn link_shared(
        &self,
        machine: &mut impl Machine,
        cache: &mut Cache,
        ipa: Ipa,
        frame: Pa,
        level: Level,
    ) -> Result<(), Error> {
        if !self.may_share() {
            return Err(Error::NotShared);
        }
        let leaf_level = level >= Level::L2 && level >= self.policy.largest;
        if !leaf_level || !ipa.is_aligned(level.span()) || !frame.is_aligned(level.span()) {
            return Err(Error::Unaligned);
        }
        let slot = self.slots.find(ipa.raw()).ok_or(Error::NotRam)?;
        if !slot.holds_block(ipa.raw(), level) {
            return Err(Error::NotRam);
        }
        let leaf = self.fresh(frame, level).with_shared();
        self.link_use(machine, cache, ipa, leaf, level)
    }

    /// Counts a use of the leaf's frames and links it in an empty entry.
    fn link_use(
        &self,
        machine: &mut impl Machine,
        cache: &mut Cache,
        ipa: Ipa,
        leaf: Leaf,
        level: Level,
    ) -> Result<(), Error> {
        let want = Want {
            ipa,
            level,
            ticket: self.sequence.ticket(),
            from: Some(leaf.base()),
            zeroes: false,
        };
        let cost = self.tables_missing(machine, ipa, level)?;
        cache.topup(machine, cost)?;
        // Fails where another entry is in the way, before anything is counted.
        match self.walk(machine, cache, ipa, level, Flags::ALLOC) {
            Ok(place) if place.entry() == Entry::Empty => {}
            Ok(_) | Err(WalkError::LargerLeaf) => return Err(Error::Occupied { at: ipa }),
            Err(error) => return Err(error.into()),
        }
        if !machine.share(leaf.base(), level.order()) {
            return Err(Error::TooManyUsers);
        }
        let result = self.link_leaf(machine, cache, want, leaf, |_| ());
        if result.is_err() {
            machine.release(leaf.base(), level.order());
        }
        result.map_err(|error| match error {
            LinkError::Again | LinkError::Later => Error::Occupied { at: ipa },
            LinkError::NoMemory | LinkError::Limit => Error::NoTables,
        })
    }
}
