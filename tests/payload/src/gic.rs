//! The GICv3, as a guest uses it: affinity routing, group 1, one security state.
//!
//! [`handle`] acknowledges whatever comes and notes it: how often, when, and in which order.
//! A timer is masked, so that its level goes down, unless lines are left high ([`leave_lines_high`]).

use crate::sysreg::{
    CNTP_CTL_EL0, CNTV_CTL_EL0, ICC_BPR1_EL1, ICC_CTLR_EL1, ICC_EOIR1_EL1, ICC_IAR1_EL1,
    ICC_IGRPEN1_EL1, ICC_PMR_EL1, ICC_RPR_EL1, ICC_SGI1R_EL1, ICC_SRE_EL1, PMOVSCLR_EL0,
};
use crate::{cpu, mem};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use guest_abi::map::{
    GICD_BASE, GICR_BASE, GICR_STRIDE, INTIDS, PTIMER_INTID, VCPUS_MAX, VTIMER_INTID,
};

/// GICD_CTLR, offset.
pub const GICD_CTLR: u64 = 0x0;
/// GICD_TYPER, offset.
pub const GICD_TYPER: u64 = 0x4;
/// GICD_IIDR, offset.
pub const GICD_IIDR: u64 = 0x8;
/// GICR_WAKER, offset in RD_base.
pub const GICR_WAKER: u64 = 0x14;
/// SGI_base from RD_base.
pub const SGI_BASE: u64 = 0x1_0000;
/// Interrupt groups.
pub const IGROUPR: u64 = 0x80;
/// Set-enable.
pub const ISENABLER: u64 = 0x100;
/// Clear-enable.
pub const ICENABLER: u64 = 0x180;
/// Set-pending.
pub const ISPENDR: u64 = 0x200;
/// Clear-pending.
pub const ICPENDR: u64 = 0x280;
/// Set-active.
pub const ISACTIVER: u64 = 0x300;
/// Clear-active.
pub const ICACTIVER: u64 = 0x380;
/// Priorities, a byte each.
pub const IPRIORITYR: u64 = 0x400;
/// Group modifiers.
pub const IGRPMODR: u64 = 0xd00;
/// Configuration: edge or level.
pub const ICFGR: u64 = 0xc00;
/// Routing, eight bytes each.
pub const IROUTER: u64 = 0x6000;
/// GICD_PIDR2.
pub const PIDR2: u64 = 0xffe8;
/// The interrupt of the performance monitors (PPI 7).
const PMU_INTID: u64 = 23;
/// INTIDs that are no interrupts (IHI 0069, 2.2).
pub const SPECIAL: core::ops::Range<u64> = 1020..1024;

/// What one vCPU's interrupts did.
struct Log {
    count: [AtomicU32; INTIDS as usize],
    entered: AtomicU64,
    order: [AtomicU32; 16],
    taken: AtomicU64,
    spurious: AtomicU64,
}

static LOGS: [Log; VCPUS_MAX as usize] = [const {
    Log {
        count: [const { AtomicU32::new(0) }; INTIDS as usize],
        entered: AtomicU64::new(0),
        order: [const { AtomicU32::new(0) }; 16],
        taken: AtomicU64::new(0),
        spurious: AtomicU64::new(0),
    }
}; VCPUS_MAX as usize];

/// Whether lines stay high.
static LINES_STAY_HIGH: AtomicBool = AtomicBool::new(false);

/// Has interrupts acknowledged and ended from now on, and the lines of timers and counters left as they are.
pub fn leave_lines_high() {
    LINES_STAY_HIGH.store(true, Ordering::Relaxed);
}

