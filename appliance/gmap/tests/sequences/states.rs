//! Page states: every transition, and what happens to the frames.

use crate::vm::{LARGE, PAGE, RAM, Vm, ipa};
use gmap::{Budget, Error, KeyError, Policy, ReleaseRing, Reset, Sift, StateOp, state_byte};

impl Vm {
    fn state(&mut self, ring: &mut ReleaseRing, op: StateOp, page: u64) -> u8 {
        self.fill_cache();
        let (machine, cache) = (&self.machine, &mut self.cache);
        let at = ipa(RAM + page * PAGE);
        let result = self.gmap.page_state(machine, cache, ring, op, at);
        result.expect("a page of RAM")
    }
}

fn with_states(bytes: u64) -> Vm {
    let mut vm = Vm::new(bytes, true);
    vm.gmap.enable_states().expect("no vCPU yet");
    vm
}

/// Rows of the table in seed-spec B.10: operation, resident, usage, zero, changed → usage,
/// zero, on the release list. Usage: 0 stable, 1 unused, 2 potentially volatile, 3 volatile.
fn row(op: u8, resident: bool, usage: u8, zero: bool, changed: bool) -> (u8, bool, bool) {
    let (usage, listed) = match op {
        0 => return (usage, zero, false),
        1 | 5 | 7 => (0, false),
        2 => (1, !resident),
        3 => (3, !resident),
        4 if resident => (2, false),
        4 if zero => (3, false),
        4 if !changed => (3, true),
        4 => (0, false),
        6 if resident => (0, false),
        6 => (usage, false),
        _ => panic!("no such operation"),
    };
    (usage, listed, listed)
}

#[test]
fn b29_every_transition_is_the_one_of_the_table_and_reading_changes_nothing() {
    // A word with any usage, zero and changed is made of a page's past, through the API of
    // words: raw bits as the specification numbers them.
    for op in StateOp::ALL {
        for bits in 0..32_u8 {
            let bit = |n: u8| bits >> n & 1 == 1;
            let (resident, zero, changed, usage) = (bit(0), bit(1), bit(2), bits >> 3);
            let word = gmap::Pgx::from_raw(
                u64::from(usage) << 9 | u64::from(zero) << 11 | u64::from(changed) << 6 | 1 << 12,
            );
            let (next, listed) = op.apply(word, resident);
            let (wanted, wanted_zero, wanted_listed) =
                row(op as u8, resident, usage, zero, changed);
            let what = format!("{op:?} {bits:#x}");
            assert_eq!(next.usage().bits(), wanted, "{what}");
            assert_eq!(next.zero(), wanted_zero, "{what}");
            assert_eq!(listed, wanted_listed, "{what}");
            // Operation 1 takes the promise of no tables back, 7 makes it.
            assert_eq!(next.nodat(), op as u8 != 1, "{what}");
            assert_eq!(next.state_dirty(), op as u8 != 0, "{what}");
            assert_eq!(next == word, op as u8 == 0, "{what}");
            let content = [[2, 3], [0, 0]][usize::from(resident)][usize::from(zero)];
            let byte = 0x20 | usage << 2 | content;
            assert_eq!(state_byte(word, resident), byte, "{what}");
        }
    }
    assert_eq!(StateOp::from_code(8), None);
    assert_eq!(StateOp::from_code(4), Some(StateOp::PotentiallyVolatile));
}

