//! Features of the CPU that a vCPU uses: its registers beyond those that every guest has.
//!
//! `vcpu::features` decides what a guest has and what its trapped registers do. Here the traps
//! open at the first use, and what is in use goes with the vCPU: [`load`] and [`save`] are part
//! of the world switch, and look at little where nothing is in use.

mod debug;
mod pauth;
mod pmu;
pub(crate) mod serror;
mod sve;

use core::sync::atomic::Ordering;

use ::vcpu::Register;
use ::vcpu::features::debug::Debug;
use ::vcpu::features::pmu::Pmu;
use ::vcpu::features::{Feature, Open, Outcome, Set};
use ::vcpu::sysreg::Direction;
use guest_abi::core_call::{VM_NO_PAUTH, VM_NO_PMU, VM_NO_SVE};
use spin::Once;

use self::pauth::Keys;
pub(crate) use self::pmu::interrupt as pmu_interrupt;
use self::sve::SveRegs;
use crate::guest::Vcpu;
use crate::per_cpu::{self, PerCpu};
use crate::{exits, hw, sysreg, world};

/// What the machine has.
static MACHINE: Once<Set> = Once::new();

/// What a vCPU has of features, while it is not on a core; the debug registers and the PMU that
/// it sees are always here.
#[derive(Debug)]
pub(crate) struct Registers {
    /// What it has used, and what therefore moves with it.
    live: Set,
    sve: SveRegs,
    keys: Keys,
    debug: Debug,
    pmu: Pmu,
    /// The core's counters hold `pmu`.
    counting: bool,
    /// A virtual SError that it has not taken yet, as far as core knows; see [`serror`].
    abort: u64,
}

impl Registers {
    /// At reset.
    pub(crate) const RESET: Self = Self {
        live: Set::NONE,
        sve: SveRegs::ZERO,
        keys: Keys::ZERO,
        debug: Debug::RESET,
        pmu: Pmu::RESET,
        counting: false,
        abort: 0,
    };
}

/// Reads what the boot core has. All cores are taken to be alike.
pub(crate) fn detect() {
    let there = *MACHINE.call_once(|| Set::detect(sysreg::read_id));
    debug::detect();
    if there.has(Feature::Pmu) {
        pmu::detect();
    }
}

fn machine() -> Set {
    MACHINE.get().copied().unwrap_or(Set::NONE)
}

/// Readies this core.
pub(crate) fn init_cpu(cpu: &PerCpu) {
    debug::quiet();
    if machine().has(Feature::Sve) {
        open(cpu, Set::ALL.and(machine()));
        hw::isb();
        sve::init_cpu();
        open(cpu, Set::NONE);
        hw::isb();
    }
    if machine().has(Feature::Pmu) {
        pmu::quiet();
    }
}

/// The flags that hide features.
const FLAGS: [(u32, Feature); 3] = [
    (VM_NO_SVE, Feature::Sve),
    (VM_NO_PAUTH, Feature::Pauth),
    (VM_NO_PMU, Feature::Pmu),
];

/// Returns what a VM has that was created with these flags.
pub(crate) fn of(flags: u32) -> Set {
    let hidden = FLAGS.into_iter().filter(|(flag, _)| flags & flag != 0);
    hidden.fold(machine(), |set, (_, feature)| set.without(feature))
}

/// Returns the flags that would hide what the machine has.
pub(crate) fn machine_flags() -> u32 {
    let there = FLAGS.into_iter().filter(|(_, f)| machine().has(*f));
    there.fold(0, |flags, (flag, _)| flags | flag)
}

/// Sets this core's traps for a vCPU that uses `live`.
fn open(cpu: &PerCpu, live: Set) {
    let open = Open::of(live);
    world::set_traps(cpu, open);
}

/// Puts what `vcpu` has into this core, FP registers included.
pub(crate) fn load(cpu: &PerCpu, vcpu: &mut Vcpu) {
    let own = &mut vcpu.features;
    open(cpu, own.live);
    if own.live.is_empty() {
        vcpu.fp.load();
    } else {
        load_live(vcpu);
    }
    let own = &mut vcpu.features;
    if own.debug.mdscr() != 0 {
        debug::load(&own.debug);
    }
    if own.pmu.is_live() {
        pmu::load(own);
    }
    let asked = serror::asked(vcpu);
    if vcpu.features.abort != 0 || asked {
        serror::load(cpu, vcpu);
    }
}

