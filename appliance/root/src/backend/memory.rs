//! The memory of a VM, by core calls (guest-abi, `memory_call`).

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use api::{Memory, MemoryAction, MemoryKind, MemoryPolicy, MemoryScan};
use control::backend::{MemoryError, MemoryJob, MemoryResult};
use guest_abi::core_call::{CoreCall, Status};
use guest_abi::map::RAM_BASE;
use guest_abi::memory_call::{
    self, MEMORY_KEYS, MEMORY_STATES, PolicyFlags, Scan, StatesOp, VmMemory, reclaim,
};
use root_logic::dropped::Dropped;
use root_logic::extent::order_of;

use crate::calls::call_long;
use crate::frames::{Block, Scratch};

/// Slices of work that one request does. Root serves nobody meanwhile.
const SLICES: usize = 2048;
/// Tries for a page that the guest keeps changing.
const TRIES: usize = 64;
/// Pages whose keys or states one call moves.
const PAGES: usize = 512;
const PAGE: u64 = 4096;

/// Returns what the memory of `vm` is made of.
pub(super) fn view(scratch: &Scratch, vm: u64) -> Option<Memory> {
    let info = scratch.ask::<VmMemory>(CoreCall::VmMemory, Some(vm)).ok()?;
    let policy = |flag: PolicyFlags| info.policy & flag as u32 != 0;
    Some(Memory {
        promised_bytes: info.promised_bytes,
        resident_bytes: info.resident_bytes,
        shared_bytes: info.shared_bytes,
        working_set_bytes: info.working_set_bytes,
        reclaimed_bytes: info.reclaimed_bytes,
        table_bytes: info.table_bytes,
        sidecar_bytes: info.sidecar_bytes,
        policy: MemoryPolicy {
            limit_bytes: Some(info.limit_bytes).filter(|bytes| *bytes != u64::MAX),
            largest_leaf_bytes: 1_u64.checked_shl(info.largest_shift),
            share_zeroes: Some(policy(PolicyFlags::ShareZeroes)),
            wipe: Some(policy(PolicyFlags::Wipe)),
            exact_dirty: Some(!policy(PolicyFlags::Eager)),
        },
        leaves: info.leaves.to_vec(),
        faults: info.faults,
        minor_faults: info.minor_faults,
        splits: info.splits,
        tlb_invalidations: vec![info.tlbi_page, info.tlbi_range, info.tlbi_vm],
        keys: info.flags & MEMORY_KEYS != 0,
        states: info.flags & MEMORY_STATES != 0,
    })
}

/// Changes what the memory of `vm` may be made of.
pub(super) fn set_policy(
    scratch: &Scratch,
    vm: u64,
    policy: &MemoryPolicy,
) -> Result<(), MemoryError> {
    let info = scratch
        .ask::<VmMemory>(CoreCall::VmMemory, Some(vm))
        .map_err(refusal)?;
    let mut flags = info.policy;
    let mut set = |flag: PolicyFlags, on: Option<bool>| match on {
        Some(true) => flags |= flag as u32,
        Some(false) => flags &= !(flag as u32),
        None => {}
    };
    set(PolicyFlags::ShareZeroes, policy.share_zeroes);
    set(PolicyFlags::Wipe, policy.wipe);
    set(PolicyFlags::Eager, policy.exact_dirty.map(|exact| !exact));
    let asked = memory_call::MemoryPolicy {
        limit_bytes: policy.limit_bytes.unwrap_or(info.limit_bytes),
        table_limit_bytes: u64::MAX,
        largest_shift: policy
            .largest_leaf_bytes
            .map_or(info.largest_shift, u64::trailing_zeros),
        flags,
    };
    // To end sharing takes many slices; what is done stays done.
    for _ in 0..SLICES {
        match scratch.tell_about(CoreCall::VmMemoryPolicy, vm, asked) {
            Ok(_) => return Ok(()),
            Err(Status::Again) => {}
            Err(status) => return Err(refusal(status)),
        }
    }
    Err(MemoryError::Busy)
}

fn refusal(status: Status) -> MemoryError {
    match status {
        Status::OutsideRam => MemoryError::OutsideRam,
        Status::KeysOff => MemoryError::Off,
        Status::Exhausted => MemoryError::NoMemory,
        Status::Again => MemoryError::Busy,
        Status::NotShareable => MemoryError::NotShareable,
        Status::Populated => MemoryError::Populated,
        Status::NoVm | Status::BadState => MemoryError::NotRunning,
        _ => MemoryError::Invalid,
    }
}

