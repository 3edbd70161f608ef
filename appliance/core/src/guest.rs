//! VMs and their vCPUs: the records core keeps, and who may reach them.
//!
//! A [`Vm`] and its [`Vcpu`]s live in frames of their own, found through a fixed table.
//! They are built whole before anyone can see them, and freed only when every vCPU is
//! off and no core holds one, so a reference from the table stays good while it is used.
#![expect(unsafe_code, reason = "records live in frames, reached by pointer")]

use core::ptr::{self, NonNull};
use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};

use ::vcpu::reset;
use arch::{Ipa, Pa};
use gmap::Cache;
use guest_abi::core_call::{
    EXIT_CLASSES, ExitClass, Status, VM_FLAGS, VM_NO_PV_TIME, VmConfig, VmState,
};
use guest_abi::map;
use guest_abi::root_boot::VMS_MAX;
use guest_abi::vm_shared::{VM_SHARED_BYTES, VmShared};
use sched::{Cap, Turns};
use spin::Mutex;
use uart::Pl031;
use vgic::{LrSet, Vgic};

use crate::passthrough::Parked;
use crate::regs::{El1Regs, FpRegs};
use crate::serial::Serial;
use crate::stage2::{self, Space, Stage2};
use crate::{guest_memory, hw, memory, paravirt, per_cpu, world};

/// Slot of root, behind the guests'.
pub(crate) const ROOT_SLOT: usize = VMS_MAX;
/// Slots.
pub(crate) const SLOTS: usize = VMS_MAX + 1;
const VCPUS_MAX: usize = map::VCPUS_MAX as usize;
/// Numbers a vCPU can have: slot times 8, plus its index.
pub(crate) const VCPU_IDS: usize = SLOTS * VCPUS_MAX;

/// Order of the block that a [`Vm`] lives in: 16 KiB.
const VM_ORDER: u8 = 2;
/// Order of the block that a [`Vcpu`] lives in: 4 KiB.
const VCPU_ORDER: u8 = 0;
/// Order of the block that [`VmShared`] lives in: 16 KiB.
const SHARED_ORDER: u8 = 2;
const _: () = assert!(size_of::<Vm>() <= 4096 << VM_ORDER);
const _: () = assert!(VM_SHARED_BYTES == 4096 << SHARED_ORDER);

/// Root's share: while it works, a guest on its core gets a tenth.
const ROOT_WEIGHT: u32 = 1000;
/// No core.
pub(crate) const NOWHERE: usize = usize::MAX;

/// IPA bits of a guest: the QEMU `virt` map with its high windows fits in 40.
const GUEST_IPA_BITS: u8 = 40;

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
    /// The list registers' image.
    pub(crate) lrs: LrSet,
    /// Pages for its tables, taken while no lock is held.
    pub(crate) tables: Cache,
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
    /// Where it is to start: PC and x0, from when that is asked for until it happens.
    pub(crate) start: Mutex<Option<(u64, u64)>>,
    run: AtomicU8,
    /// The model has something for the list registers, or the VM has to stop.
    pub(crate) attention: AtomicBool,
    /// Exits by class. Written by the home core alone.
    pub(crate) exits: [AtomicU64; EXIT_CLASSES],
    /// What its time went to. Changes with `run`; the innermost lock.
    pub(crate) turns: Mutex<Turns>,
    /// Pages it said are unused ([`guest_memory`]).
    pub(crate) released: guest_memory::Released,
    /// Counter value at which it is to be woken though no timer of its own asks for it; 0 for
    /// never.
    pub(crate) wake_at: AtomicU64,
    private: AtomicPtr<Vcpu>,
}

/// The two parts of a vCPU, in one frame.
#[repr(C)]
struct VcpuFrame {
    private: Vcpu,
    control: VcpuControl,
}
const _: () = assert!(size_of::<VcpuFrame>() <= 4096 << VCPU_ORDER);

impl VcpuControl {
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
        self.lrs = LrSet::new(world::list_registers());
    }
}

