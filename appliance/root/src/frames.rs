//! Frames granted by core: memory with a known physical address.

#![expect(unsafe_code, reason = "granted frames as slices and as shared records")]

use alloc::vec::Vec;
use core::ptr::NonNull;

use guest_abi::core_call::{CoreCall, Status};
use root_logic::extent::{LARGE_BYTES, LARGE_ORDER, PAGE_BYTES, order_of, place};

use crate::calls::{call, call_patiently};
use crate::physmap;

/// A block of granted, aligned memory: `4096 << order` bytes, zero when granted. Goes back
/// to core when dropped.
#[derive(Debug)]
pub(crate) struct Block {
    pa: u64,
    memory: NonNull<u8>,
    order: u32,
}

impl Block {
    /// Order of a 2 MiB block.
    pub(crate) const LARGE: u32 = LARGE_ORDER;

    /// Asks core for `4096 << order` bytes.
    pub(crate) fn grant(order: u32) -> Result<Self, Status> {
        let [pa, _] = call_patiently(CoreCall::FramesGrant, [u64::from(order), 0, 0, 0])?;
        let memory = physmap::at(pa).ok_or(Status::NotGranted)?;
        Ok(Self { pa, memory, order })
    }

    /// Takes over a block that was granted to an earlier root and that nobody has: see
    /// `backend::legacy`, which alone knows that.
    pub(crate) fn adopt(pa: u64, order: u32) -> Option<Self> {
        let memory = physmap::at(pa)?;
        Some(Self { pa, memory, order })
    }

    /// Returns the physical address of the first byte.
    pub(crate) fn pa(&self) -> u64 {
        self.pa
    }

    /// Returns the number of bytes.
    pub(crate) fn bytes(&self) -> usize {
        PAGE_BYTES << self.order
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

    /// Keeps the block granted for ever.
    pub(crate) fn leak(self) {
        core::mem::forget(self);
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let arguments = [self.pa, u64::from(self.order), 0, 0];
        // Again and again while core is still zeroing the one before.
        let released = call_patiently(CoreCall::FramesRelease, arguments);
        debug_assert!(released.is_ok(), "core takes back what it granted");
    }
}

/// A page in which core leaves its answer to a call, or finds its argument.
#[derive(Debug)]
pub(crate) struct Scratch(Block);

/// A record of core's that may be read from, and written to, a shared page.
///
/// # Safety
/// Any bytes make a valid value, it has no padding that matters, and it fits a page.
pub(crate) unsafe trait Record: Copy {}

// SAFETY: integers only (guest-abi).
unsafe impl Record for guest_abi::core_call::HostInfo {}
// SAFETY: integers only.
unsafe impl Record for guest_abi::core_call::VmInfo {}
// SAFETY: integers only.
unsafe impl Record for guest_abi::core_call::VmEntry {}
// SAFETY: integers only.
unsafe impl Record for guest_abi::core_call::VmConfig {}
// SAFETY: integers only.
unsafe impl Record for guest_abi::device::DeviceConfig {}
// SAFETY: integers only.
unsafe impl Record for guest_abi::device::DeviceInfo {}
// SAFETY: integers only.
unsafe impl Record for guest_abi::vcpu_info::VcpuInfo {}
// SAFETY: integers only.
unsafe impl Record for guest_abi::memory_call::VmMemory {}
// SAFETY: integers only.
unsafe impl Record for guest_abi::memory_call::MemoryPolicy {}
// SAFETY: bytes.
unsafe impl Record for [u8; ACCESS_MAX] {}

/// Most bytes of a device that one request reads or writes.
const ACCESS_MAX: usize = 1024;

impl Scratch {
    /// Asks core for a page.
    pub(crate) fn new() -> Result<Self, Status> {
        Block::grant(0).map(Self)
    }

    /// Makes a call that writes a record to the page whose address is argument `position`.
    pub(crate) fn ask<R: Record>(&self, what: CoreCall, vm: Option<u64>) -> Result<R, Status> {
        let arguments = match vm {
            Some(vm) => [vm, self.0.pa, 0, 0],
            None => [self.0.pa, 0, 0, 0],
        };
        call(what, arguments)?;
        // SAFETY: a page of our own, larger than any record, of which any bytes are valid.
        Ok(unsafe { self.0.memory.cast::<R>().read_volatile() })
    }

    /// Makes a call about a number that writes a record.
    pub(crate) fn ask_about<R: Record>(&self, what: CoreCall, number: u64) -> Result<R, Status> {
        self.ask(what, Some(number))
    }

    /// Makes a call whose first argument is the address of a record, and waits for memory.
    pub(crate) fn tell<R: Record>(&self, what: CoreCall, record: R) -> Result<[u64; 2], Status> {
        // SAFETY: a page of our own, larger than any record.
        unsafe { self.0.memory.cast::<R>().write_volatile(record) };
        call_patiently(what, [self.0.pa, 0, 0, 0])
    }
}

impl Scratch {
    /// Makes a call about a vCPU that writes a record.
    pub(crate) fn ask_vcpu<R: Record>(
        &self,
        what: CoreCall,
        vm: u64,
        vcpu: u64,
    ) -> Result<R, Status> {
        call(what, [vm, vcpu, self.0.pa, 0])?;
        // SAFETY: a page of our own, larger than any record, of which any bytes are valid.
        Ok(unsafe { self.0.memory.cast::<R>().read_volatile() })
    }

