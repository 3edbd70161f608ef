//! What root asks about devices (guest-abi's `device` is the contract).

use arch::Width;
use devmem::profile::Profile;
use devmem::{Outcome, Refusal, Verdict, clip};
use gmap::Budget;
use guest_abi::core_call::{CoreCall, Status, VmState};
use guest_abi::device::{
    DECLARED_DMA, DEVICE_ASSIGNED, DEVICE_COMPANION, DEVICE_FREE, DeviceConfig, DeviceFault,
    DeviceInfo, PROFILE_GENERIC, PROFILE_NVGRACE_GPU, PROFILE_NVME, TOUCH_CELLS, TRACE_LINES,
    UNSAFE_DMA,
};

use pci::BARS;

use super::{
    Assigned, Dma, FUNCTIONS, Slot, assign, config, dma, events, now_ms, reset, smmu, touch, window,
};
use crate::calls;
use crate::guest::{self, Vcpu, Vm};
use crate::memory;

/// Most bytes that one call unmaps, reads or writes.
const REVOKE_BYTES_MAX: u64 = 2 << 20;
const ACCESS_BYTES_MAX: u64 = 4096;

/// Answers a call about devices; x1 and x2 on success.
pub(crate) fn handle(
    caller: &mut Vcpu,
    call: CoreCall,
    args: [u64; 4],
) -> Result<[u64; 2], Status> {
    let [a, b, c, d] = args;
    let root = caller.vm();
    match call {
        CoreCall::DeviceInfo => info(root, a, b).map(|()| [0; 2]),
        CoreCall::DeviceAssign => {
            let vm = guest::by_handle(a).ok_or(Status::NoVm)?;
            let wanted: DeviceConfig = calls::read_in(root, b)?;
            let bounded = smmu::is_there();
            let all = wanted.flags & DECLARED_DMA == 0;
            let moves = bounded || wanted.flags & UNSAFE_DMA != 0;
            if moves && all && vm.state() == VmState::Built {
                if bounded {
                    vm.gmap.dma.open(vm)?;
                }
                dma::populate(caller, vm)?;
            }
            assign::assign(vm, &wanted).map(|number| [number, 0])
        }
        CoreCall::DeviceReset => locked(a, |slot| {
            slot.assigned.as_ref().ok_or(Status::BadState)?;
            match reset::by_operator(slot) {
                true => Ok([0; 2]),
                false => Err(Status::Again),
            }
        }),
        CoreCall::DeviceRevoke => locked(a, |slot| {
            let device = slot.assigned.as_mut().ok_or(Status::BadState)?;
            revoke(device, b, c, d).map(|()| [0; 2])
        }),
        CoreCall::DeviceRead => access(root, a, b, c, d, Direction::Read),
        CoreCall::DeviceWrite => access(root, a, b, c, d, Direction::Write),
        _ => Err(Status::NotSupported),
    }
}

fn locked<T>(function: u64, f: impl FnOnce(&mut Slot) -> Result<T, Status>) -> Result<T, Status> {
    let index = assign::find(function)?;
    let mut slot = FUNCTIONS.get(index).ok_or(Status::NoDevice)?.lock();
    f(slot.as_mut().ok_or(Status::NoDevice)?)
}