/// One VM.
#[derive(Debug)]
pub(crate) struct Vm {
    /// Its slot in the table.
    pub(crate) slot: usize,
    /// Tells this VM from an earlier one in the same slot.
    pub(crate) generation: u32,
    /// Bytes of RAM.
    pub(crate) ram_bytes: u64,
    /// VTTBR_EL2 and VTCR_EL2.
    pub(crate) vttbr: u64,
    pub(crate) vtcr: u64,
    /// CNTVOFF_EL2: its virtual time starts at zero.
    pub(crate) cntvoff: u64,
    /// Number of vCPUs.
    pub(crate) vcpus: usize,
    /// A [`VmState`].
    state: AtomicU32,
    /// Set when every vCPU has to leave for good.
    pub(crate) stopping: AtomicBool,
    /// Why it crashed: ESR_EL2 and PC.
    pub(crate) reason: AtomicU32,
    pub(crate) reason_pc: AtomicU64,
    /// The page shared with root.
    pub(crate) shared_pa: Pa,
    /// Its share, and how many vCPUs want it.
    pub(crate) weight: AtomicU32,
    pub(crate) busy: AtomicU32,
    /// Its limit, and whether it has one.
    pub(crate) cap: Mutex<Cap>,
    pub(crate) capped: AtomicBool,
    /// What it is not to have: `VM_NO_…` of guest-abi.
    pub(crate) flags: u32,
    /// The frame of its vCPUs' lines, if it is told of stolen time.
    pub(crate) lines: Option<Pa>,
    /// The machine's functions that it has, a bit each; see `passthrough`.
    pub(crate) devices: AtomicU32,
    /// How far its RAM was populated for a device's DMA: an address.
    pub(crate) populated: AtomicU64,
    /// Stage 2.
    pub(crate) gmap: Space,
    /// Interrupts.
    pub(crate) vgic: Mutex<Vgic>,
    /// The UART.
    pub(crate) serial: Mutex<Serial>,
    /// The real-time clock.
    pub(crate) clock: Mutex<Pl031>,
}

impl Vm {
    /// Returns where it is in its life.
    pub(crate) fn state(&self) -> VmState {
        VmState::from_u32(self.state.load(Ordering::Acquire)).unwrap_or(VmState::Crashed)
    }

    /// Moves it from `from` to `to`, unless someone else was quicker.
    pub(crate) fn change_state(&self, from: VmState, to: VmState) -> bool {
        let changed = self
            .state
            .compare_exchange(from as u32, to as u32, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if changed {
            self.shared().state.store(to as u32, Ordering::Release);
        }
        changed
    }

    /// Returns whether this is root.
    #[inline(always)]
    pub(crate) fn is_root(&self) -> bool {
        self.slot == ROOT_SLOT
    }

    /// Returns the pages shared with root.
    pub(crate) fn shared(&self) -> &'static VmShared {
        // SAFETY: the block was allocated zeroed for this, lives as long as the VM, and
        // holds only atomics, so that root's writes are no data race.
        unsafe { &*memory::ptr::<VmShared>(self.shared_pa) }
    }

    /// Returns vCPU `index`, if the VM has it.
    pub(crate) fn vcpu(&self, index: usize) -> Option<&'static VcpuControl> {
        if index >= self.vcpus {
            return None;
        }
        by_id(self.slot * VCPUS_MAX + index)
    }

    /// Returns every vCPU.
    pub(crate) fn all_vcpus(&self) -> impl Iterator<Item = &'static VcpuControl> {
        let (slot, count) = (self.slot, self.vcpus);
        (0..count).filter_map(move |index| by_id(slot * VCPUS_MAX + index))
    }

    /// Returns the name root knows it by: slot and generation.
    pub(crate) fn handle(&self) -> u64 {
        u64::from(self.generation) << 32 | self.slot as u64
    }

    /// Returns the bytes core uses for it beyond its RAM.
    pub(crate) fn overhead_bytes(&self) -> u64 {
        let tables = self.gmap.shared().stats();
        let tables = tables.table_bytes + tables.sidecar_bytes;
        tables
            + (memory::FRAME << VM_ORDER)
            + (memory::FRAME << SHARED_ORDER)
            + self.vcpus as u64 * (memory::FRAME << VCPU_ORDER)
            + self.lines.map_or(0, |_| memory::FRAME)
    }
}

