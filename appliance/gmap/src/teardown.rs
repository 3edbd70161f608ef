//! The end of a space, in slices.
//!
//! A VM that is wiped is scrubbed first, where its frames lie, 64 KiB at a time: so an end can
//! be interrupted in the middle of a leaf of 1 GiB too.

use crate::desc::{Descriptor, Entry};
use crate::level::Level;
use crate::machine::Machine;
use crate::range::{Budget, next};
use crate::slots::Slots;
use crate::space::{Gmap, address};

/// Whether a sliced operation has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an operation in slices is called again until it is done"]
pub enum Progress {
    /// Nothing is left.
    Done,
    /// Call again.
    More,
}

/// Order of what is scrubbed at once: 64 KiB.
const WIPE_ORDER: u8 = 4;
/// Most bytes that one call scrubs.
const WIPE_BYTES: u64 = 1 << 20;

impl Gmap {
    /// Frees RAM and tables, at most `budget_leaves` leaves (at least one) a call; before that,
    /// scrubs the frames of a VM that is wiped, at most 1 MiB a call.
    ///
    /// No vCPU of the VM may run any more. From the first call on the space holds less and
    /// less, and when it is done no address is in it. Calling it again is harmless.
    pub fn destroy(&mut self, machine: &mut impl Machine, budget_leaves: usize) -> Progress {
        if self.dead {
            return Progress::Done;
        }
        let limit = self.shape.limit();
        self.slots = Slots::default();
        self.end_half(machine);
        if self.wipes() {
            self.wipe(machine, budget_leaves);
            return Progress::More;
        }
        if self.gone < limit {
            let budget = Budget::leaves(budget_leaves);
            self.gone = self.clear(machine, self.gone, limit, budget, Descriptor::HOLE);
        }
        if self.gone < limit || !self.sidecar.free(machine, budget_leaves) {
            return Progress::More;
        }
        self.dead = true;
        machine.invalidate_vmid(self.vmid);
        machine.free(self.root, self.shape.root_order());
        self.counters.untables(1 << self.shape.root_order());
        Progress::Done
    }

    /// Returns whether frames are scrubbed as they leave: they are not scrubbed already.
    pub(crate) fn wipes(&self) -> bool {
        self.policy.wipe && self.wiped < self.shape.limit()
    }

    /// Scrubs frames where they lie, one slice. No vCPU reaches them any more.
    fn wipe(&mut self, machine: &mut impl Machine, budget_leaves: usize) {
        if self.wiped == 0 {
            // Nothing may be written through a TLB behind the scrubbing.
            machine.invalidate_vmid(self.vmid);
        }
        let limit = self.shape.limit();
        let mut budget = Budget::leaves(budget_leaves);
        let mut bytes = 0_u64;
        while self.wiped < limit && bytes < WIPE_BYTES && !budget.spent() {
            let ipa = address(self.wiped);
            let place = self.place(machine, ipa);
            budget.pay(machine, place.entry());
            let ram = match place.entry() {
                Entry::Leaf(leaf) if !leaf.special() && !leaf.shared() => Some(leaf),
                _ => None,
            };
            let offset = self.wiped & place.level.span().wrapping_sub(1);
            let at = ram.and_then(|leaf| leaf.base().checked_add(offset));
            let Some(at) = at else {
                self.wiped = next(self.wiped, place.level);
                continue;
            };
            let order = if place.level == Level::L3 {
                0
            } else {
                WIPE_ORDER
            };
            machine.scrub(at, order);
            bytes = bytes.saturating_add(4096 << order);
            self.wiped = self.wiped.saturating_add(4096 << order);
        }
    }
}