#[test]
fn b30_unused_pages_come_back_to_the_pool_and_a_page_in_use_again_does_not() {
    let mut vm = with_states(4 * LARGE);
    for n in 0..4 {
        vm.touch(RAM + n * LARGE, true).expect("RAM");
    }
    let free = vm.machine.free_bytes();
    let mut ring = ReleaseRing::new();
    for page in 0..511 {
        vm.state(&mut ring, StateOp::Unused, page);
    }
    assert!(ring.is_full());
    // Three change their mind: one says so, one is written, one is read only.
    vm.state(&mut ring, StateOp::Stable, 7);
    vm.touch(RAM + 8 * PAGE, true).expect("RAM");
    vm.touch(RAM + 9 * PAGE, false).expect("RAM");
    vm.cache.release(&mut vm.machine);
    let (mut drained, mut slices) = (0, 0);
    while !ring.is_empty() {
        drained += vm.gmap.drain(&mut vm.machine, &mut ring);
        slices += 1;
    }
    assert_eq!(drained, 509);
    assert!(slices > 10, "it ends when an interrupt waits");
    // One table for the block that was split, and its words: three pages and a root.
    assert_eq!(vm.machine.free_bytes(), free + 509 * PAGE - 5 * PAGE);
    let present: Vec<u64> = (0..512)
        .filter(|n| vm.leaf(RAM + n * PAGE).is_some())
        .collect();
    assert_eq!(present, [7, 8, 511]);
    assert_eq!(
        vm.state(&mut ring, StateOp::Get, 0),
        1 << 2 | 3,
        "absent and zero"
    );
    assert_eq!(
        vm.touch(RAM, false),
        Ok(1),
        "the next touch finds a new frame"
    );
    assert_eq!(vm.state(&mut ring, StateOp::Get, 0), 1 << 2, "resident");
    vm.end();
}

#[test]
fn b22_a_page_written_after_its_hint_is_never_dropped() {
    for hafdbs in [false, true] {
        let mut vm = Vm::new(LARGE, hafdbs);
        vm.gmap.enable_states().expect("no vCPU yet");
        let mut ring = ReleaseRing::new();
        for round in 0..3 {
            vm.touch(RAM, true).expect("RAM");
            vm.state(&mut ring, StateOp::Unused, 0);
            // The write goes through whatever translation the TLB still has.
            vm.touch(RAM, true).expect("RAM");
            assert_eq!(
                vm.gmap.drain(&mut vm.machine, &mut ring),
                0,
                "round {round}"
            );
            assert!(vm.leaf(RAM).is_some());
        }
        vm.end();
    }
}

#[test]
fn b30_a_range_gives_what_the_guest_said_it_can_do_without_and_nothing_else() {
    let mut vm = with_states(2 * LARGE);
    for page in 0..1024 {
        vm.touch(RAM + page * PAGE, true).expect("RAM");
    }
    let mut ring = ReleaseRing::new();
    for page in 0..64 {
        vm.state(&mut ring, StateOp::Unused, page);
        vm.state(&mut ring, StateOp::Volatile, 600 + page);
    }
    vm.touch(RAM + 5 * PAGE, true).expect("RAM");
    vm.state(&mut ring, StateOp::Stable, 6);
    // In slices of one leaf, over half of the first pages; then all, and volatile ones too.
    let sift = |vm: &mut Vm, end: u64, volatile: bool, leaves: usize| {
        let what = Sift {
            unused: true,
            volatile,
        };
        let (mut at, mut taken, mut told) = (RAM, 0, 0);
        loop {
            let budget = Budget::leaves(leaves);
            let (machine, report) = (&mut vm.machine, |_, bytes| told += bytes);
            let (more, next) = vm.gmap.sift(machine, (at, end), what, budget, report);
            taken += more;
            match next {
                Some(next) => at = next.raw(),
                None => break,
            }
        }
        assert_eq!(told, taken, "a log knows of all that went");
        taken
    };
    assert_eq!(sift(&mut vm, RAM + 32 * PAGE, false, 1), 30 * PAGE);
    assert_eq!(sift(&mut vm, RAM + 2 * LARGE, false, 100), 32 * PAGE);
    assert_eq!(sift(&mut vm, RAM + 2 * LARGE, true, 7), 64 * PAGE);
    let gone: Vec<u64> = (0..1024)
        .filter(|n| vm.leaf(RAM + n * PAGE).is_none())
        .collect();
    let said = (0..64).filter(|n| *n != 5 && *n != 6).chain(600..664);
    assert_eq!(gone, said.collect::<Vec<_>>());
    vm.end();
}

