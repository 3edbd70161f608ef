//! The machine's own GICv3: set up once, then acknowledged and kicked.
//!
//! End of interrupt is split (ICC_CTLR_EL1.EOImode = 1): writing EOIR drops the priority,
//! writing DIR deactivates. An interrupt that is handed to a vCPU is dropped here and
//! deactivated by the guest itself, through the hardware link of its list register.
#![expect(unsafe_code, reason = "maps device registers to the driver's types")]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use arm_gic::gicv3::registers::{Gicd, GicrSgi};
use arm_gic::gicv3::{GicDistributor, GicRedistributor};
use arm_gic::{IntId, Trigger, UniqueMmioPointer};
use boot_entry::PHYSMAP;
use boot_info::{Gic, Interrupt};
use spin::Mutex;

use crate::hw;

/// SGI by which one core makes another leave its guest.
pub(crate) const KICK: u32 = 0;
/// INTID that means: nothing to acknowledge.
pub(crate) const SPURIOUS: u32 = 1023;
/// The maintenance interrupt of the virtual CPU interface (PPI 9 by SBSA and QEMU).
pub(crate) const MAINTENANCE: u32 = 25;

static DISTRIBUTOR: Mutex<Option<GicDistributor<'static>>> = Mutex::new(None);

/// The redistributor regions, for each core to find its own frame in.
static REGIONS: [(AtomicU64, AtomicU64); 4] = [const { (AtomicU64::new(0), AtomicU64::new(0)) }; 4];
static STRIDE: AtomicU64 = AtomicU64::new(0);

/// VA of the distributor's frame.
static FRAME: AtomicU64 = AtomicU64::new(0);

const GICD_ICPENDR: u64 = 0x280;
const GICD_ICACTIVER: u64 = 0x380;
const GICR_TYPER: u64 = 0x08;
const GICR_ISACTIVER0: u64 = 0x1_0300;
const GICR_ICACTIVER0: u64 = 0x1_0380;

/// Sets up the distributor. The frames are mapped at [`PHYSMAP`].
pub(crate) fn init(gic: &Gic) {
    FRAME.store(PHYSMAP + gic.distributor.pa, Ordering::Relaxed);
    let gicd = NonNull::new((PHYSMAP + gic.distributor.pa) as *mut Gicd).expect("not null");
    // SAFETY: the frame is mapped as device memory for good, and this is its only owner.
    let mut distributor = GicDistributor::new(unsafe { UniqueMmioPointer::new(gicd) });
    distributor.enable_all_interrupts(false);
    distributor.configure_default_settings();
    *DISTRIBUTOR.lock() = Some(distributor);
    for ((pa, bytes), region) in REGIONS.iter().zip(gic.redistributors.iter()) {
        pa.store(region.pa, Ordering::Relaxed);
        bytes.store(region.bytes, Ordering::Relaxed);
    }
    STRIDE.store(
        gic.redistributor_stride
            .filter(|s| *s != 0)
            .unwrap_or(0x2_0000),
        Ordering::Relaxed,
    );
}

/// Finds and wakes this core's redistributor and CPU interface, and enables core's PPIs.
///
/// Returns the VA of the redistributor, or `None` if the machine describes none.
pub(crate) fn init_cpu(ppis: &[u32]) -> Option<u64> {
    let base = find_redistributor()?;
    let frame = NonNull::new(base as *mut GicrSgi)?;
    // SAFETY: the frame belongs to this core alone and is mapped as device memory.
    let mut redistributor = GicRedistributor::new(unsafe { UniqueMmioPointer::new(frame) });
    // An error means that it was awake already.
    let _ = redistributor.mark_core_awake();
    redistributor.configure_default_settings();
    for &intid in ppis {
        let id = if intid < 16 {
            IntId::sgi(intid)
        } else {
            IntId::ppi(intid - 16)
        };
        redistributor
            .enable_interrupt(id, true)
            .expect("core's interrupts are SGIs and PPIs");
    }
    hw::set_icc_sre_el2(0xf);
    hw::isb();
    hw::set_icc_pmr(0xff);
    hw::set_icc_ctlr(1 << 1);
    hw::set_icc_igrpen1(1);
    hw::set_ich_hcr(0);
    hw::isb();
    Some(base)
}

