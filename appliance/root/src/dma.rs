//! DMA memory for virtio devices: granted frames, whose physical address is theirs for good.

#![expect(unsafe_code, reason = "virtio-drivers' Hal is an unsafe trait")]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use guest_abi::root_boot::PHYSMAP;
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

use crate::frames::Block;
use crate::physmap;

/// The memory of all devices comes from 2 MiB blocks, page by page.
#[derive(Debug)]
pub(crate) struct Dma;

const PAGE: u64 = 4096;
/// PA of the first unused page of the current block, and of its end.
static NEXT: AtomicU64 = AtomicU64::new(0);
static END: AtomicU64 = AtomicU64::new(0);

// SAFETY: `dma_alloc` hands out pages of granted blocks, each page once, zeroed by core and
// never given back; `mmio_phys_to_virt` and `share` translate by the one linear map.
unsafe impl Hal for Dma {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let bytes = (pages as u64).saturating_mul(PAGE);
        let mut pa = NEXT.load(Ordering::Relaxed);
        if END.load(Ordering::Relaxed).saturating_sub(pa) < bytes {
            let Ok(block) = Block::grant(Block::LARGE) else {
                return (0, NonNull::dangling());
            };
            pa = block.pa();
            END.store(pa.saturating_add(block.bytes() as u64), Ordering::Relaxed);
            block.leak();
        }
        let next = pa.saturating_add(bytes);
        NEXT.store(next, Ordering::Relaxed);
        match physmap::at(pa) {
            Some(memory) if next <= END.load(Ordering::Relaxed) => (pa, memory),
            _ => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        // Devices are started once; what they were told of stays theirs.
        0
    }

    unsafe fn mmio_phys_to_virt(pa: PhysAddr, _: usize) -> NonNull<u8> {
        physmap::at(pa).expect("a BAR lies in physical memory")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        physmap::pa_of(buffer.cast()).expect("only DMA memory is lent to devices")
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

const _: () = assert!(PHYSMAP.is_multiple_of(PAGE));
