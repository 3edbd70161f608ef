//! Which pages were touched: exactly those.

use crate::orders::{READ, WRITE};
use crate::{PAGE, area, vm};
use guest_abi::memory_call::{Scan, reclaim};
use payload::root::Block;
use payload::test::Failure;
use payload::{TestResult, expect_eq, fail};

const BYTES: u64 = 2 << 20;
const PAGES: u64 = 512;

/// Scans `at..at + BYTES`, and fails unless exactly the pages that `expected` says are found.
fn exactly(what: Scan, at: u64, expected: impl Fn(u64) -> bool) -> Result<(), Failure> {
    let bitmap = Block::new(0);
    bitmap.clear();
    let found = vm().scan(what, at, BYTES, bitmap.pa);
    let wanted = (0..PAGES).filter(|n| expected(*n)).count() as u64;
    for n in 0..PAGES {
        let set = bitmap.word(n / 64) >> (n % 64) & 1 != 0;
        if set != expected(n) {
            fail!("{what:?}: page {n} is {set}, {found:#x} bytes found");
        }
    }
    expect_eq!(found, wanted * PAGE, "{what:?}");
    // A second scan finds nothing.
    expect_eq!(vm().scan(what, at, BYTES, 0), 0, "{what:?} again");
    Ok(())
}

pub(crate) fn dirty() -> TestResult {
    let vm = vm();
    vm.policy(12, 0);
    let at = area(24);
    vm.order(WRITE, [at, PAGES, PAGE, 1]);
    exactly(Scan::Dirty, at, |_| true)?;
    vm.order(READ, [at, PAGES, PAGE, 0]);
    exactly(Scan::Dirty, at, |_| false)?;
    // Pages 3, 10, 17, …: 40 of them.
    vm.order(WRITE, [at + 3 * PAGE, 40, 7 * PAGE, 5]);
    let written = |n: u64| n >= 3 && (n - 3).is_multiple_of(7) && (n - 3) / 7 < 40;
    exactly(Scan::Dirty, at, written)?;
    // The host's log is its own: it has everything since the frames were zeroed.
    exactly(Scan::HostDirty, at, |_| true)?;
    vm.order(WRITE, [at, 64, 8 * PAGE, 9]);
    exactly(Scan::HostDirty, at, |n| n.is_multiple_of(8))?;
    // By halves: what one has not asked for stays for the other.
    let first = vm.scan(Scan::Dirty, at, BYTES / 2, 0);
    expect_eq!(first, 32 * PAGE);
    exactly(Scan::Dirty, at, |n| n >= 256 && n.is_multiple_of(8))
}

pub(crate) fn blocks() -> TestResult {
    let vm = vm();
    vm.policy(21, 0);
    let at = area(26);
    vm.order(WRITE, [at, PAGES, PAGE, 1]);
    exactly(Scan::Dirty, at, |_| true)?;
    vm.order(WRITE, [at + 7 * PAGE, 1, PAGE, 1]);
    exactly(Scan::Dirty, at, |_| true)?;
    vm.policy(12, 0);
    let splits = vm.memory().splits;
    vm.reclaim(reclaim::SPLIT, at, BYTES);
    expect_eq!(vm.memory().splits, splits + 1);
    vm.order(WRITE, [at + 7 * PAGE, 3, 100 * PAGE, 1]);
    exactly(Scan::Dirty, at, |n| n == 7 || n == 107 || n == 207)
}

pub(crate) fn young() -> TestResult {
    let vm = vm();
    vm.policy(12, 0);
    let at = area(28);
    vm.order(WRITE, [at, PAGES, PAGE, 1]);
    exactly(Scan::Young, at, |_| true)?;
    vm.order(READ, [at + PAGE, 100, 5 * PAGE, 0]);
    exactly(Scan::Young, at, |n| n % 5 == 1 && n / 5 < 100)?;
    vm.order(WRITE, [at, 2, 511 * PAGE, 1]);
    exactly(Scan::Young, at, |n| n == 0 || n == 511)?;
    // Age takes nothing from the dirty log.
    exactly(Scan::Dirty, at, |_| true)
}
