//! Runs of their own, chosen by the machine's boot argument: frames that go from one VM to
//! another under the eyes of three vCPUs, and a VM of which nothing is left.

use crate::PAGE;
use crate::area;
use crate::orders::{CHECK, EACH, GUARD, HIDE, READ, UNGUARD, WRITE};
use crate::vm::Vm;
use guest_abi::core_call::{CoreCall, Status};
use guest_abi::memory_call::reclaim;
use guest_abi::page_state::{PAGE_STATE, StateCall};
use payload::root::{self, call, try_call};
use payload::{TestResult, expect, expect_eq, fail, println, timer};

/// What the VM that reads has in its pages, and the other one, above bit 32.
const MINE: u64 = 0x1111_2222 << 32;
const THEIRS: u64 = 0x7777_8888 << 32;

pub(crate) fn readers() -> TestResult {
    const PAGES: u64 = 16;
    let (reader, other) = match (Vm::create_smp(64 << 20, 4, 0), Vm::create(1024 << 20)) {
        (Ok(reader), Ok(other)) => (reader, other),
        failed => fail!("VmCreate: {failed:?}"),
    };
    reader.policy(12, 0);
    other.policy(12, 0);
    reader.start_with(4);
    other.start();
    let at = area(32);
    reader.order(WRITE, [at, PAGES, PAGE, MINE]);
    reader.order(GUARD, [at, PAGES, MINE, 0]);
    let end = timer::now() + timer::ticks(40_000_000_000);
    let mut rounds = 0;
    let last = area(1008);
    let mut to = area(32);
    while timer::now() < end && to < last && rounds < 150 {
        // The frames go, and whoever asks for frames next gets them.
        expect_eq!(reader.reclaim(reclaim::DROP, at, PAGES * PAGE) % PAGE, 0);
        other.order(WRITE, [to, 2 * PAGES, PAGE, THEIRS]);
        to += 2 * PAGES * PAGE;
        reader.order(WRITE, [at, PAGES, PAGE, MINE]);
        rounds += 1;
    }
    let [wrong, reads] = reader.order(UNGUARD, [0; 4]);
    println!("# {rounds} times; {reads} reads by three vCPUs");
    expect_eq!(wrong, 0, "what another VM wrote was read");
    expect!(rounds >= 20, "{rounds}");
    expect!(reads > 100_000, "{reads}");
    reader.end();
    other.end();
    Ok(())
}

/// More RAM is promised than there is, and more is touched than would fit: what one guest said
/// may go goes when the other needs it, and nothing else.
pub(crate) fn crowded() -> TestResult {
    const MIB: u64 = 1 << 8;
    let (first, second) = match (Vm::create(320 << 20), Vm::create(384 << 20)) {
        (Ok(first), Ok(second)) => (first, second),
        failed => fail!("VmCreate: {failed:?}"),
    };
    first.start();
    second.start();
    let state = u64::from(PAGE_STATE);
    first.order(WRITE, [area(32), 256 * MIB, PAGE, 1]);
    let volatile = [state, StateCall::Volatile as u64, area(96), 192 * MIB];
    expect_eq!(first.order(EACH, volatile), [192 * MIB, 0]);
    let free = root::host_memory().free_bytes;
    println!("# {free:#x} free");
    second.order(WRITE, [area(32), 340 * MIB, PAGE, 9]);
    expect!(free < 300 << 20, "there was room anyway: {free:#x}");
    expect_eq!(second.order(CHECK, [area(32), 340 * MIB, PAGE, 9]), [0, 0]);
    expect_eq!(first.order(CHECK, [area(32), 64 * MIB, PAGE, 1]), [0, 0]);
    let [sum, _] = first.order(READ, [area(96) + 191 * MIB * PAGE, MIB, PAGE, 0]);
    println!(
        "# the last volatile MiB: {sum:#x}; given up {:#x}",
        first.memory().reclaimed_bytes
    );
    expect!(
        first.memory().reclaimed_bytes >= 40 << 20,
        "nothing was taken back"
    );
    first.end();
    second.end();
    Ok(())
}

/// Says `line`, and leaves whoever reads it the time to stop the machine.
fn pause(line: &str) {
    println!("{line}");
    timer::spin(3_000_000_000);
}

pub(crate) fn wiped() -> TestResult {
    const BYTES: u64 = 40 << 20;
    let vm = match Vm::create(64 << 20) {
        Ok(vm) => vm,
        Err(status) => fail!("VmCreate: {status:?}"),
    };
    vm.policy(21, 1);
    vm.start();
    vm.order(HIDE, [area(16), BYTES, 0x5eed, 0]);
    // Pages of their own as well as blocks, and frames that moved, were dropped and came back.
    vm.policy(12, 1);
    vm.reclaim(reclaim::SPLIT, area(16), 8 << 20);
    vm.reclaim(reclaim::MOVE, area(18), 4 << 20);
    vm.reclaim(reclaim::DROP, area(20), 1 << 20);
    vm.order(READ, [area(20), 64, PAGE, 0]);
    pause("WIPE there");
    vm.reclaim(reclaim::DROP, area(40), 8 << 20);
    let _ = try_call(CoreCall::VmStop, &[vm.handle]);
    let (mut slices, mut longest) = (0, 0);
    loop {
        let start = timer::now();
        let (status, _) = try_call(CoreCall::VmDestroy, &[vm.handle]);
        longest = longest.max(timer::now() - start);
        match status {
            Status::Ok => break,
            Status::Again => slices += 1,
            other => fail!("VmDestroy: {other:?}"),
        }
    }
    println!("# {slices} slices, the longest {longest} ticks");
    expect!(slices >= BYTES / (4 << 20), "{slices}");
    pause("WIPE gone");
    // A VM that is not wiped: whoever has its frames next finds zeroes all the same.
    let (first, second) = (128 << 20, 60 << 20);
    let plain = match Vm::create(first) {
        Ok(vm) => vm,
        Err(status) => fail!("VmCreate: {status:?}"),
    };
    plain.start();
    plain.order(HIDE, [area(16), 100 << 20, 0x5eed, 0]);
    plain.end();
    let next = match Vm::create(first) {
        Ok(vm) => vm,
        Err(status) => fail!("VmCreate: {status:?}"),
    };
    next.start();
    let [sum, _] = next.order(READ, [area(16), second / 8, 8, 0]);
    expect_eq!(sum, 0, "what another VM wrote is there");
    call(CoreCall::VmStop, &[next.handle]);
    next.end();
    Ok(())
}
