//! Faults: RAM is a promise, and this keeps it.
//!
//! Three steps, so that no frame is scrubbed under a lock. [`Gmap::look`] fixes a present
//! leaf that only lacks AF or dirty, or says what frame is wanted. The caller takes and
//! scrubs one. [`Gmap::link`] puts it in, unless the world has moved on. [`Gmap::fault`] is
//! all three. A write to a shared frame is answered elsewhere: `cow`.

use crate::access::Access;
use crate::bbm::Change;
use crate::cache::Cache;
use crate::desc::{Attr, Entry, Leaf, Perm};
use crate::gather::Flush;
use crate::level::Level;
use crate::machine::Machine;
use crate::sequence::Ticket;
use crate::sidecar::SIDECAR_PAGES;
use crate::space::{Gmap, with_cache};
use crate::walk::{Flags, Place};
use crate::want::{LinkError, Look, Want, settle};
use arch::{Ipa, Pa};
use core::fmt;

/// How a fault was answered; in each case the guest tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A zeroed frame of `4096 << order` bytes was mapped.
    Mapped {
        /// 0, 9 or 18.
        order: u8,
    },
    /// The mapping was there: another vCPU was first, or only AF or dirty was missing. Or it
    /// is not there yet, and the access is to be tried again.
    AlreadyMapped,
    /// The page is shared and was written: nothing was done, [`Gmap::unshare`] is asked for.
    Shared,
}

/// Why a fault cannot be answered. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultError {
    /// There is no RAM and no mapping at the address: emulate a device, or inject an
    /// external abort.
    NoSlot,
    /// The mapping does not allow the access.
    Permission,
    /// The pool has no frame for the page or a table, or the VM's limit is reached.
    OutOfMemory,
    /// The page is shared and not to be written: [`Gmap::unshare`] it first.
    Shared,
}

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSlot => "no RAM and no mapping there",
            Self::Permission => "access not allowed",
            Self::OutOfMemory => "no frame left",
            Self::Shared => "page is shared",
        })
    }
}

impl core::error::Error for FaultError {}

/// Looks before it is left to the guest to try again.
const LOOKS: usize = 4;

impl Gmap {
    /// Answers a stage-2 translation, permission or access-flag fault at `ipa`.
    ///
    /// RAM gets the largest scrubbed frame that the policy allows, whose block lies inside
    /// its slot, of which nothing is mapped yet, and which the pool has.
    pub fn fault(
        &self,
        machine: &mut impl Machine,
        ipa: Ipa,
        access: Access,
    ) -> Result<Fault, FaultError> {
        self.counters.fault();
        with_cache(machine, |machine, cache| {
            self.resolve(machine, cache, ipa, access)
        })
    }

    /// As [`Self::fault`], with tables from a cache that the vCPU keeps.
    pub fn fault_with(
        &self,
        machine: &mut impl Machine,
        cache: &mut Cache,
        ipa: Ipa,
        access: Access,
    ) -> Result<Fault, FaultError> {
        self.counters.fault();
        self.resolve(machine, cache, ipa, access)
    }

    /// Counts a fault that the caller resolves by [`Self::look`] and [`Self::link`].
    pub fn count_fault(&self) {
        self.counters.fault();
    }

    /// Returns the frame address of the page at `ipa`, populated and writable, for core to
    /// copy into.
    ///
    /// Not counted as a fault. The page is dirty from now on. Fails with
    /// [`FaultError::Shared`] if it is shared: [`Self::unshare`] comes first.
    pub fn populate(&self, machine: &mut impl Machine, ipa: Ipa) -> Result<Pa, FaultError> {
        let result = with_cache(machine, |machine, cache| {
            self.resolve(machine, cache, ipa, Access::WRITE)
        })?;
        if result == Fault::Shared {
            return Err(FaultError::Shared);
        }
        let (pa, _) = self.translate(machine, ipa).ok_or(FaultError::NoSlot)?;
        Ok(pa.align_down(4096))
    }

