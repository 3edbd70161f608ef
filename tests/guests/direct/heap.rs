//! A heap that only grows: what makes device trees wants one.
#![expect(unsafe_code, reason = "it is the allocator")]

use alloc::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

const BYTES: usize = 4 << 20;

struct Heap {
    bytes: UnsafeCell<[u8; BYTES]>,
    used: AtomicUsize,
}

// SAFETY: Only vCPU 0 runs, and interrupts stay masked.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap {
    bytes: UnsafeCell::new([0; BYTES]),
    used: AtomicUsize::new(0),
};

// SAFETY: Blocks are aligned, do not overlap, and are never given out again.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.bytes.get().cast::<u8>();
        let used = self.used.load(Ordering::Relaxed);
        let at = (start.addr() + used).next_multiple_of(layout.align()) - start.addr();
        let Some(end) = at.checked_add(layout.size()).filter(|end| *end <= BYTES) else {
            return core::ptr::null_mut();
        };
        self.used.store(end, Ordering::Relaxed);
        start.wrapping_add(at)
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}
