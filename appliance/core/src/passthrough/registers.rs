//! Registers of the machine's ITS and SMMU, and the words that these read and write in memory.
#![expect(unsafe_code, reason = "registers and queues are reached by address")]

/// Reads a register of 32 bits.
pub(super) fn read32(at: u64) -> u32 {
    // SAFETY: a register of the ITS, a redistributor or the SMMU, which is mapped as device
    // memory from boot on; callers add a register's offset to such a base, so it is aligned.
    unsafe { core::ptr::read_volatile(at as *const u32) }
}

/// Writes a register of 32 bits.
pub(super) fn write32(at: u64, value: u32) {
    // SAFETY: as for `read32`. What registers point to are blocks that were allocated for that
    // and are never freed while in use.
    unsafe { core::ptr::write_volatile(at as *mut u32, value) }
}

/// Reads a register of 64 bits, or a word of a queue that the device writes.
pub(super) fn read64(at: u64) -> u64 {
    // SAFETY: as for `read32`, or in a block that belongs to the device: read once, as a number.
    unsafe { core::ptr::read_volatile(at as *const u64) }
}

/// Writes a register of 64 bits, or a word of a table or queue that the device reads.
pub(super) fn write64(at: u64, value: u64) {
    // SAFETY: as for `write32`, or in a block that was allocated for this, and aligned.
    unsafe { core::ptr::write_volatile(at as *mut u64, value) }
}
