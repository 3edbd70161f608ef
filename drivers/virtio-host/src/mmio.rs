//! What an interrupt handler does to a virtio-mmio transport.

#![expect(unsafe_code, reason = "two registers, from an interrupt handler")]

use core::ptr::NonNull;

/// InterruptStatus (virtio 1.2, 4.2.2): read-only.
const INTERRUPT_STATUS: usize = 0x60;
/// InterruptACK: written with the bits that were seen.
const INTERRUPT_ACK: usize = 0x64;

/// Quiets the interrupt of the transport whose registers start at `registers`, and returns
/// whether it had one: bit 0 says that a used ring moved, bit 1 that the configuration did.
///
/// The driver of the same transport touches neither register, so that this may be called
/// from an interrupt handler at any moment.
///
/// # Safety
/// `registers` must point to the mapped registers of a virtio-mmio transport.
pub unsafe fn acknowledge(registers: NonNull<u8>) -> u32 {
    let status = registers
        .as_ptr()
        .wrapping_add(INTERRUPT_STATUS)
        .cast::<u32>();
    let ack = registers.as_ptr().wrapping_add(INTERRUPT_ACK).cast::<u32>();
    // SAFETY: a mapped, aligned 32-bit register, as the caller vouches.
    let bits = unsafe { status.read_volatile() };
    if bits != 0 {
        // SAFETY: likewise.
        unsafe { ack.write_volatile(bits) };
    }
    bits
}
