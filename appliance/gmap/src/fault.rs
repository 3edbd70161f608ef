//! Faults: RAM is a promise, and this keeps it.
//!
//! Three steps, so that no frame is scrubbed under a lock. [`Gmap::look`] fixes a present
//! leaf that only lacks AF or dirty, or says what frame is wanted. The caller takes and
//! scrubs one. [`Gmap::link`] puts it in, unless the world has moved on. [`Gmap::fault`] is
//! all three. A write to a shared frame is answered elsewhere: `cow`.

use crate::bbm::Change;
use crate::cache::Cache;
use crate::desc::{Attr, Entry, Leaf, Perm};
use crate::gather::Flush;
use crate::level::Level;
use crate::machine::Machine;
use crate::sequence::Ticket;
use crate::sidecar::SIDECAR_PAGES;
use crate::space::{Gmap, with_cache};
use crate::walk::{Flags, Place, WalkError};
use arch::{Ipa, Pa};
use core::fmt;

/// What the guest tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A store.
    pub write: bool,
    /// An instruction fetch.
    pub exec: bool,
}

impl Access {
    /// A load.
    pub const READ: Self = Self {
        write: false,
        exec: false,
    };
    /// A store.
    pub const WRITE: Self = Self {
        write: true,
        exec: false,
    };
    /// An instruction fetch.
    pub const EXEC: Self = Self {
        write: false,
        exec: true,
    };

    /// Reads the syndrome of an abort from a lower exception level (ESR_EL2, EC 0x20 or
    /// 0x24); `None` for any other.
    ///
    /// A stage-1 walk (S1PTW) counts as a store only when it lacked permission: then it was
    /// hardware updating the guest's own descriptor (DDI 0487, ISS encoding for a Data
    /// Abort). Cache maintenance (CM) counts as a load, though WnR is set, until it
    /// lacks permission.
    pub fn from_esr(esr: u64) -> Option<Self> {
        const INSTRUCTION: u64 = 0x20;
        const DATA: u64 = 0x24;
        let bit = |n: u32| esr >> n & 1 != 0;
        // DFSC and IFSC 0b0011xx are permission faults.
        let permission = esr & 0x3c == 0x0c;
        let walk = bit(7);
        match esr >> 26 & 0x3f {
            INSTRUCTION => Some(Self {
                write: walk && permission,
                exec: !walk,
            }),
            DATA if walk => Some(Self {
                write: permission,
                exec: false,
            }),
            // Invalidation of a line by address asks for the right to write.
            DATA => Some(Self {
                write: bit(6) && (!bit(8) || permission),
                exec: false,
            }),
            _ => None,
        }
    }

    const fn allowed(self, perm: Perm) -> bool {
        let plain_read = !self.write && !self.exec;
        (perm.write || !self.write) && (perm.exec || !self.exec) && (perm.read || !plain_read)
    }
}

/// How a fault was answered; in each case the guest tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A zeroed frame of `4096 << order` bytes was mapped.
    Mapped {
        /// 0, 9 or 18.
        order: u8,
    },
    /// The mapping was there: another vCPU was first, or only AF or dirty was missing.
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

/// What [`Gmap::look`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The access works now, or should be tried again.
    Done,
    /// A frame is missing.
    Missing(Want),
    /// The page was written and is shared: a frame with a copy is missing.
    Shared(Want),
}

/// A frame that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the guest waits for it"]
pub struct Want {
    pub(crate) ipa: Ipa,
    pub(crate) level: Level,
    pub(crate) ticket: Ticket,
    /// Where the content of the page at `ipa` is to be copied from, if not zeroes.
    pub(crate) from: Option<Pa>,
}

impl Want {
    /// Returns the pool order of the frame: `4096 << order` bytes.
    pub fn order(&self) -> u8 {
        self.level.order()
    }

    /// Returns the first address it will be mapped at.
    pub fn ipa(&self) -> Ipa {
        self.ipa.align_down(self.level.span())
    }

    /// Asks for the next smaller frame instead.
    pub fn smaller(&self) -> Option<Self> {
        let level = self.level.below()?;
        Some(Self { level, ..*self })
    }

