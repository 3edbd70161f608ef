//! When nobody looks at a record any more that was taken out of its table.
//!
//! A core holds references from the tables of VMs and vCPUs only until it is back in a guest,
//! or idle. So once every core has been there since, who was found before is not in use, and
//! its frames can be freed. No core waits: whoever frees asks again.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::gic;
use crate::per_cpu::{self, PerCpu};

/// Counts what was taken out of tables.
static NOW: AtomicU64 = AtomicU64::new(0);

/// A moment after which nobody finds something any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grace(u64);

/// Begins to wait until every core has let go of what was just taken out of its table.
pub(crate) fn begin() -> Grace {
    let grace = Grace(NOW.fetch_add(1, Ordering::SeqCst) + 1);
    for cpu in per_cpu::online().filter(|cpu| !is_this(cpu)) {
        gic::kick(cpu.mpidr.load(Ordering::Relaxed));
    }
    grace
}

impl Grace {
    /// Returns whether every other core has. What this one holds its caller knows.
    pub(crate) fn is_over(self) -> bool {
        per_cpu::online().all(|cpu| is_this(cpu) || cpu.let_go.load(Ordering::Acquire) >= self.0)
    }
}

/// This core comes from a guest or from waiting for an interrupt: it holds no reference.
pub(crate) fn pass(cpu: &PerCpu) {
    cpu.let_go
        .store(NOW.load(Ordering::SeqCst), Ordering::Release);
}

fn is_this(cpu: &PerCpu) -> bool {
    core::ptr::eq(cpu, per_cpu::this())
}
