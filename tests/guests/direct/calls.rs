//! Core calls, whose refusals are of interest here.

use guest_abi::core_call::{CoreCall, HostInfo, Status, VmInfo};
use guest_abi::vcpu_info::VcpuInfo;
pub(crate) use payload::root::{Block, root_boot, window};

/// Makes a core call; returns x1 and x2.
pub(crate) fn call(call: CoreCall, args: [u64; 4]) -> Result<[u64; 2], Status> {
    match payload::root::try_call(call, &args) {
        (Status::Ok, [first, second, _]) => Ok([first, second]),
        (status, _) => Err(status),
    }
}

pub(crate) fn host_info() -> HostInfo {
    let block = Block::new(0);
    payload::root::call(CoreCall::HostInfo, &[block.pa]);
    block.record()
}

pub(crate) fn vm_info(vm: u64) -> Result<VmInfo, Status> {
    let block = Block::grant(0)?;
    call(CoreCall::VmInfo, [vm, block.pa, 0, 0])?;
    Ok(block.record())
}

/// Returns what core says of a vCPU, if there is one with this number.
pub(crate) fn vcpu_info(vm: u64, vcpu: u64) -> Result<VcpuInfo, Status> {
    let block = Block::grant(0)?;
    call(CoreCall::VcpuInfo, [vm, vcpu, block.pa, 0])?;
    Ok(block.record())
}
