//! Synchronous exits: decoded once, answered here or in the file named for it.

use core::sync::atomic::Ordering;

use ::vcpu::Exit;
use ::vcpu::exit::{DataAbort, Fault, InstructionAbort, Touch, Wait};
use ::vcpu::features::Feature;
use ::vcpu::inject::{self, Cause, Stopped};
use arch::Ipa;
use gmap::Access;
use guest_abi::core_call::{ExitClass, VmState};
use guest_abi::map::RAM_BASE;

use crate::guest::Vcpu;
use crate::{
    console, features, guest_fault, guest_memory, hw, hypercall, mmio, passthrough, schedule,
    sysreg, world,
};

/// The guest did something that needs core.
#[expect(unsafe_code, reason = "called from vectors.S by name")]
#[unsafe(no_mangle)]
extern "C" fn exit_sync(vcpu: &mut Vcpu) -> *mut Vcpu {
    let esr = hw::esr_el2();
    if Touch::is_told_by(esr) {
        touch(vcpu, esr)
    } else if Exit::is_hvc(esr) {
        call(vcpu)
    } else {
        other(vcpu, esr)
    }
}

/// An HVC. Like [`touch`], it would pay for the registers that [`other`] needs.
#[inline(never)]
fn call(vcpu: &mut Vcpu) -> *mut Vcpu {
    vcpu.count(ExitClass::Call);
    hypercall::hvc(vcpu);
    schedule::leave(vcpu)
}

/// A load or store where nothing is mapped. A device's is answered here, since a guest makes
/// these by the thousand; in a function of its own, which has few registers to save.
#[inline(never)]
fn touch(vcpu: &mut Vcpu, esr: u64) -> *mut Vcpu {
    match Touch::decode(esr, hw::far_el2(), hw::hpfar_el2()) {
        Some(touch) if touch.ipa.raw() < RAM_BASE && !passthrough::claims(vcpu.vm(), touch.ipa) => {
            mmio::access(vcpu, touch.ipa, touch.access, touch.write);
            schedule::leave(vcpu)
        }
        _ => other(vcpu, esr),
    }
}

/// Any other exit.
#[inline(never)]
fn other(vcpu: &mut Vcpu, esr: u64) -> *mut Vcpu {
    match Exit::decode(esr, hw::far_el2(), hw::hpfar_el2()) {
        Exit::DataAbort(abort) => data_abort(vcpu, abort, esr),
        Exit::InstructionAbort(abort) => instruction_abort(vcpu, abort, esr),
        Exit::Sysreg {
            register,
            rt,
            write,
        } => {
            vcpu.count(ExitClass::Sysreg);
            sysreg::access(vcpu, register, rt, write);
        }
        Exit::Wait { kind, register } => {
            vcpu.count(ExitClass::Wait);
            skip(vcpu);
            match kind {
                Wait::Wfi => {
                    guest_memory::drain(vcpu);
                    schedule::block(vcpu);
                }
                // A wait for an event may end at any time: the others of this core get their
                // turn, and it looks again.
                Wait::Wfe | Wait::Wfet => schedule::yield_by_spinner(vcpu),
                Wait::Wfit => {
                    guest_memory::drain(vcpu);
                    let count = vcpu.reg(register);
                    schedule::block_until(vcpu, count);
                }
            }
        }
        Exit::Smc { .. } => {
            vcpu.count(ExitClass::Call);
            // Unlike HVC, a trapped SMC leaves ELR_EL2 on the SMC itself.
            skip(vcpu);
            hypercall::smc(vcpu);
        }
        Exit::SveTrap => features::used(vcpu, Feature::Sve),
        Exit::PauthTrap => features::used(vcpu, Feature::Pauth),
        Exit::FpTrap
        | Exit::SmeTrap
        | Exit::IllegalState
        | Exit::PcAlignment
        | Exit::SpAlignment
        | Exit::Debug { .. }
        | Exit::Hvc { .. }
        | Exit::SError
        | Exit::Unknown { .. } => undefined(vcpu),
    }
    schedule::leave(vcpu)
}

#[inline(never)]
fn data_abort(vcpu: &mut Vcpu, abort: DataAbort, esr: u64) {
    let Some(ipa) = abort.ipa else {
        if !permission_fault(vcpu, abort.fault, abort.far, esr) {
            refuse_data(vcpu, &abort);
        }
        return;
    };
    if passthrough::claims(vcpu.vm(), ipa) && passthrough::touch(vcpu, ipa, &abort) {
        return;
    }
    if ipa.raw() < RAM_BASE {
        match abort.access {
            Some(access) if !abort.on_walk && !abort.cache => {
                mmio::access_again(vcpu, ipa, access, abort.write);
            }
            // Maintenance of a line that no cache holds has nothing to do.
            _ if abort.cache => skip(vcpu),
            // The syndrome does not say what the instruction was, and reading guest code
            // to find out would be a race with the guest.
            _ => refuse_data(vcpu, &abort),
        }
        return;
    }
    if !stage2_fault(vcpu, ipa, abort.fault, esr) {
        refuse_data(vcpu, &abort);
    }
}

