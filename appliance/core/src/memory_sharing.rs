//! Frames that two VMs use: the core call that makes one VM's RAM hold what another's does, and
//! the end of that. Who writes such a page gets a copy (`guest_fault`).

use core::sync::atomic::Ordering;

use arch::Ipa;
use gmap::{Budget, Error};
use guest_abi::core_call::Status;

use crate::calls::find;
use crate::guest::Vm;
use crate::hw;
use crate::memory_calls::{Answer, ram_range, slice};

/// Leaves that are shared while the locks are held once: to count the users of a block of
/// 2 MiB takes 128 steps.
const LEAVES: usize = 1;
/// Times that the locks are taken in one call.
const TURNS: usize = 64;

/// Answers [`guest_abi::core_call::CoreCall::VmShareMemory`].
pub(crate) fn share([to, from, ipa, bytes, cursor]: [u64; 5]) -> Answer {
    let (to, from) = (find(to)?, find(from)?);
    if to.slot == from.slot {
        return Err(Status::Invalid);
    }
    let end = ram_range(to, ipa, bytes)?;
    ram_range(from, ipa, bytes)?;
    let start = if cursor == 0 { ipa } else { cursor };
    if start < ipa || start >= end || start & 0xfff != 0 {
        return Err(Status::Invalid);
    }
    // A device would write to a shared frame, or meet a fault that nobody answers.
    if [to, from].into_iter().any(has_devices) {
        return Err(Status::NotShareable);
    }
    let machine = &mut from.gmap.machine();
    let (mut at, mut shared) = (start, 0);
    for _ in 0..TURNS {
        let (mut child, mut parent) = to.gmap.both(&from.gmap);
        let before = child.stats().shared_bytes;
        let budget = Budget::leaves(LEAVES);
        let result = parent.share_with(&mut child, machine, (at, end), budget);
        shared += child.stats().shared_bytes.saturating_sub(before);
        drop((child, parent));
        match result.map_err(refusal)? {
            Some(next) => at = next.raw(),
            None => return slice(None, shared),
        }
        if hw::interrupt_pending() {
            break;
        }
    }
    slice(Ipa::new(at), shared)
}

fn has_devices(vm: &Vm) -> bool {
    vm.devices.load(Ordering::SeqCst) != 0
        || vm.populated.load(Ordering::Relaxed) != 0
        || vm.gmap.dma.is_open()
}

fn refusal(error: Error) -> Status {
    match error {
        Error::NotShared => Status::NotShareable,
        Error::Occupied { .. } => Status::Populated,
        Error::NotRam | Error::OutOfSpace => Status::OutsideRam,
        Error::NoTables | Error::TooManyUsers => Status::Exhausted,
        _ => Status::Invalid,
    }
}

/// Gives shared pages of `vm` frames of their own, one slice, and shares none any more. Returns
/// whether that is done.
pub(crate) fn end(vm: &Vm) -> Result<bool, Status> {
    let space = &vm.gmap;
    let mut machine = space.machine();
    let mut gmap = space.exclusive();
    if gmap.stats().shared_leaves == 0 {
        return Ok(true);
    }
    let from = space.unshared.load(Ordering::Relaxed);
    match gmap.unshare_all(&mut machine, from, u64::MAX, Budget::FREEING) {
        Ok(next) => {
            let at = next.map_or(0, Ipa::raw);
            space.unshared.store(at, Ordering::Relaxed);
            Ok(next.is_none())
        }
        Err(_) => Err(Status::Exhausted),
    }
}
