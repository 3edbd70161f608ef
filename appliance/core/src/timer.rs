//! EL2's own timer (CNTHP): ends time slices and wakes vCPUs that wait for theirs.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::guest::{self, Vcpu};
use crate::per_cpu::{self, PerCpu};
use crate::{hw, passthrough, rebirth, schedule};

/// Its interrupt (PPI 10 by SBSA and QEMU).
pub(crate) const INTID: u32 = 26;

/// ENABLE set, IMASK clear.
const RUNNING: u64 = 0b01;
const RUNNING_MASK: u64 = 0b11;

/// Silences the timer.
pub(crate) fn init_cpu() {
    hw::set_cnthp_ctl(0);
}

/// Converts nanoseconds to ticks of the counter.
pub(crate) fn ticks(ns: u64) -> u64 {
    (u128::from(ns) * u128::from(hw::cntfrq()) / 1_000_000_000) as u64
}

/// Converts ticks of the counter to nanoseconds.
pub(crate) fn nanoseconds(ticks: u64) -> u64 {
    let scale = match NS_PER_TICK.load(Ordering::Relaxed) {
        0 => {
            let scale = (1_000_000_000 << 32) / hw::cntfrq().max(1);
            NS_PER_TICK.store(scale, Ordering::Relaxed);
            scale
        }
        scale => scale,
    };
    ((u128::from(ticks) * u128::from(scale)) >> 32) as u64
}

/// Nanoseconds of a tick, times 2^32: this is computed at each switch, and a division of 128
/// bits takes as long as the switch.
static NS_PER_TICK: AtomicU64 = AtomicU64::new(0);

/// Notes when `vcpu`, whose registers were just saved, wants to be woken by its timers.
pub(crate) fn remember(cpu: &PerCpu, vcpu: &Vcpu) {
    let el1 = &vcpu.el1;
    let virt =
        (el1.cntv_ctl & RUNNING_MASK == RUNNING).then(|| el1.cntv_cval.wrapping_add(el1.cntvoff));
    let phys = (el1.cntp_ctl & RUNNING_MASK == RUNNING).then_some(el1.cntp_cval);
    let mut deadlines = cpu.deadlines.lock();
    vcpu.deadline_at.store(cpu.number(), Ordering::Relaxed);
    let parked = passthrough::wake_at(vcpu);
    match virt.into_iter().chain(phys).chain(parked).min() {
        // 128 vCPUs of one core may wait; one more is woken at once, and asks again.
        Some(at) => {
            if deadlines.set(vcpu.id, at).is_err() {
                drop(deadlines);
                if let Some(vcpu) = guest::by_id(usize::from(vcpu.id)) {
                    schedule::wake(vcpu);
                }
            }
        }
        None => deadlines.clear(vcpu.id),
    }
}

/// Forgets when `vcpu`, whose timers run on this core now, was to be woken. It may have been
/// put down on another core.
pub(crate) fn forget(cpu: &PerCpu, vcpu: &Vcpu) {
    vcpu.wake_at.store(0, Ordering::Relaxed);
    let at = vcpu.deadline_at.load(Ordering::Relaxed);
    if at != cpu.number() && at != guest::NOWHERE {
        per_cpu::cpu(at).deadlines.lock().clear(vcpu.id);
    }
}

/// Returns the times that scheduling works with.
pub(crate) fn tuning() -> sched::Tuning {
    sched::Tuning::new(hw::cntfrq())
}

/// Programs the timer for what this core waits for.
pub(crate) fn arm(cpu: &PerCpu) {
    let turn = cpu.wakes_at.load(Ordering::Relaxed);
    let deadline = cpu.deadlines.lock().earliest().unwrap_or(u64::MAX);
    let at = turn.min(deadline);
    if at == u64::MAX {
        hw::set_cnthp_ctl(0);
    } else {
        hw::set_cnthp_cval(at);
        hw::set_cnthp_ctl(1);
    }
}

/// Answers the timer's interrupt.
pub(crate) fn expired(cpu: &PerCpu) {
    let now = hw::cntpct();
    loop {
        let due = cpu.deadlines.lock().pop_due(now);
        let Some(id) = due else { break };
        if id == rebirth::WATCH {
            rebirth::watch(cpu);
        }
        if let Some(vcpu) = guest::by_id(usize::from(id)) {
            schedule::wake(vcpu);
        }
    }
    // Level-sensitive: it has to be moved or silenced, or it fires again at once.
    cpu.resched.store(true, Ordering::Relaxed);
    hw::set_cnthp_ctl(0);
}

/// Returns seconds since 1970, as the machine's real-time clock has it; seconds since
/// reset where there is none.
pub(crate) fn wall_clock_seconds() -> u32 {
    let uptime = nanoseconds(hw::cntpct()) / 1_000_000_000;
    BOOTED_AT
        .load(Ordering::Relaxed)
        .wrapping_add(uptime as u32)
}

/// Notes that it is `seconds` since 1970 now.
pub(crate) fn set_wall_clock(seconds: u32) {
    let uptime = nanoseconds(hw::cntpct()) / 1_000_000_000;
    BOOTED_AT.store(seconds.wrapping_sub(uptime as u32), Ordering::Relaxed);
}

/// Seconds since 1970 when the counter was zero.
static BOOTED_AT: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(0);
