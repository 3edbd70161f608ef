//! One VM's IPA space: what it is made of, and what is known about it.

use crate::desc::{Entry, Leaf, Perm};
use crate::level::Level;
use crate::machine::Machine;
use crate::shape::Shape;
use crate::slots::{Slot, Slots};
use crate::walk::{self, Place};
use arch::{Ipa, Pa};
use core::fmt;

/// What the CPUs can do, and core has switched on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// HCR_EL2.FWB is set: MemAttr has the encodings of FEAT_S2FWB.
    pub fwb: bool,
    /// VTCR_EL2.HA and HD are set: hardware sets AF and dirty state (FEAT_HAFDBS).
    pub hafdbs: bool,
}

/// Why a change to an IPA space was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The IPA width is not 32 to 48 bits.
    IpaBits,
    /// An address or a length is not a multiple of 4096, or the length is zero.
    Unaligned,
    /// The range leaves the IPA space, or the output range leaves 48 bits.
    OutOfSpace,
    /// A mapping or a RAM slot is there already.
    Occupied {
        /// First address known to be taken.
        at: Ipa,
    },
    /// The range meets a RAM slot, whose frames are not unmapped this way.
    NotFixed {
        /// First address of the slot inside the range.
        at: Ipa,
    },
    /// The pool has no table page left.
    NoTables,
    /// All RAM slots are used.
    TooManySlots,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IpaBits => f.write_str("IPA width not in 32 to 48 bits"),
            Self::Unaligned => f.write_str("address or length not page-aligned, or empty"),
            Self::OutOfSpace => f.write_str("range leaves the address space"),
            Self::Occupied { at } => write!(f, "{at:?} is taken"),
            Self::NotFixed { at } => write!(f, "{at:?} is RAM"),
            Self::NoTables => f.write_str("no frame left for a table"),
            Self::TooManySlots => f.write_str("all RAM slots are used"),
        }
    }
}

impl core::error::Error for Error {}

/// What a space holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of RAM that are populated.
    pub resident_bytes: u64,
    /// Bytes of table pages, the root included.
    pub table_bytes: u64,
    /// Leaves of 4 KiB, 2 MiB and 1 GiB, fixed mappings included.
    pub leaves: [u64; 3],
    /// Faults handled, refused ones included.
    pub faults: u64,
}

/// One VM's stage 2.
///
/// The tables are freed by [`Gmap::destroy`] only; dropping a `Gmap` leaks them.
#[derive(Debug)]
pub struct Gmap {
    pub(crate) root: Pa,
    pub(crate) shape: Shape,
    pub(crate) vmid: u16,
    pub(crate) features: Features,
    pub(crate) slots: Slots,
    pub(crate) stats: Stats,
    /// How far [`Gmap::destroy`] has come; addresses below it are gone.
    pub(crate) gone: u64,
    /// The root is freed, and no address is in the space any more.
    pub(crate) dead: bool,
}

impl Gmap {
    /// Creates an empty space of `ipa_bits` bits (32 to 48, at most what PARange says).
    ///
    /// Fails with [`Error::IpaBits`] or [`Error::NoTables`].
    pub fn new(
        machine: &mut impl Machine,
        vmid: u16,
        ipa_bits: u8,
        features: Features,
    ) -> Result<Self, Error> {
        let shape = Shape::new(ipa_bits).ok_or(Error::IpaBits)?;
        let root = machine.alloc(shape.root_order()).ok_or(Error::NoTables)?;
        machine.scrub(root, shape.root_order());
        Ok(Self {
            root,
            shape,
            vmid,
            features,
            slots: Slots::default(),
            stats: Stats {
                table_bytes: 4096 << shape.root_order(),
                ..Stats::default()
            },
            gone: 0,
            dead: false,
        })
    }

    /// Returns the value of VTTBR_EL2: the root and the VMID, CnP = 0.
    ///
    /// After [`Gmap::destroy`] is done it must not be loaded any more.
    pub fn vttbr(&self) -> u64 {
        self.root.raw() | u64::from(self.vmid) << 48
    }

