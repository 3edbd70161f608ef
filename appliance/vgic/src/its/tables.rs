//! Devices, their events, and collections (IHI 0069H, 5.2), in fixed space.

use crate::index;
use crate::lpi::lpi_of;

/// Device IDs: the requester IDs of one PCI bus.
pub const DEVICES: u32 = 256;
/// Events that all devices may have together; a device's are rounded up to a power of two, and
/// to [`UNIT`].
pub const EVENTS: u32 = 2048;
/// Collections.
pub const COLLECTIONS: u32 = 16;

/// Bits of an event ID: a device may have all events.
pub(crate) const EVENT_BITS: u32 = 11;
const _: () = assert!(1 << EVENT_BITS == EVENTS);
/// Events that are given to devices as a whole.
const UNIT: u32 = 16;
/// Units there are, a bit each in [`Tables::used`].
const UNITS: u32 = 128;
const _: () = assert!(UNIT * UNITS == EVENTS);

/// A device's interrupt translation table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Device {
    /// First unit.
    first: u8,
    /// Bits of its event IDs; 0 if the device is not mapped.
    bits: u8,
}

/// An interrupt translation entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    lpi: u16,
    /// [`Entry::NONE`] if the event is not mapped.
    collection: u16,
}

impl Entry {
    const NONE: u16 = u16::MAX;
    const UNMAPPED: Self = Self {
        lpi: 0,
        collection: Self::NONE,
    };
}

/// Where a mapped event leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapped {
    pub(crate) lpi: u16,
    /// The vCPU that its collection is mapped to.
    pub(crate) vcpu: usize,
}

#[derive(Debug)]
pub(crate) struct Tables {
    /// The vCPU of each collection.
    collections: [Option<u8>; 16],
    devices: [Device; 256],
    /// Units that belong to a device.
    used: u128,
    entries: [Entry; 2048],
}

impl Tables {
    pub(crate) const fn new() -> Self {
        Self {
            collections: [None; 16],
            devices: [Device { first: 0, bits: 0 }; 256],
            used: 0,
            entries: [Entry::UNMAPPED; 2048],
        }
    }

    /// Returns the LPI of an event, and the vCPU it is for.
    pub(crate) fn translate(&self, device: u32, event: u32) -> Option<(u16, usize)> {
        let entry = *self.entries.get(self.place(device, event)?)?;
        let vcpu = self.vcpu_of(u32::from(entry.collection))?;
        Some((entry.lpi, vcpu))
    }

    /// Returns the vCPU that a collection is mapped to.
    pub(crate) fn vcpu_of(&self, collection: u32) -> Option<usize> {
        let vcpu = self.collections.get(index(collection)).copied().flatten();
        vcpu.map(usize::from)
    }

    /// Maps a collection to a vCPU, or unmaps it; nothing if there is no such collection.
    pub(crate) fn map_collection(&mut self, collection: u32, vcpu: Option<u8>) {
        if let Some(place) = self.collections.get_mut(index(collection)) {
            *place = vcpu;
        }
    }

    /// Returns where the entry of an event is.
    fn place(&self, device: u32, event: u32) -> Option<usize> {
        let device = self.devices.get(index(device))?;
        if device.bits == 0 || event.checked_shr(u32::from(device.bits))? != 0 {
            return None;
        }
        let first = u32::from(device.first).wrapping_mul(UNIT);
        Some(index(first.wrapping_add(event)))
    }

    /// Maps a device, with 2^`bits` events that are not mapped; what it had before is gone.
    /// Nothing if there is no such device, or there are not that many events left.
    pub(crate) fn map_device(&mut self, device: u32, bits: u32) {
        if device >= DEVICES || !(1..=EVENT_BITS).contains(&bits) {
            return;
        }
        self.unmap_device(device);
        let units = 1u32.wrapping_shl(bits).div_ceil(UNIT);
        let Some(first) = self.free_units(units) else {
            return;
        };
        self.used |= run(units).wrapping_shl(first);
        let start = index(first.wrapping_mul(UNIT));
        let count = index(units.wrapping_mul(UNIT));
        for entry in self.entries.iter_mut().skip(start).take(count) {
            *entry = Entry::UNMAPPED;
        }
        if let Some(place) = self.devices.get_mut(index(device)) {
            *place = Device {
                first: byte(first),
                bits: byte(bits),
            };
        }
    }

    /// Unmaps a device, and all of its events.
    pub(crate) fn unmap_device(&mut self, device: u32) {
        let Some(place) = self.devices.get_mut(index(device)) else {
            return;
        };
        let old = core::mem::replace(place, Device { first: 0, bits: 0 });
        if old.bits != 0 {
            let units = 1u32.wrapping_shl(u32::from(old.bits)).div_ceil(UNIT);
            self.used &= !run(units).wrapping_shl(u32::from(old.first));
        }
    }

    /// Finds `units` free units, a power of two, at a multiple of it.
    fn free_units(&self, units: u32) -> Option<u32> {
        let step = index(units.max(1));
        (0..UNITS)
            .step_by(step)
            .find(|first| self.used.wrapping_shr(*first) & run(units) == 0)
    }

    /// Maps an event; false if its device has no such event, or there is no such collection.
    pub(crate) fn map_event(
        &mut self,
        device: u32,
        event: u32,
        intid: u32,
        collection: u32,
    ) -> Option<u16> {
        let lpi = lpi_of(intid)?;
        let place = self.place(device, event)?;
        let collection = u16::try_from(collection)
            .ok()
            .filter(|c| u32::from(*c) < COLLECTIONS)?;
        *self.entries.get_mut(place)? = Entry { lpi, collection };
        Some(lpi)
    }

    /// Returns where an event leads, if it is mapped and its collection is.
    pub(crate) fn mapped(&self, device: u32, event: u32) -> Option<Mapped> {
        self.translate(device, event)
            .map(|(lpi, vcpu)| Mapped { lpi, vcpu })
    }

    /// Unmaps an event.
    pub(crate) fn unmap_event(&mut self, device: u32, event: u32) {
        if let Some(entry) = self
            .place(device, event)
            .and_then(|n| self.entries.get_mut(n))
        {
            *entry = Entry::UNMAPPED;
        }
    }

    /// Gives a mapped event to another collection.
    pub(crate) fn move_event(&mut self, device: u32, event: u32, collection: u32) {
        let place = self.place(device, event);
        if let Some(entry) = place.and_then(|n| self.entries.get_mut(n)) {
            entry.collection = u16::try_from(collection).unwrap_or(Entry::NONE);
        }
    }
}

/// Returns the lowest `units` bits set.
fn run(units: u32) -> u128 {
    match 1u128.checked_shl(units) {
        Some(end) => end.wrapping_sub(1),
        None => u128::MAX,
    }
}

fn byte(n: u32) -> u8 {
    u8::try_from(n).unwrap_or(0)
}
