//! How long an interrupt waits that comes while core does what takes long: `BENCH irq_late_…`
//! lines, each the most of several, with the interrupt at different moments.
//!
//! What is interrupted must not be over before the interrupt comes, or nothing is measured: so
//! each of root's calls has to end early, with work left to do.

use crate::orders::{AHEAD_NS, LATE, LATE_CALL, SLEEP, WRITE};
use crate::vm::{Vm, nap};
use crate::{PAGE, area, vm};
use guest_abi::core_call::{CoreCall, Status};
use guest_abi::map::RAM_BASE;
use guest_abi::memory_call::{PolicyFlags, Scan, reclaim};
use guest_abi::page_state::{PAGE_STATE, PAGE_STATE_DRAIN, StateCall};
use guest_abi::storage_key::KEY_BULK;
use payload::root::{Block, call, try_call};
use payload::{late, println, stats, timer};

const LARGE: u64 = 2 << 20;
/// How often each is tried: more than there are blocks zeroed ahead.
const TIMES: u64 = 12;
/// How much later the interrupt comes each time: a prime, so that it meets every phase.
const LATER_NS: u64 = 3_643;
/// RAM of the VMs that are made for this.
const RAM: u64 = 80 << 20;

fn report(key: &str, ticks: u64) {
    let insns = stats::insns_per_op(ticks, timer::hz(), 1);
    println!("BENCH irq_late_{key} {insns}");
}

/// Makes one of root's calls with an interrupt under way, and again from where it ended, `times`
/// times; `args` is told how often and the cursor. It must end early each time.
fn of_calls(key: &str, what: CoreCall, times: u64, args: impl Fn(u64, u64) -> [u64; 7]) {
    let (mut longest, mut cursor) = (0, 0);
    for n in 0..times {
        let mut answer = (Status::Ok, [0; 3]);
        let late = late::interrupt(AHEAD_NS + n * LATER_NS, || {
            answer = try_call(what, &args(n, cursor));
        });
        let (status, [next, ..]) = answer;
        assert_eq!(status, Status::Again, "{key}: it is over too soon");
        cursor = next;
        longest = longest.max(late.expect("the timer fires"));
    }
    report(key, longest);
}

/// As [`of_calls`], for a call that says how much it did, and does not do all of `whole`.
fn of_parts(key: &str, what: CoreCall, whole: u64, args: impl Fn(u64) -> [u64; 7]) {
    let mut longest = 0;
    for n in 0..TIMES {
        let mut answer = (Status::Ok, [0; 3]);
        let late = late::interrupt(AHEAD_NS / 2 + n * LATER_NS / 4, || {
            answer = try_call(what, &args(n));
        });
        let (status, [done, ..]) = answer;
        let early = status == Status::Again || status == Status::Ok && done < whole;
        assert!(early, "{key}: {status:?}, {done:#x} of {whole:#x}");
        longest = longest.max(late.expect("the timer fires"));
    }
    report(key, longest);
}

/// A VM whose guest has written 32 MiB from [`area`] 32 and sleeps.
fn make(largest: u32, flags: u32) -> Vm {
    let other = Vm::create(RAM).expect("memory for a VM");
    other.policy(largest, flags);
    other.start();
    other.order(WRITE, [area(32), 32 << 8, PAGE, 1]);
    other
}

/// What the guest itself waits for: a block that is populated, a page of a shared block that is
/// copied, keys and page states of many pages.
fn guests() {
    let vm = vm();
    let most = |of: &dyn Fn(u64) -> u64| (0..TIMES).map(of).max().unwrap_or(0);
    let store = |vm: Vm, at, n: u64| vm.order(LATE, [at, AHEAD_NS + n * LATER_NS, 0, 0])[0];
    report("populate", most(&|n| store(vm, area(1300) + n * LARGE, n)));
    let parent = make(21, 0);
    let child = Vm::create(RAM).expect("memory for a VM");
    of_calls("share", CoreCall::VmShareMemory, 3, |_, cursor| {
        [child.handle, parent.handle, RAM_BASE, RAM, cursor, 0, 0]
    });
    child.share(parent, RAM_BASE, RAM);
    child.enter();
    let copied = |n: u64| child.order(LATE, [area(32) + n * LARGE, 2_000 + n * 400, 0, 0])[0];
    report("copy", most(&copied));
    // The rest of what they share gets frames of its own, for a VM that wipes.
    let frame = Block::new(0);
    let wipes = [u64::MAX, u64::MAX, 21 | (PolicyFlags::Wipe as u64) << 32];
    for (n, word) in (0..).zip(wipes) {
        frame.set_word(n, word);
    }
    of_calls("unshare", CoreCall::VmMemoryPolicy, TIMES, |_, _| {
        [child.handle, frame.pa, 0, 0, 0, 0, 0]
    });
    child.end();
    parent.end();

    let call = |vm: Vm, args: [u64; 4]| {
        let [late, done] = vm.order(LATE_CALL, args);
        (late, done)
    };
    let pages = area(1300);
    let (late, done) = call(vm, [KEY_BULK.into(), pages, 256, 0x30]);
    assert!(done < 256, "{done} keys set: it is over too soon");
    report("keys", late);
    let unused = StateCall::Unused as u64;
    vm.order(WRITE, [pages, 512, PAGE, 1]);
    let (late, done) = call(vm, [PAGE_STATE.into(), unused, pages, 256]);
    assert!(done < 256, "{done} states set: it is over too soon");
    report("states", late);
    vm.order(
        crate::orders::EACH,
        [PAGE_STATE.into(), unused, pages, 255 - done],
    );
    let (late, done) = call(vm, [PAGE_STATE_DRAIN.into(), 0, 0, 0]);
    assert!(done < 250, "{done} pages freed: it is over too soon");
    report("drain", late);
}

