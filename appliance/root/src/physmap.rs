//! Physical memory as root sees it: [`PHYSMAP`]` + PA`.

#![expect(unsafe_code, reason = "a fault on purpose")]

use core::ptr::NonNull;

use guest_abi::root_boot::PHYSMAP;

/// Reads where nothing is.
pub(crate) fn touch_nothing() {
    let at = core::ptr::with_exposed_provenance::<u8>(0x7000_0000_0000);
    // SAFETY: it does not return: nothing is mapped there, which ends root by design.
    let _ = unsafe { at.read_volatile() };
}

/// Returns where physical address `pa` is mapped, or `None` above the window.
pub(crate) fn at(pa: u64) -> Option<NonNull<u8>> {
    if pa >= crate::boot::root_boot().physmap_bytes {
        return None;
    }
    let va = usize::try_from(PHYSMAP.checked_add(pa)?).ok()?;
    NonNull::new(core::ptr::with_exposed_provenance_mut(va))
}

/// Returns the physical address of memory inside the window.
pub(crate) fn pa_of(pointer: NonNull<u8>) -> Option<u64> {
    let pa = (pointer.addr().get() as u64).checked_sub(PHYSMAP)?;
    (pa < crate::boot::root_boot().physmap_bytes).then_some(pa)
}
