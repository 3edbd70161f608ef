//! Slots, limits, widths, and every allocation failing in turn.

use crate::cases;
use crate::machine::Fake;
use crate::vm::{LARGE, PAGE, RAM, Vm, ipa};
use arch::Pa;
use gmap::{
    Access, Attr, Budget, Cache, Error, Fault, FaultError, Features, Gmap, Level, LinkError, Look,
    Machine, Perm, Policy,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Every page of tables and every frame of RAM that a walk from the root can meet, each once.
fn reachable(vm: &Vm) -> BTreeSet<u64> {
    let mut seen = BTreeSet::new();
    let root = vm.gmap.vttbr() & 0x0000_ffff_ffff_f000;
    // 40 bits: two concatenated level 1 tables.
    let mut todo = vec![(root, 1), (root + PAGE, 1)];
    while let Some((table, level)) = todo.pop() {
        assert!(seen.insert(table), "{table:#x} is met twice");
        for index in 0..512 {
            let bits = vm.machine.load(Pa::new(table).expect("fits"), index);
            let out = bits & 0x0000_ffff_ffff_f000;
            match (bits & 3, level) {
                (3, 1 | 2) => todo.push((out, level + 1)),
                (1 | 3, _) if bits >> 56 & 1 == 0 => {
                    let bytes = [0, 1 << 30, LARGE, PAGE][level];
                    for page in (out..out + bytes).step_by(4096) {
                        assert!(seen.insert(page), "{page:#x} is met twice");
                    }
                }
                _ => {}
            }
        }
    }
    seen
}

#[test]
fn b01_every_page_of_a_space_is_its_own_and_met_once() {
    let mut vm = Vm::new(4 * LARGE + 3 * PAGE, true);
    for at in [0, LARGE, 4 * LARGE, 4 * LARGE + PAGE] {
        vm.touch(RAM + at, true).expect("RAM");
    }
    let window = Pa::new(1 << 40).expect("fits");
    vm.gmap
        .map(
            &mut vm.machine,
            ipa(8 << 30),
            window,
            3 * LARGE,
            Attr::Normal,
            Perm::RW,
        )
        .expect("free");
    vm.gmap
        .reclaim(&mut vm.machine, ipa(RAM + PAGE), PAGE, Budget::SLICE)
        .expect("RAM");
    let held = vm.machine.held.borrow().clone();
    let pages = held.iter().flat_map(|(base, frame)| {
        let bytes = 4096_u64 << frame.order;
        (*base..base + bytes).step_by(4096)
    });
    assert_eq!(reachable(&vm), pages.collect());
    vm.end();
}

#[test]
fn b07_a_hole_is_no_memory_and_an_empty_page_is_zeroes_to_come() {
    let mut vm = Vm::new(0, true);
    assert_eq!(vm.touch(RAM, false), Err(FaultError::NoSlot));
    vm.gmap
        .add_ram(&mut vm.machine, ipa(RAM), 5 * PAGE)
        .expect("free");
    // Type 1 with code 5 in the parameter, and nothing at all.
    let raw = |vm: &Vm, at: u64| {
        let mut cache = Cache::new();
        let flags = gmap::Flags::ANY | gmap::Flags::IGN_HOLES;
        let place = vm
            .gmap
            .walk(&vm.machine, &mut cache, ipa(at), Level::L3, flags);
        place.expect("any").entry()
    };
    assert_eq!(raw(&vm, RAM + 4 * PAGE), gmap::Entry::Empty);
    assert_eq!(raw(&vm, RAM + 5 * PAGE), gmap::Entry::Hole(5));
    assert_eq!(gmap::Descriptor::HOLE.raw(), 1 << 2 | 5 << 18);
    assert_eq!(gmap::Descriptor::EMPTY.raw(), 0);
    assert_eq!(vm.touch(RAM + 5 * PAGE, false), Err(FaultError::NoSlot));
    assert_eq!(vm.touch(RAM + 4 * PAGE, false), Ok(1));
    let deleted = vm.gmap.delete_ram(&mut vm.machine, ipa(RAM), Budget::SLICE);
    assert_eq!(deleted, Ok(None));
    assert_eq!(vm.touch(RAM + 4 * PAGE, false), Err(FaultError::NoSlot));
    let stats = vm.gmap.stats();
    assert_eq!((stats.table_bytes, stats.resident_bytes), (2 * PAGE, 0));
    vm.end();
}

#[test]
fn b07_the_cost_of_a_slot_does_not_depend_on_its_size() {
    let tables = |bytes: u64| {
        let vm = Vm::new(bytes, true);
        let tables = vm.gmap.stats().table_bytes;
        vm.end();
        tables
    };
    assert_eq!(tables(1 << 30), 2 * PAGE);
    assert_eq!(tables(8 << 30), 2 * PAGE);
    assert_eq!(tables(255 << 30), 2 * PAGE);
    assert_eq!(tables(128 << 20), 3 * PAGE);
}

#[test]
fn b14_a_block_is_used_only_inside_its_slot_and_as_large_as_the_policy_says() {
    let mut vm = Vm::new(0, true);
    let (start, bytes) = (RAM + LARGE - PAGE, LARGE + 2 * PAGE);
    vm.gmap
        .add_ram(&mut vm.machine, ipa(start), bytes)
        .expect("free");
    let mut order = |at| {
        let result = vm.gmap.fault(&mut vm.machine, ipa(at), Access::WRITE);
        let Ok(Fault::Mapped { order }) = result else {
            panic!("{result:?}")
        };
        order
    };
    assert_eq!(order(start), 0);
    assert_eq!(order(RAM + LARGE + 77), 9);
    assert_eq!(order(RAM + 2 * LARGE), 0);
    let end = ipa(start + bytes);
    let outside = vm.gmap.fault(&mut vm.machine, end, Access::WRITE);
    assert_eq!(outside, Err(FaultError::NoSlot));
    vm.end();
    let mut vm = Vm::new(2 << 30, true);
    let asked = |vm: &Vm, largest| {
        let Ok(Look::Missing(want)) = vm.gmap.look(&vm.machine, ipa(RAM), Access::READ) else {
            panic!("{largest:?}")
        };
        want.order()
    };
    for (largest, order) in [(Level::L1, 18), (Level::L2, 9), (Level::L3, 0)] {
        vm.gmap.set_policy(Policy {
            largest,
            ..vm.gmap.policy()
        });
        assert_eq!(asked(&vm, largest), order);
    }
    vm.end();
}

#[test]
fn limits_refuse_more_ram_and_more_tables_and_nothing_is_lost() {
    let mut vm = Vm::new(8 * LARGE, true);
    vm.gmap.set_policy(Policy {
        ram_limit: LARGE + 3 * PAGE,
        ..vm.gmap.policy()
    });
    assert_eq!(vm.touch(RAM, true), Ok(1));
    for n in 0..3 {
        assert_eq!(vm.touch(RAM + LARGE + n * PAGE, true), Ok(1));
    }
    assert_eq!(
        vm.touch(RAM + 3 * LARGE, true),
        Err(FaultError::OutOfMemory)
    );
    assert_eq!(vm.gmap.stats().leaves, [3, 1, 0]);
    vm.gmap.set_policy(Policy {
        ram_limit: u64::MAX,
        table_limit: vm.gmap.stats().table_bytes,
        largest: Level::L3,
        ..vm.gmap.policy()
    });
    let free = vm.machine.free_bytes();
    assert_eq!(
        vm.touch(RAM + 3 * LARGE, true),
        Err(FaultError::OutOfMemory)
    );
    let pa = Pa::new(1 << 40).expect("fits");
    let (attr, perm) = (Attr::Device, Perm::RW);
    let mapped = vm
        .gmap
        .map(&mut vm.machine, ipa(9 << 30), pa, PAGE, attr, perm);
    assert_eq!(mapped, Err(Error::NoTables));
    assert_eq!(vm.machine.free_bytes(), free);
    vm.end();
}

#[test]
fn b12_what_was_looked_up_before_an_invalidation_is_not_linked_after_it() {
    let mut vm = Vm::new(4 * LARGE, true);
    let look = |vm: &Vm| match vm.gmap.look(&vm.machine, ipa(RAM), Access::WRITE) {
        Ok(Look::Missing(want)) => want,
        other => panic!("{other:?}"),
    };
    let frame = vm.machine.alloc(9).expect("memory");
    vm.machine.scrub(frame, 9);
    vm.fill_cache();
    let want = look(&vm);
    // Another part of the slot is reclaimed meanwhile: no frame may be linked on old news.
    vm.gmap
        .reclaim(&mut vm.machine, ipa(RAM + LARGE), LARGE, Budget::SLICE)
        .expect("RAM");
    let mut ran = false;
    let link = |vm: &mut Vm, want, ran: &mut bool| {
        let (machine, cache) = (&vm.machine, &mut vm.cache);
        vm.gmap
            .link(machine, cache, want, frame, Access::WRITE, |_, pa| {
                assert_eq!(pa, frame);
                *ran = true;
            })
    };
    assert_eq!(link(&mut vm, want, &mut ran), Err(LinkError::Again));
    // While an invalidation is under way, its range is refused and others are not.
    let want = look(&vm);
    vm.gmap.sequence().begin(RAM + LARGE, RAM + 2 * LARGE);
    assert!(
        vm.gmap
            .sequence()
            .good(vm.gmap.sequence().ticket(), RAM, RAM + LARGE)
    );
    vm.gmap.sequence().begin(RAM, RAM + PAGE);
    assert_eq!(link(&mut vm, want, &mut ran), Err(LinkError::Again));
    vm.gmap.sequence().end();
    vm.gmap.sequence().end();
    assert_eq!(link(&mut vm, want, &mut ran), Err(LinkError::Again));
    assert!(!ran && vm.leaf(RAM).is_none());
    // B13: the callback runs with the frame, before the guest can see it.
    let want = look(&vm);
    assert_eq!(link(&mut vm, want, &mut ran), Ok(()));
    assert!(ran && vm.leaf(RAM).is_some());
    vm.end();
}

#[test]
fn b16_a_frame_is_free_only_after_no_tlb_reaches_it_and_its_page_is_zero_again() {
    // The fake machine asserts the order at every free; here that the page comes back new.
    let mut vm = Vm::new(2 * LARGE, true);
    let vcpus = [RAM, RAM + 5 * PAGE, RAM + LARGE];
    vm.machine.run_vcpus(vm.gmap.vttbr(), vm.vtcr, &vcpus);
    for round in 0..20 {
        for at in vcpus {
            vm.touch(at, true).expect("RAM");
        }
        let from = RAM + (round % 4) * PAGE;
        let next = vm
            .gmap
            .reclaim(&mut vm.machine, ipa(from), LARGE, Budget::leaves(3));
        let mut next = next.expect("RAM");
        while let Some(at) = next {
            let left = from + LARGE - at.raw();
            let again = vm
                .gmap
                .reclaim(&mut vm.machine, at, left, Budget::leaves(3));
            next = again.expect("RAM");
        }
        assert_eq!(vm.leaf(from), None);
    }
    vm.end();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(300)))]

    /// Whatever widths a space goes through, what is mapped below them all stays as it was,
    /// and a width is refused exactly when something lies above it (B08).
    #[test]
    fn b08_growing_and_shrinking_leaves_what_is_below_the_limit(
        widths in prop::collection::vec(30..50_u8, 1..8),
        high in prop::sample::select(&[31_u32, 33, 36, 38, 39, 41, 43, 46][..]),
        budget in prop_oneof![4 => Just(100_usize), 1 => 4..8_usize],
    ) {
        let mut machine = Fake::new(100);
        let features = Features { fwb: false, hafdbs: true };
        let mut gmap = Gmap::new(&mut machine, 9, 48, features).expect("memory");
        let (low, top) = (RAM, 1_u64 << high);
        let pa = Pa::new(1 << 40).expect("fits");
        let bytes = LARGE + PAGE;
        gmap.map(&mut machine, ipa(low), pa, bytes, Attr::Normal, Perm::RW).expect("free");
        gmap.map(&mut machine, ipa(top), pa, bytes, Attr::Normal, Perm::R).expect("free");
        machine.budget = budget;
        let mut bits = 48;
        for width in widths {
            machine.starved.set(false);
            let free = machine.free_bytes();
            let result = gmap.set_ipa_bits(&mut machine, width);
            let fits = u32::from(width) > high;
            match result {
                Err(Error::IpaBits) => prop_assert!(!(32..=48).contains(&width)),
                Err(Error::Occupied { .. }) => prop_assert!(!fits),
                Err(Error::NoTables) => prop_assert!(machine.starved.get()),
                other => {
                    prop_assert_eq!(other, Ok(()));
                    prop_assert!(fits && (32..=48).contains(&width));
                    bits = width;
                }
            }
            if result.is_err() {
                prop_assert_eq!(machine.free_bytes(), free);
            }
            let vtcr = gmap::vtcr(bits, 5, true);
            for (at, write) in [(low, true), (low + LARGE, true), (top, false)] {
                let seen = machine.fresh(gmap.vttbr(), vtcr, at + 8).expect("mapped");
                prop_assert_eq!((seen.pa, seen.write), (pa.raw() + at % LARGE + 8
                    + if at > low && at < top { LARGE } else { 0 }, write));
            }
            prop_assert!(machine.fresh(gmap.vttbr(), vtcr, low + bytes).is_err());
            let held = machine.held.borrow();
            let tables: u64 = held.values().map(|frame| 4096 << frame.order).sum();
            prop_assert_eq!(gmap.stats().table_bytes, tables);
        }
        gmap.add_vcpu();
        prop_assert_eq!(gmap.set_ipa_bits(&mut machine, 48), Err(Error::HasVcpus));
        while gmap.destroy(&mut machine, 9) == gmap::Progress::More {}
        prop_assert!(machine.held.borrow().is_empty());
    }
}

