//! Core calls: what root asks (guest-abi's `core_call` is the contract).
//!
//! Root may be wrong or hostile. Every address it passes must lie in frames that its own
//! stage 2 shows and that were granted, so the table that bounds root is also the ledger;
//! what it points at is copied once and then looked at.
#![expect(
    unsafe_code,
    reason = "copies plain records from and to granted frames"
)]

use core::sync::atomic::{AtomicU64, Ordering};

use arch::Pa;
use gmap::{Budget, Entry};
use guest_abi::core_call::{
    CoreCall, EXIT_CLASSES, HostInfo, Status, VmConfig, VmEntry, VmInfo, VmState,
};
use guest_abi::map;
use guest_abi::root_boot::VMS_MAX;

use crate::guest::{self, Vcpu, Vm};
use crate::memory::{self, FRAME};
use crate::pressure::patient;
use crate::{
    epitaph, features, guest_fault, hw, memory_access, memory_calls, notes, passthrough, rebirth,
    root, schedule, scrub, share, timer,
};

/// Largest grant: 2 MiB, so that root's window stays a few leaves.
const GRANT_ORDER_MAX: u64 = 9;
/// The access key of whoever loads a guest: it fits every storage key.
const LOADER_KEY: u8 = 0;
/// Bytes that one VmCopyIn copies at the most, to bound the time at EL2.
const COPY_BYTES_MAX: u64 = 64 << 10;

/// Bytes granted to root at the moment.
static GRANTED: AtomicU64 = AtomicU64::new(0);

/// Answers a call of root's.
#[inline(never)]
pub(crate) fn handle(vcpu: &mut Vcpu, call: CoreCall) {
    let [_, a, b, c, d, ..] = vcpu.gpr;
    let result = match call {
        CoreCall::FramesGrant => patient(vcpu.vm(), || grant(vcpu, a)).map(|pa| [pa, 0]),
        CoreCall::FramesRelease => release(vcpu.vm(), a, b).map(|()| [0; 2]),
        CoreCall::FramesList => list(vcpu.vm(), a),
        CoreCall::NoteWrite => notes::write(vcpu.vm(), a, b, c).map(|()| [0; 2]),
        CoreCall::NoteRead => notes::read(vcpu.vm(), a, b, c).map(|bytes| [bytes, 0]),
        CoreCall::VmCreate => patient(vcpu.vm(), || create(vcpu.vm(), a)),
        CoreCall::VmCopyIn => {
            patient(vcpu.vm(), || copy_in(vcpu, a, b, c, d)).map(|copied| [copied, 0])
        }
        CoreCall::VmEntry => entry(a, b, c).map(|()| [0; 2]),
        CoreCall::VmStart => start(a).map(|()| [0; 2]),
        CoreCall::VmStop => stop(a).map(|()| [0; 2]),
        CoreCall::VmDestroy => destroy(a).map(|()| [0; 2]),
        CoreCall::VmInfo => vm_info(vcpu.vm(), a, b).map(|()| [0; 2]),
        CoreCall::VmConsole => console(a).map(|()| [0; 2]),
        CoreCall::VmShare => share::set(a, b, c).map(|()| [0; 2]),
        CoreCall::VcpuAffinity => share::affinity(a, b, c).map(|()| [0; 2]),
        CoreCall::VcpuSerror => serror(a, b, c).map(|()| [0; 2]),
        CoreCall::VcpuInfo => share::vcpu_info(vcpu.vm(), a, b, c).map(|()| [0; 2]),
        CoreCall::VmList => vm_list(vcpu.vm(), a, b).map(|()| [0; 2]),
        CoreCall::HostInfo => host_info(vcpu.vm(), a).map(|()| [0; 2]),
        CoreCall::MachineReset => epitaph::stop(),
        CoreCall::RootRestart => rebirth::end_after(a).map(|()| [0; 2]),
        CoreCall::VmMemory
        | CoreCall::VmMemoryPolicy
        | CoreCall::VmMemoryScan
        | CoreCall::VmReclaim
        | CoreCall::VmKey
        | CoreCall::VmKeysRead
        | CoreCall::VmKeysWrite
        | CoreCall::VmPageStates
        | CoreCall::VmRead
        | CoreCall::VmWrite
        | CoreCall::VmExchange
        | CoreCall::HostMemory
        | CoreCall::VmPin
        | CoreCall::VmShareMemory => return memory_calls::handle(vcpu, call),
        CoreCall::DeviceInfo
        | CoreCall::DeviceAssign
        | CoreCall::DeviceReset
        | CoreCall::DeviceRevoke
        | CoreCall::DeviceRead
        | CoreCall::DeviceWrite => passthrough::handle(vcpu, call, [a, b, c, d]),
    };
    let (status, [first, second]) = match result {
        Ok(values) => (Status::Ok, values),
        Err(status) => (status, [0; 2]),
    };
    vcpu.set_reg(0, status.to_x0());
    vcpu.set_reg(1, first);
    vcpu.set_reg(2, second);
}