#[test]
fn b40_frames_of_a_vm_that_wipes_are_scrubbed_before_they_are_free() {
    let mut vm = with_states(LARGE);
    vm.gmap.set_policy(Policy {
        wipe: true,
        ..vm.gmap.policy()
    });
    vm.touch(RAM, true).expect("RAM");
    let scrubs = vm.machine.scrubs.get();
    let next = vm
        .gmap
        .reclaim(&mut vm.machine, ipa(RAM), LARGE, Budget::leaves(1));
    assert_eq!(next, Ok(None));
    assert_eq!(vm.machine.scrubs.get(), scrubs + 1);
    vm.end();
}

#[test]
fn b40_a_vm_that_wipes_ends_in_steps_and_leaves_nothing_in_any_frame() {
    // A block, pages, and a leaf of 1 GiB from before it was to be wiped.
    let mut vm = Vm::new(2 << 30, true);
    vm.gmap.set_policy(Policy {
        largest: gmap::Level::L1,
        ..vm.gmap.policy()
    });
    vm.touch(RAM, true).expect("RAM");
    for (largest, at) in [(gmap::Level::L2, 0), (gmap::Level::L3, 2 * LARGE)] {
        vm.gmap.set_policy(Policy {
            largest,
            wipe: true,
            ..vm.gmap.policy()
        });
        vm.touch(RAM + (1 << 30) + at, true).expect("RAM");
    }
    assert_eq!(vm.gmap.stats().leaves, [1, 1, 1]);
    let vttbr = vm.gmap.vttbr();
    let stamp = |vm: &Vm, at: u64| {
        let pa = vm
            .machine
            .fresh(vttbr, vm.vtcr, RAM + at)
            .expect("there")
            .pa;
        vm.machine.set_content(pa, 5);
        pa
    };
    let gib = 1 << 30;
    let places = [
        0,
        PAGE,
        gib - PAGE,
        gib,
        gib + LARGE - PAGE,
        gib + 2 * LARGE,
    ];
    let frames = places.map(|at| stamp(&vm, at));
    vm.machine.scrubs.set(0);
    let mut calls = 0;
    while vm.gmap.destroy(&mut vm.machine, 256) == gmap::Progress::More {
        calls += 1;
        // 1 MiB in steps of 64 KiB, or 256 pages.
        assert!(vm.machine.scrubs.replace(0) <= 256, "call {calls}");
    }
    assert!(calls >= (1 << 30) / (1 << 20), "{calls} calls");
    assert_eq!(frames.map(|pa| vm.machine.content(pa)), [0; 6]);
    assert!(vm.machine.held.borrow().is_empty());
}

#[test]
fn states_are_refused_once_there_are_vcpus_and_outside_ram() {
    let mut vm = Vm::new(LARGE, true);
    let mut ring = ReleaseRing::new();
    vm.fill_cache();
    let (machine, cache) = (&vm.machine, &mut vm.cache);
    let op = StateOp::Unused;
    let off = vm.gmap.page_state(machine, cache, &mut ring, op, ipa(RAM));
    assert_eq!(off, Err(KeyError::Off));
    vm.gmap.add_vcpu();
    assert_eq!(vm.gmap.enable_states(), Err(Error::HasVcpus));
    vm.gmap.remove_vcpu();
    vm.gmap.enable_states().expect("no vCPU");
    let outside = ipa(RAM + LARGE);
    let none = vm.gmap.page_state(machine, cache, &mut ring, op, outside);
    assert_eq!(none, Err(KeyError::NoRam));
    vm.end();
}

