//! World switch: which vCPU's registers a core holds.
//!
//! A vCPU stays loaded until another takes its core: going back into the same one writes
//! neither HCR_EL2, VTTBR_EL2 nor any EL1 register. Exits move x0 to x30 alone.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use ::vcpu::features::{Open, Set};
use ::vcpu::inject::PstateFields;
use ::vcpu::trap::{self, Features, HardwareIds, Traps};
use guest_abi::map::{PTIMER_INTID, VTIMER_INTID};
use guest_abi::memory_call::HARDWARE_FWB;
use spin::Once;
use vgic::{Level, Lr, Vgic};

use crate::guest::{self, Vcpu, Vm};
use crate::per_cpu::{self, PerCpu};
use crate::{features, gic, hw, schedule, stage2, timer};
use ::vcpu::wakes::Flag as _;

static TRAPS: Once<Traps> = Once::new();
static PSTATE_FIELDS: Once<PstateFields> = Once::new();
static PA_RANGE: AtomicU8 = AtomicU8::new(0);
static LIST_REGISTERS: AtomicU8 = AtomicU8::new(4);
static MIDR: AtomicU64 = AtomicU64::new(0);

/// HCR_EL2.TWE: WFE leaves the guest. WFI always does, so that its time is known.
const TWE: u64 = 1 << 14;
/// HCR_EL2.VSE: a virtual SError is pending.
const VSE: u64 = 1 << 8;

/// Reads what the boot core can do. All cores are taken to be alike.
pub(crate) fn detect() {
    PA_RANGE.store((hw::id_aa64mmfr0() & 0xf) as u8, Ordering::Relaxed);
    LIST_REGISTERS.store((hw::ich_vtr() & 0x1f) as u8 + 1, Ordering::Relaxed);
    MIDR.store(hw::midr_el1(), Ordering::Relaxed);
    PSTATE_FIELDS.call_once(|| PstateFields::detect(hw::id_aa64pfr1(), hw::id_aa64mmfr1()));
    TRAPS.call_once(|| {
        let ids = HardwareIds {
            pfr0: hw::id_aa64pfr0(),
            pfr1: hw::id_aa64pfr1(),
            dfr0: hw::id_aa64dfr0(),
            mmfr0: hw::id_aa64mmfr0(),
            mmfr1: hw::id_aa64mmfr1(),
        };
        // Without a PMU the register does not exist.
        let pmu = ids.dfr0 >> 8 & 0xf;
        let pmcr = if pmu == 0 || pmu == 0xf {
            0
        } else {
            hw::pmcr_el0()
        };
        let fwb = stage2::has(HARDWARE_FWB);
        trap::values(Features::detect(ids, pmcr, fwb))
    });
}

/// Returns which optional fields PSTATE has.
pub(crate) fn pstate_fields() -> PstateFields {
    PSTATE_FIELDS.get().copied().unwrap_or_default()
}

/// Returns ID_AA64MMFR0_EL1.PARange.
pub(crate) fn pa_range() -> u8 {
    PA_RANGE.load(Ordering::Relaxed)
}

/// Returns the number of implemented list registers.
pub(crate) fn list_registers() -> u8 {
    LIST_REGISTERS.load(Ordering::Relaxed)
}

/// Returns the bits of physical address the cores have, 48 at most.
pub(crate) fn pa_bits() -> u8 {
    match PA_RANGE.load(Ordering::Relaxed) {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 48,
    }
}

/// Sets the registers of this core that no vCPU changes.
pub(crate) fn init_cpu() {
    let cpu = per_cpu::this();
    let traps = TRAPS.get().expect("`detect` ran on the boot core");
    set_cptr(cpu, traps.cptr);
    hw::set_mdcr_el2(traps.mdcr);
    hw::set_hstr_el2(traps.hstr);
    hw::set_cnthctl_el2(traps.cnthctl);
    hw::set_vpidr_el2(MIDR.load(Ordering::Relaxed));
    // Fine-grained traps: their zero bits trap what is newer than we know (the bits named
    // n…), and leave the rest to HCR_EL2.
    if hw::id_aa64mmfr0() >> 56 & 0xf != 0 {
        hw::set_hfgrtr_el2(0);
        hw::set_hfgwtr_el2(0);
        hw::set_hfgitr_el2(0);
        hw::set_hdfgrtr_el2(0);
        hw::set_hdfgwtr_el2(0);
        if hw::id_aa64pfr0() >> 44 & 0xf != 0 {
            hw::set_hafgrtr_el2(0);
        }
    }
    if let Some(mpam2) = traps.mpam2 {
        hw::set_mpam2_el2(mpam2);
    }
    if hw::id_aa64mmfr1() >> 40 & 0xf != 0 {
        hw::set_hcrx_el2(0);
    }
    set_hcr(cpu, traps.hcr);
    features::init_cpu(cpu);
    timer::init_cpu();
    hw::isb();
}

fn set_hcr(cpu: &PerCpu, value: u64) {
    if cpu.hcr.swap(value, Ordering::Relaxed) != value {
        hw::set_hcr_el2(value);
    }
}

