//! How VMs come to be and go.
//!
//! A VM is built whole before anyone can see it: what fails on the way frees what it took.
#![expect(unsafe_code, reason = "records live in frames, reached by pointer")]

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use ::vcpu::ids::GuestIds;
use arch::{Ipa, Pa};
use guest_abi::core_call::{
    Status, VM_CPU_FLAGS, VM_FLAGS, VM_ITS, VM_NO_PV_TIME, VmConfig, VmState,
};
use guest_abi::map;
use guest_abi::root_boot::VMS_MAX;
use sched::Cap;
use spin::Mutex;
use uart::Pl031;
use vgic::Vgic;

use super::vcpu::{self, Place, Run, VcpuControl};
use super::{ROOT_SLOT, SHARED_ORDER, VCPU_ORDER, VCPUS, VCPUS_MAX, VM_ORDER, VMS, Vm};
use super::{by_slot, pointer};
use crate::grace::{self, Grace};
use crate::pressure::Asking;
use crate::serial::Serial;
use crate::stage2::{self, Space, Stage2};
use crate::{features, hw, its, memory, paravirt, per_cpu, sysreg, world};

/// Root's share: while it works, a guest on its core gets a tenth.
const ROOT_WEIGHT: u32 = 1000;

/// IPA bits of a guest: the QEMU `virt` map with its high windows fits in 40.
pub(crate) const GUEST_IPA_BITS: u8 = 40;

/// Leaves that one slice of a VM's end frees.
const FREED_LEAVES: usize = 64;

/// Serialises creating and destroying.
static LIFECYCLE: Mutex<Lifecycle> = Mutex::new(Lifecycle {
    generation: 0,
    grave: None,
});

/// What creating and destroying must know.
#[derive(Debug)]
struct Lifecycle {
    /// The last generation given out.
    generation: u32,
    grave: Option<Grave>,
}

/// Frames of a VM that is out of the table, and that a core may still look at.
#[derive(Debug)]
struct Grave {
    handle: u64,
    /// The VM, its vCPUs, the page shared with root, lines and ITS.
    frames: [Option<(Pa, u8)>; VCPUS_MAX + 4],
    /// Until when, once all of it is out of the table.
    grace: Option<Grace>,
}

impl Grave {
    const fn new(handle: u64) -> Self {
        Self {
            handle,
            frames: [None; VCPUS_MAX + 4],
            grace: None,
        }
    }

    fn put(&mut self, pa: Pa, order: u8) {
        let free = self.frames.iter_mut().find(|frame| frame.is_none());
        *free.expect("there is a place for every frame of a VM") = Some((pa, order));
    }
}

/// What [`create`] is to build.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) slot: usize,
    pub(crate) ram_bytes: u64,
    pub(crate) vcpus: usize,
    pub(crate) ipa_bits: u8,
    pub(crate) flags: u32,
    /// What it was made from, for root.
    pub(crate) config: VmConfig,
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
    // The grave is for this VM, should root not be able to see it. Root asks again.
    lifecycle.bury()?;
    let slot = (0..VMS_MAX)
        .find(|slot| by_slot(*slot).is_none())
        .ok_or(Status::Exhausted)?;
    let plan = Plan {
        slot,
        ram_bytes: config.ram_bytes,
        vcpus,
        ipa_bits: GUEST_IPA_BITS,
        flags: config.flags,
        config: *config,
    };
    create(&plan, &mut lifecycle.generation)
}

/// Builds root.
pub(crate) fn create_root(ram_bytes: u64, ipa_bits: u8) -> Result<&'static Vm, Status> {
    let plan = Plan {
        slot: ROOT_SLOT,
        ram_bytes,
        vcpus: 1,
        ipa_bits,
        flags: VM_NO_PV_TIME | VM_CPU_FLAGS,
        config: VmConfig {
            ram_bytes,
            vcpus: 1,
            flags: VM_NO_PV_TIME | VM_CPU_FLAGS,
            name: [0; 64],
        },
    };
    create(&plan, &mut LIFECYCLE.lock().generation)
}