#[test]
fn b31_migration_reads_true_states_from_the_first_changed_page_on() {
    let mut vm = with_states(4 * LARGE);
    let mut ring = ReleaseRing::new();
    vm.state(&mut ring, StateOp::StableNodat, 600);
    vm.state(&mut ring, StateOp::Volatile, 610);
    assert_eq!(vm.gmap.states_dirty(), 2);
    let mut values = [0xff; 64];
    let take = |vm: &Vm, from: u64, values: &mut [u8]| {
        let at = ipa(RAM + from * PAGE);
        vm.gmap
            .take_states(&vm.machine, at, values, Budget::UNBOUNDED)
            .0
    };
    // Asked from 605 on, 610 is the first; 600 stays changed.
    let first = take(&vm, 605, &mut values).expect("610");
    assert_eq!((first.first, first.count), (ipa(RAM + 610 * PAGE), 1));
    assert_eq!(values[0], 3);
    // 600 is reported with the clean pages up to the gap; 610, clean now, in its true state.
    vm.state(&mut ring, StateOp::Unused, 616);
    vm.state(&mut ring, StateOp::Unused, 640);
    let second = take(&vm, 0, &mut values).expect("600");
    assert_eq!((second.first, second.count), (ipa(RAM + 600 * PAGE), 17));
    assert_eq!(
        (values[0], values[1], values[10], values[16]),
        (0x40, 0, 3, 1)
    );
    // 640 lies behind a gap of more than sixteen pages.
    let third = take(&vm, 0, &mut values).expect("640");
    assert_eq!((third.first, third.count), (ipa(RAM + 640 * PAGE), 1));
    assert_eq!(take(&vm, 0, &mut values), None);
    assert_eq!(vm.gmap.states_dirty(), 0);
    vm.end();
}

#[test]
fn b31_a_peek_past_ram_fails_and_reads_nothing() {
    let mut vm = with_states(LARGE);
    let mut ring = ReleaseRing::new();
    vm.state(&mut ring, StateOp::Volatile, 511);
    let mut values = [0xff; 4];
    for at in [RAM - PAGE, RAM + LARGE, 0, 1 << 47] {
        let result = vm.gmap.peek_states(&vm.machine, ipa(at), &mut values);
        assert_eq!(result, Err(KeyError::NoRam));
        assert_eq!(values, [0xff; 4]);
    }
    let last = ipa(RAM + 510 * PAGE);
    assert_eq!(vm.gmap.peek_states(&vm.machine, last, &mut values), Ok(2));
    assert_eq!(values, [0, 3, 0xff, 0xff]);
    vm.end();
}

#[test]
fn b31_states_go_out_and_come_in_and_are_reset() {
    let mut vm = with_states(2 * LARGE);
    let mut ring = ReleaseRing::new();
    let page = ipa(RAM + 3 * PAGE);
    vm.fill_cache();
    let (machine, cache) = (&vm.machine, &mut vm.cache);
    assert_eq!(vm.gmap.write_state(machine, cache, page, 0x41), Ok(()));
    let bad = vm.gmap.write_state(machine, cache, page, 0x44);
    assert_eq!(bad, Err(KeyError::Invalid));
    assert_eq!(vm.state(&mut ring, StateOp::Get, 3), 0x20 | 1 << 2 | 2);
    let all = |vm: &mut Vm, reset| {
        let (mut at, mut calls) = (Some(ipa(0)), 0);
        while let Some(from) = at {
            at = vm
                .gmap
                .reset_states(&vm.machine, from, reset, Budget::leaves(16));
            calls += 1;
        }
        calls
    };
    assert!(all(&mut vm, Reset::Unread) > 1, "in slices");
    assert_eq!(vm.gmap.states_dirty(), 512, "every page that has a word");
    all(&mut vm, Reset::Stable);
    assert_eq!(vm.gmap.states_dirty(), 0);
    assert_eq!(vm.state(&mut ring, StateOp::Get, 3), 2);
    vm.end();
}
