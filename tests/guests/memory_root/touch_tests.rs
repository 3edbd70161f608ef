//! What a touch costs.

use crate::orders::{CHECK, READ, WRITE};
use crate::vm::Vm;
use crate::{PAGE, area, hafdbs, vm};
use guest_abi::memory_call::{Scan, reclaim};
use payload::{TestResult, expect, expect_eq, fail, println};

/// Faults and minor faults so far.
fn faults() -> (u64, u64) {
    let memory = vm().memory();
    (memory.faults, memory.minor_faults)
}

/// Runs `f` and returns the faults and minor faults it cost.
fn cost(f: impl FnOnce()) -> (u64, u64) {
    let before = faults();
    f();
    let after = faults();
    (after.0 - before.0, after.1 - before.1)
}

pub(crate) fn traps() -> TestResult {
    let vm = vm();
    let flags = |n| if hafdbs() { (0, 0) } else { (n, n) };
    for (shift, at, leaves) in [(12, area(18), 512), (21, area(22), 1)] {
        vm.policy(shift, 0);
        // The page that orders come in may be clean itself.
        vm.order(READ, [at - PAGE, 1, PAGE, 0]);
        let read = || {
            vm.order(READ, [at, 512, PAGE, 0]);
        };
        let write = || {
            vm.order(WRITE, [at, 512, PAGE, 1]);
        };
        expect_eq!(cost(read), (leaves, 0), "first touch, {shift}");
        expect_eq!(cost(read), (0, 0), "read again, {shift}");
        expect_eq!(cost(write), flags(leaves), "first write, {shift}");
        expect_eq!(cost(write), (0, 0), "write again, {shift}");
        vm.scan(Scan::Dirty, at, 2 << 20, 0);
        expect_eq!(cost(write), flags(leaves), "write after a sync, {shift}");
        vm.scan(Scan::Young, at, 2 << 20, 0);
        expect_eq!(cost(read), flags(leaves), "read after an age, {shift}");
    }
    // Eager: where hardware keeps no dirty state, a page is dirty from its first touch.
    vm.policy(21, 2);
    let at = area(50);
    vm.order(READ, [area(18), 1, PAGE, 0]);
    let both = || {
        vm.order(READ, [at, 512, PAGE, 0]);
        vm.order(WRITE, [at, 512, PAGE, 1]);
    };
    expect_eq!(cost(both), (1, 0), "eager");
    Ok(())
}

/// Where the machine has an aligned GiB, a VM that may have it gets it at its first touch.
pub(crate) fn huge() -> TestResult {
    let guest = match Vm::create(1344 << 20) {
        Ok(vm) => vm,
        Err(status) => fail!("VmCreate: {status:?}"),
    };
    guest.policy(30, 2);
    guest.start();
    guest.order(WRITE, [area(128), 1 << 17, PAGE, 1]);
    let memory = guest.memory();
    println!(
        "# 1 GiB leaves: {:?}, {} faults",
        memory.leaves, memory.faults
    );
    expect_eq!(memory.leaves[2], 1);
    expect_eq!(memory.faults, 0, "it was mapped when the guest was loaded");
    let [wrong, _] = guest.order(CHECK, [area(128), 1 << 17, PAGE, 1]);
    expect_eq!(wrong, 0);
    // It can be taken apart again.
    guest.policy(21, 2);
    guest.reclaim(reclaim::SPLIT, area(0), 1 << 30);
    expect_eq!(guest.memory().leaves[1..], [512, 0]);
    let [wrong, _] = guest.order(CHECK, [area(128), 1 << 17, PAGE, 1]);
    expect_eq!(wrong, 0);
    guest.end();
    Ok(())
}

pub(crate) fn gibibyte() -> TestResult {
    let vm = vm();
    vm.policy(21, 2);
    // What it touches for itself it has touched.
    vm.order(READ, [area(16), 1, PAGE, 0]);
    let pages = 1 << 18;
    let (all, _) = cost(|| {
        vm.order(WRITE, [area(256), pages, PAGE, 1]);
    });
    let [small, large, huge] = vm.memory().leaves;
    println!("# 1 GiB: {all} faults, leaves {small} {large} {huge}");
    expect!(all <= 512, "{all}");
    let in_blocks = (large << 21) + (huge << 30);
    let resident = vm.memory().resident_bytes;
    expect!(
        in_blocks * 100 >= resident * 95,
        "{in_blocks:#x} of {resident:#x}"
    );
    let [wrong, _] = vm.order(CHECK, [area(256), pages, PAGE, 1]);
    expect_eq!(wrong, 0);
    Ok(())
}