/// One of everything, as far as memory goes. Returns how often it was refused for memory.
fn life(vm: &mut Vm) -> u32 {
    let mut refused = 0;
    let mut note = |ok: bool| refused += u32::from(!ok);
    let (bytes, pa) = (2 * LARGE + PAGE, Pa::new((1 << 40) + PAGE).expect("fits"));
    note(vm.gmap.add_ram(&mut vm.machine, ipa(RAM), bytes).is_ok());
    let (attr, perm) = (Attr::Normal, Perm::RW);
    note(
        vm.gmap
            .map(&mut vm.machine, ipa(7 << 30), pa, LARGE, attr, perm)
            .is_ok(),
    );
    for at in [0, LARGE, 2 * LARGE] {
        note(
            vm.gmap
                .fault(&mut vm.machine, ipa(RAM + at), Access::WRITE)
                .is_ok(),
        );
    }
    let slice = Budget::UNBOUNDED;
    let page = ipa(RAM + PAGE);
    note(vm.gmap.reclaim(&mut vm.machine, page, PAGE, slice).is_ok());
    // Tops up as long as it is asked to: a topup that fails must end it.
    let mut topped = 0;
    while let Err(error) = vm.gmap.enable_keys(&vm.machine, &mut vm.cache, slice) {
        assert_eq!(error, gmap::KeyError::NoMemory);
        topped += 1;
        assert!(topped < 10, "asks for memory for ever");
        if vm.cache.topup(&mut vm.machine, 5).is_err() {
            note(false);
            break;
        }
    }
    let key = gmap::Key::from_byte(0x30).expect("valid");
    let set = vm
        .gmap
        .set_key(&vm.machine, &mut vm.cache, ipa(RAM + LARGE), key);
    note(set.is_ok());
    note(
        vm.gmap
            .unmap(&mut vm.machine, ipa((7 << 30) + PAGE), PAGE)
            .is_ok(),
    );
    note(vm.gmap.set_ipa_bits(&mut vm.machine, 48).is_ok());
    let mut next = vm
        .gmap
        .delete_ram(&mut vm.machine, ipa(RAM), Budget::leaves(9));
    while let Ok(Some(_)) = next {
        next = vm
            .gmap
            .delete_ram(&mut vm.machine, ipa(RAM), Budget::leaves(9));
    }
    note(next.is_ok());
    refused
}

