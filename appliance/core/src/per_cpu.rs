//! What each core has for itself, reached through TPIDR_EL2.
#![expect(unsafe_code, reason = "TPIDR_EL2 holds a pointer")]

use core::ptr;
use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};

use boot_entry::CPUS_MAX;
use sched::{Deadlines, RunQueue, Tuning};
use spin::Mutex;

use crate::guest::{VCPU_IDS, Vcpu};
use crate::{hw, timer};

/// One core.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct PerCpu {
    /// The vCPU whose registers this core holds. First: `vectors.S` reads it.
    pub(crate) current: AtomicPtr<Vcpu>,
    /// This core's number, from 0.
    pub(crate) index: AtomicUsize,
    /// MPIDR_EL1.
    pub(crate) mpidr: AtomicU64,
    /// VA of this core's redistributor.
    pub(crate) redistributor: AtomicU64,
    /// Set when the choice of who runs must be made anew.
    pub(crate) resched: AtomicBool,
    /// Counter value at which the running vCPU's turn ends, or one that is held back may go
    /// on; `u64::MAX` for never.
    pub(crate) wakes_at: AtomicU64,
    /// Somebody waits for this core.
    pub(crate) crowded: AtomicBool,
    /// Where newcomers to its queue began when it last chose.
    pub(crate) floor: AtomicU64,
    /// The vCPU that runs gives the core up at the next choice.
    pub(crate) yielding: AtomicBool,
    /// A vCPU that may not run here is, or may be, in the queue.
    pub(crate) misplaced: AtomicBool,
    /// Ticks that the running vCPU waited by WFI and that the queue does not know of.
    pub(crate) waited: AtomicU64,
    /// HCR_EL2 as it is now, so that it is written only when it changes.
    pub(crate) hcr: AtomicU64,
    /// CPTR_EL2, likewise.
    pub(crate) cptr: AtomicU64,
    /// Set once the core takes part.
    pub(crate) online: AtomicBool,
    /// Who runs here next. Guards the run state of every vCPU whose home this core is.
    pub(crate) queue: Mutex<RunQueue<VCPU_IDS>>,
    /// When blocked vCPUs that are not loaded are to be woken.
    pub(crate) deadlines: Mutex<Deadlines<128>>,
    /// A frame that this core zeroes when it has nothing else to do.
    pub(crate) scrubbing: Mutex<Option<gmap::Scrubbing>>,
    /// What had been taken out of tables when it last held no reference from one: see `grace`.
    pub(crate) let_go: AtomicU64,
    /// How often the pool had not what this core asked for.
    pub(crate) short: AtomicU64,
    /// The locks of VMs' memory that this core holds, as [`gmap::Held`] has them.
    pub(crate) locks: AtomicU8,
}
const _: () = assert!(core::mem::offset_of!(PerCpu, current) == 0);

impl PerCpu {
    const fn new() -> Self {
        Self {
            current: AtomicPtr::new(ptr::null_mut()),
            index: AtomicUsize::new(0),
            mpidr: AtomicU64::new(0),
            redistributor: AtomicU64::new(0),
            resched: AtomicBool::new(false),
            wakes_at: AtomicU64::new(u64::MAX),
            crowded: AtomicBool::new(false),
            floor: AtomicU64::new(0),
            yielding: AtomicBool::new(false),
            let_go: AtomicU64::new(0),
            short: AtomicU64::new(0),
            locks: AtomicU8::new(0),
            misplaced: AtomicBool::new(false),
            waited: AtomicU64::new(0),
            hcr: AtomicU64::new(0),
            cptr: AtomicU64::new(0),
            online: AtomicBool::new(false),
            queue: Mutex::new(RunQueue::new(Tuning::new(1_000_000_000))),
            deadlines: Mutex::new(Deadlines::new()),
            scrubbing: Mutex::new(None),
        }
    }
}

impl PerCpu {
    /// Returns this core's number.
    pub(crate) fn number(&self) -> usize {
        self.index.load(Ordering::Relaxed)
    }

    /// Notes whether this core has nothing to do.
    pub(crate) fn set_idle(&self, idle: bool) {
        let bit = 1 << self.number();
        if idle {
            IDLE.fetch_or(bit, Ordering::SeqCst);
        } else if self.is_idle() {
            IDLE.fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// Returns whether this core has nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        IDLE.load(Ordering::SeqCst) >> self.number() & 1 == 1
    }
}

/// Bit n: core n has nothing to do.
static IDLE: AtomicU32 = AtomicU32::new(0);
const _: () = assert!(CPUS_MAX <= 32);

/// Returns whether any core has nothing to do.
pub(crate) fn any_idle() -> bool {
    IDLE.load(Ordering::Relaxed) != 0
}

static CPUS: [PerCpu; CPUS_MAX] = [const { PerCpu::new() }; CPUS_MAX];

/// Returns core `index`.
pub(crate) fn cpu(index: usize) -> &'static PerCpu {
    CPUS.get(index).expect("core numbers are below CPUS_MAX")
}

/// Returns every core that takes part.
pub(crate) fn online() -> impl Iterator<Item = &'static PerCpu> {
    CPUS.iter().filter(|c| c.online.load(Ordering::Acquire))
}

/// Returns the core this runs on.
#[inline(always)]
pub(crate) fn this() -> &'static PerCpu {
    // SAFETY: `install` put the address of an element of CPUS there before anything calls
    // this, and nothing else writes TPIDR_EL2.
    unsafe { &*(hw::tpidr_el2() as *const PerCpu) }
}

/// Makes [`this`] work on this core.
pub(crate) fn install(index: usize) {
    let cpu = cpu(index);
    cpu.index.store(index, Ordering::Relaxed);
    cpu.queue.lock().tune(timer::tuning());
    cpu.mpidr
        .store(hw::mpidr_el1() & 0xff_00ff_ffff, Ordering::Relaxed);
    hw::set_tpidr_el2(ptr::from_ref(cpu) as u64);
}
