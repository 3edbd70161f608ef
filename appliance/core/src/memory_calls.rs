//! Core calls about the memory of a VM: what is known of it, what it may have, scans and
//! taking memory back (`guest_abi::memory_call`). Access to its bytes is in `memory_access`.
//!
//! A call does one slice of work, of at most 256 leaves, with the VM's lock held shared
//! where that is enough.
#![expect(unsafe_code, reason = "sets bits of bitmaps in granted frames")]

use core::sync::atomic::{AtomicU64, Ordering};

use arch::{Ipa, Pa};
use gmap::{Budget, Level, Policy, Sift};
use guest_abi::core_call::{CoreCall, Status};
use guest_abi::map::RAM_BASE;
use guest_abi::memory_call::{
    HostMemory, MEMORY_KEYS, MEMORY_STATES, MemoryPolicy, PolicyFlags, SCAN_BYTES_MAX, Scan,
    VmMemory, reclaim,
};

use crate::calls::{find, granted, write_out};
use crate::guest::{Vcpu, Vm};
use crate::pressure::patient;
use crate::{hw, keyed, memory, memory_access, memory_sharing, pins, scrub, stage2};

/// How a call ended, and what x1 to x3 hold.
pub(crate) type Answer = Result<(Status, [u64; 3]), Status>;

/// The answer of a call that is done.
pub(crate) fn done(values: [u64; 3]) -> Answer {
    Ok((Status::Ok, values))
}

/// Answers one of root's calls about memory.
pub(crate) fn handle(vcpu: &mut Vcpu, call: CoreCall) {
    let [_, a, b, c, d, e, f, ..] = vcpu.gpr;
    let root = vcpu.vm();
    let answer = match call {
        CoreCall::VmMemory => vm_memory(root, a, b),
        CoreCall::VmMemoryPolicy => set_policy(root, a, b),
        CoreCall::VmMemoryScan => scan(root, [a, b, c, d, e, f]),
        CoreCall::VmReclaim => take_back(vcpu),
        CoreCall::HostMemory => host_memory(root, a),
        CoreCall::VmPin => pin(a, b, c),
        CoreCall::VmShareMemory => memory_sharing::share([a, b, c, d, e]),
        CoreCall::VmKey => memory_access::key(vcpu, a, b, c, d),
        CoreCall::VmKeysRead => memory_access::keys_read(vcpu, a, b, c, d),
        CoreCall::VmKeysWrite => memory_access::keys_write(vcpu, a, b, c, d),
        CoreCall::VmPageStates => memory_access::states(vcpu, a, b, c, d, e),
        CoreCall::VmRead => memory_access::read(vcpu, a, b, c, d, e),
        CoreCall::VmWrite => patient(root, || memory_access::write(vcpu, a, b, c, d, e)),
        CoreCall::VmExchange => patient(root, || memory_access::exchange(vcpu, a, b, c, d, e)),
        CoreCall::FramesGrant
        | CoreCall::FramesRelease
        | CoreCall::VmCreate
        | CoreCall::VmCopyIn
        | CoreCall::VmEntry
        | CoreCall::VmStart
        | CoreCall::VmStop
        | CoreCall::VmDestroy
        | CoreCall::VmInfo
        | CoreCall::VmConsole
        | CoreCall::VmShare
        | CoreCall::VcpuAffinity
        | CoreCall::VcpuSerror
        | CoreCall::VcpuInfo
        | CoreCall::HostInfo
        | CoreCall::DeviceInfo
        | CoreCall::DeviceAssign
        | CoreCall::DeviceReset
        | CoreCall::DeviceRevoke
        | CoreCall::DeviceRead
        | CoreCall::DeviceWrite
        | CoreCall::FramesList
        | CoreCall::NoteWrite
        | CoreCall::NoteRead
        | CoreCall::VmList
        | CoreCall::MachineReset
        | CoreCall::RootRestart => Err(Status::NotSupported),
    };
    let (status, values) = match answer {
        Ok(answer) => answer,
        Err(status) => (status, [0; 3]),
    };
    vcpu.set_reg(0, status.to_x0());
    for (n, value) in (1..).zip(values) {
        vcpu.set_reg(n, value);
    }
}

