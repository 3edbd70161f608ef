//! Stage-2 descriptors, exactly as they lie in memory (DDI 0487 D8.3).
//!
//! [`Descriptor`] is 64 bits of a table; [`Descriptor::decode`] says what they mean at a
//! level; [`Leaf`] is a valid block or page with its permissions and software bits. No
//! other module shifts or masks a descriptor.
//!
//! Software's view of a leaf: *writable* is DBM (bit 51), *dirty* is `S2AP[1]`, *young* is
//! AF. Hardware with FEAT_HAFDBS turns writable into dirty by itself; without it the first
//! write faults and [`crate::Gmap::fault`] does the same. Two more bits remember, for the
//! two who ask, that a leaf was dirty when somebody made it clean: see [`Leaf::soft_dirty`]
//! and [`Leaf::host_dirty`].
//!
//! An invalid descriptor is a token: *empty* RAM, a *hole*, or an entry that is *busy*.

use crate::level::Level;
use arch::Pa;

/// One 64-bit stage-2 descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Descriptor(u64);

/// A [`Descriptor`] read at its level, with every encoding accounted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// RAM that is not populated: a fault will map a zeroed frame.
    Empty,
    /// No memory, for this reason; [`HOLE_NO_MEMORY`] is the usual one.
    Hole(u16),
    /// Another CPU is in the middle of break-before-make: look again.
    Busy,
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
/// The page is one of sixteen that a TLB may hold as one (D8.7.1).
const CONTIGUOUS: u64 = 1 << 52;
const XN: u64 = 1 << 54;
// Bits 58:55 are software's (D8.3.2). So are 62:59 while VTCR_EL2.HWU59 to HWU62 are zero,
// as ours are: hardware gives them no meaning.
/// Dirty since the migration log was last read.
const SOFT_DIRTY: u64 = 1 << 55;
/// The frame is not the VM's own (a device, a window onto granted frames).
const SPECIAL: u64 = 1 << 56;
/// Hardware needs the page while a vCPU runs: whoever takes it away says so.
const PIN: u64 = 1 << 57;
/// A shadow table refers to the page.
const NESTED: u64 = 1 << 58;
/// Dirty since the host last looked.
const HOST_DIRTY: u64 = 1 << 59;
/// The frame may be somebody else's too: it is read, and copied before it is written.
const SHARED: u64 = 1 << 60;

// Tokens: bit 0 and 1 clear, type in 17:2, parameter in 33:18.
const TOKEN_TYPE_SHIFT: u32 = 2;
const TOKEN_PARAM_SHIFT: u32 = 18;
const TOKEN_HOLE: u64 = 1;
const TOKEN_BUSY: u64 = 2;

/// Why a hole is one: nothing was ever there. (The number is s390's addressing exception.)
pub const HOLE_NO_MEMORY: u16 = 5;

impl Descriptor {
    /// RAM that is not populated; invalid at every level.
    pub const EMPTY: Self = Self(0);
    /// No memory.
    pub const HOLE: Self = Self::hole(HOLE_NO_MEMORY);
    /// In the middle of break-before-make.
    pub const BUSY: Self = Self(TOKEN_BUSY << TOKEN_TYPE_SHIFT);

    /// Takes 64 bits as read from a table.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Returns the 64 bits as hardware reads them.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// No memory, because of `code`.
    pub const fn hole(code: u16) -> Self {
        Self((code as u64) << TOKEN_PARAM_SHIFT | TOKEN_HOLE << TOKEN_TYPE_SHIFT)
    }

    /// Returns whether hardware may use, and so cache, the descriptor.
    pub const fn valid(self) -> bool {
        self.0 & VALID != 0
    }

    /// Returns whether it is empty or a hole: what a whole table of may be folded into one.
    pub const fn foldable(self) -> bool {
        matches!(self.token(), Entry::Empty | Entry::Hole(_))
    }

    const fn token(self) -> Entry {
        if self.0 >> 34 != 0 || self.0 & (VALID | TABLE_OR_PAGE) != 0 {
            return Entry::Reserved;
        }
        let [low, high, ..] = (self.0 >> TOKEN_PARAM_SHIFT).to_le_bytes();
        let param = u16::from_le_bytes([low, high]);
        match (self.0 >> TOKEN_TYPE_SHIFT & 0xffff, param) {
            (0, 0) => Entry::Empty,
            (TOKEN_HOLE, code) => Entry::Hole(code),
            (TOKEN_BUSY, 0) => Entry::Busy,
            _ => Entry::Reserved,
        }
    }

    /// Points to the next-level table at `table`.
    pub const fn table(table: Pa) -> Self {
        Self(table.raw() & OUTPUT | TABLE_OR_PAGE | VALID)
    }

