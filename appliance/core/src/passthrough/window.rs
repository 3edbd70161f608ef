//! One page of core's tables that shows a page of a device, while it is looked at.
//!
//! So no mapping of a device is ever left in core's own tables when it is reset.
#![expect(unsafe_code, reason = "registers are reached by address")]

use arch::{Pa, Width};
use boot_entry::tables::{self, Kind};
use core::sync::atomic::Ordering;
use devmem::Memory;
use spin::Mutex;

use crate::{guarded, hw, physmap};

static LOCK: Mutex<()> = Mutex::new(());

/// Shows the page of `pa` and runs `access` with where `pa` is.
fn with<T>(pa: Pa, memory: Memory, access: impl FnOnce(u64) -> T) -> Option<T> {
    let _one = LOCK.lock();
    let entry = physmap::window_entry()?;
    let kind = match memory {
        // The guest's own mapping is Normal write-back: the two must agree.
        Memory::Cached => Kind::Data,
        Memory::WriteCombining | Memory::Device => Kind::Device,
    };
    let page = pa.align_down(4096);
    entry.store(tables::page(page.raw(), kind), Ordering::Release);
    hw::dsb_ishst();
    hw::isb();
    let result = access(physmap::WINDOW + (pa.raw() - page.raw()));
    hw::dsb_ish();
    entry.store(0, Ordering::Release);
    hw::tlbi_own(physmap::WINDOW);
    Some(result)
}

/// Loads from a device; `None` if it does not answer. `pa` is a multiple of the width.
pub(super) fn read(pa: Pa, memory: Memory, width: Width) -> Option<u64> {
    // SAFETY: the page is mapped while this runs, and a device's registers are no Rust object.
    with(pa, memory, |at| unsafe { guarded::load(at, width) })?
}

/// Stores to a device; `None` if it does not answer. `pa` is a multiple of the width.
pub(super) fn write(pa: Pa, memory: Memory, width: Width, value: u64) -> Option<()> {
    // SAFETY: as for `read`; the function belongs to the VM on whose behalf it is.
    with(pa, memory, |at| unsafe { guarded::store(at, width, value) })?
}
