//! Synchronous exits: decoded once, answered here or in the file named for it.

use core::sync::atomic::Ordering;

use ::vcpu::inject::{self, Abort, AbortKind};
use ::vcpu::{Exit, Wait};
use arch::Ipa;
use gmap::Access;
use guest_abi::core_call::{ExitClass, VmState};
use guest_abi::map::RAM_BASE;

use crate::guest::Vcpu;
use crate::memory::Frames;
use crate::{console, hw, hypercall, mmio, schedule, sysreg};

/// The guest did something that needs core.
#[expect(unsafe_code, reason = "called from vectors.S by name")]
#[unsafe(no_mangle)]
extern "C" fn exit_sync(vcpu: &mut Vcpu) -> *mut Vcpu {
    let esr = hw::esr_el2();
    match Exit::decode(esr, hw::far_el2(), hw::hpfar_el2()) {
        Exit::Hvc { .. } => {
            vcpu.count(ExitClass::Call);
            hypercall::hvc(vcpu);
        }
        Exit::DataAbort(abort) => {
            if let Some(mmio) = abort.mmio()
                && abort.ipa.raw() < RAM_BASE
            {
                mmio::access(vcpu, abort.ipa, mmio);
            } else {
                let access = if abort.write {
                    Access::WRITE
                } else {
                    Access::READ
                };
                stage2_fault(vcpu, abort.ipa, access, esr);
            }
        }
        Exit::InstructionAbort(abort) => stage2_fault(vcpu, abort.ipa, Access::EXEC, esr),
        Exit::Sysreg(access) => {
            vcpu.count(ExitClass::Sysreg);
            sysreg::access(vcpu, access);
        }
        Exit::Wait(wait) => {
            vcpu.count(ExitClass::Wait);
            skip(vcpu);
            if wait == Wait::Interrupt {
                schedule::block(vcpu);
            } else {
                schedule::yield_now();
            }
        }
        Exit::Smc { .. } => {
            vcpu.count(ExitClass::Call);
            // Unlike HVC, a trapped SMC leaves ELR_EL2 on the SMC itself.
            skip(vcpu);
            hypercall::smc(vcpu);
        }
        Exit::Undefined | Exit::Unknown { .. } => undefined(vcpu),
    }
    schedule::leave(vcpu)
}

/// Moves past the instruction that trapped.
#[inline(always)]
pub(crate) fn skip(vcpu: &mut Vcpu) {
    vcpu.pc = vcpu.pc.wrapping_add(4);
}

/// Answers a fault at an address that is no device's.
fn stage2_fault(vcpu: &mut Vcpu, ipa: Ipa, access: Access, esr: u64) {
    vcpu.count(ExitClass::Fault);
    let result = vcpu.vm().gmap.lock().fault(&mut Frames, ipa, access);
    match result {
        Ok(_) => {}
        Err(gmap::FaultError::OutOfMemory) => {
            console::println!(
                "no memory left for vm slot {}: it is stopped",
                vcpu.vm().slot
            );
            crash(vcpu, esr);
        }
        Err(_) => abort(vcpu, esr),
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
    vcpu.count(ExitClass::Injected);
    enter_el1(vcpu, inject::undefined);
}

/// Makes the guest take a synchronous external abort for the access in `esr`.
pub(crate) fn abort(vcpu: &mut Vcpu, esr: u64) {
    vcpu.count(ExitClass::Injected);
    let kind = if esr >> 26 & 0x3f == 0x20 {
        AbortKind::Fetch
    } else if esr >> 6 & 1 == 1 {
        AbortKind::Store
    } else {
        AbortKind::Load
    };
    let far = hw::far_el2();
    enter_el1(vcpu, |el1| inject::external_abort(el1, Abort { kind, far }));
}

/// Performs the exception entry that `how` computes, on the loaded `vcpu`.
fn enter_el1(vcpu: &mut Vcpu, how: impl FnOnce(&inject::El1) -> inject::Entry) {
    let entry = how(&inject::El1 {
        pc: vcpu.pc,
        pstate: vcpu.pstate,
        vbar: hw::vbar_el1(),
        sctlr: hw::sctlr_el1(),
    });
    hw::set_elr_el1(vcpu.pc);
    hw::set_spsr_el1(vcpu.pstate);
    hw::set_esr_el1(entry.esr);
    if let Some(far) = entry.far {
        hw::set_far_el1(far);
    }
    vcpu.pc = entry.pc;
    vcpu.pstate = entry.pstate;
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