/// Handles the interrupt that was taken when the counter was at `entered`.
///
/// No exclusives: only this vCPU writes its log, so loads and stores do.
pub(crate) fn handle(entered: u64) {
    let log = &LOGS[cpu::index()];
    let intid = ICC_IAR1_EL1.read();
    if SPECIAL.contains(&intid) {
        let before = log.spurious.load(Ordering::Relaxed);
        log.spurious.store(before + 1, Ordering::Relaxed);
        return;
    }
    if LINES_STAY_HIGH.load(Ordering::Relaxed) {
        // Whatever raised it does so again at once.
    } else if intid == u64::from(VTIMER_INTID) {
        CNTV_CTL_EL0.write(0b11);
    } else if intid == u64::from(PTIMER_INTID) {
        CNTP_CTL_EL0.write(0b11);
    } else if intid == PMU_INTID {
        PMOVSCLR_EL0.write(0xffff_ffff);
    }
    if let Some(count) = log.count.get(intid as usize) {
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
    let taken = log.taken.load(Ordering::Relaxed);
    log.order[(taken % 16) as usize].store(intid as u32, Ordering::Relaxed);
    log.entered.store(entered, Ordering::Relaxed);
    ICC_EOIR1_EL1.write(intid);
    log.taken.store(taken + 1, Ordering::Release);
}

/// Returns how often vCPU `index` took `intid`.
pub fn count(index: usize, intid: u32) -> u32 {
    LOGS[index].count[intid as usize].load(Ordering::Acquire)
}

/// Returns how many interrupts vCPU `index` took.
pub fn taken(index: usize) -> u64 {
    LOGS[index].taken.load(Ordering::Acquire)
}

/// Returns how many interrupts of vCPU `index` had gone when it asked which.
pub fn spurious(index: usize) -> u64 {
    LOGS[index].spurious.load(Ordering::Acquire)
}

/// Returns CNTVCT_EL0 as vCPU `index` entered its vector for the last interrupt.
pub fn entered(index: usize) -> u64 {
    LOGS[index].entered.load(Ordering::Acquire)
}

/// Returns the `nth` interrupt that vCPU `index` took, from 0; of the last 16 only.
pub fn nth(index: usize, nth: u64) -> u32 {
    LOGS[index].order[(nth % 16) as usize].load(Ordering::Acquire)
}

/// Returns the address of the RD_base frame of vCPU `index`.
pub fn redistributor(index: usize) -> u64 {
    GICR_BASE + GICR_STRIDE * index as u64
}

/// Switches the distributor on, with every SPI in group 1, level-sensitive, disabled, not
/// pending, not active, and of priority 0xa0.
pub fn init_distributor() {
    mem::write32(GICD_BASE + GICD_CTLR, 0);
    let words = (mem::read32(GICD_BASE + GICD_TYPER) & 31) + 1;
    for word in 1..words {
        let at = GICD_BASE + word * 4;
        for array in [ICENABLER, ICPENDR, ICACTIVER, IGROUPR] {
            mem::write32(at + array, 0xffff_ffff);
        }
        mem::write32(at + IGRPMODR, 0);
    }
    for word in 8..words * 8 {
        mem::write32(GICD_BASE + IPRIORITYR + word * 4, 0xa0a0_a0a0);
    }
    for word in 2..words * 2 {
        mem::write32(GICD_BASE + ICFGR + word * 4, 0);
    }
    // ARE (bit 4), group 1 (bit 1 with one security state, bit 0 seen from Non-secure).
    mem::write32(GICD_BASE + GICD_CTLR, 0x13);
}

/// Switches this vCPU's redistributor and CPU interface on; SGIs are enabled, PPIs not.
pub fn init_cpu() {
    let rd = redistributor(cpu::index());
    let sgi = rd + SGI_BASE;
    // ProcessorSleep off, and wait until ChildrenAsleep is.
    mem::write32(rd + GICR_WAKER, 0);
    while mem::read32(rd + GICR_WAKER) & 0b100 != 0 {}
    mem::write32(sgi + IGROUPR, 0xffff_ffff);
    mem::write32(sgi + IGRPMODR, 0);
    mem::write32(sgi + ICENABLER, 0xffff_0000);
    mem::write32(sgi + ICPENDR, 0xffff_ffff);
    mem::write32(sgi + ICACTIVER, 0xffff_ffff);
    // PPIs are level-sensitive, as timers are.
    mem::write32(sgi + ICFGR + 4, 0);
    for word in 0..8 {
        mem::write32(sgi + IPRIORITYR + word * 4, 0xa0a0_a0a0);
    }
    mem::write32(sgi + ISENABLER, 0x0000_ffff);
    init_interface();
}

/// Switches this vCPU's CPU interface on: every priority, group 1, ended by one write.
pub fn init_interface() {
    ICC_SRE_EL1.write(1);
    ICC_CTLR_EL1.write(0);
    ICC_PMR_EL1.write(0xf0);
    ICC_BPR1_EL1.write(0);
    ICC_IGRPEN1_EL1.write(1);
}

/// Where this vCPU sees the bits of `intid`: its own redistributor or the distributor.
fn frame(intid: u32) -> u64 {
    if intid < 32 {
        redistributor(cpu::index()) + SGI_BASE
    } else {
        GICD_BASE
    }
}

/// Writes the bit of `intid` in the register array at `array`.
pub fn set_bit(array: u64, intid: u32) {
    let word = u64::from(intid / 32) * 4;
    mem::write32(frame(intid) + array + word, 1 << (intid % 32));
}

/// Reads the bit of `intid` in the register array at `array`.
pub fn bit(array: u64, intid: u32) -> bool {
    let word = u64::from(intid / 32) * 4;
    mem::read32(frame(intid) + array + word) >> (intid % 32) & 1 != 0
}

/// Returns whether SGI or PPI `intid` would be taken if its line rose: enabled, in group 1,
/// not active, and nothing is active that outranks it.
pub fn is_ready(intid: u32) -> bool {
    bit(ISENABLER, intid)
        && bit(IGROUPR, intid)
        && !bit(ISACTIVER, intid)
        && mem::read32(GICD_BASE + GICD_CTLR) & 0b11 == 0b11
        && ICC_RPR_EL1.read() & 0xff == 0xff
}

/// Sets the priority of `intid`.
pub fn set_priority(intid: u32, priority: u8) {
    let at = frame(intid) + IPRIORITYR + u64::from(intid);
    mem::write8(at, u64::from(priority));
}

/// Routes SPI `intid` to vCPU `index`.
pub fn route(intid: u32, index: usize) {
    mem::write64(GICD_BASE + IROUTER + u64::from(intid) * 8, index as u64);
}

/// Sends SGI `intid` to the vCPUs in `targets`, a bit each.
#[inline(always)]
pub fn send_sgi(intid: u32, targets: u16) {
    ICC_SGI1R_EL1.write(u64::from(intid) << 24 | u64::from(targets));
}

/// Sends SGI `intid` to every vCPU but this one (IRM).
pub fn send_sgi_to_others(intid: u32) {
    ICC_SGI1R_EL1.write(u64::from(intid) << 24 | 1 << 40);
}
