//! The one way down a tree of tables, to one entry.
//!
//! [`Gmap::walk`] follows tables towards an address, as far as its [`Flags`] say, building
//! and splitting on the way if they say so. It runs under the VM's lock held shared: it adds
//! tables by compare-and-swap and never frees one.

use crate::bbm::{Change, change};
use crate::cache::Cache;
use crate::desc::{Descriptor, Entry, HOLE_NO_MEMORY, Leaf};
use crate::level::Level;
use crate::machine::{Event, Machine};
use crate::shape::Shape;
use crate::space::Gmap;
use arch::{Ipa, Pa};
use core::fmt;
use core::ops::BitOr;

/// Bytes of a table page; concatenated root tables follow one another.
const TABLE_BYTES: u64 = 4096;

/// An entry of a table, and where it is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The page that holds the entry.
    pub(crate) table: Pa,
    /// Which of its 512 entries.
    pub(crate) index: usize,
    pub(crate) level: Level,
    /// What it held when it was read.
    pub(crate) found: Descriptor,
    /// The entry that points to `table`; none for the root.
    pub(crate) parent: Option<(Pa, usize)>,
}

impl Place {
    /// Returns what was found, decoded.
    pub fn entry(&self) -> Entry {
        self.found.decode(self.level)
    }

    /// Returns the level of the table that holds the entry.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Reads the entry again.
    pub(crate) fn reread(&mut self, machine: &impl Machine) {
        self.found = Descriptor::from_raw(machine.load(self.table, self.index));
    }

    /// Goes on to the entry behind this one, if it is in the same page of the same table and leads
    /// to no other: so the rest of a table needs no walks of its own.
    pub(crate) fn advance(&mut self, machine: &impl Machine) -> bool {
        const LAST: usize = 511;
        if self.index >= LAST {
            return false;
        }
        self.index = self.index.saturating_add(1);
        self.reread(machine);
        !matches!(self.entry(), Entry::Table(_))
    }

    /// Swaps what was found for `new`; if it had changed, takes note of what is there now.
    pub(crate) fn swap(&mut self, machine: &impl Machine, new: Descriptor) -> bool {
        let old = self.found.raw();
        match machine.compare_exchange(self.table, self.index, old, new.raw()) {
            Ok(()) => {
                self.found = new;
                true
            }
            Err(found) => {
                self.found = Descriptor::from_raw(found);
                false
            }
        }
    }
}

/// How far a walk goes and what it may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// Only tables are followed; anything else above the level asked for is an error.
    pub const NONE: Self = Self(0);
    /// A larger leaf on the way is success.
    pub const LEAF: Self = Self(0x01);
    /// Whatever ends the walk is success.
    pub const ANY: Self = Self(0x02);
    /// Missing tables are built.
    pub const ALLOC: Self = Self(0x04);
    /// Larger leaves are split.
    pub const SPLIT: Self = Self(0x08);
    /// Holes are entries like others.
    pub const IGN_HOLES: Self = Self(0x10);
    /// Having reached the level, goes on to the page as [`Flags::ANY`], building nothing.
    pub const CONTINUE: Self = Self(0x20);
    /// Keys are in use: a split leaves room for them in the sidecar.
    pub const USES_KEYS: Self = Self(0x40);

    /// Returns whether all of `flags` are set.
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

impl BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Why a walk did not reach what was asked for. Tables built on the way stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// Outside the space, or in a hole where no memory ever was.
    AddressSize,
    /// In another hole.
    Hole(u16),
    /// The level asked for is above the root.
    BadLevel,
    /// A larger leaf is in the way.
    LargerLeaf,
    /// A table is missing.
    NotPresent,
    /// The cache is empty: top it up and come again.
    NoMemory,
    /// The VM has as many tables as it may.
    TableLimit,
    /// Another CPU is changing the entry: come again.
    Busy,
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressSize => f.write_str("no memory at that address"),
            Self::Hole(code) => write!(f, "hole with code {code}"),
            Self::BadLevel => f.write_str("level above the root"),
            Self::LargerLeaf => f.write_str("larger leaf in the way"),
            Self::NotPresent => f.write_str("no table there"),
            Self::NoMemory => f.write_str("table cache is empty"),
            Self::TableLimit => f.write_str("the VM has all its tables"),
            Self::Busy => f.write_str("entry is being changed"),
        }
    }
}

