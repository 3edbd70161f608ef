//! Resetting functions: by a reset of their own, or by one of the bus on which they are alone.
//!
//! A reset of a bus has to be held for a while, and nobody waits here: whoever comes to the
//! function next after that time, for whatever reason, ends it ([`let_go`]).

use devmem::Why;
use pci::{Bridge, Function};

use super::config::settle;
use super::ecam::Ecam;
use super::zap::{self, Slice};
use super::{Slot, msix, now_ms};

/// Milliseconds that a function is left alone after a reset (PCIe 6.6.1, 6.6.2).
const REST_MS: u64 = 100;
/// Milliseconds that a reset of a bus is held: one at least, of which the first may be nearly
/// over.
const HOLD_MS: u64 = 2;

/// Who asked for a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resets {
    /// The guest: what it wrote into configuration space is gone.
    Guest,
    /// The control port: the guest's configuration is given back to the function.
    Operator,
}

/// Returns whether a function can be reset without any other.
pub(super) fn is_possible(slot: &Slot) -> bool {
    has_own(slot) || slot.port.is_some()
}

fn has_own(slot: &Slot) -> bool {
    slot.function.capabilities.express.is_some_and(|e| e.flr)
}

/// Begins a reset of a function, if it can be; returns until when it must not be accessed,
/// unless [`let_go`] says something later.
pub(super) fn begin(slot: &mut Slot, now: u64) -> u64 {
    let mut config = Ecam::of(slot.address);
    slot.function.set_command(&mut config, Function::QUIET);
    if slot.function.reset(&mut config) {
        return now + REST_MS;
    }
    let Some(port) = slot.port else { return now };
    Bridge::set_bus_reset(&mut Ecam::of(port), true);
    slot.held_until_ms = Some(now + HOLD_MS);
    now + HOLD_MS
}

/// Ends a reset of the function's bus that was held for long enough.
pub(super) fn let_go(slot: &mut Slot, now: u64) {
    let over = slot.held_until_ms.is_some_and(|until| now >= until);
    let Some(port) = slot.port.filter(|_| over) else {
        return;
    };
    Bridge::set_bus_reset(&mut Ecam::of(port), false);
    slot.held_until_ms = None;
    let until = now + REST_MS;
    slot.rests_until_ms = until;
    if let Some(device) = slot.assigned.as_mut() {
        device.quiet_until_ms = until;
        device.state.rest(until);
    }
}

/// Takes all mappings away, then resets the function; false if there is more to do.
pub(super) fn reset(slot: &mut Slot, now: u64, who: Resets) -> bool {
    let Some(device) = slot.assigned.as_mut() else {
        return true;
    };
    let Slice::Done(duty) = zap::slice(device, Why::Reset) else {
        return false;
    };
    let until = begin(slot, now);
    let Some(device) = slot.assigned.as_mut() else {
        return true;
    };
    device.quiet_until_ms = until;
    device.restore = true;
    device.vectors_lost = device.messages;
    device.state.taken(duty, until);
    if who == Resets::Guest {
        device.config.reset();
        msix::reset(device.index);
        if let Slice::Done(duty) = zap::slice(device, Why::MemoryOff) {
            device.state.taken(duty, 0);
        }
    }
    true
}

/// Resets a function for its operator; false if there is more to do.
pub(super) fn by_operator(slot: &mut Slot) -> bool {
    let now = now_ms();
    settle(slot, now);
    let quiet = slot.assigned.as_ref().map_or(0, |d| d.quiet_until_ms);
    now >= quiet && reset(slot, now, Resets::Operator)
}
