//! Root's devices, as core listed them.

#![expect(unsafe_code, reason = "a transport from a mapped address")]

use guest_abi::root_boot::{DEVICE_VIRTIO_MMIO, RootDevice};
use virtio_drivers::transport::mmio::MmioTransport;
use virtio_drivers::transport::{DeviceType, Transport};

use crate::boot::root_boot;
use crate::physmap;

/// Returns the first virtio-mmio transport with a device of this type behind it.
pub(crate) fn find(wanted: DeviceType) -> Option<&'static RootDevice> {
    let count = usize::try_from(root_boot().device_count).unwrap_or(0);
    root_boot()
        .devices
        .iter()
        .take(count)
        .filter(|device| device.kind == DEVICE_VIRTIO_MMIO)
        .find(|device| transport(device).is_some_and(|found| found.device_type() == wanted))
}

/// Returns the transport behind a device's registers, or `None` if there is nothing.
pub(crate) fn transport(device: &RootDevice) -> Option<MmioTransport<'static>> {
    let registers = physmap::at(device.pa)?;
    let bytes = usize::try_from(device.bytes).ok()?;
    // SAFETY: core says that a virtio-mmio transport is there, and maps it for as long as
    // root runs. An empty one identifies itself as such, and is refused by `new`.
    unsafe { MmioTransport::new(registers.cast(), bytes) }.ok()
}
