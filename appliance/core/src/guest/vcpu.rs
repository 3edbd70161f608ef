//! A vCPU: what the core that holds it has, and what every core may touch of it.
#![expect(unsafe_code, reason = "records live in frames, reached by pointer")]

use core::ptr::NonNull;
use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};

use ::vcpu::power::Switch;
use ::vcpu::reset;
use arch::Pa;
use gmap::{Cache, Scrubbing};
use guest_abi::core_call::{EXIT_CLASSES, ExitClass};
use sched::Turns;
use spin::Mutex;
use vgic::LrSet;

use super::{VCPU_ORDER, Vm};
use crate::features;
use crate::passthrough::Parked;
use crate::regs::{El1Regs, FpRegs};
use crate::{guest_memory, memory, world};

/// No core.
pub(crate) const NOWHERE: usize = usize::MAX;

/// Whether a vCPU wants to run. Changes only under the lock of its home core's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Run {
    /// Off: started by PSCI or by root.
    Off = 0,
    /// In its home core's queue.
    Queued = 1,
    /// On its home core.
    Running = 2,
    /// Waiting for an interrupt. It may still be loaded.
    Blocked = 3,
}

impl Run {
    fn from_u8(raw: u8) -> Self {
        match raw {
            1 => Self::Queued,
            2 => Self::Running,
            3 => Self::Blocked,
            _ => Self::Off,
        }
    }
}

/// One vCPU, as the core that holds it has it, or else its home: nobody else touches this.
/// (Its home changes only while no core holds it, see `place`.) `vectors.S` knows the offsets
/// of the first three fields.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Vcpu {
    /// x0 to x30.
    pub(crate) gpr: [u64; 31],
    /// Where it goes on.
    pub(crate) pc: u64,
    /// PSTATE, as SPSR_EL2 has it.
    pub(crate) pstate: u64,
    /// The part that other cores may touch.
    control: &'static VcpuControl,
    /// EL1 registers, while it is not on a core.
    pub(crate) el1: El1Regs,
    /// FP registers, while it is not on a core.
    pub(crate) fp: FpRegs,
    /// What it has of features that not every guest uses.
    pub(crate) features: features::Registers,
    /// The list registers' image.
    pub(crate) lrs: LrSet,
    /// Pages for its tables, taken while no lock is held.
    pub(crate) tables: Cache,
    /// A block of 2 MiB that a fault of its waits for, as far as it is zeroed.
    pub(crate) half: Option<Scrubbing>,
    /// The device it waits for.
    pub(crate) parked: Parked,
}
const _: () = assert!(core::mem::offset_of!(Vcpu, pc) == 248);
const _: () = assert!(core::mem::offset_of!(Vcpu, pstate) == 256);

impl core::ops::Deref for Vcpu {
    type Target = VcpuControl;

    #[inline(always)]
    fn deref(&self) -> &VcpuControl {
        self.control
    }
}

/// What every core may touch of a vCPU: atomics, locks, and what never changes.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct VcpuControl {
    /// Its VM.
    vm: NonNull<Vm>,
    /// Its number in the VM.
    pub(crate) index: usize,
    /// Its number on the machine.
    pub(crate) id: u16,
    /// The core it runs on. Changes under the locks of both queues, while no core holds it.
    home: AtomicUsize,
    /// Bit n: it may run on core n.
    pub(crate) affinity: AtomicU32,
    /// A core holds its registers.
    held: AtomicBool,
    /// The core that held them last, and the one whose deadlines it is among.
    pub(crate) last_on: AtomicUsize,
    pub(crate) deadline_at: AtomicUsize,
    /// Its age (`sched::Entity`) while it is in no queue.
    pub(crate) age: AtomicU64,
    /// Whether it is on, for those that switch it on.
    pub(crate) power: Switch<AtomicU8>,
    /// Where it is to start: PC and x0, from when that is asked for until it happens.
    pub(crate) start: Mutex<Option<(u64, u64)>>,
    run: AtomicU8,
    /// The model has something for the list registers, or the VM has to stop.
    pub(crate) attention: AtomicBool,
    /// Exits by class. Written by the home core alone.
    pub(crate) exits: [AtomicU64; EXIT_CLASSES],
    /// How often it was put on another core than the last one.
    pub(crate) moves: AtomicU64,
    /// How often it was put on a core.
    pub(crate) switches: AtomicU64,
    /// What its time went to. Changes with `run`; the innermost lock.
    pub(crate) turns: Mutex<Turns>,
    /// Pages it said are unused ([`guest_memory`]).
    pub(crate) released: guest_memory::Released,
    /// Counter value at which it is to be woken though no timer of its own asks for it; 0 for
    /// never.
    pub(crate) wake_at: AtomicU64,
    /// An SError that somebody asked for: see `features::serror`.
    pub(crate) abort: AtomicU64,
    private: AtomicPtr<Vcpu>,
}

/// The two parts of a vCPU, in one frame.
#[repr(C)]
struct VcpuFrame {
    private: Vcpu,
    control: VcpuControl,
}
const _: () = assert!(size_of::<VcpuFrame>() <= 4096 << VCPU_ORDER);

/// Where a new vCPU belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Its number in the VM.
    pub(super) index: usize,
    /// Its number on the machine.
    pub(super) id: u16,
    /// The core it runs on first.
    pub(super) home: usize,
    /// Bit n: it may run on core n.
    pub(super) affinity: u32,
}

