//! A guest touches a BAR that is not mapped.

use ::vcpu::exit::{Access, DataAbort};
use arch::{Ipa, Width};
use core::sync::atomic::Ordering;
use devmem::{Block, Memory, Order, Outcome, Refusal, Region, TraceEntry, Verdict, block_at, clip};
use gmap::{Attr, Error, Perm};
use guest_abi::core_call::ExitClass;
use guest_abi::map::{PCI_HIGH_BASE, PCI_LOW_BASE, PCI_LOW_BYTES};

use super::{Assigned, FUNCTIONS, Shown, config, msix, now_ms, park, ticks_at, window};
use crate::guest::{Vcpu, Vm};
use crate::{console, exits, root, schedule};

/// What became of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Served, or to be tried again: the vCPU goes on where it is.
    Done,
    /// Core made it, and this was loaded: the vCPU goes on behind it.
    Made(u64),
    /// The guest takes an external abort.
    Refused,
    /// No device of the guest is there.
    NotOurs,
}

/// Returns whether a BAR of the guest may be at `ipa`.
#[inline(always)]
pub(crate) fn claims(vm: &Vm, ipa: Ipa) -> bool {
    vm.devices.load(Ordering::Relaxed) != 0
        && (ipa.raw() >= PCI_HIGH_BASE || ipa.raw().wrapping_sub(PCI_LOW_BASE) < PCI_LOW_BYTES)
}

/// What is to be done once the device's lock is free again.
enum Then {
    Answer(Answer),
    Park(u64),
    Yield,
    TimedOut,
}

/// Answers an abort at `ipa`; false if no device of the guest is there.
#[inline(never)]
pub(crate) fn touch(vcpu: &mut Vcpu, ipa: Ipa, abort: &DataAbort) -> bool {
    vcpu.count(ExitClass::Fault);
    let access = abort.access.filter(|_| !abort.on_walk && !abort.cache);
    match answer(vcpu, ipa, access, abort.write) {
        Answer::NotOurs => return false,
        Answer::Done => {}
        Answer::Made(value) => {
            if let Some(access) = access.filter(|_| !abort.write) {
                vcpu.set_reg(access.register, access.extend(value));
            }
            exits::skip(vcpu);
        }
        Answer::Refused => exits::refuse_data(vcpu, abort),
    }
    true
}

/// `access` is there if the hardware described the instruction.
fn answer(vcpu: &mut Vcpu, ipa: Ipa, access: Option<Access>, store: bool) -> Answer {
    let vm = vcpu.vm();
    let value = access.map_or(0, |a| vcpu.reg(a.register) & a.width.mask());
    let made = access.map(|access| (access.width, store.then_some(value)));
    let mut devices = vm.devices.load(Ordering::Relaxed);
    let mut then = None;
    while devices != 0 && then.is_none() {
        then = decide(vcpu, devices.trailing_zeros() as usize, ipa, made);
        devices &= devices - 1;
    }
    match then {
        None => Answer::NotOurs,
        Some(Then::Answer(answer)) => answer,
        Some(Then::Park(until_ms)) => {
            park::until(vcpu, ticks_at(until_ms));
            Answer::Done
        }
        Some(Then::Yield) => {
            schedule::yield_now();
            Answer::Done
        }
        Some(Then::TimedOut) => {
            console::println!(
                "a device of the VM in slot {} is not ready in time: its vCPU {} is refused",
                vm.slot,
                vcpu.index
            );
            root::ring(vm.slot);
            Answer::Refused
        }
    }
}

/// An access as the hardware described it: its width, and what it stores.
type Made = Option<(Width, Option<u64>)>;

/// Decides on an access with function `n` of the VM locked; `None` if it is at none of its BARs.
fn decide(vcpu: &mut Vcpu, n: usize, ipa: Ipa, made: Made) -> Option<Then> {
    let vm = vcpu.vm();
    let mut slot = FUNCTIONS.get(n)?.lock();
    let slot = slot.as_mut()?;
    let now = now_ms();
    config::settle(slot, now);
    let device = slot.assigned.as_mut()?;
    let (bar, shown, region) = device.region_at(ipa)?;
    let verdict = poll(device, &shown, now, vcpu.parked.waiter(n));
    let offset = region.offset(ipa).unwrap_or(0);
    let note = |device: &mut Assigned, outcome, block: Option<Block>| {
        device.trace.note(TraceEntry {
            at_ms: now,
            order: block.map(|block| block.order),
            pa: block.map(|block| block.pa),
            outcome,
        });
    };
    Some(match verdict {
        Verdict::Park { until_ms } => {
            note(device, Outcome::Parked, None);
            Then::Park(until_ms)
        }
        Verdict::Again => Then::Yield,
        Verdict::Refuse(why) => {
            note(device, Outcome::Refused, None);
            if why == Refusal::NotReady {
                device.timeouts += 1;
                Then::TimedOut
            } else {
                Then::Answer(Answer::Refused)
            }
        }
        Verdict::Map => {
            if largest_bar(device) == Some(bar) {
                device.touches.count(offset);
            }
            let mapped = part(&shown, &region, offset)
                .map_or(Mapped::NoPage, |part| map(vm, device, &part, ipa, now));
            match (mapped, made) {
                (Mapped::Block(block), _) => {
                    device.mapped_bytes += block.order.bytes();
                    note(device, Outcome::Mapped, Some(block));
                    Then::Answer(Answer::Done)
                }
                (Mapped::Present, _) => {
                    note(device, Outcome::Present, None);
                    Then::Answer(Answer::Done)
                }
                (Mapped::NoPage, Some((width, value))) => {
                    device.trace.emulated();
                    let table = msix::table_offset(&slot.function, &slot.placed, &shown, offset);
                    let made = match table {
                        Some(at) => Some(msix::access(n, at, width, value)),
                        None => make(&region, offset, width, value),
                    };
                    // As if the guest had made it: it is the guest's abort.
                    Then::Answer(made.map_or(Answer::Refused, Answer::Made))
                }
                (Mapped::NoPage | Mapped::NoMemory, _) => {
                    note(device, Outcome::Refused, None);
                    Then::Answer(Answer::Refused)
                }
            }
        }
    })
}