    /// Reads the descriptor as hardware does at `level`.
    pub const fn decode(self, level: Level) -> Entry {
        let table_or_page = self.0 & TABLE_OR_PAGE != 0;
        match (self.0 & VALID != 0, table_or_page, level) {
            (false, ..) => self.token(),
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

    /// Returns whether it was written since the migration log was last read, or is new.
    pub const fn soft_dirty(self) -> bool {
        self.0 & (SOFT_DIRTY | S2AP_WRITE) != 0
    }

    /// Returns whether the frame was written since the host last looked; never for a special
    /// leaf, whose frame is not the host's to know about.
    pub const fn host_dirty(self) -> bool {
        self.0 & (HOST_DIRTY | S2AP_WRITE) != 0 && !self.special()
    }

    /// Returns whether the frame belongs to somebody else than the VM.
    pub const fn special(self) -> bool {
        self.0 & SPECIAL != 0
    }

    /// Returns whether the frame may be somebody else's too, and so is never written.
    pub const fn shared(self) -> bool {
        self.0 & SHARED != 0
    }

    /// Returns whether nobody may write to it for a while, though it is the VM's own: see
    /// [`crate::Gmap::let_go`].
    pub const fn held(self) -> bool {
        self.0 & (DBM | SHARED | SPECIAL) == 0
    }

    /// Returns whether a running vCPU needs the page to stay as it is.
    pub const fn pinned(self) -> bool {
        self.0 & PIN != 0
    }

    /// Returns whether a shadow table refers to the page.
    pub const fn nested(self) -> bool {
        self.0 & NESTED != 0
    }

    /// Marks the frame as somebody else's.
    #[must_use]
    pub const fn with_special(self) -> Self {
        Self(self.0 | SPECIAL)
    }

    /// Returns whether a TLB may hold the page and its fifteen neighbours as one.
    pub const fn contiguous(self) -> bool {
        self.0 & CONTIGUOUS != 0
    }

    /// Makes it one of a group of sixteen.
    #[must_use]
    pub const fn with_contiguous(self) -> Self {
        Self(self.0 | CONTIGUOUS)
    }

    /// Returns the leaf of the same kind that leads to what lies behind it.
    #[must_use]
    pub(crate) const fn after(self, level: Level) -> Self {
        Self(self.0.wrapping_add(level.span()))
    }

    /// Makes it stand for itself.
    #[must_use]
    pub const fn with_separate(self) -> Self {
        Self(self.0 & !CONTIGUOUS)
    }

    /// Makes it young.
    #[must_use]
    pub const fn with_young(self) -> Self {
        Self(self.0 | AF)
    }

    /// Makes it old.
    #[must_use]
    pub const fn with_old(self) -> Self {
        Self(self.0 & !AF)
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
    ///
    /// Neither of the two who ask for dirty leaves loses anything by this.
    #[must_use]
    pub const fn with_clean(self) -> Self {
        Self(if self.dirty() {
            self.0 & !S2AP_WRITE | SOFT_DIRTY | HOST_DIRTY
        } else {
            self.0
        })
    }

    /// Makes it new to the migration log.
    #[must_use]
    pub const fn with_soft_dirty(self) -> Self {
        Self(self.0 | SOFT_DIRTY)
    }

    /// Makes it clean, and known to the migration log. The host still finds it dirty.
    #[must_use]
    pub const fn with_logged(self) -> Self {
        Self(self.with_clean().0 & !SOFT_DIRTY)
    }

    /// Makes it clean, and known to the host. The migration log still finds it dirty.
    #[must_use]
    pub const fn with_host_clean(self) -> Self {
        Self(self.with_clean().0 & !HOST_DIRTY)
    }

    /// Starts it without any dirty state, as a frame that was just zeroed.
    #[must_use]
    pub const fn with_no_dirt(self) -> Self {
        Self(self.0 & !(S2AP_WRITE | SOFT_DIRTY | HOST_DIRTY))
    }

    /// Notes that a running vCPU needs the page.
    #[must_use]
    pub const fn with_pin(self) -> Self {
        Self(self.0 | PIN)
    }

    /// Notes that a shadow table refers to the page.
    #[must_use]
    pub const fn with_nested(self) -> Self {
        Self(self.0 | NESTED)
    }

    /// Forgets who is to be told of a change.
    #[must_use]
    pub const fn with_no_notice(self) -> Self {
        Self(self.0 & !(PIN | NESTED))
    }

    /// Takes the right to write away, and what it left as dirty state is kept.
    #[must_use]
    pub const fn with_read_only(self) -> Self {
        Self(self.with_clean().0 & !DBM)
    }

    /// Shares the frame: read-only, and what it was as dirty state is kept.
    #[must_use]
    pub const fn with_shared(self) -> Self {
        Self(self.with_read_only().0 | SHARED)
    }

    /// Makes the frame the VM's own, which may write to it; not dirty yet, if it was shared or held.
    #[must_use]
    pub const fn with_own(self) -> Self {
        Self(self.0 & !SHARED | DBM)
    }

    /// Gives it another frame.
    #[must_use]
    pub const fn with_base(self, base: Pa) -> Self {
        Self(self.0 & !OUTPUT | base.raw() & OUTPUT)
    }

    /// Returns the children's parent when 512 of them are one block again: the permissions
    /// are this child's, young and dirty state that of any of them.
    #[must_use]
    pub const fn block(self, base: Pa, young: bool, dirty: bool, soft: bool, host: bool) -> Self {
        const fn bit(on: bool, mask: u64) -> u64 {
            if on { mask } else { 0 }
        }
        let state =
            bit(young, AF) | bit(dirty, S2AP_WRITE) | bit(soft, SOFT_DIRTY) | bit(host, HOST_DIRTY);
        let kept = self.0 & !(TABLE_OR_PAGE | AF | S2AP_WRITE | SOFT_DIRTY | HOST_DIRTY);
        Self(kept | state).with_base(base)
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
