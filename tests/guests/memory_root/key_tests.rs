//! Storage keys, and who may touch what with which.

use crate::orders::{CALL, CHECK, COUNT, READ, WRITE};
use crate::{PAGE, area, vm};
use guest_abi::core_call::{CoreCall, Status};
use guest_abi::memory_call::reclaim;
use guest_abi::storage_key::{KEY_BULK, KEY_COND_SET, KEY_GET, KEY_RRB, KEY_SET};
use payload::root::{Block, call, try_call};
use payload::{TestResult, expect, expect_eq};

const GET: u64 = 1;
const RESET: u64 = 2;
const SET: u64 = 3;

pub(crate) fn off() -> TestResult {
    let (vm, frame) = (vm(), Block::new(0));
    let (status, _) = try_call(CoreCall::VmKeysRead, &[vm.handle, area(34), 4, frame.pa]);
    expect_eq!(status, Status::KeysOff);
    let (status, _) = try_call(CoreCall::VmKey, &[vm.handle, GET, area(34), 0]);
    expect_eq!(status, Status::KeysOff);
    for (op, ipa, key) in [
        (4, area(34), 0),
        (0, area(34), 0),
        (SET, area(34), 1),
        (SET, area(34) + 1, 0),
    ] {
        let (status, _) = try_call(CoreCall::VmKey, &[vm.handle, op, ipa, key]);
        expect_eq!(status, Status::Invalid, "{op} {ipa:#x} {key:#x}");
    }
    Ok(())
}

/// Exchanges until `times` have succeeded, each adding one to `bytes` bytes.
fn add(at: u64, bytes: u64, times: u64) -> TestResult {
    let (vm, frame) = (vm(), Block::new(0));
    frame.clear();
    let mask = if bytes >= 8 {
        u64::MAX
    } else {
        (1 << (bytes * 8)) - 1
    };
    let (mut low, mut high) = (0_u64, 0_u64);
    let mut done = 0;
    while done < times {
        let next = low.wrapping_add(1) & mask;
        let carry = u64::from(bytes == 16 && next == 0);
        frame.set_word(0, low);
        frame.set_word(1, high);
        frame.set_word(2, next);
        frame.set_word(3, high.wrapping_add(carry));
        let args = [vm.handle, at, bytes, frame.pa, 0];
        let [swapped, ..] = call(CoreCall::VmExchange, &args);
        if swapped == 1 {
            done += 1;
            (low, high) = (next, high.wrapping_add(carry));
        } else {
            (low, high) = (frame.word(0), frame.word(1));
        }
    }
    Ok(())
}

pub(crate) fn atomic() -> TestResult {
    let (vm, frame) = (vm(), Block::new(0));
    for bytes in [1, 2, 4, 8, 16] {
        let at = area(36) + bytes * PAGE + 0x340;
        let (mine, its) = (3_000, 60_000);
        let order = vm.begin(COUNT, [at, bytes, its, 0]);
        add(at, bytes, mine)?;
        vm.wait(order);
        frame.clear();
        vm.read(at, frame.pa, bytes, 0).expect("RAM without a key");
        let all = mine + its;
        let expected = if bytes >= 8 {
            all
        } else {
            all & ((1 << (bytes * 8)) - 1)
        };
        expect_eq!(
            (frame.word(0), frame.word(1)),
            (expected, 0),
            "{bytes} bytes"
        );
    }
    for args in [[area(36), 3], [area(36) + 4, 8], [area(36), 32]] {
        let (status, _) = try_call(
            CoreCall::VmExchange,
            &[vm.handle, args[0], args[1], frame.pa, 0],
        );
        expect_eq!(status, Status::Invalid);
    }
    Ok(())
}

/// The kernel's selftest, in short: 128 pages, key i << 1, whether or not they are mapped.
pub(crate) fn selftest() -> TestResult {
    let vm = vm();
    for mapped in [false, true] {
        let at = area(40);
        vm.reclaim(reclaim::DROP, at, 1 << 20);
        if mapped {
            vm.order(WRITE, [at, 128, PAGE, 1]);
        }
        let page = |n: u64| at + n * PAGE;
        for n in 0..128 {
            vm.key(SET, page(n), n << 1);
        }
        for n in 0..128 {
            expect_eq!(vm.key(GET, page(n), 0), n << 1, "get {n} {mapped}");
            expect_eq!(vm.key(RESET, page(n), 0), n << 1 & 6, "reset {n} {mapped}");
            expect_eq!(vm.key(GET, page(n), 0), n << 1 & !4, "get after reset {n}");
            expect_eq!(vm.key(SET, page(n), 0xf0), n << 1 & !4, "set {n}");
            expect_eq!(vm.key(GET, page(n), 0), 0xf0);
        }
        // In bulk, both ways.
        let frame = Block::new(0);
        let bytes: [u8; 128] = core::array::from_fn(|n| (n as u8) << 1);
        frame.fill(&bytes);
        let args = [vm.handle, at, 128, frame.pa];
        expect_eq!(call(CoreCall::VmKeysWrite, &args)[0], 128);
        frame.clear();
        expect_eq!(call(CoreCall::VmKeysRead, &args)[0], 128);
        for n in 0..128 {
            expect_eq!(u64::from(frame.byte(n)), n << 1, "bulk {n} {mapped}");
        }
    }
    Ok(())
}

