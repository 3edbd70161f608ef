//! Single loads and stores of a width the reader can rely on, anywhere.
//!
//! Each is one plain load or store instruction, so that a trap sees a complete syndrome
//! (ISV = 1). A load may fault, and [`crate::catch`] then steps over it; the value is 0.
#![expect(unsafe_code, reason = "loads and stores at addresses that are data")]

use core::arch::asm;

unsafe extern "C" {
    static payload_image_start: u8;
    static payload_image_end: u8;
}

/// Returns the first address of the image and the first after its stacks.
pub fn image() -> (u64, u64) {
    (
        (&raw const payload_image_start).addr() as u64,
        (&raw const payload_image_end).addr() as u64,
    )
}

/// Panics if a store of `bytes` at `address` would change the program itself.
fn refuse_own_image(address: u64, bytes: u64) {
    let (start, end) = image();
    assert!(
        address >= end || address.saturating_add(bytes) <= start,
        "a store into the image at {address:#x}"
    );
}

macro_rules! load {
    ($name:ident, $insn:literal, $doc:literal) => {
        #[doc = $doc]
        #[inline(always)]
        pub fn $name(address: u64) -> u64 {
            let mut value: u64 = 0;
            // SAFETY: A load changes no Rust object. Whatever it does to a device or
            // raises is what the test is about; a fault leaves `value` at 0.
            unsafe {
                asm!($insn, inout("x0") value, in("x1") address, options(nostack, preserves_flags))
            }
            value
        }
    };
}

macro_rules! store {
    ($name:ident, $insn:literal, $bytes:literal, $doc:literal) => {
        #[doc = $doc]
        #[inline(always)]
        pub fn $name(address: u64, value: u64) {
            refuse_own_image(address, $bytes);
            // SAFETY: The store is outside the image, so it changes no Rust object.
            unsafe {
                asm!($insn, in("x0") value, in("x1") address, options(nostack, preserves_flags))
            }
        }
    };
}

load!(read8, "ldrb w0, [x1]", "Loads one byte.");
load!(read16, "ldrh w0, [x1]", "Loads two bytes.");
load!(read32, "ldr w0, [x1]", "Loads four bytes.");
load!(read64, "ldr x0, [x1]", "Loads eight bytes.");
store!(
    write8,
    "strb w0, [x1]",
    1,
    "Stores one byte outside the image."
);
store!(
    write16,
    "strh w0, [x1]",
    2,
    "Stores two bytes outside the image."
);
store!(
    write32,
    "str w0, [x1]",
    4,
    "Stores four bytes outside the image."
);
store!(
    write64,
    "str x0, [x1]",
    8,
    "Stores eight bytes outside the image."
);

/// Calls `address`, which is expected not to be there; see [`crate::catch`].
pub fn call_nowhere(address: u64) {
    let (start, end) = image();
    assert!(!(start..end).contains(&address), "that is code of ours");
    // SAFETY: Nothing of ours is there. Under `catch` the fetch aborts and control comes
    // back here by x30; code that is there after all must follow the C ABI.
    unsafe { asm!("blr {0}", in(reg) address, clobber_abi("C")) }
}