/// Returns the end of `bytes` from `ipa`, both multiples of 4096 and all of it RAM of `vm`.
pub(crate) fn ram_range(vm: &Vm, ipa: u64, bytes: u64) -> Result<u64, Status> {
    if (ipa | bytes) & 0xfff != 0 || bytes == 0 {
        return Err(Status::Invalid);
    }
    let end = ipa.checked_add(bytes).ok_or(Status::OutsideRam)?;
    if ipa < RAM_BASE || end > RAM_BASE + vm.ram_bytes {
        return Err(Status::OutsideRam);
    }
    Ok(end)
}

/// Answers with a cursor: [`Status::Again`] while there is an address to go on from.
pub(crate) fn slice(next: Option<Ipa>, value: u64) -> Answer {
    match next {
        Some(at) => Ok((Status::Again, [at.raw(), value, 0])),
        None => done([0, value, 0]),
    }
}

fn shift_of(level: Level) -> u32 {
    level.span().trailing_zeros()
}

fn vm_memory(root: &Vm, handle: u64, out: u64) -> Answer {
    let vm = find(handle)?;
    let space = &vm.gmap;
    let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
    let gmap = space.shared();
    let (stats, policy) = (gmap.stats(), gmap.policy());
    let mut flags = 0;
    if gmap.keys_in_use() {
        flags |= MEMORY_KEYS;
    }
    if gmap.states_in_use() {
        flags |= MEMORY_STATES;
    }
    let mut policy_flags = 0;
    if policy.wipe {
        policy_flags |= PolicyFlags::Wipe as u32;
    }
    if policy.eager {
        policy_flags |= PolicyFlags::Eager as u32;
    }
    if policy.zeroes {
        policy_flags |= PolicyFlags::ShareZeroes as u32;
    }
    let [tlbi_page, tlbi_range, tlbi_vm] = [0, 1, 2].map(|n| space.tlbi.get(n).map_or(0, load));
    let info = VmMemory {
        promised_bytes: stats.promised_bytes,
        resident_bytes: stats.resident_bytes,
        limit_bytes: policy.ram_limit,
        table_bytes: stats.table_bytes,
        sidecar_bytes: stats.sidecar_bytes,
        working_set_bytes: space.working_set.lock().bytes(),
        reclaimed_bytes: load(&space.reclaimed),
        shared_bytes: stats.shared_bytes,
        leaves: stats.leaves,
        faults: stats.faults,
        minor_faults: stats.minor_faults,
        splits: stats.splits,
        tlbi_page,
        tlbi_range,
        tlbi_vm,
        states_dirty: gmap.states_dirty(),
        flags,
        policy: policy_flags,
        largest_shift: shift_of(policy.largest),
        vmid: u32::from(gmap.vmid()),
    };
    drop(gmap);
    write_out(root, out, &info)?;
    done([0; 3])
}

fn pin(handle: u64, vcpu: u64, ipa: u64) -> Answer {
    let vm = find(handle)?;
    let vcpu = usize::try_from(vcpu).map_err(|_| Status::Invalid)?;
    if vcpu >= vm.vcpus {
        return Err(Status::Invalid);
    }
    let before = pins::get(vm, vcpu);
    if ipa != 0 {
        ram_range(vm, ipa, 4096)?;
    }
    pins::set(vm, vcpu, Ipa::new(ipa).filter(|_| ipa != 0));
    done([before.map_or(0, Ipa::raw), 0, 0])
}

