//! A heap that grows until a round is over: what makes device trees wants one.
#![expect(unsafe_code, reason = "it is the allocator")]
#![allow(dead_code, reason = "a root with one round has nothing to release")]

use alloc::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

const BYTES: usize = 4 << 20;

struct Heap {
    bytes: UnsafeCell<[u8; BYTES]>,
    used: AtomicUsize,
    live: AtomicUsize,
}

/// What was in use at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    used: usize,
    live: usize,
}

/// Returns what is in use now.
pub(crate) fn mark() -> Mark {
    Mark {
        used: HEAP.used.load(Ordering::Relaxed),
        live: HEAP.live.load(Ordering::Relaxed),
    }
}

/// Gives back what was taken since `mark`, unless a block of it is still in use.
pub(crate) fn release(mark: Mark) {
    if HEAP.live.load(Ordering::Relaxed) == mark.live {
        HEAP.used.store(mark.used, Ordering::Relaxed);
    }
}

// SAFETY: Only vCPU 0 runs, and interrupts stay masked.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap {
    bytes: UnsafeCell::new([0; BYTES]),
    used: AtomicUsize::new(0),
    live: AtomicUsize::new(0),
};

// SAFETY: Blocks are aligned and do not overlap. They are given out again when as many have been
// given back as were taken since a mark, which is all of them: what was taken before (the orders)
// is never given back.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.bytes.get().cast::<u8>();
        let used = self.used.load(Ordering::Relaxed);
        let at = (start.addr() + used).next_multiple_of(layout.align()) - start.addr();
        let Some(end) = at.checked_add(layout.size()).filter(|end| *end <= BYTES) else {
            return core::ptr::null_mut();
        };
        self.used.store(end, Ordering::Relaxed);
        self.live.fetch_add(1, Ordering::Relaxed);
        start.wrapping_add(at)
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
}