static VMS: [AtomicPtr<Vm>; SLOTS] = [const { AtomicPtr::new(ptr::null_mut()) }; SLOTS];
static VCPUS: [AtomicPtr<VcpuControl>; VCPU_IDS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; VCPU_IDS];
/// Serialises creating and destroying; holds the last generation given out.
static LIFECYCLE: Mutex<u32> = Mutex::new(0);

/// Returns the VM in `slot`.
pub(crate) fn by_slot(slot: usize) -> Option<&'static Vm> {
    let vm = VMS.get(slot)?.load(Ordering::Acquire);
    // SAFETY: the pointer is null or to a VM that was published whole; see the module.
    unsafe { vm.as_ref() }
}

/// Returns the VM with this handle.
pub(crate) fn by_handle(handle: u64) -> Option<&'static Vm> {
    let slot = usize::try_from(handle & 0xffff_ffff).ok()?;
    by_slot(slot).filter(|vm| vm.handle() == handle && !vm.is_root())
}

/// Returns the vCPU with this number.
pub(crate) fn by_id(id: usize) -> Option<&'static VcpuControl> {
    let vcpu = VCPUS.get(id)?.load(Ordering::Acquire);
    // SAFETY: the pointer is null or to a control part that was published whole.
    unsafe { vcpu.as_ref() }
}

/// Returns the pointer by which a core runs the vCPU with this number.
pub(crate) fn pointer(id: u16) -> *mut Vcpu {
    by_id(usize::from(id)).map_or(ptr::null_mut(), |c| c.private.load(Ordering::Acquire))
}

/// Returns how many guests exist.
pub(crate) fn count() -> u32 {
    (0..VMS_MAX).filter(|slot| by_slot(*slot).is_some()).count() as u32
}

/// What [`create`] is to build.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) slot: usize,
    pub(crate) ram_bytes: u64,
    pub(crate) vcpus: usize,
    pub(crate) ipa_bits: u8,
    pub(crate) flags: u32,
}

/// Builds a guest. Maps nothing of its RAM.
pub(crate) fn create_guest(config: &VmConfig) -> Result<&'static Vm, Status> {
    let vcpus = usize::try_from(config.vcpus).map_err(|_| Status::Invalid)?;
    if vcpus == 0
        || vcpus > VCPUS_MAX
        || config.flags & !VM_FLAGS != 0
        || config.ram_bytes == 0
        || config.ram_bytes & 0x1f_ffff != 0
        || config.ram_bytes > map::RAM_MAX_BYTES
    {
        return Err(Status::Invalid);
    }
    let mut lifecycle = LIFECYCLE.lock();
    let slot = (0..VMS_MAX)
        .find(|slot| by_slot(*slot).is_none())
        .ok_or(Status::Exhausted)?;
    let plan = Plan {
        slot,
        ram_bytes: config.ram_bytes,
        vcpus,
        ipa_bits: GUEST_IPA_BITS,
        flags: config.flags,
    };
    create(&plan, &mut lifecycle)
}

/// Builds root.
pub(crate) fn create_root(ram_bytes: u64, ipa_bits: u8) -> Result<&'static Vm, Status> {
    let plan = Plan {
        slot: ROOT_SLOT,
        ram_bytes,
        vcpus: 1,
        ipa_bits,
        flags: VM_NO_PV_TIME,
    };
    create(&plan, &mut LIFECYCLE.lock())
}

/// Blocks that are freed again unless building succeeds.
struct Blocks {
    held: [Option<(Pa, u8)>; VCPUS_MAX + 3],
    len: usize,
}

impl Blocks {
    fn alloc(&mut self, order: u8) -> Result<Pa, Status> {
        let pa = memory::alloc_zeroed(order).ok_or(Status::Exhausted)?;
        let place = self.held.get_mut(self.len).ok_or(Status::Exhausted)?;
        *place = Some((pa, order));
        self.len += 1;
        Ok(pa)
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        for (pa, order) in self.held.iter().flatten() {
            memory::free(*pa, *order);
        }
    }
}

