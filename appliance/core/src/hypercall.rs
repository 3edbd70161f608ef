//! HVC and SMC of guests: PSCI, SMCCC discovery, and root's core calls.

use ::vcpu::power::{Busy, PowerState};
use ::vcpu::psci::Power;
use ::vcpu::reset;
use ::vcpu::smccc::{self as calls_of_guests, Reply};
use guest_abi::core_call::{CoreCall, VmState};
use guest_abi::map::RAM_BASE;

use crate::guest::{Run, Vcpu, VcpuControl, Vm};
use crate::{calls, epitaph, guest_memory, schedule};

/// The immediate is ignored, as SMCCC asks (DEN 0028, 2.9: nonzero is reserved).
pub(crate) fn hvc(vcpu: &mut Vcpu) {
    let id = vcpu.reg(0) as u32;
    if vcpu.vm().is_root()
        && let Some(call) = CoreCall::from_id(id)
    {
        calls::handle(vcpu, call);
        return;
    }
    if !guest_memory::call(vcpu, id) {
        smccc(vcpu, id);
    }
}

/// Guests have no secure world: nothing is ever passed on to it.
pub(crate) fn smc(vcpu: &mut Vcpu) {
    vcpu.set_reg(0, u64::MAX);
}

fn smccc(vcpu: &mut Vcpu, id: u32) {
    let [_, a, b, c, ..] = vcpu.gpr;
    let mut machine = Vcpus {
        vm: vcpu.vm(),
        index: vcpu.index,
    };
    match calls_of_guests::handle(id, [a, b, c], &mut machine) {
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
    if vm.is_root() && state == VmState::Off {
        // Root speaks for the appliance.
        crate::console::println!("root switched the machine off");
        let _ = smccc::psci::system_off::<smccc::Smc>();
        epitaph::stop()
    }
    // Of root's own end this is the start of another one. To reset the machine, it makes a call.
    schedule::stop(vm, state);
}

/// The vCPUs of the caller's VM, as its calls see them.
pub(crate) struct Vcpus {
    pub(crate) vm: &'static Vm,
    /// The caller.
    pub(crate) index: usize,
}

impl Power for Vcpus {
    type Target = &'static VcpuControl;

    fn target(&self, affinity: u64) -> Option<Self::Target> {
        let index = (0..self.vm.vcpus).find(|n| reset::affinity(*n as u32) == affinity)?;
        self.vm.vcpu(index)
    }

    fn is_entry(&self, ipa: u64) -> bool {
        ipa & 3 == 0 && ipa >= RAM_BASE && ipa - RAM_BASE < self.vm.ram_bytes
    }

    fn state(&self, target: Self::Target) -> PowerState {
        target.power.state()
    }

    fn start(&mut self, target: Self::Target, entry: u64, context: u64) -> Result<(), Busy> {
        schedule::power_on(target, entry, context)
    }
}