fn find_redistributor() -> Option<u64> {
    let mpidr = hw::mpidr_el1();
    let affinity = (mpidr >> 8 & 0xff00_0000) | (mpidr & 0x00ff_ffff);
    let stride = STRIDE.load(Ordering::Relaxed);
    for (pa, bytes) in &REGIONS {
        let (pa, bytes) = (pa.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed));
        let mut offset = 0;
        while offset + stride <= bytes {
            let base = PHYSMAP + pa + offset;
            // SAFETY: GICR_TYPER of a frame inside a region that the device tree gives
            // and boot mapped.
            let typer = unsafe { core::ptr::read_volatile((base + GICR_TYPER) as *const u64) };
            if typer >> 32 == affinity {
                return Some(base);
            }
            if typer >> 4 & 1 == 1 {
                break;
            }
            offset += stride;
        }
    }
    None
}

/// Enables an SPI and routes it to the core with this MPIDR.
pub(crate) fn enable_spi(interrupt: Interrupt, mpidr: u64) {
    let Some(n) = interrupt.intid.checked_sub(32) else {
        return;
    };
    if let Some(distributor) = DISTRIBUTOR.lock().as_mut() {
        let id = IntId::spi(n);
        let trigger = if interrupt.edge {
            Trigger::Edge
        } else {
            Trigger::Level
        };
        let _ = distributor.set_trigger(id, trigger);
        let _ = distributor.set_routing(id, Some(mpidr));
        let _ = distributor.enable_interrupt(id, true);
    }
}

/// Disables an SPI.
pub(crate) fn disable_spi(intid: u32) {
    let Some(n) = intid.checked_sub(32) else {
        return;
    };
    if let Some(distributor) = DISTRIBUTOR.lock().as_mut() {
        let _ = distributor.enable_interrupt(IntId::spi(n), false);
    }
}

/// Makes an SPI neither pending nor active: who was to handle it is no more.
pub(crate) fn forget_spi(intid: u32) {
    if !(32..1020).contains(&intid) {
        return;
    }
    let (word, bit) = (u64::from(intid / 32) * 4, 1 << (intid % 32));
    let frame = FRAME.load(Ordering::Relaxed);
    for register in [GICD_ICPENDR, GICD_ICACTIVER] {
        // SAFETY: registers of the distributor, mapped as device memory for good, where a one
        // clears the bit of one interrupt and a zero does nothing: no lock is needed.
        unsafe { core::ptr::write_volatile((frame + register + word) as *mut u32, bit) };
    }
}

/// Acknowledges the most urgent interrupt; [`SPURIOUS`] if there is none.
#[inline(always)]
pub(crate) fn acknowledge() -> u32 {
    let intid = (hw::icc_iar1() & 0xff_ffff) as u32;
    // What whoever sent it wrote before is read after: the read itself orders nothing.
    hw::dsb_ish();
    intid
}

/// Drops the priority of an acknowledged interrupt and leaves it active.
#[inline(always)]
pub(crate) fn drop_priority(intid: u32) {
    hw::set_icc_eoir1(u64::from(intid));
}

/// Deactivates an interrupt.
#[inline(always)]
pub(crate) fn deactivate(intid: u32) {
    hw::set_icc_dir(u64::from(intid));
}

/// Makes the core with this MPIDR leave its guest.
pub(crate) fn kick(mpidr: u64) {
    let aff = |n: u32| mpidr >> n & 0xff;
    let value = aff(32) << 48
        | u64::from(KICK) << 24
        | aff(16) << 32
        | aff(8) << 16
        | (aff(0) >> 4) << 44
        | 1 << (aff(0) & 0xf);
    hw::dsb_ish();
    hw::set_icc_sgi1r(value);
    hw::isb();
}

/// Marks PPIs of this core as active, or not: what a vCPU that takes or leaves the core has
/// in flight. `redistributor` is what [`init_cpu`] returned.
pub(crate) fn set_active_ppis(redistributor: u64, active: u32, inactive: u32) {
    // SAFETY: registers of this core's redistributor, mapped as device memory.
    unsafe {
        core::ptr::write_volatile((redistributor + GICR_ICACTIVER0) as *mut u32, inactive);
    }
    if active != 0 {
        // SAFETY: as above.
        unsafe {
            core::ptr::write_volatile((redistributor + GICR_ISACTIVER0) as *mut u32, active);
        }
    }
}
