//! A vCPU that waits for a device: not runnable until a given time, unless it is interrupted.
//!
//! It stays on the instruction that touched the device. Whenever it runs again, for whatever
//! reason, it touches again.

use core::sync::atomic::Ordering;
use devmem::Waiter;

use crate::guest::{Vcpu, VcpuControl};
use crate::per_cpu;
use crate::schedule;

/// What a vCPU remembers of the device it waits for. Its home core's own.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    function: usize,
    waiter: Option<Waiter>,
}

impl Parked {
    /// Returns the place for what it remembers of `function`; another's is forgotten.
    pub(super) fn waiter(&mut self, function: usize) -> &mut Option<Waiter> {
        if self.function != function {
            self.function = function;
            self.waiter = None;
        }
        &mut self.waiter
    }
}

/// Returns the counter value at which a parked vCPU is to be woken.
pub(crate) fn wake_at(vcpu: &VcpuControl) -> Option<u64> {
    let at = vcpu.wake_at.load(Ordering::Relaxed);
    (at != 0).then_some(at)
}

/// Parks `vcpu`, which runs here, until the counter reaches `ticks`.
pub(super) fn until(vcpu: &mut Vcpu, ticks: u64) {
    vcpu.wake_at.store(ticks, Ordering::Relaxed);
    let set = per_cpu::this().deadlines.lock().set(vcpu.id, ticks);
    if set.is_err() {
        // 128 wait here already. It asks again when its turn comes.
        schedule::yield_now();
        return;
    }
    schedule::pause(vcpu);
}
