//! Frames granted by core: memory with a known physical address.

#![expect(unsafe_code, reason = "granted frames as slices")]

use core::ptr::NonNull;

use guest_abi::core_call::{CoreCall, Status};

use crate::calls::call;
use crate::physmap;

/// A block of granted, aligned memory: `4096 << order` bytes, zero when granted. Goes back
/// to core when dropped.
#[derive(Debug)]
pub(crate) struct Block {
    pa: u64,
    memory: NonNull<u8>,
    order: u32,
}

// SAFETY: the memory belongs to the block alone.
unsafe impl Send for Block {}

impl Block {
    /// Order of a 2 MiB block.
    pub(crate) const LARGE: u32 = 9;

    /// Asks core for `4096 << order` bytes.
    pub(crate) fn grant(order: u32) -> Result<Self, Status> {
        let [pa, _] = call(CoreCall::FramesGrant, [u64::from(order), 0, 0, 0])?;
        let memory = physmap::at(pa).ok_or(Status::NotGranted)?;
        Ok(Self { pa, memory, order })
    }

    /// Returns the physical address of the first byte.
    pub(crate) fn pa(&self) -> u64 {
        self.pa
    }

    /// Returns the number of bytes.
    pub(crate) fn bytes(&self) -> usize {
        4096 << self.order
    }

    /// Returns the memory.
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: core granted these bytes, zeroed, to this block alone, until `drop`.
        unsafe { core::slice::from_raw_parts(self.memory.as_ptr(), self.bytes()) }
    }

    /// Returns the memory, to change it.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.memory.as_ptr(), self.bytes()) }
    }

    /// Keeps the block granted for ever and returns its memory.
    pub(crate) fn leak(self) -> NonNull<u8> {
        let memory = self.memory;
        core::mem::forget(self);
        memory
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let released = call(
            CoreCall::FramesRelease,
            [self.pa, u64::from(self.order), 0, 0],
        );
        debug_assert!(released.is_ok(), "core takes back what it granted");
    }
}
