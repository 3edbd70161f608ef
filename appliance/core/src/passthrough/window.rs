//! One page of core's tables that shows a page of a device, while it is looked at.
//!
//! So no mapping of a device is ever left in core's own tables when it is reset.
#![expect(unsafe_code, reason = "registers are reached by address")]

use arch::{Pa, Width};
use boot_entry::tables::{self, Kind};
use core::sync::atomic::Ordering;
use devmem::Memory;
use spin::Mutex;

use crate::{hw, physmap};

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

fn load<T>(at: u64) -> T {
    // SAFETY: only called by `read`, inside `with`: the page is mapped while it runs, `at` is
    // aligned to the width, `T` is an integer, and a device's registers are no Rust object.
    unsafe { core::ptr::read_volatile(at as *const T) }
}

fn store<T>(at: u64, value: T) {
    // SAFETY: as for `load`, by `write`; the function belongs to the VM on whose behalf it is.
    unsafe { core::ptr::write_volatile(at as *mut T, value) }
}

/// Loads from a device. `pa` is a multiple of the width.
pub(super) fn read(pa: Pa, memory: Memory, width: Width) -> u64 {
    with(pa, memory, |at| match width {
        Width::Byte => u64::from(load::<u8>(at)),
        Width::Half => u64::from(load::<u16>(at)),
        Width::Word => u64::from(load::<u32>(at)),
        Width::Double => load::<u64>(at),
    })
    .unwrap_or(width.mask())
}

/// Stores to a device. `pa` is a multiple of the width.
pub(super) fn write(pa: Pa, memory: Memory, width: Width, value: u64) {
    let _ = with(pa, memory, |at| match width {
        Width::Byte => store(at, value as u8),
        Width::Half => store(at, value as u16),
        Width::Word => store(at, value as u32),
        Width::Double => store(at, value),
    });
}