fn create(plan: &Plan, generation: &mut u32) -> Result<&'static Vm, Status> {
    let mut blocks = Blocks {
        held: [None; VCPUS_MAX + 3],
        len: 0,
    };
    let vm_pa = blocks.alloc(VM_ORDER)?;
    let shared_pa = blocks.alloc(SHARED_ORDER)?;
    let mut vcpu_pas = [vm_pa; VCPUS_MAX];
    for pa in vcpu_pas.iter_mut().take(plan.vcpus) {
        *pa = blocks.alloc(VCPU_ORDER)?;
    }
    let lines = match plan.flags & VM_NO_PV_TIME {
        0 => Some(blocks.alloc(0)?),
        _ => None,
    };
    let ram = Ipa::new(map::RAM_BASE).expect("RAM_BASE is below 2^48");
    let mut gmap = stage2::new(plan.ipa_bits).ok_or(Status::Exhausted)?;
    let machine = &mut Stage2::unseen();
    let built = gmap
        .add_ram(machine, ram, plan.ram_bytes)
        .map_err(|_| Status::Invalid)
        .and_then(|()| match lines {
            Some(pa) => paravirt::show(&mut gmap, machine, pa).map_err(|_| Status::Exhausted),
            None => Ok(()),
        });
    if let Err(status) = built {
        let _ = gmap.destroy(machine, usize::MAX);
        stage2::free_vmid(gmap.vmid());
        return Err(status);
    }
    if let Some(pa) = lines {
        paravirt::init(pa, plan.vcpus);
    }
    if plan.slot != ROOT_SLOT {
        gmap.enable_states()
            .expect("the space has no vCPUs before this");
    }
    for _ in 0..plan.vcpus {
        gmap.add_vcpu();
    }
    // Nothing fails from here on: the blocks stay.
    blocks.held = [None; VCPUS_MAX + 3];

    *generation = generation.wrapping_add(1).max(1);
    let vm = memory::ptr::<Vm>(vm_pa);
    let value = Vm {
        slot: plan.slot,
        generation: *generation,
        ram_bytes: plan.ram_bytes,
        vttbr: gmap.vttbr(),
        vtcr: stage2::vtcr(plan.ipa_bits),
        cntvoff: if plan.slot == ROOT_SLOT {
            0
        } else {
            hw::cntpct()
        },
        vcpus: plan.vcpus,
        state: AtomicU32::new(VmState::Built as u32),
        stopping: AtomicBool::new(false),
        reason: AtomicU32::new(0),
        reason_pc: AtomicU64::new(0),
        shared_pa,
        weight: AtomicU32::new(if plan.slot == ROOT_SLOT {
            ROOT_WEIGHT
        } else {
            sched::WEIGHT_DEFAULT
        }),
        busy: AtomicU32::new(0),
        cap: Mutex::new(Cap::NONE),
        capped: AtomicBool::new(false),
        flags: plan.flags,
        lines,
        gmap: Space::new(plan.slot, gmap),
        devices: AtomicU32::new(0),
        populated: AtomicU64::new(0),
        vgic: Mutex::new(Vgic::new(plan.vcpus as u32)),
        serial: Mutex::new(Serial::default()),
        clock: Mutex::new(Pl031::default()),
    };
    // SAFETY: the block is ours, large enough (asserted above) and aligned to its size.
    unsafe { vm.write(value) };
    // SAFETY: just written, and never moved or freed while it is in the table.
    let vm: &'static Vm = unsafe { &*vm };
    {
        let mut vgic = vm.vgic.lock();
        for index in 0..plan.vcpus {
            for timer in [map::VTIMER_INTID, map::PTIMER_INTID] {
                // Nothing is active yet, so nobody needs to be told.
                let _ = vgic.set_hardware(index, timer, Some(timer));
            }
        }
    }
    vm.shared()
        .state
        .store(VmState::Built as u32, Ordering::Release);
    let cores = per_cpu::online().count().max(1);
    for (index, pa) in vcpu_pas.iter().take(plan.vcpus).enumerate() {
        // Guests fill the cores from the last: root sits on the first.
        let home = if plan.slot == ROOT_SLOT {
            0
        } else {
            cores - 1 - (plan.slot + index) % cores
        };
        let id = plan.slot * VCPUS_MAX + index;
        let frame = memory::ptr::<VcpuFrame>(*pa);
        // SAFETY: the frame is ours and large enough (asserted above); only the place of a
        // field is computed.
        let control = unsafe { &raw mut (*frame).control };
        // SAFETY: as above.
        let private = unsafe { &raw mut (*frame).private };
        let value = VcpuControl {
            vm: NonNull::from(vm),
            index,
            id: id as u16,
            home: AtomicUsize::new(home),
            affinity: AtomicU32::new(if plan.slot == ROOT_SLOT { 1 } else { u32::MAX }),
            held: AtomicBool::new(false),
            last_on: AtomicUsize::new(NOWHERE),
            deadline_at: AtomicUsize::new(NOWHERE),
            age: AtomicU64::new(0),
            start: Mutex::new(None),
            run: AtomicU8::new(Run::Off as u8),
            attention: AtomicBool::new(false),
            exits: [const { AtomicU64::new(0) }; EXIT_CLASSES],
            turns: Mutex::new(Turns::new()),
            released: guest_memory::Released::new(),
            wake_at: AtomicU64::new(0),
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
            lrs: LrSet::new(world::list_registers()),
            tables: Cache::new(),
            parked: Parked::default(),
        };
        // SAFETY: as for the control part.
        unsafe { private.write(value) };
        if let Some(entry) = VCPUS.get(id) {
            entry.store(control, Ordering::Release);
        }
    }
    if let Some(entry) = VMS.get(plan.slot) {
        entry.store(ptr::from_ref(vm).cast_mut(), Ordering::Release);
    }
    Ok(vm)
}