#[inline(never)]
fn load_live(vcpu: &mut Vcpu) {
    let own = &mut vcpu.features;
    if own.live.has(Feature::Sve) {
        // The trap has to be open for EL2 too.
        hw::isb();
        own.sve.load(&vcpu.fp);
    } else {
        vcpu.fp.load();
    }
    if own.live.has(Feature::Pauth) {
        own.keys.load();
    }
}

/// Takes what `vcpu` has from this core, which it leaves.
pub(crate) fn save(cpu: &PerCpu, vcpu: &mut Vcpu) {
    let own = &mut vcpu.features;
    if own.abort != 0 {
        serror::save(cpu, own);
    }
    if own.counting {
        pmu::stop(own);
        pmu::tell(vcpu);
    }
    let own = &mut vcpu.features;
    if own.debug.mdscr() != 0 {
        debug::quiet();
    }
    if own.live.is_empty() {
        vcpu.fp.save();
    } else {
        save_live(vcpu);
    }
}

#[inline(never)]
fn save_live(vcpu: &mut Vcpu) {
    let own = &mut vcpu.features;
    if own.live.has(Feature::Pauth) {
        own.keys.save();
    }
    if !own.live.has(Feature::Sve) {
        vcpu.fp.save();
        return;
    }
    own.sve.save(&mut vcpu.fp);
    // A kernel that looked how long vectors are has not used them yet.
    if own.sve.narrow(&mut vcpu.fp) {
        own.live = own.live.without(Feature::Sve);
    }
}

/// The loaded `vcpu` met the trap of `feature`: it has it from now on, or has no such thing.
#[inline(never)]
pub(crate) fn used(vcpu: &mut Vcpu, feature: Feature) {
    let live = vcpu.features.live;
    if !vcpu.vm().features.has(feature) || live.has(feature) {
        exits::undefined(vcpu);
        return;
    }
    let own = &mut vcpu.features;
    own.live = live.with(feature);
    open(per_cpu::this(), own.live);
    hw::isb();
    match feature {
        Feature::Sve => {
            vcpu.fp.save();
            own.sve.widen(&vcpu.fp);
            own.sve.load(&vcpu.fp);
        }
        // What another vCPU left in the core goes.
        Feature::Pauth => own.keys.load(),
        Feature::Pmu => {}
    }
}

/// Answers an access to a debug register.
#[inline(never)]
pub(crate) fn access_debug(vcpu: &mut Vcpu, register: Register, direction: Direction, rt: u8) {
    let value = vcpu.reg(rt);
    let own = &mut vcpu.features;
    let outcome = own.debug.access(register, direction, value, debug::there());
    if outcome == Outcome::Written {
        debug::load(&own.debug);
    }
    finish(vcpu, outcome, rt);
}

/// Answers an access to a register of the PMU.
#[inline(never)]
pub(crate) fn access_pmu(vcpu: &mut Vcpu, register: Register, direction: Direction, rt: u8) {
    let value = vcpu.reg(rt);
    let own = &mut vcpu.features;
    if own.counting {
        pmu::stop(own);
    }
    let outcome = own.pmu.access(register, direction, value, pmu::there());
    if own.pmu.is_live() {
        pmu::load(own);
    }
    pmu::tell(vcpu);
    finish(vcpu, outcome, rt);
}

fn finish(vcpu: &mut Vcpu, outcome: Outcome, rt: u8) {
    match outcome {
        Outcome::Value(value) => vcpu.set_reg(rt, value),
        Outcome::Written => {}
        Outcome::Undefined => {
            exits::undefined(vcpu);
            return;
        }
    }
    exits::skip(vcpu);
}

/// Returns the loaded vCPU of this core.
fn current(cpu: &PerCpu) -> Option<&'static mut Vcpu> {
    world::as_mut(cpu.current.load(Ordering::Relaxed))
}
