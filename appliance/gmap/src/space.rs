//! One VM's IPA space: what it is made of, and what is known about it.

use crate::cache::{Cache, NoMemory};
use crate::counters::{Counters, Stats};
use crate::desc::{Descriptor, Entry, Leaf, Perm};
use crate::half::Half;
use crate::keys::KeyState;
use crate::level::Level;
use crate::machine::Machine;
use crate::sequence::Sequence;
use crate::shape::Shape;
use crate::sidecar::Sidecar;
use crate::slots::Slots;
use crate::walk::WalkError;
use arch::{Ipa, Pa};
use core::fmt;
use core::sync::atomic::AtomicU64;

/// What the CPUs can do, and core has switched on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// HCR_EL2.FWB is set: MemAttr has the encodings of FEAT_S2FWB.
    pub fwb: bool,
    /// VTCR_EL2.HA and HD are set: hardware sets AF and dirty state (FEAT_HAFDBS).
    pub hafdbs: bool,
}

/// What a VM may have, and how. All of it may be changed while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Largest leaf for RAM: [`Level::L1`], [`Level::L2`] or [`Level::L3`].
    pub largest: Level,
    /// Most bytes of RAM to populate.
    pub ram_limit: u64,
    /// Most bytes of table pages, the root included.
    pub table_limit: u64,
    /// Where hardware does not keep dirty state, RAM is mapped dirty at its first touch: one
    /// fault less for a page that is read before it is written, which then counts as
    /// written. Off, dirty state is as exact as with FEAT_HAFDBS.
    pub eager: bool,
    /// Frames of RAM are scrubbed when they are freed, not only before they are used again.
    /// Such a VM shares none, and gets no leaf above 2 MiB: one would take too long.
    pub wipe: bool,
    /// Largest piece of a shared leaf that is copied at once when it is written.
    pub copy: Level,
    /// A page that is read before it is written gets the machine's zeroes
    /// ([`Machine::zeroes`]), which it shares, and a frame of its own once it is written.
    pub zeroes: bool,
}

impl Default for Policy {
    /// Leaves of 2 MiB, no limits, dirty at first touch, no scrubbing beyond what reuse
    /// needs; a shared page is copied alone, and no zeroes are shared.
    fn default() -> Self {
        Self {
            largest: Level::L2,
            ram_limit: u64::MAX,
            table_limit: u64::MAX,
            eager: true,
            wipe: false,
            copy: Level::L3,
            zeroes: false,
        }
    }
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
    /// No RAM slot holds the range, or none begins there.
    NotRam,
    /// The pool has no table page left, or the VM's limit is reached.
    NoTables,
    /// All RAM slots are used.
    TooManySlots,
    /// The VM has vCPUs, and this must come before them.
    HasVcpus,
    /// One of the spaces shares no frames: it has keys or wipes, or sharing was ended.
    NotShared,
    /// The frame cannot be shared, or has as many users as can be counted.
    TooManyUsers,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IpaBits => f.write_str("IPA width not in 32 to 48 bits"),
            Self::Unaligned => f.write_str("address or length not page-aligned, or empty"),
            Self::OutOfSpace => f.write_str("range leaves the address space"),
            Self::Occupied { at } => write!(f, "{at:?} is taken"),
            Self::NotFixed { at } => write!(f, "{at:?} is RAM"),
            Self::NotRam => f.write_str("no RAM there"),
            Self::NoTables => f.write_str("no frame left for a table"),
            Self::TooManySlots => f.write_str("all RAM slots are used"),
            Self::HasVcpus => f.write_str("the VM has vCPUs already"),
            Self::NotShared => f.write_str("the VM shares no frames"),
            Self::TooManyUsers => f.write_str("the frame cannot be shared once more"),
        }
    }
}

impl core::error::Error for Error {}

impl From<NoMemory> for Error {
    fn from(_: NoMemory) -> Self {
        Self::NoTables
    }
}

impl From<WalkError> for Error {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::NoMemory | WalkError::TableLimit => Self::NoTables,
            WalkError::AddressSize | WalkError::Hole(_) | WalkError::BadLevel => Self::OutOfSpace,
            WalkError::LargerLeaf | WalkError::NotPresent | WalkError::Busy => Self::NotRam,
        }
    }
}

