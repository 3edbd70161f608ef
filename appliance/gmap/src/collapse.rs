//! Blocks put together again, so that a split is not for ever.
//!
//! A table whose 512 pages are all populated becomes one block: where they lie, if they are
//! one frame still, else in a new one. The block is young or dirty if any page was; so a VM
//! with storage keys, which know each page's own state, keeps its pages.

use crate::desc::{Descriptor, Entry, Leaf};
use crate::gather::Gather;
use crate::level::Level;
use crate::machine::Machine;
use crate::range::{Budget, next};
use crate::sidecar::Usage;
use crate::space::{Gmap, address};
use crate::walk::Place;
use arch::{Ipa, Pa};

/// What [`Gmap::collapse`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "it may have to be called again"]
pub struct Collapsed {
    /// Where to go on; `None` if all of the range was seen.
    pub next: Option<Ipa>,
    /// Tables that are blocks now.
    pub blocks: u64,
    /// Tables that are not, because the pool had no frame of 2 MiB.
    pub short: u64,
}

/// What the pages of a table are together.
struct Pages {
    first: Leaf,
    /// They are one aligned frame.
    whole: bool,
}

impl Gmap {
    /// Makes blocks of 2 MiB of the tables in `start..end` whose pages are all populated, a
    /// slice at a time, where policy and slot allow it.
    ///
    /// Tables with a shared, pinned or watched page are left alone, and such with a page that
    /// is not stable; with storage keys all are.
    pub fn collapse(
        &mut self,
        machine: &mut impl Machine,
        (start, end): (u64, u64),
        budget: Budget,
    ) -> Collapsed {
        let end = end.min(self.limit());
        let mut done = Collapsed::default();
        let (mut at, mut budget) = (start, budget);
        let allowed = self.policy.largest <= Level::L2 && !self.keys_enabled();
        self.sequence.begin(start, end);
        while at < end && !budget.spent() && allowed {
            let ipa = address(at);
            let place = self.place_to(machine, ipa, Level::L2);
            budget.pay(machine, place.entry());
            if let Entry::Table(table) = place.entry() {
                for _ in 0..512 {
                    budget.pay(machine, Entry::Empty);
                }
                let base = ipa.align_down(Level::L2.span());
                let slot = self.slots.find(base.raw());
                if slot.is_some_and(|slot| slot.holds_block(base.raw(), Level::L2))
                    && let Some(pages) = self.pages(machine, base, table)
                {
                    match self.fold(machine, base, &place, table, &pages) {
                        true => done.blocks = done.blocks.saturating_add(1),
                        false => done.short = done.short.saturating_add(1),
                    }
                }
            }
            at = next(at, place.level);
        }
        self.sequence.end();
        done.next = (at < end && allowed).then(|| address(at));
        done
    }

    /// Says what the pages of `table` are together, if they may become one block.
    fn pages(&self, machine: &impl Machine, base: Ipa, table: Pa) -> Option<Pages> {
        if machine.holds(base, Level::L2) {
            return None;
        }
        let mut first = None;
        let mut whole = true;
        for index in 0..512 {
            let entry = Descriptor::from_raw(machine.load(table, index));
            let Entry::Leaf(leaf) = entry.decode(Level::L3) else {
                return None;
            };
            if leaf.special() || leaf.shared() || leaf.pinned() || leaf.nested() {
                return None;
            }
            let head: Leaf = *first.get_or_insert(leaf);
            let offset = u64::try_from(index).ok()?.saturating_mul(4096);
            whole &= head.base().checked_add(offset) == Some(leaf.base());
            if self.states {
                let word = self.sidecar.get(machine, base.checked_add(offset)?);
                if word.usage() != Usage::Stable {
                    return None;
                }
            }
        }
        let first = first?;
        whole &= first.base().is_aligned(Level::L2.span());
        Some(Pages { first, whole })
    }

    /// Puts one block in the place of `table`; false if there is no frame for it.
    fn fold(
        &mut self,
        machine: &mut impl Machine,
        base: Ipa,
        place: &Place,
        table: Pa,
        pages: &Pages,
    ) -> bool {
        let frame = match pages.whole {
            true => pages.first.base(),
            false => match machine.alloc(Level::L2.order()) {
                Some(frame) => frame,
                None => return false,
            },
        };
        let mut gather = Gather::new(self.vmid, self.wipes());
        machine.store(place.table, place.index, Descriptor::BUSY.raw());
        for page in 0..512_u64 {
            if let Some(at) = base.checked_add(page.saturating_mul(4096)) {
                gather.flush.leaf(at, Level::L3);
            }
        }
        gather.flush.table(base);
        gather.complete(machine);
        // From here on nobody reaches a page: what its entry says is final.
        let (mut young, mut dirty, mut soft, mut host) = (false, false, false, false);
        for index in 0..512 {
            let entry = Descriptor::from_raw(machine.load(table, index));
            let Entry::Leaf(leaf) = entry.decode(Level::L3) else {
                crate::walk::corrupt()
            };
            young |= leaf.young();
            dirty |= leaf.dirty();
            soft |= leaf.soft_dirty();
            host |= leaf.host_dirty();
            self.counters.unleaf(leaf, Level::L3);
            if !pages.whole {
                let offset = u64::try_from(index).unwrap_or(0).saturating_mul(4096);
                let to = frame.checked_add(offset);
                machine.copy(to.expect("a frame lies below 2^48"), leaf.base(), 0);
                gather.frame(machine, leaf, Level::L3);
            }
        }
        let block = pages
            .first
            .with_own()
            .block(frame, young, dirty, soft, host);
        machine.store(place.table, place.index, block.descriptor().raw());
        self.counters.leaves(block, Level::L2, 1);
        self.counters.collapse();
        self.counters.untables(1);
        gather.table(machine, base, table);
        gather.complete(machine);
        true
    }
}