    /// Returns the VMID the space was created with.
    pub fn vmid(&self) -> u16 {
        self.vmid
    }

    /// Returns what the space holds.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Makes `bytes` from `ipa` RAM, to be populated by fault. Nothing is mapped.
    ///
    /// Fails with [`Error::Unaligned`], [`Error::OutOfSpace`], [`Error::TooManySlots`], or
    /// [`Error::Occupied`] where another slot or a mapping is.
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
        let slot = Slot { start, end };
        self.slots.add(slot).ok_or(Error::TooManySlots)
    }

    /// Translates as the hardware would: the address, and what may be done with it.
    ///
    /// A permission that takes only a fix-up by [`Gmap::fault`] is counted as there.
    pub fn translate(&self, machine: &impl Machine, ipa: Ipa) -> Option<(Pa, Perm)> {
        let (leaf, level) = self.leaf_at(machine, ipa)?;
        let offset = ipa.raw() & level.span().wrapping_sub(1);
        Some((leaf.base().checked_add(offset)?, leaf.perm()))
    }

    /// Returns the leaf that maps `ipa`.
    pub(crate) fn leaf_at(&self, machine: &impl Machine, ipa: Ipa) -> Option<(Leaf, Level)> {
        if !self.contains(ipa) {
            return None;
        }
        let place = self.place(machine, ipa);
        match place.entry() {
            Entry::Leaf(leaf) => Some((leaf, place.level)),
            Entry::Empty | Entry::Table(_) | Entry::Reserved => None,
        }
    }

    /// Returns the entry where the tables for `ipa`, which is in the space, end.
    pub(crate) fn place(&self, machine: &impl Machine, ipa: Ipa) -> Place {
        walk::descend(machine, self.shape, self.root, ipa, Level::L3)
    }

    /// Returns whether `ipa` is in the space.
    pub(crate) fn contains(&self, ipa: Ipa) -> bool {
        !self.dead && ipa.raw() < self.shape.limit()
    }

    /// Checks a range and returns its end.
    pub(crate) fn check_range(&self, ipa: Ipa, bytes: u64) -> Result<u64, Error> {
        if !ipa.is_aligned(4096) || !bytes.is_multiple_of(4096) || bytes == 0 {
            return Err(Error::Unaligned);
        }
        let end = ipa.raw().checked_add(bytes).ok_or(Error::OutOfSpace)?;
        if self.dead || end > self.shape.limit() {
            return Err(Error::OutOfSpace);
        }
        Ok(end)
    }

    /// Fails where a RAM slot meets the range.
    pub(crate) fn check_no_slot(&self, start: u64, end: u64) -> Result<(), Error> {
        match self.slots.overlap(start, end) {
            Some(slot) => Err(Error::Occupied {
                at: address(slot.start.max(start)),
            }),
            None => Ok(()),
        }
    }

    /// Counts a leaf that was linked.
    pub(crate) fn count_leaf(&mut self, leaf: Leaf, level: Level) {
        if let Some(count) = leaf_count(&mut self.stats, level) {
            *count = count.saturating_add(1);
        }
        if !leaf.special() {
            self.stats.resident_bytes = self.stats.resident_bytes.saturating_add(level.span());
        }
    }

    /// Counts a leaf that was unlinked.
    pub(crate) fn uncount_leaf(&mut self, leaf: Leaf, level: Level) {
        if let Some(count) = leaf_count(&mut self.stats, level) {
            *count = count.saturating_sub(1);
        }
        if !leaf.special() {
            self.stats.resident_bytes = self.stats.resident_bytes.saturating_sub(level.span());
        }
    }
}

fn leaf_count(stats: &mut Stats, level: Level) -> Option<&mut u64> {
    let [pages, large, huge] = &mut stats.leaves;
    match level {
        Level::L0 => None,
        Level::L1 => Some(huge),
        Level::L2 => Some(large),
        Level::L3 => Some(pages),
    }
}

/// Makes an address of a number already known to lie in a 48-bit space.
pub(crate) fn address(raw: u64) -> Ipa {
    Ipa::new(raw).expect("checked against the space's limit")
}