/// Builds a vCPU of `vm`, switched off, in the block of [`VCPU_ORDER`] at `frame`, which is the
/// caller's and which nobody else knows.
pub(super) fn build(frame: Pa, vm: &'static Vm, place: Place) -> *mut VcpuControl {
    let frame = memory::ptr::<VcpuFrame>(frame);
    // SAFETY: the frame is ours and large enough (asserted above); only the place of a
    // field is computed.
    let control = unsafe { &raw mut (*frame).control };
    // SAFETY: as above.
    let private = unsafe { &raw mut (*frame).private };
    let value = VcpuControl {
        vm: NonNull::from(vm),
        index: place.index,
        id: place.id,
        home: AtomicUsize::new(place.home),
        affinity: AtomicU32::new(place.affinity),
        held: AtomicBool::new(false),
        last_on: AtomicUsize::new(NOWHERE),
        deadline_at: AtomicUsize::new(NOWHERE),
        age: AtomicU64::new(0),
        power: Switch::new(),
        start: Mutex::new(None),
        run: AtomicU8::new(Run::Off as u8),
        attention: AtomicBool::new(false),
        exits: [const { AtomicU64::new(0) }; EXIT_CLASSES],
        moves: AtomicU64::new(0),
        switches: AtomicU64::new(0),
        turns: Mutex::new(Turns::new()),
        released: guest_memory::Released::new(),
        wake_at: AtomicU64::new(0),
        abort: AtomicU64::new(0),
        private: AtomicPtr::new(private),
    };
    // SAFETY: the place is inside the frame, aligned, and nobody knows of it yet.
    unsafe { control.write(value) };
    let value = Vcpu {
        gpr: [0; 31],
        pc: 0,
        pstate: reset::PSTATE,
        // SAFETY: just written; it stays until the VM is destroyed, and with it this.
        control: unsafe { &*control },
        el1: El1Regs::default(),
        fp: FpRegs::ZERO,
        features: features::Registers::RESET,
        lrs: LrSet::new(world::list_registers()),
        tables: Cache::new(),
        half: None,
        parked: Parked::default(),
    };
    // SAFETY: as for the control part.
    unsafe { private.write(value) };
    control
}

impl VcpuControl {
    /// Returns the pointer by which the core that holds it runs it.
    pub(super) fn private(&self) -> *mut Vcpu {
        self.private.load(Ordering::Acquire)
    }

    /// Returns its VM.
    #[inline(always)]
    pub(crate) fn vm(&self) -> &'static Vm {
        // SAFETY: a VM outlives its vCPUs (`destroy`), and is only ever reached shared.
        unsafe { self.vm.as_ref() }
    }

    /// Returns whether it wants to run. The caller holds the home core's queue, or may
    /// live with an answer that is old.
    pub(crate) fn run(&self) -> Run {
        Run::from_u8(self.run.load(Ordering::Acquire))
    }

    /// Returns the core it runs on: certain under the lock of that core's queue.
    #[inline(always)]
    pub(crate) fn home(&self) -> usize {
        self.home.load(Ordering::Acquire)
    }

    /// Gives it to another core. The caller holds both queues, and no core holds it.
    pub(crate) fn set_home(&self, core: usize) {
        self.home.store(core, Ordering::Release);
    }

    /// Returns whether it may run on `core`. Root stays on the first: its devices'
    /// interrupts come there.
    #[inline(always)]
    pub(crate) fn may_run_on(&self, core: usize) -> bool {
        self.affinity.load(Ordering::Acquire) >> core & 1 == 1
    }

    /// Returns whether a core holds its registers. While it is queued and none does, its
    /// queue's lock keeps it so.
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// Notes that this core holds its registers, or that it has put them down.
    pub(crate) fn set_held(&self, held: bool) {
        self.held.store(held, Ordering::Release);
    }

    /// Stores whether it wants to run; for `paravirt`, which tells the guest too.
    pub(crate) fn store_run(&self, run: Run) {
        self.run.store(run as u8, Ordering::Release);
    }

    /// Counts an exit, on the home core.
    #[inline(always)]
    pub(crate) fn count(&self, class: ExitClass) {
        if let Some(n) = self.exits.get(class as usize) {
            n.store(n.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }
}

impl Vcpu {
    /// Returns register `n` of an instruction, 31 being zero.
    #[inline(always)]
    pub(crate) fn reg(&self, n: u8) -> u64 {
        self.gpr.get(usize::from(n)).copied().unwrap_or(0)
    }

    /// Sets register `n` of an instruction, 31 being nowhere.
    #[inline(always)]
    pub(crate) fn set_reg(&mut self, n: u8, value: u64) {
        if let Some(reg) = self.gpr.get_mut(usize::from(n)) {
            *reg = value;
        }
    }

    /// Sets all registers to what a vCPU finds when it is switched on.
    pub(crate) fn reset(&mut self, pc: u64, x0: u64) {
        self.gpr = [0; 31];
        if let Some(reg) = self.gpr.first_mut() {
            *reg = x0;
        }
        self.pc = pc;
        self.pstate = reset::PSTATE;
        self.el1 = El1Regs {
            sctlr: reset::SCTLR_EL1,
            vmpidr: vgic::mpidr(self.index as u32),
            cntvoff: self.vm().cntvoff,
            ..El1Regs::default()
        };
        self.fp = FpRegs::ZERO;
        self.features = features::Registers::RESET;
        self.lrs = LrSet::new(world::list_registers());
    }
}
