//! What a change leaves to be done: TLB entries to drop, then frames to free.
//!
//! The order is the architecture's (DDI 0487 D8.14, D8.16): entry invalid, store visible to
//! the walkers, TLBI complete, and only then is the memory somebody else's.

use crate::desc::Leaf;
use crate::level::Level;
use crate::machine::Machine;
use arch::{Ipa, Pa};

/// Runs of addresses remembered; more are invalidated with the whole VMID.
const RUNS: usize = 8;
/// Frames and tables held before they must be let go: whoever ends a slice frees them first.
const HELD: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Run {
    from: Ipa,
    bytes: u64,
    level: u8,
}

/// TLB entries that may be stale.
#[derive(Debug)]
#[must_use = "stale translations are in use until this is completed"]
pub(crate) struct Flush {
    vmid: u16,
    runs: [Option<Run>; RUNS],
    whole: bool,
}

impl Flush {
    /// Starts with nothing.
    pub(crate) fn new(vmid: u16) -> Self {
        Self {
            vmid,
            runs: [None; RUNS],
            whole: false,
        }
    }

    /// Notes that the leaf of `level` that begins at `ipa` has changed.
    pub(crate) fn leaf(&mut self, ipa: Ipa, level: Level) {
        self.note(ipa, level.span(), level.number());
    }

    /// Notes that a table on the way to `ipa` is no longer linked.
    pub(crate) fn table(&mut self, ipa: Ipa) {
        self.note(ipa, 4096, 0);
    }

    /// Invalidates what was noted. Nothing stale is in any TLB on return.
    pub(crate) fn complete(&mut self, machine: &impl Machine) {
        if self.whole {
            machine.invalidate_vmid(self.vmid);
        } else {
            for run in self.runs.iter().flatten() {
                machine.invalidate_range(self.vmid, run.from, run.bytes, run.level);
            }
        }
        self.runs = [None; RUNS];
        self.whole = false;
    }

    fn note(&mut self, ipa: Ipa, bytes: u64, level: u8) {
        let follows = |run: &&mut Run| {
            run.level == level && level != 0 && run.from.checked_add(run.bytes) == Some(ipa)
        };
        if let Some(run) = self.runs.iter_mut().flatten().find(follows) {
            run.bytes = run.bytes.saturating_add(bytes);
            return;
        }
        let run = Run {
            from: ipa,
            bytes,
            level,
        };
        match self.runs.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some(run),
            None => self.whole = true,
        }
    }
}

/// What one operation has unlinked so far.
#[derive(Debug)]
#[must_use = "frames are reachable through stale TLB entries until this is flushed"]
pub(crate) struct Gather {
    pub(crate) flush: Flush,
    /// Address, order, and whether others may use it too.
    held: [Option<(Pa, u8, bool)>; HELD],
    /// Frames are scrubbed before they go back (the table pages are not).
    wipe: bool,
}

impl Gather {
    /// Starts with nothing. `wipe` scrubs the frames of RAM before they are freed.
    pub(crate) fn new(vmid: u16, wipe: bool) -> Self {
        Self {
            flush: Flush::new(vmid),
            held: [None; HELD],
            wipe,
        }
    }

    /// Takes over the frame of a `leaf` of RAM that was noted in [`Self::flush`].
    pub(crate) fn frame(&mut self, machine: &mut impl Machine, leaf: Leaf, level: Level) {
        if self.wipe && !leaf.shared() {
            // Before the TLBI a vCPU could still write to it.
            self.complete(machine);
            machine.scrub(leaf.base(), level.order());
        }
        self.hold(machine, leaf.base(), level.order(), leaf.shared());
    }

    /// Takes over a table on the way to `ipa` that is no longer linked.
    pub(crate) fn table(&mut self, machine: &mut impl Machine, ipa: Ipa, table: Pa) {
        self.flush.table(ipa);
        self.hold(machine, table, 0, false);
    }

    /// Invalidates what was noted and frees what was held.
    pub(crate) fn complete(&mut self, machine: &mut impl Machine) {
        self.flush.complete(machine);
        for (pa, order, shared) in self.held.iter_mut().filter_map(Option::take) {
            if shared {
                machine.release(pa, order);
            } else {
                machine.free(pa, order);
            }
        }
    }

    fn hold(&mut self, machine: &mut impl Machine, pa: Pa, order: u8, shared: bool) {
        if self.held.iter().all(Option::is_some) {
            self.complete(machine);
        }
        if let Some(slot) = self.held.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some((pa, order, shared));
        }
    }
}