impl core::error::Error for WalkError {}

impl Gmap {
    /// Walks to the entry of `level` for `ipa`, or as far as `flags` let it be success.
    ///
    /// Where several flags could answer, LEAF comes before SPLIT before ANY, and ALLOC
    /// before ANY.
    pub fn walk(
        &self,
        machine: &impl Machine,
        cache: &mut Cache,
        ipa: Ipa,
        level: Level,
        flags: Flags,
    ) -> Result<Place, WalkError> {
        if level < self.shape.start() {
            return Err(WalkError::BadLevel);
        }
        if !self.contains(ipa) {
            return Err(WalkError::AddressSize);
        }
        let mut flags = flags;
        let (mut table, mut at, mut parent) = (self.root, self.shape.start(), None);
        loop {
            let mut place = place_in(machine, self.shape, table, ipa, at, parent);
            match place.entry() {
                Entry::Hole(HOLE_NO_MEMORY) if !flags.has(Flags::IGN_HOLES) => {
                    return Err(WalkError::AddressSize);
                }
                Entry::Hole(code) if !flags.has(Flags::IGN_HOLES) => {
                    return Err(WalkError::Hole(code));
                }
                _ => {}
            }
            if at == level {
                if !flags.has(Flags::CONTINUE) {
                    return Ok(place);
                }
                let holes = Flags(flags.0 & Flags::IGN_HOLES.0);
                flags = Flags::LEAF | Flags::ANY | Flags::CONTINUE | holes;
            }
            match (place.entry(), at.below()) {
                (Entry::Table(next), Some(below)) => {
                    parent = Some((place.table, place.index));
                    (table, at) = (next, below);
                }
                (Entry::Leaf(_), Some(_)) => {
                    if flags.has(Flags::LEAF) {
                        return Ok(place);
                    }
                    if flags.has(Flags::SPLIT) {
                        if flags.has(Flags::USES_KEYS) {
                            self.sidecar.ensure(machine, cache, ipa)?;
                        }
                        self.split(machine, cache, ipa, &mut place)?;
                    } else if flags.has(Flags::ANY) {
                        return Ok(place);
                    } else {
                        return Err(WalkError::LargerLeaf);
                    }
                }
                (Entry::Empty | Entry::Hole(_), Some(_)) => {
                    if flags.has(Flags::ALLOC) {
                        self.grow(machine, cache, &mut place)?;
                    } else if flags.has(Flags::ANY) {
                        return Ok(place);
                    } else {
                        return Err(WalkError::NotPresent);
                    }
                }
                (Entry::Busy, _) => return Err(WalkError::Busy),
                // A page, reached by CONTINUE.
                (Entry::Leaf(_) | Entry::Empty | Entry::Hole(_), None) => return Ok(place),
                (Entry::Reserved, _) | (Entry::Table(_), None) => corrupt(),
            }
        }
    }

    /// Returns the entry where the tables for `ipa`, which is in the space, end.
    pub(crate) fn place(&self, machine: &impl Machine, ipa: Ipa) -> Place {
        self.place_to(machine, ipa, Level::L3)
    }

    /// As [`Self::place`], but not below `stop`.
    pub(crate) fn place_to(&self, machine: &impl Machine, ipa: Ipa, stop: Level) -> Place {
        let (mut table, mut at, mut parent) = (self.root, self.shape.start(), None);
        loop {
            let place = place_in(machine, self.shape, table, ipa, at, parent);
            match (place.entry(), at.below()) {
                (Entry::Table(next), Some(below)) if at < stop => {
                    parent = Some((place.table, place.index));
                    (table, at) = (next, below);
                }
                (Entry::Reserved, _) => corrupt(),
                _ => return place,
            }
        }
    }

