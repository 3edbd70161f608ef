//! The end of a space, in slices.

use crate::desc::Descriptor;
use crate::machine::Machine;
use crate::range::Budget;
use crate::slots::Slots;
use crate::space::Gmap;

/// Whether a sliced operation has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an operation in slices is called again until it is done"]
pub enum Progress {
    /// Nothing is left.
    Done,
    /// Call again.
    More,
}

impl Gmap {
    /// Frees RAM and tables, at most `budget_leaves` leaves (at least one) a call.
    ///
    /// No vCPU of the VM may run any more. From the first call on the space holds less and
    /// less, and when it is done no address is in it. Calling it again is harmless.
    pub fn destroy(&mut self, machine: &mut impl Machine, budget_leaves: usize) -> Progress {
        if self.dead {
            return Progress::Done;
        }
        let limit = self.shape.limit();
        self.slots = Slots::default();
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
}