/// Frees a VM that does not run, a slice at a time; [`Status::Again`] until it is done.
///
/// `last` runs once nothing can fail any more, before the records go.
pub(crate) fn destroy(vm: &'static Vm, last: impl FnOnce()) -> Result<(), Status> {
    let _lifecycle = LIFECYCLE.lock();
    if vm.state() == VmState::Running {
        return Err(Status::BadState);
    }
    // A vCPU that is on its way out, or still loaded somewhere, keeps the VM.
    if vm.all_vcpus().any(|v| v.run() != Run::Off) || !world::unload(vm) {
        return Err(Status::Again);
    }
    // That it is no longer its core's current one is not enough: the core writes this last.
    if vm.all_vcpus().any(VcpuControl::is_held) {
        return Err(Status::Again);
    }
    let machine = &mut vm.gmap.machine();
    if let Some(frame) = vm.gmap.huge.lock().take() {
        frame.free(machine);
    }
    if vm.gmap.exclusive().destroy(machine, 256) == gmap::Progress::More {
        return Err(Status::Again);
    }
    stage2::free_vmid(vm.gmap.shared().vmid());
    last();
    for index in 0..vm.vcpus {
        let id = vm.slot * VCPUS_MAX + index;
        if let Some(entry) = VCPUS.get(id) {
            if let Some(vcpu) = world::as_mut(pointer(id as u16)) {
                vcpu.tables.release(&mut vm.gmap.machine());
                vcpu.released.free();
            }
            let control = entry.swap(ptr::null_mut(), Ordering::AcqRel);
            let frame = memory::pa_of(control as u64).align_down(memory::FRAME << VCPU_ORDER);
            memory::free(frame, VCPU_ORDER);
        }
    }
    let (shared, lines) = (vm.shared_pa, vm.lines);
    if let Some(entry) = VMS.get(vm.slot) {
        let vm = entry.swap(ptr::null_mut(), Ordering::AcqRel);
        memory::free(memory::pa_of(vm as u64), VM_ORDER);
    }
    memory::free(shared, SHARED_ORDER);
    if let Some(pa) = lines {
        memory::free(pa, 0);
    }
    Ok(())
}