fn host_memory(root: &Vm, out: u64) -> Answer {
    let (scrubbed_waiting_bytes, scrubbed_idle_bytes) = scrub::scrubbed();
    let (vmids_max, vmids_used) = stage2::vmids();
    let [page, range, vm, local] = &stage2::TLBI;
    let info = HostMemory {
        free_bytes: memory::usage().free,
        stock_bytes: scrub::stock_bytes(),
        scrubbed_waiting_bytes,
        scrubbed_idle_bytes,
        largest_order: memory::largest_order().map_or(255, u64::from),
        tlbi: [page, range, vm, local].map(|n| n.load(Ordering::Relaxed)),
        vmids_max,
        vmids_used,
        hardware: stage2::hardware(),
    };
    write_out(root, out, &info)?;
    done([0; 3])
}

fn set_policy(root: &Vm, handle: u64, pa: u64) -> Answer {
    let vm = find(handle)?;
    let from = granted(root, pa, size_of::<MemoryPolicy>() as u64)?;
    if !from.is_aligned(8) {
        return Err(Status::Invalid);
    }
    let asked = memory::read_record::<MemoryPolicy>(from);
    let largest = match asked.largest_shift {
        12 => Level::L3,
        21 => Level::L2,
        30 => Level::L1,
        _ => return Err(Status::Invalid),
    };
    let flag = |flag: PolicyFlags| asked.flags & flag as u32 != 0;
    let known = [
        PolicyFlags::Wipe,
        PolicyFlags::Eager,
        PolicyFlags::ShareZeroes,
    ];
    if asked.flags & !known.into_iter().fold(0, |bits, flag| bits | flag as u32) != 0 {
        return Err(Status::Invalid);
    }
    if flag(PolicyFlags::Wipe) && !memory_sharing::end(vm)? {
        return Err(Status::Again);
    }
    if flag(PolicyFlags::ShareZeroes) {
        stage2::make_zeroes()?;
    }
    let mut gmap = vm.gmap.exclusive();
    let policy = Policy {
        largest,
        ram_limit: asked.limit_bytes,
        table_limit: asked.table_limit_bytes,
        eager: flag(PolicyFlags::Eager),
        wipe: flag(PolicyFlags::Wipe),
        zeroes: flag(PolicyFlags::ShareZeroes),
        ..gmap.policy()
    };
    gmap.set_policy(policy);
    done([0; 3])
}

/// A bitmap in root's frames: bit n stands for page `ipa + 4096 * n` of a range.
struct Bitmap {
    at: Option<Pa>,
    start: u64,
    end: u64,
}

impl Bitmap {
    /// Checks that a bitmap for `bytes` from `ipa` may be written at `pa`; 0 is none.
    fn new(root: &Vm, pa: u64, ipa: u64, bytes: u64) -> Result<Self, Status> {
        if bytes > SCAN_BYTES_MAX || pa & 7 != 0 {
            return Err(Status::Invalid);
        }
        let at = match pa {
            0 => None,
            pa => Some(granted(root, pa, (bytes >> 12).div_ceil(64) * 8)?),
        };
        let (start, end) = (ipa, ipa + bytes);
        Ok(Self { at, start, end })
    }

    /// Sets the bits of the pages in `from..to` that it has.
    fn set(&self, from: u64, to: u64) {
        let Some(at) = self.at else { return };
        let mut bit = (from.max(self.start) - self.start) >> 12;
        let end = to.min(self.end).saturating_sub(self.start) >> 12;
        while bit < end {
            let (word, shift) = (bit / 64, bit % 64);
            let count = (end - bit).min(64 - shift);
            let mask = u64::MAX >> (64 - count) << shift;
            if let Some(pa) = at.checked_add(word * 8) {
                // SAFETY: `new` checked that the word is granted RAM and aligned; root may
                // use it meanwhile, so it is accessed atomically.
                let word = unsafe { AtomicU64::from_ptr(memory::ptr::<u64>(pa)) };
                word.fetch_or(mask, Ordering::Relaxed);
            }
            bit += count;
        }
    }
}

