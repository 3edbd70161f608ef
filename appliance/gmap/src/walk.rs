//! The one way down a tree of tables.

use crate::desc::{Descriptor, Entry};
use crate::level::Level;
use crate::machine::Machine;
use crate::shape::Shape;
use arch::{Ipa, Pa};

/// Bytes of a table page; concatenated root tables follow one another.
const TABLE_BYTES: u64 = 4096;

/// An entry of a table, and where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The page that holds the entry.
    pub(crate) table: Pa,
    /// Which of its 512 entries.
    pub(crate) index: usize,
    /// The level of the table.
    pub(crate) level: Level,
    /// What it held when it was read.
    pub(crate) found: Descriptor,
    /// The entry that points to `table`; none for the root.
    pub(crate) parent: Option<(Pa, usize)>,
}

impl Place {
    /// Returns what was found, decoded.
    pub(crate) fn entry(&self) -> Entry {
        self.found.decode(self.level)
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

/// Follows tables from `root` towards `ipa`, which is inside the space, to the entry where
/// they end, but not below `stop`.
pub(crate) fn descend(
    machine: &impl Machine,
    shape: Shape,
    root: Pa,
    ipa: Ipa,
    stop: Level,
) -> Place {
    let (mut table, mut level, mut parent) = (root, shape.start(), None);
    loop {
        let (page, index) = slot(shape, table, ipa, level);
        let found = Descriptor::from_raw(machine.load(page, index));
        match (found.decode(level), level.below()) {
            (Entry::Table(next), Some(below)) if level < stop => {
                parent = Some((page, index));
                (table, level) = (next, below);
            }
            _ => {
                return Place {
                    table: page,
                    index,
                    level,
                    found,
                    parent,
                };
            }
        }
    }
}
