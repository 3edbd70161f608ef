//! Frames that two guests use: each sees what it wrote itself, and the machine pays only for
//! what somebody wrote.

use crate::orders::{CHECK, READ, WRITE};
use crate::vm::Vm;
use crate::{PAGE, area};
use guest_abi::core_call::{CoreCall, Status};
use guest_abi::map::RAM_BASE;
use guest_abi::memory_call::reclaim;
use payload::root::{self, Block, try_call};
use payload::test::Failure;
use payload::{TestResult, expect, expect_eq, fail, println};

const RAM: u64 = 96 << 20;
const LARGE: u64 = 2 << 20;
/// Pages of the stretch that the tests write: 32 MiB.
const PAGES: u64 = 32 << 8;

fn create(ram_bytes: u64) -> Result<Vm, Failure> {
    match Vm::create(ram_bytes) {
        Ok(vm) => Ok(vm),
        Err(status) => fail!("VmCreate: {status:?}"),
    }
}

/// A guest that has written [`PAGES`] pages from [`area`] 32.
fn parent() -> Result<Vm, Failure> {
    let vm = create(RAM)?;
    vm.policy(21, 0);
    vm.start();
    vm.order(WRITE, [area(32), PAGES, PAGE, 1]);
    // What it does once more where its memory is another's.
    vm.order(READ, [area(32), 1, PAGE, 0]);
    Ok(vm)
}

pub(crate) fn clones() -> TestResult {
    let frame = Block::new(0);
    let free = || root::host_memory_by(&frame).free_bytes;
    // What the first VM leaves behind is there already.
    create(RAM)?.end();
    let empty = free();
    let parent = parent()?;
    let child = create(RAM)?;
    let (before, resident) = (free(), parent.memory().resident_bytes);
    let shared = child.share(parent, RAM_BASE, RAM);
    expect_eq!(shared, resident, "all of it");
    // Tables for the child, and for the blocks that were split.
    expect!(before - free() <= 64 * PAGE, "{:#x}", before - free());
    let tables = |vm: Vm| vm.memory().table_bytes;
    child.enter();
    let at = area(32);
    expect_eq!(
        child.order(CHECK, [at, PAGES, PAGE, 1]),
        [0, 0],
        "the child's"
    );
    expect_eq!(
        parent.order(CHECK, [at, PAGES, PAGE, 1]),
        [0, 0],
        "the parent's"
    );

    // 200 pages of the child's, 100 of the parent's, none of them the same; page 0 by both.
    let (free_before, tables_before) = (free(), tables(child) + tables(parent));
    child.order(WRITE, [at, 200, 8 * PAGE, 1000]);
    parent.order(WRITE, [at + 4 * PAGE, 100, 8 * PAGE, 5000]);
    parent.order(WRITE, [at, 1, PAGE, 7000]);
    let grown = tables(child) + tables(parent) - tables_before;
    let paid = free_before - free();
    println!("# shared {shared:#x}; 301 writes cost {paid:#x}, {grown:#x} of it tables");
    // The parent's write to page 0 finds it its own: the child has let it go.
    expect_eq!(paid - grown, 300 * PAGE, "only what was written");
    expect_eq!(child.order(CHECK, [at, 200, 8 * PAGE, 1000]), [0, 0]);
    expect_eq!(
        parent.order(CHECK, [at + 4 * PAGE, 100, 8 * PAGE, 5000]),
        [0, 0]
    );
    expect_eq!(parent.order(CHECK, [at, 1, PAGE, 7000]), [0, 0]);
    for (vm, first) in [(child, 4), (parent, 8)] {
        // What the other wrote is as it was here.
        for n in (0..99).step_by(9) {
            let page = first + n * 8;
            let [wrong, _] = vm.order(CHECK, [at + page * PAGE, 1, PAGE, 1 + page]);
            expect_eq!(wrong, 0, "page {page}");
        }
    }
    // Whole as they were, and the rest is still one frame for both.
    expect!(child.memory().shared_bytes >= shared - 16 * LARGE);

    // Whoever goes takes nothing of the other's along.
    parent.end();
    expect_eq!(child.order(CHECK, [at, 200, 8 * PAGE, 1000]), [0, 0]);
    let [wrong, _] = child.order(CHECK, [at + 1600 * PAGE, PAGES - 1600, PAGE, 1601]);
    expect_eq!(wrong, 0);
    // A page that is written is its own now, and costs no copy.
    let before = free();
    child.order(WRITE, [at + 4000 * PAGE, 8, PAGE, 9]);
    expect!(before - free() <= 2 * PAGE, "a table at most");
    child.end();
    // Core's caller keeps some pages for tables ahead.
    let lost = free().abs_diff(empty);
    expect!(
        lost <= 16 * PAGE,
        "{lost:#x} of {empty:#x} did not come back"
    );
    Ok(())
}

