//! What memory costs, in instructions, with the TLB maintenance that was counted: `BENCH` lines.
//!
//! On one core: while root measures a call of its own the guest sleeps, and what the guest
//! measures is undisturbed but for the ends of root's rare naps.

use crate::orders::{CALL, READ, SLEEP, WRITE};
use crate::vm::nap;
use crate::{PAGE, area, late_bench, vm};
use guest_abi::memory_call::{Scan, reclaim};
use guest_abi::storage_key::KEY_SET;
use payload::{println, stats, timer};

fn tlbi() -> u64 {
    let memory = vm().memory();
    memory.tlbi_page + memory.tlbi_range + memory.tlbi_vm
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
    late_bench::run();
    println!("BENCH done");
}