#[test]
fn b09_whichever_allocation_fails_operations_end_and_no_frame_is_lost() {
    for n in 0.. {
        let mut whole = true;
        // Only the n-th allocation fails, or all from the n-th on.
        for forever in [false, true] {
            let mut vm = Vm::new(0, true);
            vm.machine.fail_at.set(Some((n, forever)));
            let refused = life(&mut vm);
            let failed = vm.machine.fail_at.take().is_none_or(|(left, _)| left == 0);
            // A failure may also be made up for: pages instead of a block.
            assert!(failed || refused == 0, "allocation {n}");
            whole &= !failed;
            vm.end();
        }
        if whole {
            assert!(n > 12, "fewer allocations than there must be");
            return;
        }
    }
}

#[test]
fn a_stock_holds_only_zeroed_frames_and_gives_them_all_back() {
    let mut machine = Fake::new(1000);
    let free = machine.free_bytes();
    let mut stock = gmap::Stock::new();
    while stock.fill_one(&mut machine) {}
    let held = machine.held.borrow().clone();
    assert!(held.values().all(|frame| frame.scrubbed));
    let count = |order| held.values().filter(|frame| frame.order == order).count();
    // Thirty-two pages, and every block the machine had.
    assert_eq!((count(0), count(9)), (32, 5));
    let frame = stock.take(9).expect("a block");
    assert_eq!(stock.take(18), None);
    frame.free(&mut machine);
    stock.release(&mut machine);
    assert_eq!(machine.free_bytes(), free);
}