pub(crate) fn find(handle: u64) -> Result<&'static Vm, Status> {
    guest::by_handle(handle).ok_or(Status::NoVm)
}

/// Checks that `bytes` from `pa` lie in frames granted to root.
pub(crate) fn granted(root: &Vm, pa: u64, bytes: u64) -> Result<Pa, Status> {
    let start = Pa::new(pa).ok_or(Status::NotGranted)?;
    let end = pa.checked_add(bytes).ok_or(Status::NotGranted)?;
    let first = pa & !(FRAME - 1);
    if first < end && is_shared(first, end) {
        return Err(Status::NotGranted);
    }
    let gmap = root.gmap.shared();
    let machine = root.gmap.machine();
    let mut at = first;
    while at < end {
        let page = Pa::new(at).ok_or(Status::NotGranted)?;
        let ipa = root::window(page).ok_or(Status::NotGranted)?;
        let (leaf, level) = gmap.leaf(&machine, ipa).ok_or(Status::NotGranted)?;
        let within = ipa.raw() & (level.span() - 1);
        if leaf.base().checked_add(within) != Some(page) || !memory::is_pool(page) {
            return Err(Status::NotGranted);
        }
        // What is granted leaves the pool's span nowhere inside a leaf.
        at += level.span() - within;
    }
    Ok(start)
}

/// Returns whether any frame of `from..to` is shown to root without being granted: the doorbell,
/// or the console pages of a VM.
fn is_shared(from: u64, to: u64) -> bool {
    let meets = |pa: Pa, bytes: u64| pa.raw() < to && from < pa.raw() + bytes;
    let bytes = guest_abi::vm_shared::VM_SHARED_BYTES as u64;
    root::doorbell().is_some_and(|pa| meets(pa, FRAME))
        || (0..VMS_MAX)
            .filter_map(guest::by_slot)
            .any(|vm| meets(vm.shared_pa, bytes))
}

fn grant(caller: &mut Vcpu, order: u64) -> Result<u64, Status> {
    if order > GRANT_ORDER_MAX {
        return Err(Status::Invalid);
    }
    let order = order as u8;
    let pa = guest_fault::zeroed_for(caller, order)?;
    if root::show_ram(caller.vm(), pa, FRAME << order).is_err() {
        memory::free_unscrubbed(pa, order);
        return Err(Status::Exhausted);
    }
    GRANTED.fetch_add(FRAME << order, Ordering::Relaxed);
    Ok(pa.raw())
}

fn release(root: &Vm, pa: u64, order: u64) -> Result<(), Status> {
    if order > GRANT_ORDER_MAX {
        return Err(Status::Invalid);
    }
    let bytes = FRAME << order;
    if pa & (bytes - 1) != 0 {
        return Err(Status::Invalid);
    }
    if !scrub::gone() {
        // The frame before is still zeroed.
        return Err(Status::Again);
    }
    let start = granted(root, pa, bytes)?;
    let ipa = root::window(start).ok_or(Status::NotGranted)?;
    root.gmap
        .exclusive()
        .unmap(&mut root.gmap.machine(), ipa, bytes)
        .map_err(|_| Status::Exhausted)?;
    scrub::leave(start, order as u8);
    GRANTED.fetch_sub(bytes, Ordering::Relaxed);
    Ok(())
}

