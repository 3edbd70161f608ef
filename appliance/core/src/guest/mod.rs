//! VMs and their vCPUs: the records core keeps, and who may reach them.
//!
//! A [`Vm`] and its [`Vcpu`]s live in frames of their own, found through a fixed table.
//! They are built whole before anyone can see them. They leave the table when every vCPU is
//! off and no core holds one, and their frames are freed once every core has been in a guest or
//! idle since ([`life`], [`crate::grace`]): so a reference from the table stays good while it is
//! used.
#![expect(unsafe_code, reason = "records live in frames, reached by pointer")]

mod life;
mod vcpu;

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use ::vcpu::features::Set;
use ::vcpu::ids::GuestIds;
use arch::Pa;
use guest_abi::core_call::{VmConfig, VmState};
use guest_abi::map;
use guest_abi::root_boot::VMS_MAX;
use guest_abi::vm_shared::{VM_SHARED_BYTES, VmShared};
use sched::Cap;
use spin::Mutex;
use uart::Pl031;
use vgic::Vgic;
use vgic::its::Its;

pub(crate) use self::life::{GUEST_IPA_BITS, bury, bury_all, create_guest, create_root, destroy};
pub(crate) use self::vcpu::{NOWHERE, Run, Vcpu, VcpuControl};
use crate::pressure::Asking;
use crate::serial::Serial;
use crate::stage2::Space;
use crate::{its, memory};

/// Slot of root, behind the guests'.
pub(crate) const ROOT_SLOT: usize = VMS_MAX;
/// Slots.
pub(crate) const SLOTS: usize = VMS_MAX + 1;
const VCPUS_MAX: usize = map::VCPUS_MAX as usize;
/// Numbers a vCPU can have: slot times 8, plus its index.
pub(crate) const VCPU_IDS: usize = SLOTS * VCPUS_MAX;

/// Order of the block that a [`Vm`] lives in: 16 KiB.
const VM_ORDER: u8 = 2;
/// Order of the block that a [`Vcpu`] lives in: 8 KiB.
const VCPU_ORDER: u8 = 1;
/// Order of the block that [`VmShared`] lives in: 16 KiB.
const SHARED_ORDER: u8 = 2;
const _: () = assert!(size_of::<Vm>() <= 4096 << VM_ORDER);
const _: () = assert!(VM_SHARED_BYTES == 4096 << SHARED_ORDER);

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
    /// What it was made from, for root.
    pub(crate) config: VmConfig,
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
    /// Which features of the CPU it has, and what it reads of them.
    pub(crate) features: Set,
    pub(crate) ids: GuestIds,
    /// The frame of its vCPUs' lines, if it is told of stolen time.
    pub(crate) lines: Option<Pa>,
    /// The machine's functions that it has, a bit each; see `passthrough`.
    pub(crate) devices: AtomicU32,
    /// How far its RAM was populated for a device's DMA: an address.
    pub(crate) populated: AtomicU64,
    /// Whether it waits for memory that others can do without.
    pub(crate) asking: Asking,
    /// Stage 2.
    pub(crate) gmap: Space,
    /// Interrupts.
    pub(crate) vgic: Mutex<Vgic>,
    /// What makes LPIs of messages, if it has devices.
    pub(crate) its: Option<&'static Mutex<Its>>,
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

    /// Lets it run again, whatever it ended in. No vCPU of it is on.
    pub(crate) fn revive(&self) {
        self.stopping.store(false, Ordering::Release);
        self.state.store(VmState::Running as u32, Ordering::Release);
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
            + self.its.map_or(0, |_| memory::FRAME << its::ORDER)
    }
}

static VMS: [AtomicPtr<Vm>; SLOTS] = [const { AtomicPtr::new(ptr::null_mut()) }; SLOTS];
static VCPUS: [AtomicPtr<VcpuControl>; VCPU_IDS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; VCPU_IDS];

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
    by_id(usize::from(id)).map_or(ptr::null_mut(), VcpuControl::private)
}

/// Returns how many guests exist.
pub(crate) fn count() -> u32 {
    (0..VMS_MAX).filter(|slot| by_slot(*slot).is_some()).count() as u32
}
