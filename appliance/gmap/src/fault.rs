//! Faults: RAM is a promise, and this keeps it.

use crate::desc::{Attr, Descriptor, Entry, Leaf, Perm};
use crate::level::Level;
use crate::machine::Machine;
use crate::slots::Slot;
use crate::space::Gmap;
use crate::walk::Place;
use arch::{Ipa, Pa};
use core::fmt;

/// What the guest tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A store (ESR_EL2.ISS.WnR, and not a stage-1 walk's read).
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
}

/// How a fault was answered; in each case the guest tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A zeroed frame of `4096 << order` bytes was mapped.
    Mapped {
        /// 0 or 9.
        order: u8,
    },
    /// The mapping was there: another vCPU was first, or only AF or dirty was missing.
    AlreadyMapped,
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
    /// The pool has no frame for the page or a table.
    OutOfMemory,
}

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSlot => "no RAM and no mapping there",
            Self::Permission => "access not allowed",
            Self::OutOfMemory => "no frame left",
        })
    }
}

impl core::error::Error for FaultError {}

impl Gmap {
    /// Answers a stage-2 translation, permission or access-flag fault at `ipa`.
    ///
    /// RAM gets a scrubbed 2 MiB frame where the block lies inside its slot, nothing of it
    /// is mapped yet and the pool has one; else a 4 KiB frame.
    pub fn fault(
        &mut self,
        machine: &mut impl Machine,
        ipa: Ipa,
        access: Access,
    ) -> Result<Fault, FaultError> {
        self.stats.faults = self.stats.faults.saturating_add(1);
        self.resolve(machine, ipa, access)
    }

    /// Returns the frame address of the page at `ipa`, populated and writable, for core to
    /// copy into.
    ///
    /// Not counted as a fault.
    pub fn populate(&mut self, machine: &mut impl Machine, ipa: Ipa) -> Result<Pa, FaultError> {
        self.resolve(machine, ipa, Access::WRITE)?;
        let (pa, _) = self.translate(machine, ipa).ok_or(FaultError::NoSlot)?;
        Ok(pa.align_down(4096))
    }

    fn resolve(
        &mut self,
        machine: &mut impl Machine,
        ipa: Ipa,
        access: Access,
    ) -> Result<Fault, FaultError> {
        if !self.contains(ipa) {
            return Err(FaultError::NoSlot);
        }
        let place = self.place(machine, ipa);
        match place.entry() {
            Entry::Leaf(leaf) => self.fix(machine, ipa, place, leaf, access),
            Entry::Empty => {
                let slot = self.slots.find(ipa.raw()).ok_or(FaultError::NoSlot)?;
                self.fill(machine, ipa, place, slot, access)
            }
            Entry::Table(_) | Entry::Reserved => panic!("a stage-2 table is corrupt"),
        }
    }

    /// Makes a present leaf sufficient for `access`, if it may be.
    fn fix(
        &self,
        machine: &impl Machine,
        ipa: Ipa,
        place: Place,
        leaf: Leaf,
        access: Access,
    ) -> Result<Fault, FaultError> {
        let (mut place, mut leaf) = (place, leaf);
        // Hardware can set AF and dirty once each meanwhile.
        for _ in 0..4 {
            let perm = leaf.perm();
            let plain_read = !access.write && !access.exec;
            if access.write && !perm.write || access.exec && !perm.exec || plain_read && !perm.read
            {
                return Err(FaultError::Permission);
            }
            let mut wanted = leaf.with_young();
            if access.write {
                wanted = wanted.with_dirty();
            }
            if wanted == leaf {
                return Ok(Fault::AlreadyMapped);
            }
            let (old, new) = (leaf.descriptor().raw(), wanted.descriptor().raw());
            match machine.compare_exchange(place.table, place.index, old, new) {
                Ok(()) => {
                    // An entry without AF is never cached; one that was read-only may be.
                    if leaf.young() {
                        machine.invalidate_ipa(self.vmid, ipa, place.level.number());
                    }
                    return Ok(Fault::AlreadyMapped);
                }
                Err(found) => place.found = Descriptor::from_raw(found),
            }
            match place.entry() {
                Entry::Leaf(now) => leaf = now,
                Entry::Empty | Entry::Table(_) | Entry::Reserved => break,
            }
        }
        // It changed under us: the guest tries again and finds what it is now.
        Ok(Fault::AlreadyMapped)
    }

    /// Populates the page at `ipa`, or the block around it.
    fn fill(
        &mut self,
        machine: &mut impl Machine,
        ipa: Ipa,
        place: Place,
        slot: Slot,
        access: Access,
    ) -> Result<Fault, FaultError> {
        let large = place.level <= Level::L2 && slot.holds_block(ipa.raw(), Level::L2);
        let levels = [Level::L2, Level::L3].into_iter();
        for level in levels.filter(|level| large || *level == Level::L3) {
            let order = level.order();
            let Some(frame) = machine.alloc(order) else {
                continue;
            };
            machine.scrub(frame, order);
            let mut leaf = Leaf::new(frame, level, Attr::Normal, Perm::RWX, self.features.fwb);
            if self.features.hafdbs && !access.write {
                leaf = leaf.with_clean();
            }
            if self.install(machine, ipa, leaf, level) {
                return Ok(Fault::Mapped { order });
            }
            machine.free(frame, order);
        }
        Err(FaultError::OutOfMemory)
    }
}
