//! The bugs that came after the original, each by its number in seed-spec B.13.
//!
//! 6, 7, 9 to 12 and 21 are of nested guests, which come later. 19 came from an import that
//! changed a page under a pin; here what changes a page's frame is its being shared, copied or
//! moved.

use crate::machine::Fake;
use crate::vm::{LARGE, PAGE, RAM, Vm, ipa};
use arch::Pa;
use gmap::{
    Access, Attr, Budget, Cache, Entry, Event, Features, Flags, Gmap, Key, KeyError, Level, Perm,
    ReleaseRing, Reset, StateOp, Stop,
};

fn split(vm: &mut Vm, at: u64) {
    vm.fill_cache();
    let (machine, cache) = (&vm.machine, &mut vm.cache);
    let place = vm
        .gmap
        .walk(machine, cache, ipa(at), Level::L3, Flags::SPLIT);
    assert_eq!(place.map(|place| place.level()), Ok(Level::L3));
}

#[test]
fn b42_01_an_early_return_leaves_every_level_of_the_walk_at_once() {
    let mut vm = Vm::new(2 << 30, true);
    vm.touch(RAM + LARGE, true).expect("RAM");
    split(&mut vm, RAM + LARGE);
    let mut after = 0;
    let visit = |_: &Fake, _: arch::Ipa, place: &mut gmap::Place| match place.entry() {
        Entry::Leaf(_) => {
            after += 1;
            Err(())
        }
        _ => Ok(()),
    };
    let end = RAM + (2 << 30);
    let result = vm
        .gmap
        .range(&vm.machine, RAM, end, true, Budget::UNBOUNDED, visit);
    let at = ipa(RAM + LARGE);
    assert_eq!(result, Err(Stop::Visitor { at, why: () }));
    assert_eq!(after, 1);
    vm.end();
}

#[test]
fn b42_02_a_split_hands_both_notices_to_every_child() {
    let mut vm = Vm::new(LARGE, true);
    vm.touch(RAM, true).expect("RAM");
    assert!(vm.gmap.watch(&vm.machine, ipa(RAM)) && vm.gmap.pin(&vm.machine, ipa(RAM)));
    split(&mut vm, RAM);
    for n in 0..512 {
        let (_, raw) = vm.leaf(RAM + n * PAGE).expect("mapped");
        assert_eq!(raw >> 57 & 3, 3, "bits 57 and 58 of child {n}");
    }
    vm.end();
}

#[test]
fn b42_03_a_block_that_changes_under_a_split_is_split_as_it_is_then() {
    // Hardware sets AF or dirty between the read and the swap: the swap must fail and the
    // children be filled again.
    for bbm2 in [false, true] {
        let mut vm = Vm::new(LARGE, true);
        vm.gmap.set_bbm2(bbm2);
        vm.touch(RAM, false).expect("RAM");
        vm.fill_cache();
        vm.machine
            .write_before_swap(vm.gmap.vttbr(), vm.vtcr, RAM + 9);
        split(&mut vm, RAM);
        let (_, raw) = vm.leaf(RAM).expect("mapped");
        assert_eq!(raw >> 7 & 1, 1, "the write is not lost");
        vm.end();
    }
}

#[test]
fn b42_04_a_fault_that_comes_late_keeps_the_notices() {
    let mut vm = Vm::new(LARGE, false);
    vm.touch(RAM, true).expect("RAM");
    assert!(vm.gmap.watch(&vm.machine, ipa(RAM)) && vm.gmap.pin(&vm.machine, ipa(RAM)));
    vm.gmap
        .fault(&mut vm.machine, ipa(RAM), Access::WRITE)
        .expect("mapped");
    let (_, raw) = vm.leaf(RAM).expect("mapped");
    assert_eq!(raw >> 57 & 3, 3);
    assert!(vm.machine.events.borrow().is_empty());
    vm.gmap
        .reclaim(&mut vm.machine, ipa(RAM), LARGE, Budget::SLICE)
        .expect("RAM");
    let (ipa, level) = (ipa(RAM), Level::L2);
    let told = [
        Event::PinLost { ipa, level },
        Event::NestedChanged { ipa, level },
    ];
    assert_eq!(*vm.machine.events.borrow(), told);
    vm.end();
}

#[test]
fn b42_05_a_page_that_is_mapped_again_is_not_discarded() {
    let mut vm = Vm::new(LARGE, true);
    vm.gmap.enable_states().expect("no vCPU");
    let mut ring = ReleaseRing::new();
    vm.touch(RAM, true).expect("RAM");
    let mut state = |vm: &mut Vm, op| {
        vm.fill_cache();
        let (machine, cache) = (&vm.machine, &mut vm.cache);
        vm.gmap
            .page_state(machine, cache, &mut ring, op, ipa(RAM))
            .expect("RAM")
    };
    state(&mut vm, StateOp::Unused);
    // Twice on the ring: the second time the page is another one.
    state(&mut vm, StateOp::Unused);
    let mut twice = std::mem::take(&mut ring);
    assert_eq!(twice.len(), 2);
    assert_eq!(vm.gmap.drain(&mut vm.machine, &mut twice), 1);
    vm.touch(RAM, true).expect("RAM");
    let mut ring = ReleaseRing::new();
    let (machine, cache) = (&vm.machine, &mut vm.cache);
    let get = StateOp::Get;
    let byte = vm.gmap.page_state(machine, cache, &mut ring, get, ipa(RAM));
    assert_eq!(byte.map(|byte| byte & 3), Ok(0), "resident, not zero");
    assert_eq!(vm.gmap.drain(&mut vm.machine, &mut twice), 0);
    assert!(vm.leaf(RAM).is_some());
    vm.end();
}

