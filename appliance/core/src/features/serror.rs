//! SErrors of a guest: one that root asks for is virtual, pending until the guest takes it.
//!
//! The machine's own are attributed by where they arrive. One that is taken from a guest is that
//! guest's, and ends its VM (`exits`); one that is taken at EL2 is core's, and ends in a reset with
//! a report (`epitaph`). Synchronous external aborts are the guest's that made the access, which
//! takes one itself.

use core::sync::atomic::Ordering;

use super::Registers;
use crate::guest::{Vcpu, VcpuControl};
use crate::per_cpu::{self, PerCpu};
use crate::{hw, schedule, world};
use ::vcpu::wakes::Flag as _;

/// In [`VcpuControl::abort`]: one is asked for, with this syndrome (ESR_EL1.ISS).
const ASKED: u64 = 1 << 63;
const ISS: u64 = 0x1ff_ffff;

/// Asks for an SError of `vcpu`. Asking again before it is taken is asking once.
pub(crate) fn ask(vcpu: &VcpuControl, syndrome: u64) {
    vcpu.abort.store(ASKED | syndrome & ISS, Ordering::Release);
    vcpu.attention.raise();
    schedule::wake(vcpu);
}

/// Returns whether somebody asked for one and it is not pending yet.
pub(super) fn asked(vcpu: &VcpuControl) -> bool {
    vcpu.abort.load(Ordering::Acquire) != 0
}

/// Makes what was asked for pending in the loaded `vcpu`.
pub(crate) fn attend(vcpu: &mut Vcpu) {
    if asked(vcpu) {
        load(per_cpu::this(), vcpu);
    }
}

/// Returns whether `vcpu`, which is loaded, has one to take: WFI then does not wait.
pub(crate) fn is_pending(vcpu: &Vcpu) -> bool {
    vcpu.features.abort != 0 && world::has_virtual_serror(per_cpu::this())
}

/// Puts the one that is asked for, or that was pending when `vcpu` left a core, into this core.
/// Whoever asks while it is being loaded is seen here or by its attention.
pub(super) fn load(cpu: &PerCpu, vcpu: &mut Vcpu) {
    if asked(vcpu) {
        vcpu.features.abort = vcpu.abort.swap(0, Ordering::Acquire);
    }
    let own = &vcpu.features;
    if own.abort != 0 && world::has_ras() {
        hw::set_vsesr_el2(own.abort & ISS);
    }
    world::set_virtual_serror(cpu, own.abort != 0);
}

/// Takes a pending one back from this core, unless the guest took it.
pub(super) fn save(cpu: &PerCpu, own: &mut Registers) {
    if !world::has_virtual_serror(cpu) {
        own.abort = 0;
    }
    world::set_virtual_serror(cpu, false);
}
