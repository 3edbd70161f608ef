//! Frames and tables that were unlinked, until no TLB can reach them.
//!
//! The order is the architecture's (DDI 0487 D8.14, D8.16): entry invalid, store visible to
//! the walkers, TLBI complete, and only then is the memory somebody else's.

use crate::level::Level;
use crate::machine::Machine;
use arch::{Ipa, Pa};

/// Entries remembered singly; more are invalidated with the whole VMID.
const ADDRESSES: usize = 16;
/// Frames and tables held before they must be let go.
const HELD: usize = 64;

/// What one operation has unlinked so far.
#[derive(Debug)]
#[must_use = "frames are reachable through stale TLB entries until this is flushed"]
pub(crate) struct Gather {
    vmid: u16,
    addresses: [Option<(Ipa, u8)>; ADDRESSES],
    whole: bool,
    held: [Option<(Pa, u8)>; HELD],
}

impl Gather {
    /// Starts with nothing.
    pub(crate) fn new(vmid: u16) -> Self {
        Self {
            vmid,
            addresses: [None; ADDRESSES],
            whole: false,
            held: [None; HELD],
        }
    }

    /// Notes that a leaf of `level` at `ipa` is gone, with the frame to free, if any.
    pub(crate) fn leaf(
        &mut self,
        machine: &mut impl Machine,
        ipa: Ipa,
        level: Level,
        frame: Option<Pa>,
    ) {
        self.note(ipa, level.number());
        if let Some(pa) = frame {
            self.hold(machine, pa, level.order());
        }
    }

    /// Notes that the table at `table`, on the way to `ipa`, is no longer linked.
    pub(crate) fn table(&mut self, machine: &mut impl Machine, ipa: Ipa, table: Pa) {
        self.note(ipa, 0);
        self.hold(machine, table, 0);
    }

    /// Invalidates what was noted and frees what was held.
    pub(crate) fn flush(&mut self, machine: &mut impl Machine) {
        if self.whole {
            machine.invalidate_vmid(self.vmid);
        } else {
            for (ipa, level) in self.addresses.iter().flatten() {
                machine.invalidate_ipa(self.vmid, *ipa, *level);
            }
        }
        self.addresses = [None; ADDRESSES];
        self.whole = false;
        for (pa, order) in self.held.iter_mut().filter_map(Option::take) {
            machine.free(pa, order);
        }
    }

    fn note(&mut self, ipa: Ipa, level: u8) {
        match self.addresses.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some((ipa, level)),
            None => self.whole = true,
        }
    }

    fn hold(&mut self, machine: &mut impl Machine, pa: Pa, order: u8) {
        if self.held.iter().all(Option::is_some) {
            self.flush(machine);
        }
        if let Some(slot) = self.held.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some((pa, order));
        }
    }
}
