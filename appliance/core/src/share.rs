//! What root decides of a VM's turns, and what it may know of them: weight, limit, where each
//! vCPU may run, and what its time went to.

use core::sync::atomic::Ordering;

use guest_abi::core_call::{EXIT_CLASSES, Status};
use guest_abi::vcpu_info::{VcpuInfo, VcpuPhase};
use sched::Phase;

use crate::calls::{find, write_out};
use crate::guest::{VcpuControl, Vm};
use crate::{hw, per_cpu, place, schedule, timer};

/// Per cent of one core that a limit can be: no machine has more cores than a hundred.
const PERCENT_MAX: u64 = 10_000;

/// Sets the share of a VM: its weight, and its limit in per cent of one core (0 for none).
pub(crate) fn set(handle: u64, weight: u64, percent: u64) -> Result<(), Status> {
    let vm = find(handle)?;
    if !(1..=u64::from(sched::WEIGHT_MAX)).contains(&weight) || percent > PERCENT_MAX {
        return Err(Status::Invalid);
    }
    vm.weight.store(weight as u32, Ordering::Relaxed);
    let period = timer::ticks(sched::CAP_PERIOD_NS);
    *vm.cap.lock() = sched::Cap::new(percent as u32, period, hw::cntpct());
    vm.capped.store(percent != 0, Ordering::Relaxed);
    // One that is alone on its core, for as long as it likes, is looked at anew.
    for vcpu in vm.all_vcpus() {
        schedule::notify(per_cpu::cpu(vcpu.home()));
    }
    Ok(())
}

/// Sets the cores that a vCPU may run on.
pub(crate) fn affinity(handle: u64, index: u64, cores: u64) -> Result<(), Status> {
    let vm = find(handle)?;
    let index = usize::try_from(index).map_err(|_| Status::Invalid)?;
    let vcpu = vm.vcpu(index).ok_or(Status::Invalid)?;
    let cores = u32::try_from(cores).map_err(|_| Status::Invalid)?;
    if !per_cpu::online().any(|cpu| cores >> cpu.number() & 1 == 1) {
        return Err(Status::Invalid);
    }
    place::set_affinity(vcpu, cores);
    Ok(())
}

/// Tells what a vCPU does, and what its time went to.
pub(crate) fn vcpu_info(root: &Vm, handle: u64, index: u64, out: u64) -> Result<(), Status> {
    let vm = find(handle)?;
    let index = usize::try_from(index).map_err(|_| Status::Invalid)?;
    let vcpu = vm.vcpu(index).ok_or(Status::Invalid)?;
    write_out(root, out, &describe(vcpu))
}

fn describe(vcpu: &VcpuControl) -> VcpuInfo {
    let mut exits = [0_u64; EXIT_CLASSES];
    for (to, n) in exits.iter_mut().zip(&vcpu.exits) {
        *to = n.load(Ordering::Relaxed);
    }
    let now = hw::cntpct();
    let turns = *vcpu.turns.lock();
    let phase = match turns.phase() {
        Phase::Off => VcpuPhase::Off,
        Phase::Waiting => VcpuPhase::Waiting,
        Phase::Parked => VcpuPhase::Parked,
        Phase::Queued => VcpuPhase::Queued,
        Phase::Running => VcpuPhase::Running,
    };
    VcpuInfo {
        phase: phase as u32,
        core: vcpu.home() as u32,
        cores: vcpu.affinity.load(Ordering::Relaxed),
        preempted: turns.is_preempted().into(),
        run_ns: timer::nanoseconds(turns.ran(now)),
        wait_ns: timer::nanoseconds(turns.waited(now)),
        queued_ns: timer::nanoseconds(turns.queued(now)),
        fault_ns: timer::nanoseconds(turns.fault()),
        device_ns: timer::nanoseconds(turns.parked(now)),
        switches: vcpu.switches.load(Ordering::Relaxed),
        moves: vcpu.moves.load(Ordering::Relaxed),
        exits,
    }
}