    /// Makes a call whose second argument is the address of a record.
    pub(crate) fn tell_about<R: Record>(
        &self,
        what: CoreCall,
        about: u64,
        record: R,
    ) -> Result<[u64; 2], Status> {
        // SAFETY: a page of our own, larger than any record.
        unsafe { self.0.memory.cast::<R>().write_volatile(record) };
        call(what, [about, self.0.pa, 0, 0])
    }

    /// Makes a call that leaves bytes; returns as many as it says.
    pub(crate) fn read(
        &self,
        what: CoreCall,
        about: u64,
        place: u64,
        bytes: u64,
    ) -> Result<Vec<u8>, Status> {
        let most = bytes.min(ACCESS_MAX as u64);
        let [done, _] = call(what, [about, place, self.0.pa, most])?;
        // SAFETY: a page of our own, of which any bytes are valid.
        let all = unsafe { self.0.memory.cast::<[u8; ACCESS_MAX]>().read_volatile() };
        let done = usize::try_from(done).unwrap_or(ACCESS_MAX);
        Ok(all.get(..done).unwrap_or(&all).to_vec())
    }

    /// Makes a call that takes bytes, at most [`ACCESS_MAX`] of them.
    pub(crate) fn write(
        &self,
        what: CoreCall,
        about: u64,
        place: u64,
        data: &[u8],
    ) -> Result<(), Status> {
        let mut all = [0; ACCESS_MAX];
        let room = all.get_mut(..data.len()).ok_or(Status::Invalid)?;
        room.copy_from_slice(data);
        // SAFETY: a page of our own, larger than any record.
        unsafe { self.0.memory.cast::<[u8; ACCESS_MAX]>().write_volatile(all) };
        call(what, [about, place, self.0.pa, data.len() as u64]).map(|_| ())
    }
}

/// A run of bytes in blocks: 2 MiB each, but the last may be smaller.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    blocks: Vec<Block>,
    /// Bytes written, from the first on.
    bytes: u64,
}

impl Frames {
    /// Asks for room for `bytes` bytes. Gives everything back if core has not as much.
    pub(crate) fn with_room(bytes: u64) -> Result<Self, Status> {
        let mut frames = Self::default();
        let mut left = bytes;
        while left > 0 {
            let block = Block::grant(order_of(left))?;
            left = left.saturating_sub(block.bytes() as u64);
            frames.blocks.push(block);
        }
        Ok(frames)
    }

    /// Puts blocks together that hold `bytes` bytes, if they are as this would have them.
    pub(crate) fn adopt(blocks: Vec<Block>, bytes: u64) -> Option<Self> {
        let (last, large) = blocks.split_last()?;
        let before = (large.len() as u64).checked_mul(LARGE_BYTES as u64)?;
        let rest = bytes.checked_sub(before)?;
        let good = large.iter().all(|block| block.order == LARGE_ORDER)
            && rest > 0
            && last.order == order_of(rest)
            && rest <= last.bytes() as u64;
        good.then_some(Self { blocks, bytes })
    }

    /// Returns every block: its address and its order.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (u64, u32)> {
        self.blocks.iter().map(|block| (block.pa, block.order))
    }

    /// Returns the number of bytes written.
    pub(crate) fn len(&self) -> u64 {
        self.bytes
    }

    /// Appends what fits into the room there is, and returns how much that was.
    pub(crate) fn append(&mut self, mut data: &[u8]) -> usize {
        let mut taken = 0_usize;
        while let Some((to, from)) = self.room().map(|room| {
            let n = room.len().min(data.len());
            (
                room.get_mut(..n).unwrap_or_default(),
                data.get(..n).unwrap_or_default(),
            )
        }) {
            to.copy_from_slice(from);
            let n = from.len();
            if n == 0 {
                break;
            }
            taken = taken.saturating_add(n);
            data = data.get(n..).unwrap_or_default();
            self.written(n);
        }
        taken
    }

    /// Returns the room left in the block being filled, if there is one.
    pub(crate) fn room(&mut self) -> Option<&mut [u8]> {
        let (index, offset) = place(self.bytes);
        self.blocks.get_mut(index)?.as_mut_slice().get_mut(offset..)
    }

    /// Says that the first `bytes` bytes of [`Self::room`] were written.
    pub(crate) fn written(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// Adds a 2 MiB block of room, behind blocks of that size.
    pub(crate) fn grow(&mut self) -> Result<(), Status> {
        self.blocks.push(Block::grant(Block::LARGE)?);
        Ok(())
    }

    /// Returns the bytes from `offset` to the end of its block or of what was written.
    pub(crate) fn piece(&self, offset: u64) -> &[u8] {
        let (index, start) = place(offset);
        let left = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let block = self.blocks.get(index).map_or(&[][..], Block::as_slice);
        let rest = block.get(start..).unwrap_or_default();
        rest.get(..left.min(rest.len())).unwrap_or_default()
    }

    /// Returns the physical address of the byte at `offset`.
    pub(crate) fn pa(&self, offset: u64) -> Option<u64> {
        let (index, start) = place(offset);
        self.blocks.get(index)?.pa().checked_add(start as u64)
    }
}