#[test]
fn b42_08_a_mapping_that_is_there_is_not_enough_if_it_does_not_allow_the_access() {
    let mut vm = Vm::new(0, true);
    let pa = Pa::new(1 << 40).expect("fits");
    let (attr, perm) = (Attr::Normal, Perm::R);
    vm.gmap
        .map(&mut vm.machine, ipa(RAM), pa, PAGE, attr, perm)
        .expect("free");
    for (access, answer) in [
        (Access::READ, Ok(gmap::Fault::AlreadyMapped)),
        (Access::WRITE, Err(gmap::FaultError::Permission)),
        (Access::EXEC, Err(gmap::FaultError::Permission)),
    ] {
        assert_eq!(vm.gmap.fault(&mut vm.machine, ipa(RAM), access), answer);
    }
    vm.end();
}

#[test]
fn b42_13_a_cache_is_empty_after_every_way_out() {
    let mut vm = Vm::new(LARGE, true);
    let free = vm.machine.free_bytes();
    // Refused for want of permission, of RAM, of memory: each with a cache of its own.
    for at in [RAM - PAGE, RAM + LARGE, 1 << 41] {
        assert!(
            vm.gmap
                .fault(&mut vm.machine, ipa(at), Access::WRITE)
                .is_err()
        );
    }
    vm.machine.budget = 0;
    assert!(
        vm.gmap
            .fault(&mut vm.machine, ipa(RAM), Access::WRITE)
            .is_err()
    );
    assert_eq!(vm.machine.free_bytes(), free);
    vm.end();
}

#[test]
fn b42_14_a_topup_that_fails_is_told_and_not_tried_again_for_ever() {
    let mut vm = Vm::new(LARGE, true);
    let mut cache = Cache::new();
    vm.machine.budget = 3;
    assert_eq!(cache.topup(&mut vm.machine, 5), Err(gmap::NoMemory));
    assert_eq!(cache.len(), 3, "what it got stays");
    cache.release(&mut vm.machine);
    assert!(cache.is_empty());
    vm.end();
}

#[test]
fn b42_15_a_special_leaf_never_tells_the_host_of_dirt_page_or_block() {
    let mut vm = Vm::new(0, true);
    let pa = Pa::new(1 << 40).expect("fits");
    for (at, bytes) in [(RAM, PAGE), (2 * RAM, LARGE)] {
        let (attr, perm) = (Attr::Device, Perm::RW);
        vm.gmap
            .map(&mut vm.machine, ipa(at), pa, bytes, attr, perm)
            .expect("free");
        vm.touch(at, true).expect("mapped");
        let (leaf, _) = vm.gmap.leaf(&vm.machine, ipa(at)).expect("mapped");
        assert!(leaf.special() && !leaf.host_dirty());
    }
    vm.end();
}

#[test]
fn b42_16_a_peek_before_and_after_ram_fails_with_nothing_read() {
    let mut vm = Vm::new(LARGE, true);
    vm.gmap.enable_states().expect("no vCPU");
    let mut values = [7; 3];
    for at in [0, RAM - PAGE, RAM + LARGE] {
        let result = vm.gmap.peek_states(&vm.machine, ipa(at), &mut values);
        assert_eq!((result, values), (Err(KeyError::NoRam), [7; 3]));
    }
    vm.end();
}

#[test]
fn b42_17_a_reset_of_page_states_needs_the_lock_and_leaves_nothing_for_the_ring() {
    // That it needs the lock is its signature: `&mut self`. A ring filled before it is void.
    let mut vm = Vm::new(LARGE, true);
    vm.gmap.enable_states().expect("no vCPU");
    vm.touch(RAM, true).expect("RAM");
    let mut ring = ReleaseRing::new();
    vm.fill_cache();
    let (machine, cache) = (&vm.machine, &mut vm.cache);
    let op = StateOp::Unused;
    vm.gmap
        .page_state(machine, cache, &mut ring, op, ipa(RAM))
        .expect("RAM");
    let done = vm
        .gmap
        .reset_states(&vm.machine, ipa(0), Reset::Stable, Budget::UNBOUNDED);
    assert_eq!(done, None);
    assert_eq!(vm.gmap.drain(&mut vm.machine, &mut ring), 0);
    assert!(vm.leaf(RAM).is_some());
    vm.end();
}