#[test]
fn b40_a_block_is_zeroed_in_steps_and_ready_only_after_the_last() {
    let mut machine = Fake::new(1000);
    let free = machine.free_bytes();
    let mut stock = gmap::Stock::new();
    let (mut pages, mut blocks, mut steps) = (0, 0, 0);
    while let Some(order) = stock.wants() {
        let Some(frame) = gmap::Unscrubbed::alloc(&mut machine, order) else {
            break;
        };
        let mut half = frame.begin();
        let zeroed = loop {
            steps += 1;
            match half.step(&machine) {
                Ok(zeroed) => break zeroed,
                Err(more) => half = more,
            }
        };
        match order {
            0 => pages += 1,
            _ => blocks += 1,
        }
        assert!(stock.put(zeroed).is_ok());
        assert_eq!(stock.bytes(), pages * 4096 + blocks * (2 << 20));
    }
    assert_eq!((pages, steps), (32, 32 + 32 * blocks));
    // A half-zeroed one goes back like any other.
    let frame = gmap::Unscrubbed::alloc(&mut machine, 0).expect("a page");
    frame.begin().free(&mut machine);
    stock.release(&mut machine);
    assert_eq!(machine.free_bytes(), free);
}

#[test]
fn b07_a_slot_deleted_in_slices_takes_nothing_of_a_neighbour_folded_meanwhile() {
    let mut vm = Vm::new(0, true);
    // Sixteen entries of level 1, which one slice sees, and half of the next.
    let (bytes, half) = ((16 << 30) + (512 << 20), 512 << 20);
    let neighbour = ipa(RAM + bytes);
    vm.gmap
        .add_ram(&mut vm.machine, ipa(RAM), bytes)
        .expect("free");
    vm.gmap
        .add_ram(&mut vm.machine, neighbour, half)
        .expect("free");
    let slice = Budget::leaves(1);
    let next = vm.gmap.delete_ram(&mut vm.machine, ipa(RAM), slice);
    assert_eq!(next, Ok(Some(ipa(RAM + (16 << 30)))));
    vm.touch(neighbour.raw(), true).expect("RAM");
    vm.gmap
        .reclaim(&mut vm.machine, neighbour, LARGE, Budget::SLICE)
        .expect("RAM");
    while vm
        .gmap
        .delete_ram(&mut vm.machine, ipa(RAM), slice)
        .expect("goes on")
        .is_some()
    {}
    assert_eq!(vm.touch(neighbour.raw(), true), Ok(1));
    assert_eq!(vm.touch(RAM, true), Err(FaultError::NoSlot));
    vm.end();
}