/// Blocks that are freed again unless building succeeds.
struct Blocks {
    held: [Option<(Pa, u8)>; VCPUS_MAX + 4],
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
        held: [None; VCPUS_MAX + 4],
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
    let its_pa = match plan.flags & VM_ITS {
        0 => None,
        _ => Some(blocks.alloc(its::ORDER)?),
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
    blocks.held = [None; VCPUS_MAX + 4];

    *generation = generation.wrapping_add(1).max(1);
    let vm = memory::ptr::<Vm>(vm_pa);
    let has = features::of(plan.flags);
    let mut vgic = Vgic::new(plan.vcpus as u32);
    let its = its_pa.map(|pa| {
        let (its, lpis) = its::build(pa, plan.vcpus as u32);
        vgic.attach_lpis(lpis);
        its
    });
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
        config: plan.config,
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
        features: has,
        ids: GuestIds::new(sysreg::read_id, world::pa_range(), has),
        lines,
        asking: Asking::new(),
        gmap: Space::new(plan.slot, gmap),
        devices: AtomicU32::new(0),
        populated: AtomicU64::new(0),
        vgic: Mutex::new(vgic),
        its,
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
        let place = Place {
            index,
            id: id as u16,
            home,
            affinity: if plan.slot == ROOT_SLOT { 1 } else { u32::MAX },
        };
        let control = vcpu::build(*pa, vm, place);
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
    let mut lifecycle = LIFECYCLE.lock();
    if vm.state() == VmState::Running {
        return Err(Status::BadState);
    }
    // There is one grave, and another VM may be in it still.
    lifecycle.bury()?;
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
    if vm.gmap.exclusive().destroy(machine, FREED_LEAVES) == gmap::Progress::More {
        return Err(Status::Again);
    }
    stage2::free_vmid(vm.gmap.shared().vmid());
    last();
    let handle = vm.handle();
    let mut grave = Grave::new(handle);
    grave.put(vm.shared_pa, SHARED_ORDER);
    if let Some(pa) = vm.lines {
        grave.put(pa, 0);
    }
    if let Some(its) = vm.its {
        grave.put(its::block_of(its), its::ORDER);
    }
    for index in 0..vm.vcpus {
        let id = vm.slot * VCPUS_MAX + index;
        if let Some(entry) = VCPUS.get(id) {
            if let Some(vcpu) = world::as_mut(pointer(id as u16)) {
                vcpu.tables.release(machine);
                if let Some(half) = vcpu.half.take() {
                    half.free(machine);
                }
                vcpu.released.free();
            }
            let control = entry.swap(ptr::null_mut(), Ordering::AcqRel);
            let frame = memory::pa_of(control as u64).align_down(memory::FRAME << VCPU_ORDER);
            grave.put(frame, VCPU_ORDER);
        }
    }
    if let Some(entry) = VMS.get(vm.slot) {
        let vm = entry.swap(ptr::null_mut(), Ordering::AcqRel);
        grave.put(memory::pa_of(vm as u64), VM_ORDER);
    }
    grave.grace = Some(grace::begin());
    lifecycle.grave = Some(grave);
    lifecycle.bury()
}

/// Frees the frames of a VM that [`destroy`] has taken out of the table. `Again` while a core
/// may still hold a reference.
pub(crate) fn bury(handle: u64) -> Result<(), Status> {
    let mut lifecycle = LIFECYCLE.lock();
    match &lifecycle.grave {
        Some(grave) if grave.handle == handle => lifecycle.bury(),
        _ => Err(Status::NoVm),
    }
}

/// Frees what of VMs that are gone no core uses any more.
pub(crate) fn bury_all() {
    // If it is too early, whoever makes or ends a VM next does it.
    let _ = LIFECYCLE.lock().bury();
}

impl Lifecycle {
    fn bury(&mut self) -> Result<(), Status> {
        let Some(grave) = &self.grave else {
            return Ok(());
        };
        if grave.grace.is_some_and(|grace| !grace.is_over()) {
            return Err(Status::Again);
        }
        for (pa, order) in grave.frames.iter().flatten() {
            memory::free(*pa, *order);
        }
        self.grave = None;
        Ok(())
    }
}
