//! More RAM is promised than there is: when a fault finds the pool empty, VMs give what their
//! guests said they can do without.
//!
//! One slice an exit, of whichever VM is next; meanwhile the guest that faulted tries again. Only
//! when a whole round over all VMs has brought nothing is there no memory. Nothing of a guest's
//! is lost that it did not give up: unused and volatile pages alone.

use core::sync::atomic::Ordering;

use gmap::{Budget, Sift};
use guest_abi::core_call::Status;
use guest_abi::map::RAM_BASE;
use guest_abi::root_boot::VMS_MAX;
use spin::Mutex;

use crate::guest::{self, Vm};
use crate::memory;

/// How far the round is.
struct Round {
    slot: usize,
    /// Address in the RAM of that slot's VM.
    at: u64,
    /// Bytes taken back since the round began.
    freed: u64,
}

/// Bytes with which any fault can be answered, and a VM be made: what lacks memory while there
/// is so much lacks what no page of a guest's can give it.
const ENOUGH: u64 = 32 * memory::FRAME;

static ROUND: Mutex<Round> = Mutex::new(Round {
    slot: 0,
    at: RAM_BASE,
    freed: 0,
});

/// Takes a slice of memory back, if the pool is why there is none. Returns whether it is worth
/// trying again. With no lock held.
#[inline(never)]
pub(crate) fn relieve() -> bool {
    if memory::pool_bytes() >= ENOUGH {
        // There is memory: the VM has reached a limit of its own.
        return false;
    }
    // Another core is at it.
    ROUND.try_lock().is_none_or(|mut round| slice(&mut round))
}

/// Does `work` for root, and again after each slice of memory that was taken back, for as long
/// as that is what it lacks. `Again` when there may be more to take further on: a VM of which
/// many pages are gone already is long. With no lock held.
pub(crate) fn patient<T>(mut work: impl FnMut() -> Result<T, Status>) -> Result<T, Status> {
    /// Slices of 256 leaves.
    const TRIES: usize = 16;
    for _ in 0..TRIES {
        let before = memory::pool_bytes();
        let result = work();
        if !matches!(result, Err(Status::Exhausted)) {
            return result;
        }
        let after = memory::pool_bytes();
        if before.min(after) >= ENOUGH {
            // There was memory all the time: it is something else.
            return result;
        }
        if after >= ENOUGH {
            // Another core has just brought some.
            continue;
        }
        // Waits for a slice of another core's: root has nothing else to do meanwhile.
        if !slice(&mut ROUND.lock()) {
            // Another core may have brought some since.
            return work();
        }
    }
    Err(Status::Again)
}

fn slice(round: &mut Round) -> bool {
    let Some(vm) = guest::by_slot(round.slot).filter(|_| round.slot < VMS_MAX) else {
        return next(round);
    };
    let end = RAM_BASE + vm.ram_bytes;
    let (freed, more) = sift(vm, round.at.clamp(RAM_BASE, end), end);
    round.freed += freed;
    match more {
        Some(at) => {
            round.at = at;
            true
        }
        None => next(round),
    }
}

/// Goes on to the next VM. Returns false at the end of a round that brought nothing.
fn next(round: &mut Round) -> bool {
    round.at = RAM_BASE;
    round.slot += 1;
    while round.slot < VMS_MAX && guest::by_slot(round.slot).is_none() {
        round.slot += 1;
    }
    if round.slot < VMS_MAX {
        return true;
    }
    let brought = core::mem::take(&mut round.freed) > 0;
    round.slot = 0;
    brought
}

fn sift(vm: &Vm, start: u64, end: u64) -> (u64, Option<u64>) {
    let sift = Sift {
        unused: true,
        volatile: true,
    };
    let machine = &mut vm.gmap.machine();
    let mut gmap = vm.gmap.exclusive();
    let (freed, more) = gmap.sift(machine, (start, end), sift, Budget::SLICE, |_, _| ());
    vm.gmap.reclaimed.fetch_add(freed, Ordering::Relaxed);
    (freed, more.map(arch::Ipa::raw))
}