#[test]
fn b07_a_slot_moves_with_content_and_keys_whichever_allocation_fails() {
    for n in 0.. {
        let mut vm = Vm::new(2 * LARGE, true);
        let value = |vm: &Vm, at: u64| {
            let seen = vm.machine.fresh(vm.gmap.vttbr(), vm.vtcr | 1 << 21, at);
            vm.machine.content(seen.expect("mapped").pa)
        };
        for page in [0, 3, 511, 512, 1023] {
            let at = RAM + page * PAGE;
            vm.touch(at, true).expect("RAM");
            let pa = vm.machine.reach(vm.gmap.vttbr(), vm.vtcr, at, true);
            vm.machine.set_content(pa.expect("mapped"), page + 1);
        }
        vm.enable_keys();
        let key = gmap::Key::from_byte(0x58).expect("valid");
        // For page 507 there is no table yet where it goes.
        vm.set_key(RAM + 3 * PAGE, key);
        vm.set_key(RAM + 507 * PAGE, key);
        // No block fits there.
        let target = (6 << 30) + 5 * PAGE;
        vm.machine.fail_at.set(Some((n, false)));
        let mut failed = 0;
        loop {
            let slice = Budget::leaves(7);
            match vm
                .gmap
                .move_ram(&mut vm.machine, ipa(RAM), ipa(target), slice)
            {
                Ok(None) => break,
                Ok(Some(_)) => {}
                Err(error) => {
                    assert_eq!(error, Error::NoTables);
                    failed += 1;
                    assert!(failed < 3, "fails for ever");
                }
            }
        }
        for page in [0, 3, 511, 512, 1023] {
            assert_eq!(value(&vm, target + page * PAGE), page + 1, "allocation {n}");
        }
        for page in [3, 507] {
            let there = vm.gmap.key(&vm.machine, ipa(target + page * PAGE));
            let there = there.expect("RAM");
            assert_eq!((there.access, there.fetch), (5, true), "allocation {n}");
        }
        assert_eq!(vm.touch(RAM, true), Err(FaultError::NoSlot));
        assert_eq!(vm.gmap.stats().promised_bytes, 2 * LARGE);
        let whole = vm.machine.fail_at.take().is_some_and(|(left, _)| left > 0);
        vm.end();
        if whole {
            assert!(n > 3, "fewer allocations than there must be");
            return;
        }
    }
}
