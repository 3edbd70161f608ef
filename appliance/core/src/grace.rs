//! When nobody looks any more at a record that was taken out of the tables of VMs and vCPUs.
//!
//! A core holds references from those tables only until it is back in a guest, or idle. So once
//! every core has been there since, what was found before is not in use, and its frames can be
//! freed. No core waits: whoever frees asks again. The order of steps is [`vcpu::grace`]'s.

use core::sync::atomic::{AtomicU64, Ordering};

use ::vcpu::grace;

use crate::per_cpu::{self, PerCpu};
use crate::{gic, interrupt};

/// Counts what was taken out of tables.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// A moment after which nobody finds something any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grace(grace::Grace);

/// Something was just taken out of its table: makes every other core let go of it soon.
pub(crate) fn begin() -> Grace {
    let grace = Grace(grace::Grace::begin(&TAKEN));
    for cpu in per_cpu::online().filter(|cpu| !is_this(cpu)) {
        gic::kick(cpu.mpidr.load(Ordering::Relaxed));
    }
    grace
}

impl Grace {
    /// Returns whether every other core has. What this one holds its caller knows.
    pub(crate) fn is_over(self) -> bool {
        per_cpu::online().all(|cpu| is_this(cpu) || self.0.is_over(&cpu.let_go))
    }
}

/// This core comes from a guest or from waiting for an interrupt: takes its interrupts. After
/// that it holds no reference.
pub(crate) fn take_interrupts(cpu: &PerCpu) {
    grace::woken(|| interrupt::take(cpu), &TAKEN, &cpu.let_go);
}

fn is_this(cpu: &PerCpu) -> bool {
    core::ptr::eq(cpu, per_cpu::this())
}
