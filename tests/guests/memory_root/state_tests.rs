//! Page states: what the guest can do without comes back.

use crate::orders::{CALL, CHECK, EACH, READ, WRITE};
use crate::vm::Vm;
use crate::{PAGE, area, vm};
use guest_abi::core_call::{CoreCall, VM_NO_PAGE_STATES, VM_NO_STORAGE_KEYS};
use guest_abi::memory_call::{StatesOp, reclaim};
use guest_abi::page_state::{PAGE_STATE, PAGE_STATE_DRAIN, StateCall};
use guest_abi::storage_key::KEY_GET;
use payload::root::{self, Block, call};
use payload::{TestResult, expect, expect_eq, fail, println};

const STATE: u64 = PAGE_STATE as u64;
const DRAIN: u64 = PAGE_STATE_DRAIN as u64;

fn say(op: StateCall, at: u64, pages: u64) -> [u64; 2] {
    vm().order(EACH, [STATE, op as u64, at, pages])
}

/// Gives back what was said to be unused: in one call, but for interrupts.
fn drain() {
    while vm().order(CALL, [DRAIN, 0, 0, 0])[1] != 0 {}
}

pub(crate) fn unused() -> TestResult {
    let vm = vm();
    vm.policy(21, 2);
    let (at, pages) = (area(64), 64 << 8);
    vm.order(WRITE, [at, pages, PAGE, 1]);
    let (free, memory) = (root::host_memory().free_bytes, vm.memory());
    expect_eq!(say(StateCall::Unused, at, pages), [pages, 0]);
    drain();
    let (now, after) = (root::host_memory().free_bytes, vm.memory());
    println!("# 64 MiB unused: {:#x} came back", now - free);
    expect!(now - free >= (64 << 20) - (1 << 20), "{:#x}", now - free);
    expect_eq!(memory.resident_bytes - after.resident_bytes, 64 << 20);
    expect_eq!(after.reclaimed_bytes - memory.reclaimed_bytes, 64 << 20);
    let [sum, _] = vm.order(READ, [at, pages, PAGE, 0]);
    expect_eq!(sum, 0);
    vm.reclaim(reclaim::DROP, at, 64 << 20);
    Ok(())
}

pub(crate) fn kept() -> TestResult {
    let vm = vm();
    let at = area(30);
    vm.order(WRITE, [at, 64, PAGE, 7]);
    expect_eq!(say(StateCall::Unused, at, 64), [64, 0]);
    // Half of them are written again, a quarter is stable again.
    vm.order(WRITE, [at, 32, PAGE, 100]);
    expect_eq!(say(StateCall::Stable, at + 32 * PAGE, 16), [16, 0]);
    drain();
    vm.reclaim(reclaim::UNUSED, at, 2 << 20);
    expect_eq!(vm.order(CHECK, [at, 32, PAGE, 100]), [0, 0], "written");
    expect_eq!(
        vm.order(CHECK, [at + 32 * PAGE, 16, PAGE, 39]),
        [0, 0],
        "stable"
    );
    let [sum, _] = vm.order(READ, [at + 48 * PAGE, 16, PAGE, 0]);
    expect_eq!(sum, 0, "gone");
    // Volatile pages go when somebody asks for them.
    vm.order(WRITE, [at, 8, PAGE, 1]);
    expect_eq!(say(StateCall::Volatile, at, 8), [8, 0]);
    expect_eq!(vm.reclaim(reclaim::UNUSED, at, 2 << 20), 0);
    expect_eq!(vm.reclaim(reclaim::VOLATILE, at, 2 << 20), 8 * PAGE);
    Ok(())
}

pub(crate) fn states() -> TestResult {
    let vm = vm();
    vm.policy(12, 0);
    let at = area(32);
    vm.order(WRITE, [at, 4, PAGE, 1]);
    // Before: resident and stable. After: unused (usage 1, bits 3:2).
    let [done, before] = vm.order(CALL, [STATE, 2, at, 4]);
    expect_eq!((done, before), (4, 0));
    let [_, now] = vm.order(CALL, [STATE, 0, at, 4]);
    expect_eq!(now, 0x0404_0404);
    // Absent pages: no frame (2), and after UNUSED zero too (3).
    let [_, absent] = vm.order(CALL, [STATE, 2, at + 8 * PAGE, 2]);
    expect_eq!(absent, 0x0202);
    let [_, zero] = vm.order(CALL, [STATE, 0, at + 8 * PAGE, 2]);
    expect_eq!(zero, 0x0707);
    vm.order(CALL, [STATE, 7, at + PAGE, 1]);
    let frame = Block::new(0);
    let peek = [vm.handle, StatesOp::Peek as u64, at, 10, frame.pa];
    let [done, first, _] = call(CoreCall::VmPageStates, &peek);
    expect_eq!((done, first), (10, at));
    let got = [0, 1, 2, 3, 4, 8].map(|n| frame.byte(n));
    expect_eq!(got, [1, 0x40, 1, 1, 0, 1]);
    // Arguments out of range.
    for args in [
        [STATE, 8, at, 1],
        [STATE, 0, at + 1, 1],
        [STATE, 0, 0x1000, 1],
        [STATE, 0, at, 0],
    ] {
        let [x0, _] = vm.order(CALL, args);
        expect_eq!(x0.cast_signed(), -3, "{args:x?}");
    }
    Ok(())
}

/// FEATURES (0x8600_0000) of a VM in its first two words, by number.
fn features(vm: Vm) -> u64 {
    let [low, high] = vm.order(CALL, [0x8600_0000, 0, 0, 0]);
    low & 0xffff_ffff | high << 32
}

pub(crate) fn masked() -> TestResult {
    const MINE: u64 = 0b11 << 32 | 0b1_1111 << 48;
    let cases = [
        (0, MINE),
        (VM_NO_PAGE_STATES, 0b1_1111 << 48),
        (VM_NO_STORAGE_KEYS, 0b11 << 32),
    ];
    for (flags, there) in cases {
        let guest = match Vm::create_with(64 << 20, flags) {
            Ok(vm) => vm,
            Err(status) => fail!("VmCreate: {status:?}"),
        };
        guest.start();
        expect_eq!(features(guest) & MINE, there, "flags {flags}");
        for (function, number, args) in [
            (STATE, 0x20, [0, area(16), 1]),
            (u64::from(KEY_GET), 0x30, [area(16), 0, 0]),
        ] {
            let [x0, _] = guest.order(CALL, [function, args[0], args[1], args[2]]);
            let refused = x0 == u64::MAX;
            expect_eq!(refused, there >> number & 1 == 0, "{function:#x} {flags}");
        }
        guest.end();
    }
    Ok(())
}