/// Finds the first block granted to root at or after `cursor`.
fn list(root: &Vm, cursor: u64) -> Result<[u64; 2], Status> {
    let from = Pa::new(cursor & !(FRAME - 1)).ok_or(Status::Invalid)?;
    let from = root::window(from).ok_or(Status::Invalid)?.raw();
    let base = root::window(Pa::new(0).ok_or(Status::Invalid)?)
        .ok_or(Status::Invalid)?
        .raw();
    let end = base.saturating_mul(2);
    let mut found = None;
    let gmap = root.gmap.shared();
    let machine = root.gmap.machine();
    let visit = |_: &_, ipa: arch::Ipa, place: &mut gmap::Place| {
        if let Entry::Leaf(leaf) = place.entry() {
            let span = place.level().span();
            let pa = leaf.base();
            let shared = is_shared(pa.raw(), pa.raw().saturating_add(span));
            if memory::is_pool(pa) && !shared {
                found = Some((pa.raw(), span, ipa.raw() + span));
                return Err(());
            }
        }
        Ok(())
    };
    let went = gmap.range(&machine, from, end, true, Budget::SLICE, visit);
    match (found, went) {
        (Some((pa, span, next)), _) => {
            let order = u64::from((span / FRAME).trailing_zeros());
            Ok([pa | order, next - base])
        }
        (None, Ok(next)) if next < end => Ok([0, next - base]),
        (None, _) => Err(Status::Invalid),
    }
}

fn create(root: &Vm, config_pa: u64) -> Result<[u64; 2], Status> {
    let pa = granted(root, config_pa, size_of::<VmConfig>() as u64)?;
    if !pa.is_aligned(8) {
        return Err(Status::Invalid);
    }
    // SAFETY: the range is granted RAM, mapped in the linear map and aligned; root may
    // change it meanwhile, so it is read once, and any bytes are a valid VmConfig.
    let config = unsafe { core::ptr::read_volatile(memory::ptr::<VmConfig>(pa)) };
    let vm = guest::create_guest(&config)?;
    if root::share(vm).is_err() {
        // Nobody has run it, and it has hardly a table: some slices, and it is in its grave.
        let handle = vm.handle();
        while guest::by_handle(handle).is_some() && guest::destroy(vm, || ()) == Err(Status::Again)
        {
        }
        return Err(Status::Exhausted);
    }
    Ok([vm.handle(), vm.shared_pa.raw()])
}

fn copy_in(
    caller: &mut Vcpu,
    handle: u64,
    ipa: u64,
    source: u64,
    bytes: u64,
) -> Result<u64, Status> {
    let vm = find(handle)?;
    if vm.state() != VmState::Built {
        return Err(Status::BadState);
    }
    let end = ipa.checked_add(bytes).ok_or(Status::OutsideRam)?;
    if ipa < map::RAM_BASE || end > map::RAM_BASE + vm.ram_bytes {
        return Err(Status::OutsideRam);
    }
    let bytes = bytes.min(COPY_BYTES_MAX);
    let source = granted(caller.vm(), source, bytes)?;
    memory_access::put(caller, vm, ipa, bytes, source, LOADER_KEY)
}

fn entry(handle: u64, pc: u64, x0: u64) -> Result<(), Status> {
    let vm = find(handle)?;
    if vm.state() != VmState::Built {
        return Err(Status::BadState);
    }
    if pc & 3 != 0 || pc < map::RAM_BASE || pc >= map::RAM_BASE + vm.ram_bytes {
        return Err(Status::OutsideRam);
    }
    let vcpu = vm.vcpu(0).ok_or(Status::Invalid)?;
    *vcpu.start.lock() = Some((pc, x0));
    Ok(())
}

fn start(handle: u64) -> Result<(), Status> {
    let vm = find(handle)?;
    let vcpu = vm.vcpu(0).ok_or(Status::Invalid)?;
    let (pc, x0) = vcpu.start.lock().take().ok_or(Status::BadState)?;
    if !vm.change_state(VmState::Built, VmState::Running) {
        return Err(Status::BadState);
    }
    schedule::power_on(vcpu, pc, x0).map_err(|_| Status::BadState)?;
    Ok(())
}

fn stop(handle: u64) -> Result<(), Status> {
    schedule::stop(find(handle)?, VmState::Killed);
    Ok(())
}

fn destroy(handle: u64) -> Result<(), Status> {
    let Some(vm) = guest::by_handle(handle) else {
        return guest::bury(handle);
    };
    let shared = vm.shared_pa;
    passthrough::release(vm)?;
    guest::destroy(vm, || root::unshare(shared))
}