pub(crate) fn conditional() -> TestResult {
    let vm = vm();
    vm.policy(12, 0);
    let at = area(42);
    let guest =
        |function: u32, a: u64, b: u64, c: u64| vm.order(CALL, [u64::from(function), a, b, c]);
    vm.order(WRITE, [at, 1, PAGE, 1]);
    expect_eq!(guest(KEY_SET, at, 0x30, 0), [1, 0]);
    expect_eq!(guest(KEY_GET, at, 0, 0), [0x30, 0]);
    // A load makes it referenced, a store changed.
    vm.order(READ, [at, 1, PAGE, 0]);
    expect_eq!(guest(KEY_GET, at, 0, 0), [0x34, 0]);
    vm.order(WRITE, [at, 1, PAGE, 2]);
    expect_eq!(guest(KEY_GET, at, 0, 0), [0x36, 0]);
    // Equal but for R and C, which are masked: nothing to do.
    expect_eq!(guest(KEY_COND_SET, at, 0x30, 3), [0, 0x36]);
    expect_eq!(guest(KEY_COND_SET, at, 0x30, 1), [1, 0x36]);
    expect_eq!(guest(KEY_GET, at, 0, 0), [0x30, 0]);
    vm.order(WRITE, [at, 1, PAGE, 3]);
    // R and C as they were, as a condition; then R is reset and C stays.
    expect_eq!(guest(KEY_RRB, at, 0, 0), [3, 0]);
    expect_eq!(guest(KEY_RRB, at, 0, 0), [1, 0]);
    expect_eq!(guest(KEY_BULK, at, 300, 0x90), [256, 0]);
    expect_eq!(guest(KEY_GET, at + 255 * PAGE, 0, 0), [0x90, 0]);
    expect_eq!(guest(KEY_GET, at + 256 * PAGE, 0, 0), [0, 0]);
    for (function, a, b, c) in [
        (KEY_GET, at + 8, 0, 0),
        (KEY_SET, at, 0x31, 0),
        (KEY_SET, 0x0900_0000, 0x30, 0),
        (KEY_COND_SET, at, 0x30, 4),
        (KEY_BULK, at, 0, 0x30),
    ] {
        let [x0, _] = guest(function, a, b, c);
        expect_eq!(x0.cast_signed(), -3, "{function:#x} {a:#x} {b:#x} {c:#x}");
    }
    Ok(())
}

pub(crate) fn enforced() -> TestResult {
    let (vm, frame) = (vm(), Block::new(0));
    let at = area(44);
    vm.order(WRITE, [at, 2, PAGE, 0x1234]);
    frame.set_word(0, 0xdead);
    for (key, fetch) in [(0x50, false), (0x58, true)] {
        vm.order(CALL, [u64::from(KEY_SET), at, key, 0]);
        expect_eq!(vm.write(at, frame.pa, 8, 3), Err(Status::Protected));
        let exchange = [vm.handle, at, 8, frame.pa, 3];
        expect_eq!(
            try_call(CoreCall::VmExchange, &exchange).0,
            Status::Protected
        );
        expect_eq!(vm.order(CHECK, [at, 2, PAGE, 0x1234]), [0, 0], "unchanged");
        let read = vm.read(at, frame.pa + 64, 8, 3);
        let allowed = if fetch {
            Err(Status::Protected)
        } else {
            Ok(())
        };
        expect_eq!(read, allowed, "key {key:#x}");
        // Its own key, and key 0, may.
        expect_eq!(vm.read(at, frame.pa + 64, 8, 5), Ok(()));
        expect_eq!(frame.word(8), 0x1234);
        expect_eq!(vm.read(at, frame.pa + 64, 8, 0), Ok(()));
        // A write across two pages stops at the one that is protected.
        vm.order(CALL, [u64::from(KEY_SET), at + PAGE, 0x70, 0]);
        let across = try_call(
            CoreCall::VmWrite,
            &[vm.handle, at + PAGE - 8, 16, frame.pa, 5],
        );
        expect_eq!(across, (Status::Ok, [8, 0, 0]));
        expect_eq!(vm.write(at + PAGE, frame.pa, 8, 5), Err(Status::Protected));
    }
    expect_eq!(vm.write(at, frame.pa, 8, 5), Ok(()));
    expect_eq!(vm.order(CHECK, [at, 1, PAGE, 0xdead]), [0, 0]);
    expect_eq!(vm.write(at, frame.pa, 8, 16), Err(Status::Invalid));
    expect_eq!(
        vm.write(0x0900_0000, frame.pa, 8, 0),
        Err(Status::OutsideRam)
    );
    Ok(())
}

pub(crate) fn survive() -> TestResult {
    let vm = vm();
    let at = area(46);
    vm.policy(21, 2);
    vm.order(WRITE, [at, 512, PAGE, 1]);
    for n in [0, 5, 511] {
        vm.key(SET, at + n * PAGE, 0xa8);
    }
    expect_eq!(vm.reclaim(reclaim::MOVE, at, 2 << 20), 2 << 20);
    vm.reclaim(reclaim::DROP, at, 2 << 20);
    vm.order(READ, [at, 512, PAGE, 0]);
    for n in 0..512 {
        let key = vm.key(GET, at + n * PAGE, 0);
        let expected = if [0, 5, 511].contains(&n) { 0xa8 } else { 0 };
        expect_eq!(key & 0xf8, expected, "page {n}");
        expect!(key & 4 != 0, "page {n} was referenced: {key:#x}");
    }
    Ok(())
}