/// Takes the mappings of some pages of a BAR away. The device is not reset.
fn revoke(device: &mut Assigned, bar: u64, offset: u64, bytes: u64) -> Result<(), Status> {
    let bar = usize::try_from(bar).map_err(|_| Status::Invalid)?;
    let end = offset.checked_add(bytes).ok_or(Status::Invalid)?;
    if (offset | bytes) & 0xfff != 0 || bytes == 0 || bytes > REVOKE_BYTES_MAX {
        return Err(Status::Invalid);
    }
    // Where the guest has not put the BAR, nothing of it is mapped.
    let Some((shown, region)) = device.region(bar) else {
        return Ok(());
    };
    if end > shown.bar.size {
        return Err(Status::Invalid);
    }
    if device.zap.is_some() {
        return Err(Status::Again);
    }
    let vm = guest::by_handle(device.vm).ok_or(Status::NoVm)?;
    let from = region.ipa().checked_add(offset).ok_or(Status::Invalid)?;
    let machine = &mut vm.gmap.machine();
    let mut gmap = vm.gmap.exclusive();
    let pages = (0..bytes)
        .step_by(4096)
        .filter_map(|at| from.checked_add(at));
    let mapped = pages.filter(|page| gmap.translate(machine, *page).is_some());
    let mapped = mapped.count() as u64 * 4096;
    gmap.unmap_slice(machine, from, bytes, Budget::UNBOUNDED)
        .map_err(|_| Status::Exhausted)?;
    device.mapped_bytes = device.mapped_bytes.saturating_sub(mapped);
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

/// Reads or writes a BAR by the rules a guest's touch obeys.
fn access(
    root: &Vm,
    function: u64,
    place: u64,
    buffer: u64,
    bytes: u64,
    direction: Direction,
) -> Result<[u64; 2], Status> {
    let (bar, offset) = ((place >> 56) as usize, place & ((1 << 56) - 1));
    if bytes > ACCESS_BYTES_MAX {
        return Err(Status::Invalid);
    }
    let buffer = calls::granted(root, buffer, bytes)?;
    locked(function, |slot| {
        let now = now_ms();
        config::settle(slot, now);
        let device = slot.assigned.as_mut().ok_or(Status::BadState)?;
        let shown = device
            .bars
            .get(bar)
            .copied()
            .flatten()
            .ok_or(Status::Invalid)?;
        // Rules need sizes alone; where the guest has put the BAR does not matter.
        let region = devmem::Region::new(
            arch::Ipa::new(0).expect("zero is an address"),
            shown.pa,
            shown.len,
            shown.bar.size,
            shown.memory,
        );
        let region = region.map_err(|_| Status::Invalid)?;
        let clip = clip(&region, offset, bytes).map_err(|_| Status::Invalid)?;
        let mut waiter = device.waiter.take();
        let verdict = touch::poll(device, &shown, now, &mut waiter);
        device.waiter = waiter;
        match verdict {
            Verdict::Map => {}
            Verdict::Park { .. } | Verdict::Again => return Err(Status::Again),
            Verdict::Refuse(Refusal::NotReady) => return Err(Status::NotReady),
            Verdict::Refuse(Refusal::MemoryOff | Refusal::LowPower | Refusal::Closed) => {
                return Err(Status::Off);
            }
        }
        let mut done = 0;
        while done < clip.device + clip.ones {
            let at = offset + done;
            let place = buffer.checked_add(done).ok_or(Status::Invalid)?;
            let withheld = shown.withheld;
            let hidden = withheld.is_some_and(|(first, last)| (first..=last).contains(&at));
            let theirs = done < clip.device && !hidden;
            // Words where both sides have whole ones, else bytes.
            let word = at & 3 == 0 && place.is_aligned(4) && done + 4 <= clip.device;
            let (width, step) = if word {
                (Width::Word, 4)
            } else {
                (Width::Byte, 1)
            };
            let pa = shown.pa.checked_add(at).filter(|_| theirs);
            match (direction, pa) {
                (Direction::Read, pa) => {
                    // What is not there, or does not answer, reads as ones.
                    let value = pa.and_then(|pa| window::read(pa, shown.memory, width));
                    let value = value.unwrap_or(width.mask());
                    let value = value.to_le_bytes();
                    memory::copy_in(place, value.get(..step).unwrap_or(&[]));
                }
                (Direction::Write, Some(pa)) => {
                    let value = memory::load(place, width);
                    let _ = window::write(pa, shown.memory, width, value);
                }
                (Direction::Write, None) => {}
            }
            done += step as u64;
        }
        Ok([done, 0])
    })
}

fn info(root: &Vm, n: u64, out: u64) -> Result<(), Status> {
    let n = usize::try_from(n).map_err(|_| Status::Invalid)?;
    events::ask();
    let mut slot = FUNCTIONS.get(n).ok_or(Status::Invalid)?.lock();
    let slot = slot.as_mut().ok_or(Status::Invalid)?;
    reset::let_go(slot, now_ms());
    let mut info = blank(slot);
    if let Some(device) = &slot.assigned {
        fill(&mut info, device);
    }
    calls::write_out(root, out, &info)
}

fn blank(slot: &Slot) -> DeviceInfo {
    DeviceInfo {
        function: slot.address.raw(),
        vendor: slot.function.vendor,
        device: slot.function.device,
        guest_slot: 0,
        class: slot.function.class,
        state: match (&slot.assigned, slot.companion_of) {
            (Some(_), _) => DEVICE_ASSIGNED,
            (None, Some(_)) => DEVICE_COMPANION,
            (None, None) => DEVICE_FREE,
        },
        vm: slot.companion_of.unwrap_or(0),
        bar_bytes: slot.function.bars.map(|bar| bar.map_or(0, |bar| bar.size)),
        profile: PROFILE_GENERIC,
        flags: u32::from(reset::is_possible(slot)) << 5,
        generation: 0,
        mapped_bytes: 0,
        mapped: [0; 3],
        present: 0,
        fell_back: 0,
        parked: 0,
        refused: 0,
        timeouts: 0,
        emulated: 0,
        zaps: 0,
        dropped: 0,
        cell_bytes: 0,
        touches: [0; TOUCH_CELLS],
        trace: [DeviceFault::default(); TRACE_LINES],
        trace_len: 0,
        dma_faults: 0,
        dma_fault_at: 0,
        dma_bytes: 0,
        mapped_64k: 0,
        bar_sizes: sizes(slot),
    }
}

/// Returns the sizes that each BAR can have where it is.
fn sizes(slot: &Slot) -> [u64; BARS] {
    let mut all = [0; BARS];
    let resizable = slot.function.resizable.iter().zip(slot.room);
    for (sizes, (resizable, room)) in all.iter_mut().zip(resizable) {
        *sizes = resizable.map_or(0, |r| r.up_to(room).fold(0, |set, bytes| set | bytes));
    }
    all
}

/// Returns whether the VM's guest says which pages its devices reach.
fn declares(device: &Assigned) -> bool {
    guest::by_handle(device.vm).is_some_and(|vm| vm.gmap.dma.is_declared())
}

fn fill(info: &mut DeviceInfo, device: &Assigned) {
    let counters = device.trace.counters();
    let state = &device.state;
    info.guest_slot = device.number;
    info.vm = device.vm;
    info.profile = match device.profile {
        Profile::Generic => PROFILE_GENERIC,
        Profile::Nvme => PROFILE_NVME,
        Profile::NvgraceGpu => PROFILE_NVGRACE_GPU,
    };
    info.flags |= u32::from(state.memory())
        | u32::from(state.pending()) << 1
        | u32::from(state.power() != devmem::Power::D0) << 2
        | u32::from(device.dma != Dma::Never) << 3
        | u32::from(device.dma == Dma::Bounded) << 4
        | u32::from(device.dma == Dma::Bounded && declares(device)) << 6;
    info.dma_faults = device.dma_faults;
    info.dma_fault_at = device.dma_fault_at;
    if device.dma == Dma::Bounded {
        info.dma_bytes = guest::by_handle(device.vm).map_or(0, |vm| vm.gmap.dma.bytes());
    }
    info.generation = state.generation();
    info.mapped_bytes = device.mapped_bytes;
    let [pages, groups, medium, large] = counters.mapped;
    info.mapped = [pages, medium, large];
    info.mapped_64k = groups;
    info.present = counters.present;
    info.fell_back = counters.fell_back;
    info.parked = counters.parked;
    info.refused = counters.refused;
    info.timeouts = device.timeouts;
    info.emulated = counters.emulated;
    info.zaps = counters.zaps;
    info.dropped = counters.dropped;
    info.cell_bytes = device.touches.cell_bytes();
    info.touches = *device.touches.cells();
    for (place, line) in info.trace.iter_mut().zip(device.trace.lines()) {
        *place = DeviceFault {
            at_ms: line.at_ms,
            pa: line.pa.map_or(u64::MAX, |pa| pa.raw()),
            bytes: line.order.map_or(0, devmem::Order::bytes),
            outcome: match line.outcome {
                Outcome::Mapped => 0,
                Outcome::Present => 1,
                Outcome::FellBack => 2,
                Outcome::Parked => 3,
                Outcome::Refused => 4,
            },
        };
        info.trace_len += 1;
    }
}
