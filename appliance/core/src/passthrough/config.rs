//! A guest's loads and stores in configuration space.

use arch::Width;
use core::sync::atomic::Ordering;
use devmem::Why;
use pci::{Power, Write, command};

use super::ecam::Ecam;
use super::reset::{self, Resets};
use super::zap::{self, Slice};
use super::{Assigned, Dma, FUNCTIONS, Slot, msix, now_ms, park, ticks_at};
use crate::guest::{Vcpu, Vm};

/// Milliseconds that it is left alone after a change of power state (PCI PM 1.2, 5.6.1).
const POWER_MS: u64 = 10;

/// What became of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Done.
    Done,
    /// Not yet: the vCPU makes it again.
    Again,
}

/// Splits an offset in the ECAM: device number of bus 0, and offset in its function 0.
fn split(offset: u64) -> Option<(u16, u16)> {
    let number = u16::try_from(offset >> 15)
        .ok()
        .filter(|number| *number < 32)?;
    (offset >> 12 & 7 == 0).then_some((number, (offset & 0xfff) as u16))
}

const fn bytes(width: Width) -> u16 {
    match width {
        Width::Byte => 1,
        Width::Half => 2,
        Width::Word => 4,
        Width::Double => 8,
    }
}

/// Loads from `offset` of the ECAM. Ones where there is no function.
pub(crate) fn load(vm: &Vm, offset: u64, width: Width) -> u64 {
    let value = || {
        let (number, at) = split(offset)?;
        with(vm, number, |slot| {
            let device = slot.assigned.as_ref()?;
            Some(device.config.read(at, bytes(width)))
        })
    };
    value().unwrap_or(u64::MAX) & width.mask()
}

/// Stores `value` at `offset` of the ECAM.
pub(crate) fn store(vcpu: &mut Vcpu, offset: u64, width: Width, value: u64) -> Stored {
    let Some((number, at)) = split(offset) else {
        return Stored::Done;
    };
    let now = now_ms();
    let step = with(vcpu.vm(), number, |slot| {
        settle(slot, now);
        let device = slot.assigned.as_ref()?;
        let write = device.config.understand(at, bytes(width), value);
        Some(step(slot, write, now))
    });
    match step {
        Some(Step::Again) => Stored::Again,
        Some(Step::Wait(until_ms)) => {
            park::until(vcpu, ticks_at(until_ms));
            Stored::Again
        }
        Some(Step::Done) | None => Stored::Done,
    }
}

/// Runs `f` with the function locked that the guest has as device `number`.
fn with<T>(vm: &Vm, number: u16, mut f: impl FnMut(&mut Slot) -> Option<T>) -> Option<T> {
    let devices = vm.devices.load(Ordering::Relaxed);
    FUNCTIONS.iter().enumerate().find_map(|(n, function)| {
        if devices >> n & 1 == 0 {
            return None;
        }
        let mut slot = function.lock();
        let slot = slot.as_mut()?;
        if slot.assigned.as_ref()?.number != number {
            return None;
        }
        f(slot)
    })
}

/// How far a change is.
enum Step {
    Done,
    /// A slice was done, and there is more.
    Again,
    /// The function must not be accessed before then.
    Wait(u64),
}

/// Gives a function that lost it its configuration back, once it may be accessed.
pub(super) fn settle(slot: &mut Slot, now: u64) {
    reset::let_go(slot, now);
    let Some(device) = slot.assigned.as_mut() else {
        return;
    };
    if !device.restore || now < device.quiet_until_ms {
        return;
    }
    device.restore = false;
    let mut config = Ecam::of(slot.address);
    slot.function.restore_sizes(&mut config);
    for (n, placed) in slot.placed.iter().enumerate() {
        if let Some(placed) = placed {
            slot.function.place(&mut config, n, placed.raw());
        }
    }
    let value = command_of(device, device.config.command());
    slot.function.set_command(&mut config, value);
    if device.messages {
        let control = device.config.msi_x_control();
        slot.function.set_msi_x(&mut config, control);
    }
    restore_vectors(device);
}

