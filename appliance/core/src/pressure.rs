//! More RAM is promised than there is: when a fault finds the pool empty, VMs give what their
//! guests said they can do without.
//!
//! One slice an exit, of whichever VM is next ([`gmap::Round`]); meanwhile the guest that faulted
//! tries again. Only when a whole round over all VMs has brought nothing is there no memory.
//! Nothing of a guest's is lost that it did not give up: unused and volatile pages alone.

use core::sync::atomic::{AtomicBool, Ordering};

use gmap::{Budget, Givers, Round, Sift};
use guest_abi::core_call::Status;
use guest_abi::map::RAM_BASE;
use guest_abi::root_boot::VMS_MAX;
use spin::Mutex;

use crate::guest::{self, Vm};
use crate::{hw, memory, per_cpu};

/// Bytes with which any fault can be answered, and a VM be made: what lacks memory while there
/// is so much lacks what no page of a guest's can give it.
const ENOUGH: u64 = 32 * memory::FRAME;

static ROUND: Mutex<Round> = Mutex::new(Round::new());

/// A VM's asking for memory, if it does.
#[derive(Debug)]
pub(crate) struct Asking {
    /// So that who does not ask takes no lock.
    asks: AtomicBool,
    since: Mutex<Option<gmap::Asking>>,
}

impl Asking {
    pub(crate) const fn new() -> Self {
        Self {
            asks: AtomicBool::new(false),
            since: Mutex::new(None),
        }
    }

    /// It got what it asked for, if it asked.
    #[inline(always)]
    pub(crate) fn satisfied(&self) {
        if self.asks.load(Ordering::Relaxed) {
            self.asks.store(false, Ordering::Relaxed);
            *self.since.lock() = None;
        }
    }

    /// Takes a slice for it. Returns whether it is worth trying again.
    fn slice(&self, round: &mut Round) -> bool {
        self.asks.store(true, Ordering::Relaxed);
        round.slice(&Guests, &mut self.since.lock())
    }
}

/// Takes a slice of memory back for `vm`, if the pool is why it has none. Returns whether it is
/// worth trying again. With no lock held.
#[inline(never)]
pub(crate) fn relieve(vm: &Vm) -> bool {
    if memory::pool_bytes() >= ENOUGH {
        // There is memory: the VM has reached a limit of its own.
        return false;
    }
    // Another core is at it.
    ROUND
        .try_lock()
        .is_none_or(|mut round| vm.asking.slice(&mut round))
}

/// Does `work` for root, and again after each slice of memory that was taken back, for as long
/// as that is what it lacks. `Again` when there may be more to take further on: a VM of which
/// many pages are gone already is long. With no lock held.
pub(crate) fn patient<T>(
    root: &Vm,
    mut work: impl FnMut() -> Result<T, Status>,
) -> Result<T, Status> {
    /// Slices at the most.
    const TRIES: usize = 16;
    /// Times that there was memory right after there had been none: who is so often too late
    /// asks for more than any piece of it.
    const TOO_LATE: usize = 8;
    let short = &per_cpu::this().short;
    let mut late = 0;
    for _ in 0..TRIES {
        let before = short.load(Ordering::Relaxed);
        let result = work();
        if !matches!(result, Err(Status::Exhausted)) {
            root.asking.satisfied();
            return result;
        }
        if short.load(Ordering::Relaxed) == before {
            // It had all the memory it asked for: it is something else.
            return result;
        }
        if memory::pool_bytes() >= ENOUGH {
            // Another core has just brought some.
            late += 1;
            if late == TOO_LATE {
                return result;
            }
            continue;
        }
        // Waits for the slice of another core's: root has nothing else to do meanwhile.
        if !root.asking.slice(&mut ROUND.lock()) {
            return work();
        }
        if hw::interrupt_pending() {
            break;
        }
    }
    Err(Status::Again)
}

/// All guests: each gives of its RAM.
struct Guests;

impl Givers for Guests {
    fn slots(&self) -> usize {
        VMS_MAX
    }

    fn is_there(&self, slot: usize) -> bool {
        guest::by_slot(slot).is_some()
    }

    fn slice(&self, slot: usize, at: Option<u64>) -> (u64, Option<u64>) {
        let Some(vm) = guest::by_slot(slot) else {
            return (0, None);
        };
        let end = RAM_BASE + vm.ram_bytes;
        let start = at.map_or(RAM_BASE, |at| at.clamp(RAM_BASE, end));
        let sift = Sift {
            unused: true,
            volatile: true,
        };
        let machine = &mut vm.gmap.machine();
        let mut gmap = vm.gmap.exclusive();
        let (freed, more) = gmap.sift(machine, (start, end), sift, Budget::FREEING, |_, _| ());
        vm.gmap.reclaimed.fetch_add(freed, Ordering::Relaxed);
        (freed, more.map(arch::Ipa::raw))
    }
}