fn set_cptr(cpu: &PerCpu, value: u64) {
    if cpu.cptr.swap(value, Ordering::Relaxed) != value {
        hw::set_cptr_el2(value);
    }
}

/// Returns HCR_EL2 as it is: of a virtual SError that was pending hardware clears the bit when
/// the guest takes it.
fn hcr(cpu: &PerCpu) -> u64 {
    let known = cpu.hcr.load(Ordering::Relaxed);
    if known & VSE == 0 {
        return known;
    }
    let now = hw::hcr_el2();
    cpu.hcr.store(now, Ordering::Relaxed);
    now
}

/// Makes a virtual SError pending on this core, or not.
pub(crate) fn set_virtual_serror(cpu: &PerCpu, pending: bool) {
    let old = hcr(cpu);
    set_hcr(cpu, if pending { old | VSE } else { old & !VSE });
}

/// Returns whether a virtual SError is pending on this core.
pub(crate) fn has_virtual_serror(cpu: &PerCpu) -> bool {
    hcr(cpu) & VSE != 0
}

/// Returns whether the cores have FEAT_RAS, and with it syndromes of virtual SErrors.
pub(crate) fn has_ras() -> bool {
    hw::id_aa64pfr0() >> 28 & 0xf != 0
}

/// Opens the traps that `open` names on this core, and no others of those that can open.
pub(crate) fn set_traps(cpu: &PerCpu, open: Open) {
    const EVERY: Open = Open::of(Set::ALL);
    let old = hcr(cpu) & !EVERY.hcr_set;
    set_hcr(cpu, old | open.hcr_set);
    let cptr = cpu.cptr.load(Ordering::Relaxed) | EVERY.cptr_clear;
    set_cptr(cpu, cptr & !open.cptr_clear);
}

/// Lets WFE wait in the guest when nobody else wants the core, or not.
pub(crate) fn trap_waits(cpu: &PerCpu, trap: bool) {
    let old = hcr(cpu);
    set_hcr(cpu, if trap { old | TWE } else { old & !TWE });
}

/// Makes `next` the vCPU whose registers this core holds.
pub(crate) fn switch_to(cpu: &PerCpu, next: *mut Vcpu) {
    let previous = cpu.current.load(Ordering::Relaxed);
    if previous == next {
        return;
    }
    if let Some(previous) = as_mut(previous) {
        put(cpu, previous);
    }
    if let Some(next) = as_mut(next) {
        next.set_held(true);
        load(cpu, next);
    }
    cpu.current.store(next, Ordering::Release);
    // Only now may another core take it.
    if let Some(previous) = as_mut(previous) {
        previous.set_held(false);
    }
    // What was put may want to be woken by a timer that this core no longer runs.
    timer::arm(cpu);
}

#[expect(
    unsafe_code,
    reason = "a vCPU is reached by the pointer its core holds"
)]
pub(crate) fn as_mut<'a>(vcpu: *mut Vcpu) -> Option<&'a mut Vcpu> {
    // SAFETY: null, or a vCPU of this core, which alone touches its plain fields.
    unsafe { vcpu.as_mut() }
}

fn load(cpu: &PerCpu, vcpu: &mut Vcpu) {
    let vm = vcpu.vm();
    // Another vCPU of this VM may have used the same ASID for other tables here.
    let same_vmid = hw::vttbr_el2() >> 48 == vm.vttbr >> 48;
    hw::set_vtcr_el2(vm.vtcr);
    hw::set_vttbr_el2(vm.vttbr);
    hw::isb();
    // So may this vCPU, elsewhere: what it retired there is still cached here.
    let here = cpu.number();
    let last = vcpu.last_on.swap(here, Ordering::Relaxed);
    vcpu.switches.fetch_add(1, Ordering::Relaxed);
    if last != here && last != guest::NOWHERE {
        vcpu.moves.fetch_add(1, Ordering::Relaxed);
    }
    if same_vmid || vm.vcpus > 1 || last != here {
        hw::tlbi_local();
    }
    timer::forget(cpu, vcpu);
    features::load(cpu, vcpu);
    for n in 0..u32::from(vcpu.lrs.count) {
        hw::set_ich_lr(n, 0);
    }
    let active = {
        let mut vgic = vm.vgic.lock();
        // Of the PPIs that it no longer needs none is active here; SPIs may be anywhere.
        release(&mut vgic, vcpu.index);
        vgic.held_ppis(vcpu.index) & TIMERS
    };
    let redistributor = cpu.redistributor.load(Ordering::Relaxed);
    gic::set_active_ppis(redistributor, active, TIMERS & !active);
    fill(vcpu);
    for n in 0..vcpu.lrs.count {
        let lr = vcpu.lrs.lr.get(usize::from(n)).map_or(0, |lr| lr.raw());
        hw::set_ich_lr(u32::from(n), lr);
    }
    hw::set_ich_hcr(vcpu.lrs.hcr);
    vcpu.el1.load();
    vcpu.put_on(cpu.index.load(Ordering::Relaxed));
    hw::isb();
}

const TIMERS: u32 = 1 << VTIMER_INTID | 1 << PTIMER_INTID;

