//! The Contiguous hint: sixteen pages that a TLB may hold as one.

use crate::vm::{LARGE, PAGE, Vm, ipa};
use arch::Pa;
use gmap::{Attr, Budget, Perm};
use proptest::prelude::*;

/// Where windows are, 2 GiB aligned, and where they lead.
const AT: u64 = 8 << 30;
const TO: u64 = 1 << 40;
const GROUP: u64 = 65_536;
const HINT: u64 = 1 << 52;

fn map(vm: &mut Vm, at: u64, to: u64, bytes: u64) {
    let to = Pa::new(to).expect("fits");
    vm.gmap
        .map_hinted(&mut vm.machine, ipa(at), to, bytes, Attr::Normal, Perm::RW)
        .expect("free");
}

/// A machine without BBM level 2, and one that has everything in its TLB all the time.
fn watched(addresses: &[u64]) -> Vm {
    let vm = Vm::new(0, true);
    vm.machine.run_vcpus(vm.gmap.vttbr(), vm.vtcr, addresses);
    vm
}

/// Touches every page, so that a TLB that keeps all has all.
fn touch(vm: &Vm, at: u64, bytes: u64) {
    for page in (at..at + bytes).step_by(4096) {
        let _ = vm.machine.stale(vm.gmap.vttbr(), vm.vtcr, page);
    }
}

/// What is mapped, page by page, by memory and by the TLB: they have to agree on all of it.
fn agree(vm: &Vm, at: u64, bytes: u64, want: impl Fn(u64) -> Option<u64>) {
    for page in (at..at + bytes).step_by(4096) {
        let fresh = vm.machine.fresh(vm.gmap.vttbr(), vm.vtcr, page).ok();
        let stale = vm.machine.stale(vm.gmap.vttbr(), vm.vtcr, page).ok();
        assert_eq!(fresh.map(|t| t.pa), want(page), "memory at {page:#x}");
        assert_eq!(stale.map(|t| t.pa), want(page), "TLB at {page:#x}");
    }
}

fn hinted(vm: &Vm, at: u64) -> Option<bool> {
    vm.leaf(at).map(|(_, raw)| raw & HINT != 0)
}

#[test]
fn a02_a_group_has_the_hint_where_it_lies_wholly_in_the_window_and_fits_both_addresses() {
    // Every offset in a group of the window, of the memory, and of the length.
    for (at, to) in (0..16).flat_map(|at| (0..16).map(move |to| (at, to))) {
        for pages in [1, 15, 16, 17, 31, 32, 47, 48, 50] {
            let mut vm = Vm::new(0, false);
            let (at, to, bytes) = (AT + at * PAGE, TO + to * PAGE, pages * PAGE);
            map(&mut vm, at, to, bytes);
            for page in (at..at + bytes).step_by(4096) {
                let group = page / GROUP * GROUP;
                let inside = group >= at && group + GROUP <= at + bytes;
                let fits = (to + page - at) % GROUP == page % GROUP;
                assert_eq!(hinted(&vm, page), Some(inside && fits), "{page:#x}");
                assert_eq!(vm.leaf(page).map(|(level, _)| level), Some(3));
            }
            vm.gmap
                .unmap(&mut vm.machine, ipa(at), bytes)
                .expect("fixed");
            vm.end();
        }
    }
}

#[test]
fn larger_leaves_come_first_and_an_ordinary_mapping_has_no_hint() {
    let mut vm = Vm::new(0, false);
    map(&mut vm, AT, TO, 2 * LARGE + GROUP + PAGE);
    assert_eq!(vm.leaf(AT).map(|(level, _)| level), Some(2));
    assert_eq!(hinted(&vm, AT), Some(false));
    assert_eq!(hinted(&vm, AT + 2 * LARGE), Some(true));
    assert_eq!(hinted(&vm, AT + 2 * LARGE + GROUP), Some(false));
    let (window, to) = (ipa(AT + (1 << 30)), Pa::new(TO).expect("fits"));
    vm.gmap
        .map(&mut vm.machine, window, to, GROUP, Attr::Normal, Perm::RW)
        .expect("free");
    assert_eq!(hinted(&vm, AT + (1 << 30)), Some(false));
    vm.end();
}

#[test]
fn a_page_taken_out_of_a_group_leaves_fifteen_that_stand_for_themselves() {
    for taken in 0..16 {
        let mut vm = watched(&[AT, AT + 15 * PAGE, AT + GROUP]);
        map(&mut vm, AT, TO, 2 * GROUP);
        touch(&vm, AT, 2 * GROUP);
        let page = AT + taken * PAGE;
        vm.gmap
            .unmap(&mut vm.machine, ipa(page), PAGE)
            .expect("fixed");
        agree(&vm, AT, 2 * GROUP, |at| {
            (at != page).then_some(TO + at - AT)
        });
        let others = (0..16).filter(|n| *n != taken).map(|n| AT + n * PAGE);
        for at in others {
            assert_eq!(hinted(&vm, at), Some(false));
        }
        assert_eq!(hinted(&vm, AT + GROUP), Some(true), "the next is whole");
        vm.end();
    }
}

#[test]
fn a_slice_ends_between_groups() {
    // Slices of every size over groups, from a page that is in the middle of none.
    for leaves in 1..40 {
        let mut vm = watched(&[AT + PAGE, AT + GROUP + 5 * PAGE]);
        let bytes = 4 * GROUP + 3 * PAGE;
        map(&mut vm, AT + PAGE, TO + PAGE, bytes);
        touch(&vm, AT, bytes + PAGE);
        let mut at = AT + PAGE;
        loop {
            let left = AT + PAGE + bytes - at;
            let slice = Budget::leaves(leaves);
            let next = vm.gmap.unmap_slice(&mut vm.machine, ipa(at), left, slice);
            let done = next.expect("fixed");
            let reached = done.map_or(AT + PAGE + bytes, |next| next.raw());
            agree(&vm, AT, bytes + PAGE, |page| {
                let there = (reached..AT + PAGE + bytes).contains(&page);
                there.then_some(TO + page - AT)
            });
            match done {
                Some(next) => at = next.raw(),
                None => break,
            }
        }
        vm.end();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(300)))]

    /// Windows mapped and cut at random, against a list of pages; the TLB forgets nothing.
    #[test]
    fn windows_come_and_go_and_no_tlb_knows_more_than_memory(
        cuts in prop::collection::vec((0..70_u64, 1..40_u64, any::<bool>()), 1..30),
        offset in 0..16_u64,
    ) {
        let mut vm = watched(&[AT, AT + 7 * PAGE, AT + GROUP]);
        let to = |at: u64| TO + offset * PAGE + (at - AT);
        let mut mapped = [false; 128];
        for (first, pages, add) in cuts {
            let range = first..first + pages;
            let (at, bytes) = (AT + first * PAGE, pages * PAGE);
            let places = range.clone().map(|n| usize::try_from(n).expect("small"));
            if add {
                if places.clone().any(|n| mapped[n]) {
                    continue;
                }
                map(&mut vm, at, to(at), bytes);
            } else {
                vm.gmap.unmap(&mut vm.machine, ipa(at), bytes).expect("fixed");
            }
            places.for_each(|n| mapped[n] = add);
            agree(&vm, AT, 110 * PAGE, |page| {
                let n = usize::try_from((page - AT) / PAGE).expect("small");
                mapped[n].then_some(to(page))
            });
        }
        vm.end();
    }
}