/// Gives a function that lost it its MSI-X table back, if it decodes its memory.
fn restore_vectors(device: &mut Assigned) {
    if device.vectors_lost && device.config.command() & command::MEMORY != 0 {
        device.vectors_lost = false;
        msix::restore(device.index);
    }
}

/// Returns COMMAND of the function when the guest's is `guest`: what it may have of it.
fn command_of(device: &Assigned, guest: u16) -> u16 {
    let mut bits = command::MEMORY;
    if device.dma != Dma::Never {
        bits |= command::BUS_MASTER;
    }
    let off = if device.wire.is_some() {
        guest & command::INTX_OFF
    } else {
        command::INTX_OFF
    };
    guest & bits | off
}

/// Does what a store means, as far as a slice goes.
fn step(slot: &mut Slot, write: Write, now: u64) -> Step {
    let Some(device) = slot.assigned.as_mut() else {
        return Step::Done;
    };
    let waits = matches!(
        write,
        Write::Command(_) | Write::Reset | Write::Power(_) | Write::MsiX(_)
    );
    if waits && now < device.quiet_until_ms {
        return Step::Wait(device.quiet_until_ms);
    }
    match write {
        Write::Nothing => {}
        Write::Scratch { .. } | Write::DeviceControl(_) => device.config.apply(write),
        Write::MsiX(control) => {
            device.config.apply(write);
            let mut config = Ecam::of(slot.address);
            slot.function.set_msi_x(&mut config, control);
        }
        Write::Bar { .. } => {
            if device.state.may_be_mapped() {
                let Slice::Done(duty) = zap::slice(device, Why::Moved) else {
                    return Step::Again;
                };
                device.state.taken(duty, 0);
            }
            device.config.apply(write);
        }
        Write::Command(value) => return set_command(slot, value),
        Write::Reset => {
            return match reset::reset(slot, now, Resets::Guest) {
                true => Step::Done,
                false => Step::Again,
            };
        }
        Write::Power(power) => return set_power(slot, power, now),
    }
    Step::Done
}

fn set_command(slot: &mut Slot, value: u16) -> Step {
    let Some(device) = slot.assigned.as_mut() else {
        return Step::Done;
    };
    let memory = value & command::MEMORY != 0;
    if device.state.may_be_mapped() && !memory {
        let Slice::Done(duty) = zap::slice(device, Why::MemoryOff) else {
            return Step::Again;
        };
        device.state.taken(duty, 0);
    }
    device.config.apply(Write::Command(value));
    let value = command_of(device, value);
    slot.function
        .set_command(&mut Ecam::of(slot.address), value);
    if memory {
        device.state.memory_on();
    }
    restore_vectors(device);
    Step::Done
}

fn set_power(slot: &mut Slot, power: Power, now: u64) -> Step {
    let Some(device) = slot.assigned.as_mut() else {
        return Step::Done;
    };
    if device.config.power() == power {
        return Step::Done;
    }
    if power == Power::D3Hot {
        let Slice::Done(duty) = zap::slice(device, Why::PowerDown) else {
            return Step::Again;
        };
        device.state.taken(duty, 0);
    } else {
        device.state.power_up();
        device.restore = true;
        // Coming back is a reset.
        msix::reset(device.index);
    }
    let on = power == Power::D0;
    slot.function.set_power(&mut Ecam::of(slot.address), on);
    device.quiet_until_ms = now + POWER_MS;
    device.config.apply(Write::Power(power));
    if device.config.command() & command::MEMORY == 0 && device.state.memory() {
        // What came back has its memory off: nothing is mapped, so this is done at once.
        if let Slice::Done(duty) = zap::slice(device, Why::MemoryOff) {
            device.state.taken(duty, 0);
        }
    }
    Step::Done
}
