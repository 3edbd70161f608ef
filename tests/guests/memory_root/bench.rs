//! What memory costs, in instructions, with the TLB maintenance that was counted: `BENCH` lines.
//!
//! On one core: while root measures a call of its own the guest sleeps, and what the guest
//! measures is undisturbed but for the ends of root's rare naps.

use crate::orders::{CALL, LATE, READ, SLEEP, WRITE};
use crate::vm::{Vm, nap};
use crate::{PAGE, area, vm};
use guest_abi::core_call::{CoreCall, Status};
use guest_abi::map::RAM_BASE;
use guest_abi::memory_call::{Scan, reclaim};
use guest_abi::storage_key::KEY_SET;
use payload::root::try_call;
use payload::{late, println, stats, timer};

fn tlbi() -> u64 {
    let memory = vm().memory();
    memory.tlbi_page + memory.tlbi_range + memory.tlbi_vm
}

/// Makes a call again and again until it is done, and reports the longest of them: how long
/// core keeps whoever else wants the CPU waiting (M8).
fn longest(key: &str, mut one: impl FnMut(u64) -> (Status, [u64; 3])) {
    let (mut cursor, mut longest) = (0, 0);
    loop {
        let start = timer::now();
        let (status, [next, ..]) = one(cursor);
        longest = longest.max(timer::now() - start);
        match status {
            Status::Ok => break,
            Status::Again => cursor = next,
            other => panic!("{key}: {other:?}"),
        }
    }
    let insns = stats::insns_per_op(longest, timer::hz(), 1);
    println!("BENCH {key} {insns}");
}

/// How far into what takes long the interrupt comes.
const AHEAD_NS: u64 = 10_000;

/// How long an interrupt waits that comes while core does what takes long: zeroes a block of 2
/// MiB for the guest, moves blocks, and looks whether blocks of zeroes are such. The most of some.
fn interrupts() {
    let vm = vm();
    vm.policy(21, 0);
    let report = |key: &str, ticks: u64| {
        println!("BENCH {key} {}", stats::insns_per_op(ticks, timer::hz(), 1));
    };
    let late = |n: u64| vm.order(LATE, [area(1300) + n * (2 << 20), AHEAD_NS, 0, 0])[0];
    report("irq_late_populate", (0..8).map(late).max().unwrap_or(0));
    for (key, what) in [
        ("irq_late_move", reclaim::MOVE),
        ("irq_late_zero", reclaim::ZERO),
    ] {
        let asleep = vm.begin(SLEEP, [500_000_000, 0, 0, 0]);
        nap();
        let args = [vm.handle, what, area(1300), 16 << 20, 0, 0, 0];
        let late = late::interrupt(AHEAD_NS, || {
            let (status, _) = try_call(CoreCall::VmReclaim, &args);
            // It is long enough to be interrupted.
            assert_eq!(status, Status::Again, "{key}");
        });
        vm.wait(asleep);
        report(key, late.expect("the timer fires"));
    }
}

/// A VM in pages of 4 KiB throughout, and one that is wiped: the longest slice of each.
fn slices() {
    let make = |largest, flags| {
        let other = Vm::create(80 << 20).expect("memory for a VM");
        other.policy(largest, flags);
        other.start();
        other.order(WRITE, [area(32), 32 << 8, PAGE, 1]);
        other
    };
    let pages = make(12, 0);
    for (key, what) in [
        ("mem_slice_dirty", Scan::Dirty),
        ("mem_slice_age", Scan::Young),
    ] {
        longest(key, |cursor| {
            let args = [pages.handle, what as u64, RAM_BASE, 80 << 20, 0, cursor, 0];
            try_call(CoreCall::VmMemoryScan, &args)
        });
    }
    for (key, other) in [
        ("mem_slice_destroy", pages),
        ("mem_slice_wipe", make(21, 1)),
    ] {
        let _ = try_call(CoreCall::VmStop, &[other.handle]);
        nap();
        longest(key, |_| try_call(CoreCall::VmDestroy, &[other.handle]));
    }
}

/// Runs `f` and reports its instructions and TLB operations, each times `of` by `per`.
fn calls(key: &str, (of, per): (u64, u64), f: impl FnOnce()) {
    let before = tlbi();
    // Longer than anything that is measured takes.
    let asleep = vm().begin(SLEEP, [500_000_000, 0, 0, 0]);
    nap();
    let start = timer::now();
    f();
    let ticks = timer::now() - start;
    let operations = tlbi() - before;
    let insns = stats::insns_per_op(ticks, timer::hz(), 1);
    vm().wait(asleep);
    println!("BENCH {key} {}", insns * of / per);
    println!("BENCH {key}_tlbi {}", operations * of / per);
}

/// Lets the guest touch `count` addresses, and reports what each took it, and the TLB operations
/// of all.
fn touch(key: &str, order: u64, [at, count, stride]: [u64; 3]) {
    let before = tlbi();
    vm().order(order, [at, count, stride, 1]);
    let each = stats::insns_per_op(vm().ticks(), timer::hz(), count);
    println!("BENCH {key} {each}");
    println!("BENCH {key}_tlbi {}", tlbi() - before);
}

pub(crate) fn run() {
    let vm = vm();
    const LARGE: u64 = 2 << 20;
    const PAGES: u64 = 512;
    vm.policy(21, 0);
    touch("mem_populate_2m", WRITE, [area(64), 8, LARGE]);
    vm.policy(12, 0);
    touch("mem_populate_4k", WRITE, [area(96), PAGES, PAGE]);
    touch("mem_touch", READ, [area(96), PAGES, PAGE]);
    vm.scan(Scan::Dirty, area(96), LARGE, 0);
    touch("mem_write_after_sync", WRITE, [area(96), PAGES, PAGE]);

    // 64 MiB in pages, 1 GiB in blocks; both all written.
    vm.order(WRITE, [area(128), 64 << 8, PAGE, 1]);
    vm.policy(21, 0);
    vm.order(WRITE, [area(256), PAGES, LARGE, 1]);
    for (name, what) in [("dirty_sync", Scan::Dirty), ("age", Scan::Young)] {
        for (size, at, bytes) in [("4k", area(128), 64 << 20), ("2m", area(256), 1 << 30)] {
            let key = match (name, size) {
                ("dirty_sync", "4k") => "mem_dirty_sync_gib_4k",
                ("dirty_sync", _) => "mem_dirty_sync_gib_2m",
                (_, "4k") => "mem_age_gib_4k",
                _ => "mem_age_gib_2m",
            };
            calls(key, ((1 << 30) / bytes, 1), || {
                vm.scan(what, at, bytes, 0);
            });
        }
    }
    vm.policy(12, 0);
    calls("mem_split", (1, 16), || {
        vm.reclaim(reclaim::SPLIT, area(256), 32 << 20);
    });
    // The first call puts keys into use; the second finds the page with a leaf of its own.
    let key = |n: u64| vm.order(CALL, [u64::from(KEY_SET), area(96) + n * PAGE, 0x30, 0]);
    key(0);
    key(1);
    // Touched since its key was set: what the key says of that has to be seen anew.
    vm.order(WRITE, [area(96), 2, PAGE, 1]);
    let before = tlbi();
    key(0);
    let insns = stats::insns_per_op(vm.ticks(), timer::hz(), 1);
    println!("BENCH mem_key_set {insns}");
    println!("BENCH mem_key_set_tlbi {}", tlbi() - before);
    slices();
    interrupts();
    println!("BENCH done");
}