fn scan(root: &Vm, [handle, what, ipa, bytes, bitmap, cursor]: [u64; 6]) -> Answer {
    let vm = find(handle)?;
    let what = Scan::from_u64(what).ok_or(Status::Invalid)?;
    let end = ram_range(vm, ipa, bytes)?;
    let bitmap = Bitmap::new(root, bitmap, ipa, bytes)?;
    let start = if cursor == 0 { ipa } else { cursor };
    if start < ipa || start >= end || start & 0xfff != 0 {
        return Err(Status::Invalid);
    }
    let mut found = 0;
    let report = |at: Ipa, span: u64| {
        // A leaf may reach out of the range, or begin before the slice.
        let from = at.raw().max(start);
        let to = (at.raw() + span).min(end);
        found += to - from;
        bitmap.set(from, to);
    };
    let (space, machine) = (&vm.gmap, vm.gmap.machine());
    let gmap = space.shared();
    let next = match what {
        Scan::Young => gmap.age(&machine, start, end, Budget::SLICE, report),
        Scan::Dirty => gmap.sync_dirty(&machine, start, end, Budget::SLICE, report),
        Scan::HostDirty => gmap.sync_host_dirty(&machine, start, end, Budget::SLICE, report),
    };
    drop(gmap);
    if what == Scan::Young && ipa == RAM_BASE && end == RAM_BASE + vm.ram_bytes {
        let mut working_set = space.working_set.lock();
        working_set.touched(found);
        if next.is_none() {
            working_set.end_scan();
        }
    }
    slice(next, found)
}

fn take_back(caller: &mut Vcpu) -> Answer {
    let [_, handle, what, ipa, bytes, cursor, most, log, ..] = caller.gpr;
    let vm = find(handle)?;
    let end = ram_range(vm, ipa, bytes)?;
    let start = if cursor == 0 { ipa } else { cursor };
    if start < ipa || start >= end || start & 0xfff != 0 {
        return Err(Status::Invalid);
    }
    let log = Bitmap::new(caller.vm(), log, ipa, bytes)?;
    let states = reclaim::UNUSED | reclaim::VOLATILE;
    let (next, freed) = match what {
        reclaim::DROP => {
            let (next, freed) = drop_all(vm, start, end)?;
            // All of it reads as zeroes now, whatever it was.
            log.set(start, next.map_or(end, Ipa::raw));
            (next, freed)
        }
        reclaim::SPLIT => (split(caller, vm, start, end)?, 0),
        reclaim::MOVE => move_frames(vm, start, end)?,
        _ if what == 0 || what & !(states | reclaim::ZERO) != 0 => return Err(Status::Invalid),
        _ => {
            let (next, mut freed) = if what & reclaim::ZERO != 0 {
                drop_zeroes(vm, start, end, most, &log)
            } else {
                (None, 0)
            };
            // The same stretch, for what the guest said of it.
            let reached = next.map_or(end, Ipa::raw);
            let next = if what & states != 0 {
                let sift = Sift {
                    unused: what & reclaim::UNUSED != 0,
                    volatile: what & reclaim::VOLATILE != 0,
                };
                let machine = &mut vm.gmap.machine();
                let mut gmap = vm.gmap.exclusive();
                let report = |ipa: Ipa, span| log.set(ipa.raw(), ipa.raw() + span);
                let slice = Budget::FREEING;
                let (more, at) = gmap.sift(machine, (start, reached), sift, slice, report);
                freed += more;
                at.or(next)
            } else {
                next
            };
            (next, freed)
        }
    };
    if what != reclaim::MOVE {
        vm.gmap.reclaimed.fetch_add(freed, Ordering::Relaxed);
    }
    if freed >= most && most != 0 {
        return done([next.map_or(0, Ipa::raw), freed, 0]);
    }
    slice(next, freed)
}

/// Leaves that move, or are looked at for zeroes, while the lock is held once: one, or a part of
/// one that is large.
const LEAVES: usize = 1;
/// Times that the lock is taken in one call.
const TURNS: usize = 256;