pub(crate) fn zeroes() -> TestResult {
    let frame = Block::new(0);
    let free = || root::host_memory_by(&frame).free_bytes;
    let vm = create(RAM)?;
    vm.start();
    let (at, pages) = (area(32), PAGES);
    vm.order(READ, [area(16), 1, PAGE, 0]);
    vm.policy(21, 4);
    let (before, memory) = (free(), vm.memory());
    let [sum, _] = vm.order(READ, [at, pages, PAGE, 0]);
    let after = vm.memory();
    expect_eq!(sum, 0);
    expect_eq!(after.faults - memory.faults, 16, "one for each block");
    expect_eq!(after.shared_bytes - memory.shared_bytes, 32 << 20);
    expect_eq!(after.resident_bytes, memory.resident_bytes);
    expect!(
        before - free() <= PAGE,
        "32 MiB read cost {:#x}",
        before - free()
    );
    // A write gets a frame, as at a first touch, and nothing else changes.
    vm.order(WRITE, [at + 5 * PAGE, 1, PAGE, 77]);
    expect_eq!(vm.order(CHECK, [at + 5 * PAGE, 1, PAGE, 77]), [0, 0]);
    let [sum, _] = vm.order(READ, [at, pages, PAGE, 0]);
    expect_eq!(sum, 77);
    expect_eq!(vm.memory().shared_bytes, after.shared_bytes - LARGE);
    expect_eq!(vm.memory().resident_bytes, after.resident_bytes + LARGE);
    // A VM that is wiped shares nothing: what is shown becomes its own.
    vm.policy(21, 1);
    expect_eq!(vm.memory().shared_bytes, 0);
    let [sum, _] = vm.order(READ, [at, pages, PAGE, 0]);
    expect_eq!(sum, 77);
    vm.end();
    Ok(())
}

pub(crate) fn refused() -> TestResult {
    let parent = parent()?;
    let child = create(RAM)?;
    let try_share = |to: Vm, from: Vm, ipa, bytes| {
        let args = [to.handle, from.handle, ipa, bytes, 0];
        try_call(CoreCall::VmShareMemory, &args).0
    };
    let at = area(32);
    expect_eq!(try_share(child, child, at, PAGE), Status::Invalid);
    expect_eq!(try_share(child, parent, at + 8, PAGE), Status::Invalid);
    expect_eq!(try_share(child, parent, at, 0), Status::Invalid);
    let end = RAM_BASE + RAM;
    expect_eq!(
        try_share(child, parent, end - PAGE, 2 * PAGE),
        Status::OutsideRam
    );
    let cursor = [child.handle, parent.handle, at, PAGE, at + PAGE];
    expect_eq!(
        try_call(CoreCall::VmShareMemory, &cursor).0,
        Status::Invalid
    );
    let gone = Vm {
        handle: 77,
        ..child
    };
    expect_eq!(try_share(gone, parent, at, PAGE), Status::NoVm);
    expect_eq!(try_share(child, gone, at, PAGE), Status::NoVm);
    // A frame of the child's own stays.
    let word = Block::new(0);
    word.set_word(0, 99);
    child.write(at + PAGE, word.pa, 8, 0).expect("RAM");
    expect_eq!(try_share(child, parent, at, 4 * PAGE), Status::Populated);
    child.reclaim(reclaim::DROP, at, LARGE);
    expect_eq!(child.share(parent, at, 4 * PAGE), 4 * PAGE);
    // With keys nothing is shared, and what was shared becomes its own: it reads the same.
    expect_eq!(child.key(3, at, 0x50), 0);
    expect_eq!(child.memory().shared_bytes, 0);
    for n in 0..4 {
        child.read(at + n * PAGE, word.pa, 8, 0).expect("RAM");
        expect_eq!(word.word(0), 1 + n, "page {n}");
    }
    expect_eq!(
        try_share(child, parent, area(64), PAGE),
        Status::NotShareable
    );
    expect_eq!(
        try_share(parent, child, area(64), PAGE),
        Status::NotShareable
    );
    expect_eq!(parent.order(CHECK, [at, PAGES, PAGE, 1]), [0, 0]);
    child.end();
    parent.end();
    Ok(())
}