/// One VM's stage 2.
///
/// Methods that take `&self` run under the VM's lock held shared, by any number of CPUs;
/// methods that take `&mut self` need it exclusively. The tables are freed by
/// [`Gmap::destroy`] only; dropping a `Gmap` leaks them.
#[derive(Debug)]
pub struct Gmap {
    pub(crate) root: Pa,
    pub(crate) shape: Shape,
    pub(crate) vmid: u16,
    pub(crate) features: Features,
    /// FEAT_BBM level 2: a block may become a table without an invalid entry in between.
    pub(crate) bbm2: bool,
    pub(crate) policy: Policy,
    pub(crate) slots: Slots,
    pub(crate) counters: Counters,
    pub(crate) sequence: Sequence,
    pub(crate) sidecar: Sidecar,
    /// The leaf that is half moved or looked at, if one is.
    pub(crate) half: Option<Half>,
    pub(crate) keys: KeyState,
    /// Frames may be shared with other spaces.
    pub(crate) sharing: bool,
    /// Page states are in use.
    pub(crate) states: bool,
    /// Pages whose state migration has not read.
    pub(crate) states_dirty: AtomicU64,
    pub(crate) vcpus: u32,
    /// How far [`Gmap::destroy`] has come; addresses below it are gone.
    pub(crate) gone: u64,
    /// How far it has scrubbed the frames of a VM that is wiped.
    pub(crate) wiped: u64,
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
        let root = new_root(machine, shape).ok_or(Error::NoTables)?;
        let counters = Counters::default();
        counters.tables(1 << shape.root_order());
        Ok(Self {
            root,
            shape,
            vmid,
            features,
            bbm2: false,
            policy: Policy::default(),
            slots: Slots::default(),
            counters,
            sequence: Sequence::default(),
            sidecar: Sidecar::default(),
            half: None,
            keys: KeyState::default(),
            sharing: true,
            states: false,
            states_dirty: AtomicU64::new(0),
            vcpus: 0,
            gone: 0,
            wiped: 0,
            dead: false,
        })
    }

    /// Says that every CPU has FEAT_BBM level 2 (ID_AA64MMFR2_EL1.BBM = 2).
    pub fn set_bbm2(&mut self, bbm2: bool) {
        self.bbm2 = bbm2;
    }

    /// Returns what the VM may have.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Sets what the VM may have. What it has already is not taken away: for leaves that
    /// are too large now, see [`Gmap::split_large`].
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Returns the largest leaf that RAM may get.
    pub fn largest(&self) -> Level {
        match self.policy.wipe {
            true => self.policy.largest.max(Level::L2),
            false => self.policy.largest,
        }
    }

    /// Counts a vCPU in: from now on, what must come before vCPUs is refused.
    pub fn add_vcpu(&mut self) {
        self.vcpus = self.vcpus.saturating_add(1);
    }

    /// Counts a vCPU out.
    pub fn remove_vcpu(&mut self) {
        self.vcpus = self.vcpus.saturating_sub(1);
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

    /// Gives the space another VMID, after a rollover. No vCPU may be running: each loads
    /// [`Gmap::vttbr`] anew.
    pub fn set_vmid(&mut self, vmid: u16) {
        self.vmid = vmid;
    }

    /// Returns what the space holds.
    pub fn stats(&self) -> Stats {
        let mut stats = self.counters.stats();
        stats.sidecar_bytes = self.sidecar.bytes();
        stats.promised_bytes = self.slots.bytes();
        stats
    }

    /// Returns who decides whether a lookup may still be linked.
    pub fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    /// Translates as the hardware would: the address, and what may be done with it.
    ///
    /// A permission that takes only a fix-up by [`Gmap::fault`] is counted as there.
    pub fn translate(&self, machine: &impl Machine, ipa: Ipa) -> Option<(Pa, Perm)> {
        let (leaf, level) = self.leaf(machine, ipa)?;
        let offset = ipa.raw() & level.span().wrapping_sub(1);
        Some((leaf.base().checked_add(offset)?, leaf.perm()))
    }

    /// Returns whether anything is mapped in `bytes` bytes from `ipa`.
    pub fn maps_any(&self, machine: &impl Machine, ipa: Ipa, bytes: u64) -> bool {
        let end = ipa.raw().saturating_add(bytes).min(self.shape.limit());
        !self.dead && self.check_unmapped(machine, ipa, end).is_err()
    }

    /// Returns the leaf that maps `ipa`, and its level.
    pub fn leaf(&self, machine: &impl Machine, ipa: Ipa) -> Option<(Leaf, Level)> {
        if !self.contains(ipa) {
            return None;
        }
        let place = self.place(machine, ipa);
        match place.entry() {
            Entry::Leaf(leaf) => Some((leaf, place.level)),
            Entry::Empty | Entry::Hole(_) | Entry::Busy | Entry::Table(_) | Entry::Reserved => None,
        }
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
}

/// Takes and fills a root for `shape`: no memory anywhere.
pub(crate) fn new_root(machine: &mut impl Machine, shape: Shape) -> Option<Pa> {
    let root = machine.alloc(shape.root_order())?;
    machine.scrub(root, shape.root_order());
    for page in 0..1_u64 << shape.root_order() {
        let table = root.checked_add(page.saturating_mul(4096))?;
        for index in 0..512 {
            machine.prepare(table, index, Descriptor::HOLE.raw());
        }
    }
    Some(root)
}

/// Runs `f` with a cache that is empty before and after.
pub(crate) fn with_cache<M: Machine, T>(
    machine: &mut M,
    f: impl FnOnce(&mut M, &mut Cache) -> T,
) -> T {
    let mut cache = Cache::new();
    let result = f(machine, &mut cache);
    cache.release(machine);
    result
}

/// Makes an address of a number already known to lie in a 48-bit space.
pub(crate) fn address(raw: u64) -> Ipa {
    Ipa::new(raw).expect("checked against the space's limit")
}
