//! How a VM's vCPUs are to run, and what they did, by core calls.

use alloc::vec::Vec;

use api::{GuestFeature, VcpuState};
use control::backend::{CpuPlan, VcpuCounters};
use guest_abi::core_call::{
    CoreCall, Status, VM_NO_CORE_NUMBER, VM_NO_PAGE_STATES, VM_NO_PREEMPT_HINT, VM_NO_PV_TIME,
    VM_NO_STORAGE_KEYS, VM_NO_YIELD_TO,
};
use guest_abi::vcpu_info::{VcpuInfo, VcpuPhase};

use super::run::EXIT_NAMES;
use crate::calls::call;
use crate::frames::Scratch;

/// Returns `VmConfig::flags` for what a guest is not to find.
pub(super) fn flags(plan: &CpuPlan) -> u32 {
    plan.hide.iter().fold(0, |flags, feature| {
        flags
            | match feature {
                GuestFeature::StolenTime => VM_NO_PV_TIME,
                GuestFeature::PreemptHint => VM_NO_PREEMPT_HINT,
                GuestFeature::PageStates => VM_NO_PAGE_STATES,
                GuestFeature::StorageKeys => VM_NO_STORAGE_KEYS,
                GuestFeature::YieldTo => VM_NO_YIELD_TO,
                GuestFeature::CoreNumber => VM_NO_CORE_NUMBER,
            }
    })
}

/// Makes the vCPUs of `vm` run as planned from now on.
pub(super) fn apply(vm: u64, plan: &CpuPlan) -> Result<(), Status> {
    let (weight, percent) = (u64::from(plan.weight), u64::from(plan.limit_percent));
    call(CoreCall::VmShare, [vm, weight, percent, 0])?;
    for (index, cores) in (0..).zip(&plan.affinity) {
        call(CoreCall::VcpuAffinity, [vm, index, u64::from(*cores), 0])?;
    }
    Ok(())
}

/// Returns what each of `count` vCPUs of `vm` did.
pub(super) fn counters(scratch: &Scratch, vm: u64, count: u32) -> Vec<VcpuCounters> {
    (0..u64::from(count))
        .map_while(|index| scratch.ask_vcpu(CoreCall::VcpuInfo, vm, index).ok())
        .map(|info: VcpuInfo| VcpuCounters {
            state: match VcpuPhase::from_u32(info.phase) {
                Some(VcpuPhase::Off) | None => VcpuState::Off,
                Some(VcpuPhase::Waiting) => VcpuState::Waiting,
                Some(VcpuPhase::Parked) => VcpuState::Parked,
                Some(VcpuPhase::Queued) => VcpuState::Queued,
                Some(VcpuPhase::Running) => VcpuState::Running,
            },
            core: info.core,
            preempted: info.preempted != 0,
            run_ns: info.run_ns,
            wait_ns: info.wait_ns,
            queue_ns: info.queued_ns,
            fault_ns: info.fault_ns,
            device_ns: info.device_ns,
            moves: info.moves,
            switches: info.switches,
            exits: EXIT_NAMES.into_iter().zip(info.exits).collect(),
        })
        .collect()
}