    /// Replaces a token by a table full of it. Losing a race counts as success.
    fn grow(
        &self,
        machine: &impl Machine,
        cache: &mut Cache,
        place: &mut Place,
    ) -> Result<(), WalkError> {
        self.check_table_limit()?;
        let table = cache.take().ok_or(WalkError::NoMemory)?;
        if place.found != Descriptor::EMPTY {
            for index in 0..512 {
                machine.prepare(table, index, place.found.raw());
            }
        }
        if place.swap(machine, Descriptor::table(table)) {
            self.counters.tables(1);
        } else {
            machine.scrub(table, 0);
            cache.put(table);
        }
        Ok(())
    }

    fn check_table_limit(&self) -> Result<(), WalkError> {
        let bytes = self.counters.table_bytes().saturating_add(TABLE_BYTES);
        if bytes > self.policy.table_limit {
            return Err(WalkError::TableLimit);
        }
        Ok(())
    }

    /// Replaces a block by a table of the next smaller leaves, with all its bits.
    ///
    /// Without FEAT_BBM level 2 an access in between faults and finds the entry busy; a vCPU
    /// that has the block pinned is told first.
    pub(crate) fn split(
        &self,
        machine: &impl Machine,
        cache: &mut Cache,
        ipa: Ipa,
        place: &mut Place,
    ) -> Result<(), WalkError> {
        let (Entry::Leaf(leaf), Some(below)) = (place.entry(), place.level.below()) else {
            return Ok(());
        };
        self.check_table_limit()?;
        let table = cache.take().ok_or(WalkError::NoMemory)?;
        let base = ipa.align_down(place.level.span());
        let new = Descriptor::table(table);
        debug_assert_eq!(change(place.found, new, false), Change::Break);
        let done = if self.bbm2 {
            // The children must have the AF and dirty state of the very block they replace.
            fill(machine, table, leaf, below);
            place.swap(machine, new)
        } else {
            if leaf.pinned() {
                machine.event(Event::PinLost {
                    ipa: base,
                    level: place.level,
                });
            }
            place.swap(machine, Descriptor::BUSY)
        };
        if !done {
            machine.scrub(table, 0);
            cache.put(table);
            return Ok(());
        }
        machine.invalidate_ipa(self.vmid, base, place.level.number());
        if !self.bbm2 {
            fill(machine, table, leaf, below);
            machine.store(place.table, place.index, new.raw());
        }
        self.counters.tables(1);
        self.counters.unleaf(leaf, place.level);
        self.counters.leaves(leaf, below, 512);
        self.counters.split();
        Ok(())
    }
}

/// Writes the children of `leaf` into `table`, whose entries are of level `below`.
fn fill(machine: &impl Machine, table: Pa, leaf: Leaf, below: Level) {
    let mut child = leaf.child(0, below);
    for index in 0..512 {
        machine.prepare(table, index, child.descriptor().raw());
        child = child.after(below);
    }
}

/// Returns the page and the index in it of the entry for `ipa` in a table at `level`.
///
/// Only a root may be longer than a page, and then `ipa` reaches further up than nine bits.
pub(crate) fn slot(shape: Shape, table: Pa, ipa: Ipa, level: Level) -> (Pa, usize) {
    let entry = ipa.raw() >> level.shift();
    let index = usize::try_from(entry & 511).expect("nine bits fit in a usize");
    if level != shape.start() {
        return (table, index);
    }
    let offset = (entry >> 9).saturating_mul(TABLE_BYTES);
    let page = table.checked_add(offset);
    (page.expect("a root lies below 2^48"), index)
}

/// Reads the entry for `ipa` in the table of `level` at `table`.
pub(crate) fn place_in(
    machine: &impl Machine,
    shape: Shape,
    table: Pa,
    ipa: Ipa,
    level: Level,
    parent: Option<(Pa, usize)>,
) -> Place {
    let (table, index) = slot(shape, table, ipa, level);
    Place {
        table,
        index,
        level,
        found: Descriptor::from_raw(machine.load(table, index)),
        parent,
    }
}

/// We write no such entry, so memory of core's own has been overwritten.
pub(crate) fn corrupt() -> ! {
    panic!("a stage-2 table is corrupt")
}