/// Root's calls about the memory of a VM whose guest sleeps.
fn scans() {
    let vm = vm();
    let pages = make(12, 0);
    let asleep = [vm, pages].map(|vm| (vm, vm.begin(SLEEP, [2_000_000_000, 0, 0, 0])));
    nap();
    for (key, what) in [("dirty", Scan::Dirty), ("age", Scan::Young)] {
        of_calls(key, CoreCall::VmMemoryScan, TIMES, |_, cursor| {
            [pages.handle, what as u64, RAM_BASE, RAM, 0, cursor, 0]
        });
    }
    for (key, what) in [("move", reclaim::MOVE), ("zero", reclaim::ZERO)] {
        of_calls(key, CoreCall::VmReclaim, TIMES, |n, cursor| {
            // Sometimes what is half done is begun anew.
            let cursor = if n % 3 == 2 { 0 } else { cursor };
            [vm.handle, what, area(1300), 16 << 20, cursor, 0, 0]
        });
    }
    of_calls("drop", CoreCall::VmReclaim, TIMES, |_, cursor| {
        [
            pages.handle,
            reclaim::DROP,
            area(32),
            32 << 20,
            cursor,
            0,
            0,
        ]
    });
    for (vm, order) in asleep {
        vm.wait(order);
    }
    pages.end();
}

/// The end of a VM in pages of 4 KiB throughout, and of one that is wiped.
fn ends() {
    for (key, largest, flags) in [("destroy", 12, 0), ("wipe", 21, PolicyFlags::Wipe as u32)] {
        let other = make(largest, flags);
        let _ = try_call(CoreCall::VmStop, &[other.handle]);
        nap();
        of_calls(key, CoreCall::VmDestroy, TIMES, |_, _| {
            [other.handle, 0, 0, 0, 0, 0, 0]
        });
        call(CoreCall::VmDestroy, &[other.handle]);
    }
}

/// What root is given, and what it copies.
fn copies() {
    let vm = vm();
    let asleep = vm.begin(SLEEP, [2_000_000_000, 0, 0, 0]);
    nap();
    let frame = Block::new(4);
    let built = Vm::create(RAM).expect("memory for a VM");
    let loaded = |n: u64| {
        [
            built.handle,
            RAM_BASE + n * LARGE,
            frame.pa,
            64 << 10,
            0,
            0,
            0,
        ]
    };
    of_parts("load", CoreCall::VmCopyIn, 64 << 10, loaded);
    of_parts("write", CoreCall::VmWrite, 64 << 10, |n| {
        [
            vm.handle,
            area(128) + n * LARGE,
            64 << 10,
            frame.pa,
            0,
            0,
            0,
        ]
    });
    built.end();
    drop(frame);
    // A block that no core has zeroed ahead, and its release.
    let (mut granted, mut released) = (0, 0);
    let mut blocks = [const { None }; 16];
    for (n, block) in (0..).zip(&mut blocks) {
        let late = late::interrupt(AHEAD_NS + n * LATER_NS, || {
            *block = Block::grant(9).ok();
        });
        granted = granted.max(late.expect("the timer fires"));
    }
    for (n, block) in (0..).zip(&mut blocks) {
        let late = late::interrupt(AHEAD_NS + n * LATER_NS, || drop(block.take()));
        released = released.max(late.expect("the timer fires"));
    }
    report("grant", granted);
    report("release", released);
    let mut created = 0;
    for n in 0..TIMES {
        let mut other = None;
        let late = late::interrupt(2_000 + n * LATER_NS, || {
            other = Some(Vm::create_smp(RAM, 8, 0));
        });
        created = created.max(late.expect("the timer fires"));
        other.and_then(Result::ok).expect("memory for a VM").end();
    }
    report("create", created);
    vm.wait(asleep);
}

pub(crate) fn run() {
    vm().policy(21, 0);
    guests();
    scans();
    ends();
    copies();
}
