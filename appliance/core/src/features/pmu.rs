//! The PMU: the core's counters, lent to the vCPU that counts.
#![expect(unsafe_code, reason = "system registers are moved in assembly")]

use core::arch::asm;

use ::vcpu::features::Feature;
use ::vcpu::features::pmu::{Hardware, INTID};
use spin::Once;
use vgic::Level;

use super::{Registers, current, machine};
use crate::guest::Vcpu;
use crate::per_cpu::PerCpu;
use crate::{hw, schedule};

/// Number of the cycle counter among the counters.
const CYCLES: u32 = 31;
const ALL: u64 = 0xffff_ffff;

static THERE: Once<Hardware> = Once::new();

hw::readers! {
    pmceid0 = "pmceid0_el0";
    pmceid1 = "pmceid1_el0";
    pmccntr = "pmccntr_el0";
    pmovsset = "pmovsset_el0";
}
hw::writers! {
    set_pmcr = "pmcr_el0";
    set_pmcntenset = "pmcntenset_el0";
    set_pmcntenclr = "pmcntenclr_el0";
    set_pmovsclr = "pmovsclr_el0";
    set_pmccntr = "pmccntr_el0";
    set_pmccfiltr = "pmccfiltr_el0";
    set_pmuserenr = "pmuserenr_el0";
    set_pmintenset = "pmintenset_el1";
    set_pmintenclr = "pmintenclr_el1";
}

pub(super) fn detect() {
    THERE.call_once(|| Hardware::detect(hw::id_aa64dfr0(), hw::pmcr_el0(), [pmceid0(), pmceid1()]));
}

/// Returns what the machine's PMU is.
pub(super) fn there() -> Hardware {
    THERE.get().copied().unwrap_or_default()
}

/// Stops all counters of this core and forgets their overflows.
pub(super) fn quiet() {
    set_pmcr(0);
    set_pmcntenclr(ALL);
    set_pmintenclr(ALL);
    set_pmovsclr(ALL);
    set_pmuserenr(0);
}

/// Lets this core count for the vCPU.
pub(super) fn load(own: &mut Registers) {
    let pmu = &own.pmu;
    let enabled = pmu.hardware_enabled();
    for n in (0..there().counters()).filter(|n| enabled >> n & 1 != 0) {
        let (count, kind) = pmu.hardware_counter(n);
        set_counter(n, count, kind);
    }
    let (count, filter) = pmu.hardware_cycles();
    set_pmccntr(count);
    set_pmccfiltr(filter);
    set_pmuserenr(pmu.hardware_user());
    set_pmintenset(pmu.hardware_interrupts().into());
    set_pmcntenset(enabled.into());
    hw::isb();
    set_pmcr(pmu.hardware_control());
    own.counting = true;
}

/// Takes back what this core counted.
pub(super) fn stop(own: &mut Registers) {
    set_pmcr(0);
    hw::isb();
    let pmu = &mut own.pmu;
    let enabled = pmu.hardware_enabled();
    for n in (0..there().counters()).filter(|n| enabled >> n & 1 != 0) {
        pmu.took(n, counter(n));
    }
    if enabled >> CYCLES != 0 {
        pmu.took(CYCLES, pmccntr());
    }
    pmu.took_overflow(pmovsset(), there());
    quiet();
    own.counting = false;
}

/// Sets the line of the vCPU's PMU to what it is.
pub(super) fn tell(vcpu: &mut Vcpu) {
    let level = match vcpu.features.pmu.line() {
        true => Level::High,
        false => Level::Low,
    };
    let vm = vcpu.vm();
    let kick = vm.vgic.lock().set_level(vcpu.index, INTID, level);
    schedule::deliver(vm, kick);
}

/// A counter of the loaded vCPU overflowed.
pub(crate) fn interrupt(cpu: &PerCpu) {
    match current(cpu) {
        Some(vcpu) if vcpu.features.counting => {
            stop(&mut vcpu.features);
            if vcpu.features.pmu.is_live() {
                load(&mut vcpu.features);
            }
            tell(vcpu);
        }
        // It ended between the overflow and here.
        _ if machine().has(Feature::Pmu) => quiet(),
        _ => {}
    }
}

macro_rules! counters {
    ($($n:literal)*) => {
        fn set_counter(n: u32, count: u64, kind: u64) {
            match n {
                // SAFETY: an event counter changes no memory; it counts EL1 and EL0 alone.
                $($n => unsafe {
                    asm!(concat!("msr pmevcntr", $n, "_el0, {}"),
                         concat!("msr pmevtyper", $n, "_el0, {}"),
                         in(reg) count, in(reg) kind, options(nostack, preserves_flags));
                },)*
                _ => {}
            }
        }

        fn counter(n: u32) -> u64 {
            let count: u64;
            match n {
                // SAFETY: reading a counter changes nothing.
                $($n => unsafe {
                    asm!(concat!("mrs {}, pmevcntr", $n, "_el0"), out(reg) count,
                         options(nomem, nostack, preserves_flags));
                },)*
                _ => count = 0,
            }
            count
        }
    };
}
counters!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30);
