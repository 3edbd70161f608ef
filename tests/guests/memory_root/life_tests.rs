//! What must hold whatever is done to a guest's memory while it runs, and when it is gone.

use crate::orders::{COUNT, LOAD, READ, WRITE};
use crate::vm::Vm;
use crate::{PAGE, area, vm};
use guest_abi::core_call::{CoreCall, VmState};
use guest_abi::memory_call::{MemoryPolicy, Scan, reclaim};
use payload::root::{self, Block, call};
use payload::{TestResult, expect, expect_eq, fail, println, timer};

pub(crate) fn pinned() -> TestResult {
    let (vm, frame) = (vm(), Block::new(0));
    vm.policy(12, 0);
    let at = area(48);
    vm.order(WRITE, [at, 1, PAGE, 0]);
    call(CoreCall::VmPin, &[vm.handle, 0, at]);
    let (mut times, mut moved) = (0, 0);
    // On a busy machine root may hardly run while the guest counts.
    while moved < 20 && times < 30_000_000 {
        times += 300_000;
        let order = vm.begin(COUNT, [at, 8, 300_000, 0]);
        while vm.poll(order).is_none() {
            moved += vm.reclaim(reclaim::MOVE, at, PAGE) / PAGE;
        }
    }
    frame.clear();
    vm.read(at, frame.pa, 8, 0).expect("RAM without a key");
    println!("# a pinned page moved {moved} times");
    expect_eq!(frame.word(0), times);
    expect!(moved >= 20, "{moved}");
    // It was pinned to the end, and a page that is dropped is pinned anew.
    vm.reclaim(reclaim::DROP, at, PAGE);
    let end = timer::now() + timer::ticks(10_000_000_000);
    while call(CoreCall::VmPin, &[vm.handle, 0, at])[0] != at {
        expect!(timer::now() < end, "not pinned again");
        timer::spin(1_000_000);
    }
    call(CoreCall::VmPin, &[vm.handle, 0, 0]);
    Ok(())
}

pub(crate) fn chaos() -> TestResult {
    const BYTES: u64 = 8 << 20;
    let vm = vm();
    let at = area(128);
    let mut random = 0x5eed_5eed_u64;
    let mut draw = |n: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % n
    };
    let order = vm.begin(LOAD, [at, BYTES / PAGE, 60, 7]);
    let mut done = [0_u64; 7];
    let wrong = loop {
        if let Some([wrong, _]) = vm.poll(order) {
            break wrong;
        }
        let first = draw(BYTES / PAGE);
        let pages = 1 + draw((BYTES / PAGE - first).min(64));
        let (ipa, bytes) = (at + first * PAGE, pages * PAGE);
        let what = draw(7) as usize;
        done[what] += 1;
        match what {
            0 => vm.policy(12, 0),
            1 => vm.policy(21, 2),
            2 => drop(vm.reclaim(reclaim::MOVE, ipa, bytes)),
            3 => drop(vm.reclaim(reclaim::ZERO | reclaim::UNUSED, at, BYTES)),
            4 => drop(vm.reclaim(reclaim::SPLIT, ipa, bytes)),
            5 => drop(vm.scan(Scan::Young, at, BYTES, 0)),
            _ => drop(vm.scan(Scan::Dirty, at, BYTES, 0)),
        }
    };
    let memory = vm.memory();
    println!(
        "# chaos: {done:?}, reclaimed {:#x}, faults {}",
        memory.reclaimed_bytes, memory.faults
    );
    expect_eq!(wrong, 0);
    for (what, n) in done.into_iter().enumerate() {
        expect!(n > 0, "operation {what} was never done");
    }
    Ok(())
}

pub(crate) fn limit() -> TestResult {
    let small = match Vm::create(256 << 20) {
        Ok(vm) => vm,
        Err(status) => fail!("VmCreate: {status:?}"),
    };
    small.start();
    small.order(READ, [area(16), 1, PAGE, 0]);
    let policy = MemoryPolicy {
        limit_bytes: 48 << 20,
        table_limit_bytes: u64::MAX,
        largest_shift: 21,
        flags: 2,
    };
    root::set_policy(small.handle, policy);
    small.begin(WRITE, [area(64), 64 << 8, PAGE, 1]);
    let frame = Block::new(0);
    let end = timer::now() + timer::ticks(30_000_000_000);
    loop {
        call(CoreCall::VmInfo, &[small.handle, frame.pa]);
        if frame.word(0) & 0xffff_ffff == VmState::Crashed as u64 {
            break;
        }
        expect!(timer::now() < end, "the VM is not stopped");
        timer::spin(1_000_000);
    }
    let resident = small.memory().resident_bytes;
    expect!(resident <= 48 << 20, "{resident:#x}");
    small.end();
    Ok(())
}

pub(crate) fn lives() -> TestResult {
    // The first life may leave something behind that is kept: records, frames ahead.
    Vm::create(16 << 20).expect("memory for a VM").end();
    let frame = Block::new(0);
    let before = root::host_memory_by(&frame);
    // More than there are VMIDs of 8 bits.
    for n in 0..259 {
        match Vm::create(16 << 20) {
            Ok(vm) => vm.end(),
            Err(status) => fail!("life {n}: {status:?}"),
        }
    }
    let after = root::host_memory_by(&frame);
    expect_eq!(after.vmids_used, before.vmids_used);
    expect_eq!(after.free_bytes, before.free_bytes);
    Ok(())
}