/// Does `job`, or what fits into one request; `from` is the VM that it shares with.
pub(super) fn act(
    logs: &mut Logs,
    vm: u64,
    from: Option<u64>,
    job: &MemoryJob,
) -> Result<MemoryResult, MemoryError> {
    let range = [job.start, job.bytes];
    match job.action {
        MemoryAction::Scan => scan(logs, vm, job),
        MemoryAction::Reclaim => {
            let what = job.kinds.iter().fold(0, |bits, kind| {
                bits | match kind {
                    MemoryKind::Unused => reclaim::UNUSED,
                    MemoryKind::Volatile => reclaim::VOLATILE,
                    MemoryKind::Zero => reclaim::ZERO,
                }
            });
            take_back_logged(logs, vm, what, range, job.most_bytes)
        }
        MemoryAction::Move => take_back(vm, reclaim::MOVE, range, 0, 0),
        MemoryAction::Split => take_back(vm, reclaim::SPLIT, range, 0, 0),
        MemoryAction::Share => {
            let from = from.ok_or(MemoryError::NotRunning)?;
            let one = |cursor| {
                let arguments = [vm, from, job.start, job.bytes, cursor, 0, 0];
                call_long(CoreCall::VmShareMemory, arguments)
            };
            let (bytes, next) = slices(one).map_err(refusal)?;
            Ok(MemoryResult {
                bytes,
                next,
                ..MemoryResult::default()
            })
        }
        MemoryAction::GetKeys => read(CoreCall::VmKeysRead, vm, range),
        MemoryAction::GetStates => read(CoreCall::VmPageStates, vm, range),
        MemoryAction::SetKeys => write(CoreCall::VmKeysWrite, vm, job),
        MemoryAction::SetStates => write(CoreCall::VmPageStates, vm, job),
    }
}

/// Makes a call that has a cursor until it is done; returns what it counted and where it
/// stopped.
fn slices(mut one: impl FnMut(u64) -> (Status, [u64; 3])) -> Result<(u64, Option<u64>), Status> {
    let (mut cursor, mut sum) = (0, 0_u64);
    for _ in 0..SLICES {
        let (status, [next, count, _]) = one(cursor);
        sum = sum.saturating_add(count);
        match status {
            Status::Ok => return Ok((sum, (next != 0).then_some(next))),
            Status::Again => cursor = next,
            other => return Err(other),
        }
    }
    Ok((sum, Some(cursor)))
}

/// What was dropped since whoever keeps a migration's log of a VM asked last, by VM: kept from
/// the first dirty scan on.
pub(super) type Logs = BTreeMap<u64, Dropped>;

/// Grants a bitmap for `pages` pages.
fn bitmap(pages: u64) -> Result<Block, MemoryError> {
    let bytes = pages.div_ceil(64).saturating_mul(8);
    Block::grant(order_of(bytes)).map_err(refusal)
}

/// Returns the page of RAM that `at` is in.
fn page_of(at: u64) -> u64 {
    at.saturating_sub(RAM_BASE) / PAGE
}

fn scan(logs: &mut Logs, vm: u64, job: &MemoryJob) -> Result<MemoryResult, MemoryError> {
    let what = match job.scan {
        MemoryScan::Young => Scan::Young,
        MemoryScan::Dirty => Scan::Dirty,
        MemoryScan::HostDirty => Scan::HostDirty,
    };
    let pages = job.bytes.div_ceil(PAGE);
    let log = match what {
        Scan::Dirty => Some(logs.entry(vm).or_default()),
        Scan::Young | Scan::HostDirty => None,
    };
    let log = log.filter(|log| !log.is_empty());
    let mut block = match job.bitmap || log.is_some() {
        true => Some(bitmap(pages)?),
        false => None,
    };
    let bitmap_pa = block.as_ref().map_or(0, Block::pa);
    let one = |cursor| {
        let arguments = [vm, what as u64, job.start, job.bytes, bitmap_pa, cursor, 0];
        call_long(CoreCall::VmMemoryScan, arguments)
    };
    let (mut bytes, next) = slices(one).map_err(refusal)?;
    let reached = next.map_or(pages, |at| at.saturating_sub(job.start) / PAGE);
    if let (Some(log), Some(block)) = (log, &mut block) {
        let more = log.take(page_of(job.start), reached, block.as_mut_slice());
        bytes = bytes.saturating_add(more.saturating_mul(PAGE));
    }
    let bitmap = block.filter(|_| job.bitmap).map_or(Vec::new(), |block| {
        let len = usize::try_from(reached.div_ceil(8)).unwrap_or(0);
        block.as_slice().get(..len).unwrap_or_default().to_vec()
    });
    Ok(MemoryResult {
        bytes,
        next,
        bitmap,
        values: Vec::new(),
    })
}

