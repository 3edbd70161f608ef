//! HVC and SMC of guests: PSCI, SMCCC discovery, and root's core calls.

use ::vcpu::psci::{self, Power, PowerOn, Reply};
use guest_abi::core_call::{CoreCall, VmState};

use crate::guest::{Run, Vcpu, Vm};
use crate::{calls, epitaph, schedule};

/// The immediate is ignored, as SMCCC asks (DEN 0028, 2.9: nonzero is reserved).
pub(crate) fn hvc(vcpu: &mut Vcpu) {
    let id = vcpu.reg(0) as u32;
    if vcpu.vm().is_root()
        && let Some(call) = CoreCall::from_id(id)
    {
        calls::handle(vcpu, call);
        return;
    }
    smccc(vcpu, id);
}

/// Guests have no secure world: nothing is ever passed on to it.
pub(crate) fn smc(vcpu: &mut Vcpu) {
    vcpu.set_reg(0, u64::MAX);
}

fn smccc(vcpu: &mut Vcpu, id: u32) {
    let [_, a, b, c, ..] = vcpu.gpr;
    let mut machine = Machine {
        vm: vcpu.vm(),
        caller: vcpu.index,
    };
    match psci::handle(id, [a, b, c], &mut machine) {
        Reply::Return(x0) => vcpu.set_reg(0, x0),
        Reply::Return4(values) => {
            for (n, value) in (0..).zip(values) {
                vcpu.set_reg(n, value);
            }
        }
        Reply::CpuOff => {
            schedule::power_off(vcpu);
            let vm = vcpu.vm();
            // With its last vCPU off, nothing could ever switch it on again.
            if vm.all_vcpus().all(|v| v.run() == Run::Off) {
                schedule::stop(vm, VmState::Off);
            }
        }
        Reply::Suspend => {
            vcpu.set_reg(0, 0);
            schedule::block(vcpu);
        }
        Reply::SystemOff => end(vcpu, VmState::Off),
        Reply::SystemReset => end(vcpu, VmState::Reset),
    }
}

fn end(vcpu: &Vcpu, state: VmState) {
    let vm = vcpu.vm();
    if !vm.is_root() {
        schedule::stop(vm, state);
        return;
    }
    // Root speaks for the appliance.
    if state == VmState::Off {
        crate::console::println!("root switched the machine off");
        let _ = smccc::psci::system_off::<smccc::Smc>();
    }
    epitaph::stop()
}

struct Machine {
    vm: &'static Vm,
    caller: usize,
}

impl Power for Machine {
    fn turn_on(&mut self, mpidr: u64, pc: u64, context: u64) -> PowerOn {
        let Some(target) = self.find(mpidr).and_then(|index| self.vm.vcpu(index)) else {
            return PowerOn::NoSuchCpu;
        };
        if schedule::power_on(target, pc, context) {
            PowerOn::Started
        } else if target.start.lock().is_some() {
            PowerOn::Pending
        } else {
            PowerOn::AlreadyOn
        }
    }

    fn is_on(&self, mpidr: u64) -> Option<bool> {
        let target = self.find(mpidr).and_then(|index| self.vm.vcpu(index))?;
        Some(target.run() != Run::Off)
    }

    fn entry_is_valid(&self, pc: u64) -> bool {
        let base = guest_abi::map::RAM_BASE;
        pc & 3 == 0 && pc >= base && pc - base < self.vm.ram_bytes
    }
}

impl Machine {
    fn find(&self, mpidr: u64) -> Option<usize> {
        let _ = self.caller;
        (0..self.vm.vcpus).find(|n| vgic::mpidr(*n as u32) & 0xff_00ff_ffff == mpidr)
    }
}