/// Asks the device whether it may be reached, polling its registers if need be.
pub(super) fn poll(
    device: &mut Assigned,
    shown: &Shown,
    now_ms: u64,
    waiter: &mut Option<devmem::Waiter>,
) -> Verdict {
    if shown.tells {
        return device.state.touch_registers(now_ms);
    }
    let bars = device.bars;
    device.state.touch(now_ms, waiter, |bar, offset| {
        let shown = bars.get(usize::from(bar)).copied().flatten();
        let at = shown
            .filter(|shown| offset + 4 <= shown.len)
            .and_then(|shown| shown.pa.checked_add(offset));
        // A register that is not there says what nothing says: all ones.
        at.and_then(|at| window::read(at, Memory::Device, Width::Word))
            .map_or(u32::MAX, |word| word as u32)
    })
}

fn largest_bar(device: &Assigned) -> Option<usize> {
    let sizes = device.bars.iter().enumerate();
    let sizes = sizes.filter_map(|(n, shown)| Some((n, shown.as_ref()?.bar.size)));
    sizes.max_by_key(|(_, size)| *size).map(|(n, _)| n)
}

/// Returns the part of a BAR around `offset` that may be mapped: all of it, or what is before
/// or behind the pages that are withheld.
fn part(shown: &Shown, region: &Region, offset: u64) -> Option<Region> {
    let Some((first, last)) = shown.withheld else {
        return Some(*region);
    };
    let (from, to) = if offset < first {
        (0, first)
    } else if offset > last {
        (last + 1, region.len())
    } else {
        return None;
    };
    let len = to.checked_sub(from)?;
    let (ipa, pa) = (
        region.ipa().checked_add(from)?,
        region.pa().checked_add(from)?,
    );
    Region::new(ipa, pa, len, len.next_power_of_two(), region.memory()).ok()
}

enum Mapped {
    Block(Block),
    /// Another vCPU was quicker.
    Present,
    /// No page that is wholly the device's covers it.
    NoPage,
    /// There is no frame for a table.
    NoMemory,
}

/// Maps the largest leaf that covers `ipa`.
fn map(vm: &Vm, device: &mut Assigned, part: &Region, ipa: Ipa, now: u64) -> Mapped {
    let attr = match part.memory() {
        Memory::Cached => Attr::Normal,
        Memory::WriteCombining => Attr::NormalNc,
        Memory::Device => Attr::Device,
    };
    let mut largest = Order::Block1G;
    let machine = &mut vm.gmap.machine();
    let mut gmap = vm.gmap.exclusive();
    loop {
        let Some(block) = block_at(part, ipa, largest) else {
            return Mapped::NoPage;
        };
        let bytes = block.order.bytes();
        match gmap.map_hinted(machine, block.ipa, block.pa, bytes, attr, Perm::RW) {
            Ok(()) => return Mapped::Block(block),
            Err(Error::Occupied { .. }) if gmap.translate(machine, ipa).is_some() => {
                return Mapped::Present;
            }
            // Part of the block is mapped, as after a page of it was revoked.
            Err(Error::Occupied { .. }) => {
                device.trace.note(TraceEntry {
                    at_ms: now,
                    order: Some(block.order),
                    pa: Some(block.pa),
                    outcome: Outcome::FellBack,
                });
                let Some(smaller) = block.order.smaller() else {
                    return Mapped::NoMemory;
                };
                largest = smaller;
            }
            Err(_) => return Mapped::NoMemory,
        }
    }
}

/// Makes an access for the guest; returns what it loads, `None` if the device does not answer.
fn make(region: &Region, offset: u64, width: Width, store: Option<u64>) -> Option<u64> {
    let bytes = match width {
        Width::Byte => 1,
        Width::Half => 2,
        Width::Word => 4,
        Width::Double => 8,
    };
    let whole = clip(region, offset, bytes).is_ok_and(|clip| clip.device == bytes);
    let at = region
        .pa()
        .checked_add(offset)
        .filter(|at| at.is_aligned(bytes));
    match (at, store) {
        (Some(at), Some(value)) if whole => {
            window::write(at, region.memory(), width, value).map(|()| 0)
        }
        (Some(at), None) if whole => window::read(at, region.memory(), width),
        _ => Some(width.mask()),
    }
}
