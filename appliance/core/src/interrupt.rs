//! Physical interrupts: taken at every exit they cause, and while a core idles.

use core::sync::atomic::Ordering;

use ::vcpu::features::pmu;
use guest_abi::core_call::ExitClass;
use guest_abi::map::{PTIMER_INTID, VTIMER_INTID};
use vgic::Level;

use crate::guest::{self, ROOT_SLOT, Vcpu};
use crate::per_cpu::{self, PerCpu};
use crate::{console, features, gic, grace, passthrough, rebirth, schedule, timer, world};
use ::vcpu::wakes::Flag as _;

/// The SGIs and PPIs that core uses on every core.
pub(crate) const OWN: [u32; 6] = [
    gic::KICK,
    gic::MAINTENANCE,
    timer::INTID,
    VTIMER_INTID,
    PTIMER_INTID,
    pmu::INTID,
];

/// An interrupt brought the vCPU out.
#[expect(unsafe_code, reason = "called from vectors.S by name")]
#[unsafe(no_mangle)]
extern "C" fn exit_irq(vcpu: &mut Vcpu) -> *mut Vcpu {
    vcpu.count(ExitClass::Interrupt);
    grace::take_interrupts(per_cpu::this());
    schedule::leave(vcpu)
}

/// All interrupts are group 1, so nothing signals an FIQ; if one comes, it is ours to drop.
#[expect(unsafe_code, reason = "called from vectors.S by name")]
#[unsafe(no_mangle)]
extern "C" fn exit_fiq(vcpu: &mut Vcpu) -> *mut Vcpu {
    exit_irq(vcpu)
}

/// Most interrupts taken at one exit: one that never falls silent must not hold the core.
const TAKEN_MAX: usize = 64;

/// Takes the interrupts that are pending on this core.
pub(crate) fn take(cpu: &PerCpu) {
    for _ in 0..TAKEN_MAX {
        let intid = gic::acknowledge();
        match intid {
            // Whoever kicked left word in `resched` or in `attention`.
            gic::KICK => {
                rebirth::go_on(cpu);
                done(intid);
            }
            timer::INTID => {
                timer::expired(cpu);
                done(intid);
            }
            VTIMER_INTID | PTIMER_INTID => guest_timer(cpu, intid),
            gic::MAINTENANCE => {
                if let Some(vcpu) = world::as_mut(cpu.current.load(Ordering::Relaxed)) {
                    // Refilling ends the condition, and with it the level of the line.
                    world::refill(vcpu);
                    vcpu.attention.raise();
                }
                done(intid);
            }
            pmu::INTID => {
                features::pmu_interrupt(cpu);
                done(intid);
            }
            gic::SPURIOUS => return,
            32..=1019 => device(intid),
            passthrough::LPI_FIRST.. => {
                // LPIs have no active state.
                gic::drop_priority(intid);
                passthrough::message_taken(intid);
            }
            other => {
                console::println!("unexpected interrupt {other} on this core");
                done(other);
            }
        }
    }
}

fn done(intid: u32) {
    gic::drop_priority(intid);
    gic::deactivate(intid);
}

/// The timer of the loaded vCPU fired. Its physical interrupt stays active until the guest
/// deactivates the virtual one, which hardware passes on.
fn guest_timer(cpu: &PerCpu, intid: u32) {
    gic::drop_priority(intid);
    let Some(vcpu) = world::as_mut(cpu.current.load(Ordering::Relaxed)) else {
        gic::deactivate(intid);
        return;
    };
    let vm = vcpu.vm();
    let kick = vm.vgic.lock().set_level(vcpu.index, intid, Level::High);
    schedule::deliver(vm, kick);
}

/// A device of a guest's or of root's wants attention; its owner's end of interrupt
/// deactivates it.
fn device(intid: u32) {
    gic::drop_priority(intid);
    if passthrough::interrupt(intid) {
        gic::deactivate(intid);
        return;
    }
    let (owner, intid_there) = match passthrough::owner_of(intid) {
        Some((vm, there)) => (guest::by_handle(vm), there),
        None => (guest::by_slot(ROOT_SLOT), intid),
    };
    let Some(owner) = owner else {
        gic::deactivate(intid);
        return;
    };
    let kick = owner.vgic.lock().set_level(0, intid_there, Level::High);
    schedule::deliver(owner, kick);
}
