//! The other vCPUs, which read pages all the time and look for what is not the guest's.

use core::sync::atomic::{AtomicU64, Ordering};

use payload::{cpu, machine, mem, mmu, smp};

static ADDRESS: AtomicU64 = AtomicU64::new(0);
static PAGES: AtomicU64 = AtomicU64::new(0);
static TAG: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);
static READS: AtomicU64 = AtomicU64::new(0);
static STARTED: AtomicU64 = AtomicU64::new(0);

/// Lets every other vCPU read `pages` pages from `address`.
pub(crate) fn begin(address: u64, pages: u64, tag: u64) {
    ADDRESS.store(address, Ordering::Relaxed);
    PAGES.store(pages, Ordering::Relaxed);
    TAG.store(tag >> 32, Ordering::Relaxed);
    for count in [&STOP, &WRONG, &READS, &STARTED] {
        count.store(0, Ordering::Release);
    }
    smp::start_all(read);
    let others = machine::cpus() as u64 - 1;
    while STARTED.load(Ordering::Acquire) < others {
        cpu::yield_now();
    }
}

/// Ends that; returns what was read that was not the guest's, and how much was read.
pub(crate) fn end() -> [u64; 2] {
    STOP.store(1, Ordering::Release);
    for index in 1..machine::cpus() {
        while !smp::wait_off(index) {}
    }
    [&WRONG, &READS].map(|count| count.load(Ordering::Acquire))
}

extern "C" fn read() {
    mmu::enable();
    let address = ADDRESS.load(Ordering::Relaxed);
    let (pages, tag) = (PAGES.load(Ordering::Relaxed), TAG.load(Ordering::Relaxed));
    STARTED.fetch_add(1, Ordering::AcqRel);
    while STOP.load(Ordering::Acquire) == 0 {
        for page in 0..pages {
            let word = mem::read64(address + page * 4096);
            if word != 0 && word >> 32 != tag {
                WRONG.fetch_add(1, Ordering::Relaxed);
            }
        }
        READS.fetch_add(pages, Ordering::Relaxed);
    }
}