/// Answers a permission fault: the page is there, but clean, shared, or not for this. False
/// if it is not for this.
#[inline(never)]
fn permission_fault(vcpu: &mut Vcpu, fault: Fault, far: Option<u64>, esr: u64) -> bool {
    let (Fault::Permission, Some(far)) = (fault, far) else {
        return false;
    };
    match guest_fault::translate(vcpu.vm(), far) {
        Some(ipa) if ipa.raw() >= RAM_BASE => stage2_fault(vcpu, ipa, fault, esr),
        Some(_) => false,
        // Another vCPU has just changed the guest's tables: it tries again.
        None => {
            vcpu.count(ExitClass::Fault);
            true
        }
    }
}

#[inline(never)]
fn instruction_abort(vcpu: &mut Vcpu, abort: InstructionAbort, esr: u64) {
    let served = match abort.ipa {
        Some(ipa) => stage2_fault(vcpu, ipa, abort.fault, esr),
        None => permission_fault(vcpu, abort.fault, abort.far, esr),
    };
    if !served {
        let cause = Cause::InstructionAbort {
            far: abort.far.unwrap_or(vcpu.pc),
            walk_level: abort.on_walk.then_some(0),
        };
        take(vcpu, cause);
    }
}

/// Moves past the instruction that trapped: as if it had been performed, which ends a single
/// step (D2.12) and a branch's claim on what follows it.
#[inline(always)]
pub(crate) fn skip(vcpu: &mut Vcpu) {
    const SS: u64 = 1 << 21;
    const BTYPE: u64 = 0b11 << 10;
    vcpu.pstate &= !(SS | BTYPE);
    vcpu.pc = vcpu.pc.wrapping_add(4);
}

/// Answers a fault in RAM; false if there is nothing to answer it with.
#[inline(never)]
fn stage2_fault(vcpu: &mut Vcpu, ipa: Ipa, fault: Fault, esr: u64) -> bool {
    // A walk of the guest's tables that lacks permission is hardware writing to them.
    let Some(access) = Access::from_esr(esr) else {
        return false;
    };
    vcpu.count(ExitClass::Fault);
    match fault {
        Fault::Translation | Fault::AccessFlag | Fault::Permission => {}
        Fault::AddressSize | Fault::External | Fault::ExternalOnWalk | Fault::Other(_) => {
            return false;
        }
    }
    let start = hw::cntpct();
    let result = guest_fault::fault(vcpu, ipa, access);
    match result {
        Ok(_) => {
            vcpu.count_fault(start);
            true
        }
        Err(gmap::FaultError::OutOfMemory) => {
            console::println!(
                "no memory left for the VM in slot {}: it is stopped",
                vcpu.vm().slot
            );
            crash(vcpu, esr);
            true
        }
        Err(_) => false,
    }
}

/// Ends the VM as crashed.
pub(crate) fn crash(vcpu: &mut Vcpu, esr: u64) {
    let vm = vcpu.vm();
    vm.reason.store(esr as u32, Ordering::Relaxed);
    vm.reason_pc.store(vcpu.pc, Ordering::Relaxed);
    schedule::stop(vm, VmState::Crashed);
}

/// Makes the guest take an undefined-instruction exception.
pub(crate) fn undefined(vcpu: &mut Vcpu) {
    take(vcpu, Cause::Undefined);
}

/// Makes the guest take a synchronous external abort for a load or store.
#[inline(never)]
pub(crate) fn refuse_data(vcpu: &mut Vcpu, abort: &DataAbort) {
    let cause = Cause::DataAbort {
        far: abort.far.unwrap_or(0),
        write: abort.write,
        walk_level: abort.on_walk.then_some(0),
    };
    take(vcpu, cause);
}

/// Performs the entry to EL1 that `cause` asks for, on the loaded `vcpu`.
fn take(vcpu: &mut Vcpu, cause: Cause) {
    vcpu.count(ExitClass::Injected);
    let entered = inject::take(
        cause,
        Stopped {
            pc: vcpu.pc,
            pstate: vcpu.pstate,
            vbar: hw::vbar_el1(),
            sctlr: hw::sctlr_el1(),
            fields: world::pstate_fields(),
        },
    );
    hw::set_elr_el1(entered.elr);
    hw::set_spsr_el1(entered.spsr);
    hw::set_esr_el1(entered.esr);
    if let Some(far) = entered.far {
        hw::set_far_el1(far);
    }
    vcpu.pc = entered.pc;
    vcpu.pstate = entered.pstate;
}

/// A guest's asynchronous abort: the machine's memory or a device failed under it.
#[expect(unsafe_code, reason = "called from vectors.S by name")]
#[unsafe(no_mangle)]
extern "C" fn exit_serror(vcpu: &mut Vcpu) -> *mut Vcpu {
    let esr = hw::esr_el2();
    crash(vcpu, esr);
    schedule::leave(vcpu)
}

/// A guest in AArch32: it cannot get there, and if it does, it goes no further.
#[expect(unsafe_code, reason = "called from vectors.S by name")]
#[unsafe(no_mangle)]
extern "C" fn exit_aarch32(vcpu: &mut Vcpu) -> *mut Vcpu {
    let esr = hw::esr_el2();
    crash(vcpu, esr);
    schedule::leave(vcpu)
}