/// Reads a record, for which any bytes are a value, from granted memory. Once: root may change
/// it meanwhile.
pub(crate) fn read_in<T: Copy>(root: &Vm, pa: u64) -> Result<T, Status> {
    let from = granted(root, pa, size_of::<T>() as u64)?;
    if !from.is_aligned(align_of::<T>() as u64) {
        return Err(Status::Invalid);
    }
    // SAFETY: the range is granted RAM, mapped in the linear map and aligned, and every
    // caller's record is integers.
    Ok(unsafe { core::ptr::read_volatile(memory::ptr::<T>(from)) })
}

/// Writes a record to granted memory.
pub(crate) fn write_out<T: Copy>(root: &Vm, pa: u64, record: &T) -> Result<(), Status> {
    let to = granted(root, pa, size_of::<T>() as u64)?;
    if !to.is_aligned(align_of::<T>() as u64) {
        return Err(Status::Invalid);
    }
    // SAFETY: the range is granted RAM, mapped in the linear map and aligned; no Rust
    // object of core's lives there.
    unsafe { core::ptr::write_volatile(memory::ptr::<T>(to), *record) };
    Ok(())
}

fn vm_info(root: &Vm, handle: u64, out: u64) -> Result<(), Status> {
    let vm = find(handle)?;
    let mut exits = [0_u64; EXIT_CLASSES];
    let (mut ticks, mut stolen) = (0, 0);
    let now = hw::cntpct();
    for vcpu in vm.all_vcpus() {
        for (sum, n) in exits.iter_mut().zip(&vcpu.exits) {
            *sum = sum.wrapping_add(n.load(Ordering::Relaxed));
        }
        let turns = vcpu.turns.lock();
        ticks += turns.ran(now);
        stolen += turns.queued(now) + turns.fault() + turns.parked(now);
    }
    let stats = vm.gmap.shared().stats();
    let info = VmInfo {
        state: vm.state() as u32,
        reason: vm.reason.load(Ordering::Relaxed),
        reason_pc: vm.reason_pc.load(Ordering::Relaxed),
        resident_bytes: stats.resident_bytes,
        overhead_bytes: vm.overhead_bytes(),
        exits,
        leaves: stats.leaves,
        run_ns: timer::nanoseconds(ticks),
        stolen_ns: timer::nanoseconds(stolen),
    };
    write_out(root, out, &info)
}

fn vm_list(root: &Vm, slot: u64, out: u64) -> Result<(), Status> {
    let slot = usize::try_from(slot).ok().filter(|slot| *slot < VMS_MAX);
    let slot = slot.ok_or(Status::Invalid)?;
    let vm = guest::by_slot(slot).ok_or(Status::NoVm)?;
    let entry = VmEntry {
        vm: vm.handle(),
        shared_pa: vm.shared_pa.raw(),
        state: vm.state() as u32,
        reserved: 0,
        config: vm.config,
    };
    write_out(root, out, &entry)
}

fn console(handle: u64) -> Result<(), Status> {
    let vm = find(handle)?;
    let high = vm.serial.lock().poll(vm.shared());
    let kick = vm.vgic.lock().set_level(0, map::UART_INTID, high);
    schedule::deliver(vm, kick);
    Ok(())
}

fn serror(handle: u64, index: u64, syndrome: u64) -> Result<(), Status> {
    let vm = find(handle)?;
    if vm.state() != VmState::Running {
        return Err(Status::BadState);
    }
    let index = usize::try_from(index).map_err(|_| Status::Invalid)?;
    let vcpu = vm.vcpu(index).ok_or(Status::Invalid)?;
    features::serror::ask(vcpu, syndrome);
    Ok(())
}

fn host_info(root: &Vm, out: u64) -> Result<(), Status> {
    let usage = memory::usage();
    let stats = root.gmap.shared().stats();
    let info = HostInfo {
        ram_bytes: usage.ram,
        free_bytes: usage.free,
        core_bytes: usage.core,
        root_bytes: stats.resident_bytes + root.overhead_bytes(),
        granted_bytes: GRANTED.load(Ordering::Relaxed),
        uptime_ns: timer::nanoseconds(hw::cntpct()),
        vms: guest::count(),
        vms_max: VMS_MAX as u32,
        cpu_features: features::machine_flags(),
        reserved: 0,
    };
    write_out(root, out, &info)
}