    pub(crate) fn resolve<M: Machine>(
        &self,
        machine: &mut M,
        cache: &mut Cache,
        ipa: Ipa,
        access: Access,
    ) -> Result<Fault, FaultError> {
        let result = settle(
            &mut (machine, cache),
            LOOKS,
            |(machine, _): &mut (&mut M, &mut Cache)| match self.look(*machine, ipa, access)? {
                Look::Shared(_) => Err(FaultError::Shared),
                other => Ok(other),
            },
            |(machine, cache), look| self.fill(*machine, cache, look, access),
        );
        match result {
            Err(FaultError::Shared) => Ok(Fault::Shared),
            other => other,
        }
    }

    pub(crate) fn fill(
        &self,
        machine: &mut impl Machine,
        cache: &mut Cache,
        look: Look,
        access: Access,
    ) -> Result<(), LinkError> {
        let want = look.want().ok_or(LinkError::Again)?;
        if let Look::Held(want) = look {
            self.let_go(machine, want.ipa());
            return Err(LinkError::Again);
        }
        cache
            .topup(machine, self.link_cost(machine, want)?)
            .map_err(|_| LinkError::NoMemory)?;
        if let Look::Zeroes(want) = look {
            return self.link_zeroes(machine, cache, want);
        }
        let frame = machine.alloc_zeroed(want.order());
        let frame = frame.ok_or(LinkError::NoMemory)?;
        let result = self.link(machine, cache, want, frame, access, |_, _| ());
        if result.is_err() {
            machine.free(frame, want.order());
        }
        result
    }

    /// Makes a present leaf sufficient for `access`, or says what frame is missing.
    ///
    /// Allocates nothing and waits for nothing; under the VM's lock held shared, or even
    /// without it as long as no table can be freed.
    pub fn look(
        &self,
        machine: &impl Machine,
        ipa: Ipa,
        access: Access,
    ) -> Result<Look, FaultError> {
        if !self.contains(ipa) {
            return Err(FaultError::NoSlot);
        }
        let ticket = self.sequence.ticket();
        let place = self.place(machine, ipa);
        match place.entry() {
            Entry::Leaf(_) => self.fix(machine, ipa, place, access, ticket),
            Entry::Busy => Ok(Look::Done),
            Entry::Hole(_) => Err(FaultError::NoSlot),
            Entry::Empty => {
                let want = Want {
                    ipa,
                    level: self.best_level(ipa, place.level)?,
                    ticket,
                    from: None,
                    zeroes: false,
                };
                let shown = self.show_zeroes(machine, want, access);
                Ok(shown.map_or(Look::Missing(want), Look::Zeroes))
            }
            Entry::Table(_) | Entry::Reserved => crate::walk::corrupt(),
        }
    }

    /// Returns the level of the largest leaf that may be linked for `ipa`, at or below `at`.
    pub(crate) fn best_level(&self, ipa: Ipa, at: Level) -> Result<Level, FaultError> {
        let slot = self.slots.find(ipa.raw()).ok_or(FaultError::NoSlot)?;
        let room = self
            .policy
            .ram_limit
            .saturating_sub(self.counters.resident_bytes());
        Level::LEAVES
            .into_iter()
            .filter(|level| *level >= at && *level >= self.largest())
            .filter(|level| level.span() <= room)
            .find(|level| slot.holds_block(ipa.raw(), *level))
            .ok_or(FaultError::OutOfMemory)
    }

    /// The minor fault: sets AF, and dirty for a store, by compare-and-swap.
    fn fix(
        &self,
        machine: &impl Machine,
        ipa: Ipa,
        place: Place,
        access: Access,
        ticket: Ticket,
    ) -> Result<Look, FaultError> {
        let mut place = place;
        let base = ipa.align_down(place.level.span());
        let mut flush = Flush::new(self.vmid);
        while let Entry::Leaf(leaf) = place.entry() {
            let mut wanted = leaf.with_young();
            if leaf.shared() && access.write {
                // Whoever else used the frame may have let it go.
                let room = self.has_room(place.level.span());
                if machine.shared(leaf.base(), place.level.order()) || !room {
                    return self.want_copy(machine, ipa, place, leaf, ticket);
                }
                wanted = wanted.with_own();
            } else if leaf.held() && access.write {
                if self.moves(base, place.level, leaf) {
                    let level = place.level;
                    return Ok(Look::Held(Want {
                        ipa,
                        level,
                        ticket,
                        from: None,
                        zeroes: false,
                    }));
                }
                wanted = wanted.with_own();
            } else if !access.allowed(leaf.perm()) {
                return Err(FaultError::Permission);
            }
            if access.write {
                wanted = wanted.with_dirty();
            }
            if wanted == leaf {
                return Ok(Look::Done);
            }
            // Each failure means that somebody else set one of two bits, or took the leaf.
            if self.replace(machine, base, &mut place, wanted.descriptor(), &mut flush) {
                flush.complete(machine);
                self.counters.minor();
                if wanted.shared() != leaf.shared() {
                    self.counters.releaf(leaf, wanted, place.level);
                }
                return Ok(Look::Done);
            }
        }
        Ok(Look::Done)
    }