fn put(cpu: &PerCpu, vcpu: &mut Vcpu) {
    vcpu.taken_off();
    fold(vcpu);
    vcpu.el1.save();
    // What the guest armed stays in `el1`; the core's timers fall silent.
    hw::set_cntv_ctl(0);
    hw::set_cntp_ctl(0);
    hw::set_ich_hcr(0);
    hw::clrex();
    features::save(cpu, vcpu);
    hw::isb();
    let redistributor = cpu.redistributor.load(Ordering::Relaxed);
    gic::set_active_ppis(redistributor, 0, TIMERS);
    timer::remember(cpu, vcpu);
}

/// Takes `vm`'s vCPUs off the cores that still hold them. Only this core's can be taken
/// off here; for others it asks, and the answer is false until they have let go.
pub(crate) fn unload(vm: &Vm) -> bool {
    let me = per_cpu::this();
    let mut gone = true;
    for cpu in per_cpu::online() {
        let Some(held) = as_mut(cpu.current.load(Ordering::Acquire)) else {
            continue;
        };
        if !core::ptr::eq(held.vm(), vm) {
            continue;
        }
        if core::ptr::eq(cpu, me) {
            switch_to(cpu, core::ptr::null_mut());
        } else {
            cpu.resched.store(true, Ordering::Release);
            gic::kick(cpu.mpidr.load(Ordering::Relaxed));
            gone = false;
        }
    }
    gone
}

/// Copies what the guest did with its interrupts out of the list registers. The vCPU is
/// loaded here.
fn read_back(vcpu: &mut Vcpu) {
    let mut used = vcpu.lrs.used;
    while used != 0 {
        let n = used.trailing_zeros();
        used &= used - 1;
        if let Some(lr) = vcpu.lrs.lr.get_mut(n as usize) {
            *lr = Lr::from_raw(hw::ich_lr(n));
        }
    }
    if vcpu.lrs.hcr & !(vgic::hcr::EN | vgic::hcr::TDIR) != 0 {
        vcpu.lrs.hcr = hw::ich_hcr();
        vcpu.lrs.vmcr = hw::ich_vmcr();
    }
}

/// Takes back what the guest did with its interrupts. The vCPU is loaded here.
fn fold(vcpu: &mut Vcpu) {
    read_back(vcpu);
    let vm = vcpu.vm();
    let mut vgic = vm.vgic.lock();
    let kick = vgic.fold(vcpu.index, &vcpu.lrs);
    release(&mut vgic, vcpu.index);
    drop(vgic);
    schedule::deliver(vm, kick.without(vcpu.index));
}

fn fill(vcpu: &mut Vcpu) {
    let vm = vcpu.vm();
    let kick = vm.vgic.lock().fill(vcpu.index, &mut vcpu.lrs);
    schedule::deliver(vm, kick.without(vcpu.index));
}

/// Brings the list registers of the loaded `vcpu` in line with the model.
pub(crate) fn refill(vcpu: &mut Vcpu) {
    read_back(vcpu);
    // As the hardware has it now: with EOIcount, which has to be written away.
    let old_hcr = vcpu.lrs.hcr;
    let (vm, index) = (vcpu.vm(), vcpu.index);
    let mut vgic = vm.vgic.lock();
    let kick = vgic.fill(index, &mut vcpu.lrs);
    release(&mut vgic, index);
    drop(vgic);
    let mut write = vcpu.lrs.write;
    while write != 0 {
        let n = write.trailing_zeros();
        let lr = vcpu.lrs.lr.get(n as usize).map_or(0, |lr| lr.raw());
        hw::set_ich_lr(n, lr);
        write &= write - 1;
    }
    if vcpu.lrs.hcr != old_hcr {
        hw::set_ich_hcr(vcpu.lrs.hcr);
    }
    schedule::deliver(vm, kick.without(index));
}

/// Folds the loaded `vcpu`, for an access that looks at pending or active state.
pub(crate) fn sync(vcpu: &mut Vcpu) {
    fold(vcpu);
    vcpu.attention.raise();
}

/// Brings the timers' line levels of the loaded `vcpu` up to date in the model.
///
/// The machine signals a line once; after that only the timer itself knows whether the
/// line is still high.
pub(crate) fn sync_timers(vcpu: &mut Vcpu) {
    let index = vcpu.index;
    let mut vgic = vcpu.vm().vgic.lock();
    let mut kick = vgic::Kick::NONE;
    for (intid, ctl) in [
        (VTIMER_INTID, hw::cntv_ctl()),
        (PTIMER_INTID, hw::cntp_ctl()),
    ] {
        // ENABLE, not IMASK, ISTATUS.
        let level = if ctl & 0b111 == 0b101 {
            Level::High
        } else {
            Level::Low
        };
        kick |= vgic.sample(index, intid, level);
    }
    release(&mut vgic, index);
    if !kick.is_empty() {
        vcpu.attention.raise();
    }
}

/// Deactivates the physical interrupts that the model no longer needs.
fn release(vgic: &mut Vgic, index: usize) {
    while vgic.owes_deactivation(index) {
        match vgic.next_deactivation(index) {
            Some(intid) => gic::deactivate(intid),
            None => break,
        }
    }
}