/// Drops pages of zeroes, until an interrupt comes.
fn drop_zeroes(vm: &Vm, start: u64, end: u64, most: u64, log: &Bitmap) -> (Option<Ipa>, u64) {
    let machine = &mut vm.gmap.machine();
    let (mut at, mut freed) = (start, 0);
    for _ in 0..TURNS {
        if at >= end || (most != 0 && freed >= most) {
            break;
        }
        let mut gmap = vm.gmap.exclusive();
        let before = gmap.stats().zero_bytes;
        let budget = Budget::leaves(LEAVES);
        let report = |ipa: Ipa, span| log.set(ipa.raw(), ipa.raw() + span);
        let next = gmap.drop_zeroes(machine, (at, end), budget, report);
        freed += gmap.stats().zero_bytes - before;
        drop(gmap);
        at = next.map_or(end, Ipa::raw);
        if hw::interrupt_pending() {
            break;
        }
    }
    (Ipa::new(at).filter(|_| at < end), freed)
}

/// Moves every frame of the range to another one, until an interrupt comes.
fn move_frames(vm: &Vm, start: u64, end: u64) -> Result<(Option<Ipa>, u64), Status> {
    let machine = &mut vm.gmap.machine();
    let (mut at, mut bytes) = (start, 0);
    for _ in 0..TURNS {
        let budget = Budget::leaves(LEAVES);
        let mut gmap = vm.gmap.exclusive();
        let moved = gmap.move_frames(machine, (at, end), budget, |_, _| true);
        drop(gmap);
        bytes += moved.bytes;
        if moved.short {
            return Err(Status::Exhausted);
        }
        let Some(next) = moved.next else {
            return Ok((None, bytes));
        };
        at = next.raw();
        if hw::interrupt_pending() {
            break;
        }
    }
    Ok((Ipa::new(at), bytes))
}

fn drop_all(vm: &Vm, start: u64, end: u64) -> Result<(Option<Ipa>, u64), Status> {
    let from = Ipa::new(start).ok_or(Status::OutsideRam)?;
    let machine = &mut vm.gmap.machine();
    let mut gmap = vm.gmap.exclusive();
    let before = gmap.stats().resident_bytes;
    let next = gmap
        .reclaim(machine, from, end - start, Budget::FREEING)
        .map_err(|_| Status::Exhausted)?;
    Ok((next, before.saturating_sub(gmap.stats().resident_bytes)))
}

fn split(caller: &mut Vcpu, vm: &Vm, start: u64, end: u64) -> Result<Option<Ipa>, Status> {
    let tables = &mut caller.tables;
    let machine = &mut vm.gmap.machine();
    tables
        .topup(machine, gmap::CACHE_PAGES)
        .map_err(|_| Status::Exhausted)?;
    let gmap = vm.gmap.shared();
    let (next, why) = gmap.split_large(machine, tables, start, end, Budget::SLICE);
    match why {
        // The next slice brings more tables.
        None | Some(gmap::WalkError::NoMemory | gmap::WalkError::Busy) => Ok(next),
        Some(_) => Err(Status::Exhausted),
    }
}

/// Returns the status that stands for why a key or state operation was refused.
pub(crate) fn refusal(error: gmap::KeyError) -> Status {
    match error {
        gmap::KeyError::Off => Status::KeysOff,
        gmap::KeyError::NoRam => Status::OutsideRam,
        gmap::KeyError::Invalid => Status::Invalid,
        gmap::KeyError::NoMemory | gmap::KeyError::Limit => Status::Exhausted,
        gmap::KeyError::Again | gmap::KeyError::Shared => Status::Again,
    }
}

/// Puts keys into use, a slice; [`Status::Again`] until that is done.
pub(crate) fn with_keys(caller: &mut Vcpu, vm: &Vm) -> Result<(), Status> {
    match keyed::enable(vm, &mut caller.tables).map_err(refusal)? {
        true => Ok(()),
        false => Err(Status::Again),
    }
}