    /// Returns the pages that [`Self::link`] may take from the cache.
    pub fn link_cost(&self, machine: &impl Machine, want: Want) -> Result<usize, LinkError> {
        let tables = self.tables_missing(machine, want.ipa(), want.level);
        let tables = tables.map_err(|_| LinkError::Limit)?;
        let sidecar = if self.keys_enabled() {
            SIDECAR_PAGES
        } else {
            0
        };
        Ok(tables.saturating_add(sidecar))
    }

    /// Links `frame`, zeroed and aligned to its size, where it is wanted.
    ///
    /// `then` runs with the frame just before the guest can see it, under the lock.
    pub fn link<M: Machine>(
        &self,
        machine: &M,
        cache: &mut Cache,
        want: Want,
        frame: Pa,
        access: Access,
        then: impl FnOnce(&M, Pa),
    ) -> Result<(), LinkError> {
        assert!(
            frame.is_aligned(want.level.span()),
            "a frame is not aligned"
        );
        if want.from.is_some() {
            return Err(LinkError::Again);
        }
        if !self.has_room(want.level.span()) {
            return Err(LinkError::Limit);
        }
        let mut leaf = self.fresh(frame, want.level);
        if access.write || self.policy.eager && !self.features.hafdbs {
            leaf = leaf.with_dirty();
        }
        self.link_leaf(machine, cache, want, leaf, |machine| then(machine, frame))
    }

    /// Returns a leaf of RAM that is new to the migration log and otherwise clean.
    pub(crate) fn fresh(&self, frame: Pa, level: Level) -> Leaf {
        Leaf::new(frame, level, Attr::Normal, Perm::RWX, self.features.fwb)
            .with_no_dirt()
            .with_soft_dirty()
    }

    /// Links `leaf` where it is wanted, in an empty entry.
    pub(crate) fn link_leaf<M: Machine>(
        &self,
        machine: &M,
        cache: &mut Cache,
        want: Want,
        leaf: Leaf,
        then: impl FnOnce(&M),
    ) -> Result<(), LinkError> {
        let (base, level) = (want.ipa(), want.level);
        let end = base.raw().saturating_add(level.span());
        if !self.sequence.good(want.ticket, base.raw(), end) {
            return Err(LinkError::Again);
        }
        if cache.len() < self.link_cost(machine, want)? {
            return Err(LinkError::NoMemory);
        }
        if self.keys_enabled() {
            self.sidecar.ensure(machine, cache, base)?;
        }
        let mut place = self.walk(machine, cache, base, level, Flags::ALLOC)?;
        if place.entry() != Entry::Empty || self.slots.find(want.ipa.raw()).is_none() {
            return Err(LinkError::Again);
        }
        debug_assert_eq!(
            crate::bbm::change(place.found, leaf.descriptor(), level == Level::L3),
            Change::Store
        );
        then(machine);
        self.populated(machine, base, level);
        if !place.swap(machine, leaf.descriptor()) {
            return Err(LinkError::Again);
        }
        self.counters.leaves(leaf, level, 1);
        Ok(())
    }

    /// Forgets what page states say of a page that had no frame.
    pub(crate) fn populated(&self, machine: &impl Machine, ipa: Ipa, level: Level) {
        if self.states && self.sidecar.exists() {
            self.sidecar.update_range(machine, ipa, level, |word| {
                word.with_zero(false).with_hint(false)
            });
        }
    }

    /// Returns whether the VM may have `bytes` more.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        let resident = self.counters.resident_bytes().saturating_add(bytes);
        resident <= self.policy.ram_limit
    }
}