#[test]
fn b42_18_a_stale_hint_does_not_drop_a_page_in_use() {
    let mut vm = Vm::new(LARGE, false);
    vm.gmap.enable_states().expect("no vCPU");
    let mut ring = ReleaseRing::new();
    vm.touch(RAM, true).expect("RAM");
    vm.fill_cache();
    let (machine, cache) = (&vm.machine, &mut vm.cache);
    let op = StateOp::Unused;
    vm.gmap
        .page_state(machine, cache, &mut ring, op, ipa(RAM))
        .expect("RAM");
    vm.touch(RAM, true).expect("RAM");
    // The dirty log takes the hardware's bit away; the write must still be known.
    vm.gmap
        .sync_dirty(&vm.machine, RAM, RAM + LARGE, Budget::SLICE, |_, _| ());
    assert_eq!(vm.gmap.drain(&mut vm.machine, &mut ring), 0);
    assert!(vm.leaf(RAM).is_some());
    vm.end();
}

#[test]
fn b42_19_a_page_whose_frame_changes_hands_is_pinned_again_or_not_at_all() {
    // Pin first: whatever takes the frame or the right to write tells the pin's owner.
    // Change first: what is pinned then is the new frame.
    type Change = fn(&mut Vm, &mut Gmap);
    let share: Change = |vm, other| {
        let range = (RAM, RAM + LARGE);
        let done = vm
            .gmap
            .share_with(other, &mut vm.machine, range, Budget::SLICE);
        assert_eq!(done, Ok(None));
    };
    let unshare: Change = |vm, other| {
        let range = (RAM, RAM + LARGE);
        let done = vm
            .gmap
            .share_with(other, &mut vm.machine, range, Budget::SLICE);
        assert_eq!(done, Ok(None));
        // A shared page is nobody's to pin: it would be taken away unseen by a copy.
        assert!(!vm.gmap.pin(&vm.machine, ipa(RAM)));
        let write = Access::WRITE;
        vm.gmap
            .unshare(&mut vm.machine, &mut vm.cache, ipa(RAM), write)
            .expect("memory");
        vm.cache.release(&mut vm.machine);
    };
    let moved: Change = |vm, _| {
        let range = (RAM, RAM + LARGE);
        let moved = vm
            .gmap
            .move_frames(&mut vm.machine, range, Budget::SLICE, |_, _| true);
        assert!(moved.bytes > 0);
    };
    for (change, first) in [(share, true), (unshare, false), (moved, true)] {
        let mut vm = Vm::new(LARGE, true);
        let features = Features {
            fwb: true,
            hafdbs: true,
        };
        let mut other = Gmap::new(&mut vm.machine, 9, 40, features).expect("memory");
        other
            .add_ram(&mut vm.machine, ipa(RAM), LARGE)
            .expect("free");
        vm.touch(RAM, true).expect("RAM");
        assert!(!first || vm.gmap.pin(&vm.machine, ipa(RAM)));
        change(&mut vm, &mut other);
        let lost = Event::PinLost {
            ipa: ipa(RAM),
            level: Level::L2,
        };
        let events = vm.machine.events.borrow().clone();
        assert_eq!(events.contains(&lost), first, "{events:?}");
        let (leaf, _) = vm.gmap.leaf(&vm.machine, ipa(RAM)).expect("mapped");
        assert!(!leaf.pinned(), "who was told pins it anew");
        // Whoever pins now has the frame that a store goes to.
        vm.gmap
            .unshare(&mut vm.machine, &mut vm.cache, ipa(RAM), Access::WRITE)
            .expect("memory");
        vm.cache.release(&mut vm.machine);
        assert!(vm.gmap.pin(&vm.machine, ipa(RAM)));
        let (leaf, _) = vm.gmap.leaf(&vm.machine, ipa(RAM)).expect("mapped");
        let (vttbr, vtcr) = (vm.gmap.vttbr(), vm.vtcr);
        let reached = vm.machine.reach(vttbr, vtcr, RAM, true).expect("no fault");
        assert_eq!(reached, leaf.base().raw());
        while other.destroy(&mut vm.machine, 256) == gmap::Progress::More {}
        vm.end();
    }
}

#[test]
fn b42_20_what_is_reported_dirty_is_an_address_of_the_guest() {
    let mut vm = Vm::new(2 * LARGE, true);
    let pa = vm
        .gmap
        .populate(&mut vm.machine, ipa(RAM + LARGE + PAGE))
        .expect("RAM");
    assert_ne!(pa.raw(), RAM + LARGE + PAGE);
    let mut seen = Vec::new();
    let end = RAM + 2 * LARGE;
    vm.gmap
        .sync_dirty(&vm.machine, RAM, end, Budget::SLICE, |at, n| {
            seen.push((at, n))
        });
    assert_eq!(seen, [(ipa(RAM + LARGE), LARGE)]);
    vm.enable_keys();
    vm.set_key(RAM + LARGE, Key::default());
    vm.end();
}
