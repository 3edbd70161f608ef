//! Stage-2 descriptors, exactly as they lie in memory (DDI 0487 D8.3).
//!
//! [`Descriptor`] is 64 bits of a table; [`Descriptor::decode`] says what they mean at a
//! level; [`Leaf`] is a valid block or page with its permissions and software bits. No
//! other module shifts or masks a descriptor.
//!
//! Software's view of a leaf: *writable* is DBM (bit 51), *dirty* is `S2AP[1]`, *young* is
//! AF. Hardware with FEAT_HAFDBS turns writable into dirty by itself; without it the first
//! write faults and [`crate::Gmap::fault`] does the same.

use crate::level::Level;
use arch::Pa;

/// One 64-bit stage-2 descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Descriptor(u64);

/// A [`Descriptor`] read at its level, with every encoding accounted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing is mapped.
    Empty,
    /// The walk goes on in the table at this address.
    Table(Pa),
    /// A block (level 1 or 2) or a page (level 3).
    Leaf(Leaf),
    /// A reserved encoding: we never write one, so the table is corrupt.
    Reserved,
}

/// A valid block or page descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf(u64);

/// Memory type of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attr {
    /// Normal, write-back cacheable.
    Normal,
    /// Normal, non-cacheable.
    NormalNc,
    /// Device-nGnRE; never executable.
    Device,
}

/// What a guest may do with a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Perm {
    /// Loads.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Instruction fetches.
    pub exec: bool,
}

impl Perm {
    /// Everything: guest RAM.
    pub const RWX: Self = Self {
        read: true,
        write: true,
        exec: true,
    };
    /// Loads and stores.
    pub const RW: Self = Self {
        read: true,
        write: true,
        exec: false,
    };
    /// Loads.
    pub const R: Self = Self {
        read: true,
        write: false,
        exec: false,
    };
}

const VALID: u64 = 1 << 0;
/// At levels 0 to 2: table, not block. At level 3: must be one.
const TABLE_OR_PAGE: u64 = 1 << 1;
const MEMATTR_SHIFT: u32 = 2;
const S2AP_READ: u64 = 1 << 6;
const S2AP_WRITE: u64 = 1 << 7;
const SH_INNER: u64 = 0b11 << 8;
const AF: u64 = 1 << 10;
const OUTPUT: u64 = 0x0000_ffff_ffff_f000;
const DBM: u64 = 1 << 51;
const XN: u64 = 1 << 54;
/// Software: the frame is not the VM's own (a device, a window onto granted frames).
const SPECIAL: u64 = 1 << 56;

impl Descriptor {
    /// Nothing mapped; invalid at every level.
    pub const EMPTY: Self = Self(0);

    /// Takes 64 bits as read from a table.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Returns the 64 bits as hardware reads them.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Points to the next-level table at `table`.
    pub const fn table(table: Pa) -> Self {
        Self(table.raw() & OUTPUT | TABLE_OR_PAGE | VALID)
    }

    /// Reads the descriptor as hardware does at `level`.
    pub const fn decode(self, level: Level) -> Entry {
        if self.0 == 0 {
            return Entry::Empty;
        }
        let table_or_page = self.0 & TABLE_OR_PAGE != 0;
        match (self.0 & VALID != 0, table_or_page, level) {
            (false, ..) => Entry::Reserved,
            (true, false, Level::L0 | Level::L3) => Entry::Reserved,
            (true, true, Level::L0 | Level::L1 | Level::L2) => match Pa::new(self.0 & OUTPUT) {
                Some(table) => Entry::Table(table),
                None => Entry::Reserved,
            },
            (true, false, Level::L1 | Level::L2) | (true, true, Level::L3) => {
                Entry::Leaf(Leaf(self.0))
            }
        }
    }
}

impl Leaf {
    /// Maps `level.span()` bytes from `base`: young, and dirty if it may be written.
    ///
    /// `fwb` selects the MemAttr encodings of HCR_EL2.FWB = 1 (DDI 0487 D8.6.6).
    pub const fn new(base: Pa, level: Level, attr: Attr, perm: Perm, fwb: bool) -> Self {
        let memattr: u64 = match (attr, fwb) {
            (Attr::Normal, false) => 0b1111,
            (Attr::Normal, true) => 0b0110,
            (Attr::NormalNc, _) => 0b0101,
            (Attr::Device, _) => 0b0001,
        };
        let mut bits = base.raw() & OUTPUT | memattr << MEMATTR_SHIFT | SH_INNER | AF | VALID;
        if perm.read {
            bits |= S2AP_READ;
        }
        if perm.write {
            bits |= S2AP_WRITE | DBM;
        }
        if !perm.exec || matches!(attr, Attr::Device) {
            bits |= XN;
        }
        if matches!(level, Level::L3) {
            bits |= TABLE_OR_PAGE;
        }
        Self(bits)
    }

    /// Returns the leaf as it lies in a table.
    pub const fn descriptor(self) -> Descriptor {
        Descriptor(self.0)
    }

    /// Returns the first byte of the output range.
    pub const fn base(self) -> Pa {
        match Pa::new(self.0 & OUTPUT) {
            Some(base) => base,
            // OUTPUT has no bit above 47.
            None => unreachable!(),
        }
    }

    /// Returns what the guest may do, whether or not it needs a fix-up first.
    pub const fn perm(self) -> Perm {
        Perm {
            read: self.0 & S2AP_READ != 0,
            write: self.0 & DBM != 0,
            exec: self.0 & XN == 0,
        }
    }

    /// Returns whether the guest accessed it since it was last made old.
    pub const fn young(self) -> bool {
        self.0 & AF != 0
    }

    /// Returns whether it was written, or may be without anyone noticing.
    pub const fn dirty(self) -> bool {
        self.0 & S2AP_WRITE != 0
    }

    /// Returns whether the frame belongs to somebody else than the VM.
    pub const fn special(self) -> bool {
        self.0 & SPECIAL != 0
    }

    /// Marks the frame as somebody else's.
    #[must_use]
    pub const fn with_special(self) -> Self {
        Self(self.0 | SPECIAL)
    }

    /// Makes it young.
    #[must_use]
    pub const fn with_young(self) -> Self {
        Self(self.0 | AF)
    }

    /// Makes it dirty if it may be written, else leaves it.
    #[must_use]
    pub const fn with_dirty(self) -> Self {
        if self.0 & DBM != 0 {
            Self(self.0 | S2AP_WRITE)
        } else {
            self
        }
    }

    /// Makes it clean: the next write sets dirty again, by hardware or by a fault.
    #[must_use]
    pub const fn with_clean(self) -> Self {
        Self(self.0 & !S2AP_WRITE)
    }

    /// Returns the child at `offset` bytes when a leaf of the level above `level` is split.
    ///
    /// Permissions, young, dirty and software bits are the parent's.
    #[must_use]
    pub const fn child(self, offset: u64, level: Level) -> Self {
        let page = if matches!(level, Level::L3) {
            TABLE_OR_PAGE
        } else {
            0
        };
        Self(self.0 | offset & OUTPUT | page)
    }
}

const _: () = assert!(size_of::<Descriptor>() == 8);