    /// Returns where the frame's content is to be copied from; `None` for zeroes.
    pub fn from(&self) -> Option<Pa> {
        Some(self.from?.align_down(self.level.span()))
    }

    /// Takes a frame and fills it with what is wanted.
    ///
    /// May run without any lock: should what is copied have gone meanwhile, the frame is
    /// refused.
    pub fn prepare(&self, machine: &mut impl Machine) -> Option<Pa> {
        let Some(from) = self.from() else {
            return machine.alloc_zeroed(self.order());
        };
        let frame = machine.alloc(self.order())?;
        machine.copy(frame, from, self.order());
        Some(frame)
    }
}

/// Why a frame was not linked. It is still the caller's, and nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// What was seen by [`Gmap::look`] is no longer so: look again.
    Again,
    /// The cache has fewer pages than [`Gmap::link_cost`]: top it up.
    NoMemory,
    /// The VM has all the memory or tables it may.
    Limit,
}

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

    pub(crate) fn resolve(
        &self,
        machine: &mut impl Machine,
        cache: &mut Cache,
        ipa: Ipa,
        access: Access,
    ) -> Result<Fault, FaultError> {
        for _ in 0..LOOKS {
            let mut want = match self.look(machine, ipa, access)? {
                Look::Done => return Ok(Fault::AlreadyMapped),
                Look::Shared(_) => return Ok(Fault::Shared),
                Look::Missing(first) => Some(first),
            };
            if let Some(shown) = want.and_then(|want| self.show_zeroes(machine, want, access)) {
                want = Some(shown);
            }
            while let Some(now) = want {
                match self.fill(machine, cache, now, access) {
                    Ok(()) => return Ok(Fault::Mapped { order: now.order() }),
                    Err(LinkError::Again) => break,
                    Err(LinkError::NoMemory | LinkError::Limit) => want = now.smaller(),
                }
            }
            if want.is_none() {
                return Err(FaultError::OutOfMemory);
            }
        }
        Ok(Fault::AlreadyMapped)
    }

    fn fill(
        &self,
        machine: &mut impl Machine,
        cache: &mut Cache,
        want: Want,
        access: Access,
    ) -> Result<(), LinkError> {
        cache
            .topup(machine, self.link_cost(machine, want)?)
            .map_err(|_| LinkError::NoMemory)?;
        if want.from.is_some() {
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
                let level = self.best_level(ipa, place.level)?;
                let from = None;
                Ok(Look::Missing(Want {
                    ipa,
                    level,
                    ticket,
                    from,
                }))
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
            .filter(|level| *level >= at && *level >= self.policy.largest)
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

impl From<WalkError> for LinkError {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::NoMemory => Self::NoMemory,
            WalkError::TableLimit => Self::Limit,
            WalkError::AddressSize
            | WalkError::Hole(_)
            | WalkError::BadLevel
            | WalkError::LargerLeaf
            | WalkError::NotPresent
            | WalkError::Busy => Self::Again,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Syndromes as literal numbers: EC in 31:26, WnR bit 6, S1PTW bit 7, CM bit 8.
    #[test]
    fn a_syndrome_says_what_the_guest_tried() {
        let cases = [
            (0x9200_0007, Some(Access::READ)),
            (0x9200_0047, Some(Access::WRITE)),
            (0x9200_004f, Some(Access::WRITE)),
            (0x8200_0007, Some(Access::EXEC)),
            // Cache maintenance.
            (0x9200_0147, Some(Access::READ)),
            (0x9200_014f, Some(Access::WRITE)),
            // A stage-1 walk that found no page, and one that may not write.
            (0x9200_00c7, Some(Access::READ)),
            (0x9200_008f, Some(Access::WRITE)),
            (0x8200_0087, Some(Access::READ)),
            (0x8200_008f, Some(Access::WRITE)),
            // HVC.
            (0x5a00_0000, None),
        ];
        for (esr, access) in cases {
            assert_eq!(Access::from_esr(esr), access, "{esr:#x}");
        }
    }
}
