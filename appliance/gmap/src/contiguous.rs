//! The Contiguous hint (DDI 0487 D8.7.1): sixteen pages, aligned and in a row in both address
//! spaces, that a TLB may hold as one entry.
//!
//! A TLB that has the group as one entry answers for all sixteen while it has it. So a group
//! comes and goes as a whole: none of its pages is taken out, and its hint is not taken away,
//! while one of them is valid. Only fixed mappings have it: pages of RAM change one by one.

use crate::desc::{Descriptor, Entry};
use crate::level::Level;
use crate::machine::Machine;
use crate::range::Budget;
use crate::space::{Gmap, address};
use arch::{Ipa, Pa};

/// Bytes of a group of pages.
pub const CONTIGUOUS_BYTES: u64 = CONTIGUOUS_PAGES * 4096;
/// Pages of a group.
pub(crate) const CONTIGUOUS_PAGES: u64 = 16;

/// Whether a mapping may have the hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// Nowhere.
    Never,
    /// On every group that lies in the mapping and fits both addresses.
    WhereItFits,
}

impl Hint {
    /// Returns whether the page at `done` of `bytes` bytes from `ipa` to `pa` is in such a group.
    pub(crate) fn fits(self, ipa: Ipa, pa: Pa, done: u64, bytes: u64) -> bool {
        let at = ipa.raw().saturating_add(done);
        let inside = at & CONTIGUOUS_BYTES.wrapping_sub(1);
        let congruent = (ipa.raw() ^ pa.raw()) & CONTIGUOUS_BYTES.wrapping_sub(1) == 0;
        let begin = done.checked_sub(inside);
        let whole = begin
            .and_then(|begin| begin.checked_add(CONTIGUOUS_BYTES))
            .is_some_and(|end| end <= bytes);
        self == Self::WhereItFits && congruent && whole
    }
}

impl Gmap {
    /// Makes the pages of the group that `at` is inside of stand each for itself, unless `at` is
    /// where it begins or there is none.
    ///
    /// Break-before-make of all sixteen: whoever touches them meanwhile finds them busy.
    pub(crate) fn loosen(&mut self, machine: &mut impl Machine, at: u64) {
        if at.is_multiple_of(CONTIGUOUS_BYTES) || !self.is_contiguous(machine, at) {
            return;
        }
        let base = address(at).align_down(CONTIGUOUS_BYTES);
        let first = self.place(machine, base);
        let mut were = [Descriptor::HOLE; 16];
        for (n, was) in (first.index..).zip(&mut were) {
            *was = Descriptor::from_raw(machine.load(first.table, n));
            machine.store(first.table, n, Descriptor::BUSY.raw());
        }
        let level = Level::L3.number();
        machine.invalidate_range(self.vmid, base, CONTIGUOUS_BYTES, level);
        for (n, was) in (first.index..).zip(were) {
            let alone = match was.decode(Level::L3) {
                Entry::Leaf(leaf) => leaf.with_separate().descriptor(),
                Entry::Empty | Entry::Hole(_) => was,
                Entry::Busy | Entry::Table(_) | Entry::Reserved => crate::walk::corrupt(),
            };
            machine.store(first.table, n, alone.raw());
        }
    }

    /// Takes out the rest of the group that a slice of work ended in, up to `end` at the most.
    /// Returns the address reached.
    pub(crate) fn clear_group(
        &mut self,
        machine: &mut impl Machine,
        reached: u64,
        end: u64,
    ) -> u64 {
        if reached >= end
            || reached.is_multiple_of(CONTIGUOUS_BYTES)
            || !self.is_contiguous(machine, reached)
        {
            return reached;
        }
        let to = reached.next_multiple_of(CONTIGUOUS_BYTES).min(end);
        self.clear(machine, reached, to, Budget::UNBOUNDED, Descriptor::HOLE)
    }

    fn is_contiguous(&self, machine: &impl Machine, at: u64) -> bool {
        let Some(ipa) = Ipa::new(at).filter(|ipa| self.contains(*ipa)) else {
            return false;
        };
        let place = self.place(machine, ipa);
        matches!(place.entry(), Entry::Leaf(leaf) if leaf.contiguous())
    }
}
