//! A read of a GIC register that is a constant: GICD_IIDR.

use crate::measure;
use guest_abi::map::GICD_BASE;
use payload::{gic::GICD_IIDR, mem};

pub(crate) fn run() {
    measure::run("gic_read", || {
        mem::read32(GICD_BASE + GICD_IIDR);
    });
}
