//! The one way along a range of addresses.
//!
//! Pre-order: a visitor sees the entry of a table before what the table holds, and may
//! change what it sees; what is a table after that is entered. It runs under the VM's lock
//! held shared, like [`Gmap::walk`]: no table it is in can be freed under it.

use crate::desc::{Descriptor, Entry};
use crate::level::Level;
use crate::machine::Machine;
use crate::space::{Gmap, address};
use crate::walk::{Place, place_in};
use arch::{Ipa, Pa};

/// How much one slice of a long operation may do.
///
/// A leaf costs sixteen units and any other entry one, so that sparse tables count too. A slice
/// ends early when an interrupt waits ([`Machine::interrupted`]), but not before its first entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(usize);

const LEAF_COST: usize = 16;

impl Budget {
    /// One slice of core's: 256 leaves, or as many entries as cost the same.
    pub const SLICE: Self = Self::leaves(256);
    /// The same for what frees every leaf it sees, which takes four times as long.
    pub const FREEING: Self = Self::leaves(64);
    /// No end. For tests and for ranges known to be small.
    pub const UNBOUNDED: Self = Self(usize::MAX);

    /// Enough for `leaves` leaves, and at least one.
    pub const fn leaves(leaves: usize) -> Self {
        let leaves = if leaves == 0 { 1 } else { leaves };
        Self(leaves.saturating_mul(LEAF_COST))
    }

    /// Returns whether it is used up.
    pub(crate) const fn spent(self) -> bool {
        self.0 == 0
    }

    /// Pays for one entry, which is looked at in any case: what follows it is not, if the budget
    /// is spent by that or somebody waits for the CPU. Of cheap entries some go by unasked.
    pub(crate) fn pay(&mut self, machine: &impl Machine, entry: Entry) {
        if self.0 == usize::MAX {
            return;
        }
        let cost = match entry {
            Entry::Leaf(_) => LEAF_COST,
            // Nothing is done until what it leads to was looked at.
            Entry::Table(_) => return self.0 = self.0.saturating_sub(1),
            _ => 1,
        };
        let left = self.0.saturating_sub(cost);
        let asks = (self.0 ^ left) & !(LEAF_COST - 1) != 0;
        self.0 = if asks && machine.interrupted() {
            0
        } else {
            left
        };
    }
}

/// Why a range walk ended before the range did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop<E> {
    /// The range begins outside the space, and holes were not to be ignored.
    AddressSize,
    /// The visitor said so, at this address.
    Visitor {
        /// Where.
        at: Ipa,
        /// Why.
        why: E,
    },
}

impl Gmap {
    /// Shows `visit` every entry of `start..end`, until the budget is spent.
    ///
    /// Returns the address to go on from; at or past `end`, all was seen. An error of the
    /// visitor ends the walk at once. A range past the end of the space is cut; one that
    /// begins there is an error unless `ignore_holes`.
    pub fn range<M: Machine, E>(
        &self,
        machine: &M,
        start: u64,
        end: u64,
        ignore_holes: bool,
        budget: Budget,
        mut visit: impl FnMut(&M, Ipa, &mut Place) -> Result<(), E>,
    ) -> Result<u64, Stop<E>> {
        let limit = if self.dead { 0 } else { self.shape.limit() };
        if start >= limit && start < end {
            return match ignore_holes {
                true => Ok(end),
                false => Err(Stop::AddressSize),
            };
        }
        let stop = end.min(limit);
        let (mut at, mut budget, mut level) = (start, budget, self.shape.start());
        let mut path = Path::new(self.root);
        while at < stop && !budget.spent() {
            let ipa = address(at);
            let table = path.table(level);
            let mut place = place_in(machine, self.shape, table, ipa, level, None);
            budget.pay(machine, place.entry());
            let result = visit(machine, ipa, &mut place);
            result.map_err(|why| Stop::Visitor { at: ipa, why })?;
            if let (Entry::Table(next), Some(below)) = (place.entry(), level.below()) {
                path.set(below, next);
                level = below;
                continue;
            }
            at = next(at, level);
            level = self.level_at(at, level);
        }
        Ok(if at >= stop { end } else { at })
    }

    /// Returns the level to go on at when `at` is the first address after an entry of
    /// `level`: that of the lowest table on the way that also covers `at`.
    fn level_at(&self, at: u64, level: Level) -> Level {
        let mut level = level;
        while let Some(above) = level.above().filter(|above| *above >= self.shape.start()) {
            if at & above.span().wrapping_sub(1) != 0 {
                break;
            }
            level = above;
        }
        level
    }

    /// Shows `visit` every leaf of `start..end`, whole or in part, until the budget is spent.
    ///
    /// A busy entry ends the slice before it. Returns the address to go on from.
    pub(crate) fn each_leaf<M: Machine>(
        &self,
        machine: &M,
        start: u64,
        end: u64,
        budget: Budget,
        mut visit: impl FnMut(&M, Ipa, &mut Place),
    ) -> u64 {
        let result = self.range(machine, start, end, true, budget, |machine, ipa, place| {
            match place.entry() {
                Entry::Busy => return Err(()),
                Entry::Leaf(_) => visit(machine, ipa, place),
                Entry::Empty | Entry::Hole(_) | Entry::Table(_) => {}
                Entry::Reserved => crate::walk::corrupt(),
            }
            Ok(())
        });
        match result {
            Ok(at) => at,
            Err(Stop::Visitor { at, why: () }) => at.raw(),
            Err(Stop::AddressSize) => end,
        }
    }
}

/// The tables on the way to an address.
struct Path([Pa; 4]);

impl Path {
    fn new(root: Pa) -> Self {
        Self([root; 4])
    }

    fn table(&self, level: Level) -> Pa {
        let [l0, l1, l2, l3] = self.0;
        match level {
            Level::L0 => l0,
            Level::L1 => l1,
            Level::L2 => l2,
            Level::L3 => l3,
        }
    }

    fn set(&mut self, level: Level, table: Pa) {
        let [l0, l1, l2, l3] = &mut self.0;
        *match level {
            Level::L0 => l0,
            Level::L1 => l1,
            Level::L2 => l2,
            Level::L3 => l3,
        } = table;
    }
}

/// Returns the first address after the entry of `level` that covers `at`.
pub(crate) fn next(at: u64, level: Level) -> u64 {
    (at & !level.span().wrapping_sub(1)).saturating_add(level.span())
}

/// Returns whether all entries of a table are the same token, and which.
pub(crate) fn uniform(machine: &impl Machine, table: Pa) -> Option<Descriptor> {
    let first = machine.load(table, 0);
    let token = Descriptor::from_raw(first);
    let same = token.foldable() && (1..512).all(|index| machine.load(table, index) == first);
    same.then_some(token)
}