/// As [`take_back`], and a migration's log, if anybody keeps one, will tell what went.
fn take_back_logged(
    logs: &mut Logs,
    vm: u64,
    what: u64,
    range: [u64; 2],
    most: u64,
) -> Result<MemoryResult, MemoryError> {
    let [start, bytes] = range;
    let Some(log) = logs.get_mut(&vm) else {
        return take_back(vm, what, range, most, 0);
    };
    let pages = bytes / PAGE;
    let block = bitmap(pages)?;
    let result = take_back(vm, what, range, most, block.pa());
    // What went before an error has gone.
    log.note(page_of(start), pages, block.as_slice());
    result
}

fn take_back(
    vm: u64,
    what: u64,
    [start, bytes]: [u64; 2],
    most: u64,
    log_pa: u64,
) -> Result<MemoryResult, MemoryError> {
    let mut freed = 0_u64;
    let one = |cursor| {
        let left = match most {
            0 => 0,
            most => most.saturating_sub(freed).max(1),
        };
        let (status, values) = call_long(
            CoreCall::VmReclaim,
            [vm, what, start, bytes, cursor, left, log_pa],
        );
        freed = freed.saturating_add(values[1]);
        (status, values)
    };
    let (bytes, next) = slices(one).map_err(refusal)?;
    Ok(MemoryResult {
        bytes,
        next,
        ..MemoryResult::default()
    })
}

/// Makes one call on keys or states of up to [`PAGES`] pages at `ipa`; returns how many it did.
fn once(
    what: CoreCall,
    vm: u64,
    op: StatesOp,
    ipa: u64,
    pages: usize,
    pa: u64,
) -> Result<usize, Status> {
    for _ in 0..TRIES {
        let pages = pages as u64;
        let arguments = match what {
            CoreCall::VmPageStates => [vm, op as u64, ipa, pages, pa, 0, 0],
            _ => [vm, ipa, pages, pa, 0, 0, 0],
        };
        match call_long(what, arguments) {
            (Status::Ok, [done, ..]) => return Ok(usize::try_from(done).unwrap_or(0)),
            (Status::Again, _) => {}
            (other, _) => return Err(other),
        }
    }
    Err(Status::Again)
}

fn read(what: CoreCall, vm: u64, [start, bytes]: [u64; 2]) -> Result<MemoryResult, MemoryError> {
    let block = Block::grant(0).map_err(refusal)?;
    let pages = usize::try_from(bytes / PAGE).map_err(|_| MemoryError::Invalid)?;
    let mut values = Vec::with_capacity(pages);
    while let Some(left @ 1..) = pages.checked_sub(values.len()) {
        let at = start.saturating_add((values.len() as u64).saturating_mul(PAGE));
        let done = once(what, vm, StatesOp::Peek, at, left.min(PAGES), block.pa());
        let done = done.map_err(refusal)?.min(left);
        if done == 0 {
            break;
        }
        values.extend_from_slice(block.as_slice().get(..done).unwrap_or_default());
    }
    let done = values.len() as u64;
    Ok(MemoryResult {
        bytes: done.saturating_mul(PAGE),
        next: (values.len() < pages).then_some(start.saturating_add(done.saturating_mul(PAGE))),
        bitmap: Vec::new(),
        values,
    })
}

fn write(what: CoreCall, vm: u64, job: &MemoryJob) -> Result<MemoryResult, MemoryError> {
    let mut block = Block::grant(0).map_err(refusal)?;
    let mut done = 0_usize;
    while let Some(rest @ [_, ..]) = job.values.get(done..) {
        let now = rest.len().min(PAGES);
        let to = block.as_mut_slice().get_mut(..now).unwrap_or_default();
        to.copy_from_slice(rest.get(..now).unwrap_or_default());
        let at = job.start.saturating_add((done as u64).saturating_mul(PAGE));
        let some = once(what, vm, StatesOp::Set, at, now, block.pa()).map_err(refusal)?;
        if some == 0 {
            break;
        }
        done = done.saturating_add(some);
    }
    let bytes = (done as u64).saturating_mul(PAGE);
    Ok(MemoryResult {
        bytes,
        next: (done < job.values.len()).then_some(job.start.saturating_add(bytes)),
        ..MemoryResult::default()
    })
}
