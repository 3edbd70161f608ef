//! A read below RAM where no device is; plain QEMU answers with an external abort.

use crate::measure;
use payload::{catch, mem, println};

/// In the map's gap between virtio-mmio and PCIe.
const UNCLAIMED: u64 = 0x0b00_0000;

pub(crate) fn run() {
    match catch(|| mem::read32(UNCLAIMED)) {
        Ok(_) => measure::run("unclaimed_read", || {
            mem::read32(UNCLAIMED);
        }),
        Err(fault) => println!("# unclaimed_read: aborts here, esr {:#x}", fault.esr),
    }
}
