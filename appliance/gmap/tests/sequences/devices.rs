//! Pages that devices reach by themselves: they stay where they are, and no dirty log misses what
//! was written to them.

use std::collections::BTreeSet;

use crate::cases;
use crate::vm::{LARGE, PAGE, RAM, Vm, ipa};
use gmap::{Budget, Event, Level, Policy};
use proptest::prelude::*;

const PAGES: u64 = 1024 + 5;

#[derive(Clone, Debug)]
enum Op {
    /// The guest writes.
    Write(u64),
    /// The guest lets its devices reach a page, which is populated and dirty for that.
    Declare(u64),
    Undeclare(u64),
    /// The device writes, where it can.
    Dma(u64),
    /// A log is read from a page on: that of a migration, or the host's.
    Sync(bool, u64, u64),
    Age,
    Largest(Level),
    Split,
    Collapse,
    Move,
    DropZeroes,
    /// The frame goes, whoever reaches it.
    Take(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let page = || prop::sample::select(&[0_u64, 1, 5, 511, 512, 513, 1023, 1024, 1028][..]);
    let most = prop::sample::select(&[1_u64, 3, 600, PAGES][..]);
    prop_oneof![
        4 => page().prop_map(Op::Write),
        3 => page().prop_map(Op::Declare),
        3 => page().prop_map(Op::Undeclare),
        6 => page().prop_map(Op::Dma),
        5 => (any::<bool>(), page(), most).prop_map(|(host, from, n)| Op::Sync(host, from, n)),
        1 => Just(Op::Age),
        1 => prop::sample::select(&[Level::L2, Level::L3][..]).prop_map(Op::Largest),
        1 => Just(Op::Split),
        1 => Just(Op::Collapse),
        1 => Just(Op::Move),
        1 => Just(Op::DropZeroes),
        1 => page().prop_map(Op::Take),
    ]
}

const fn at(page: u64) -> u64 {
    RAM + page * PAGE
}

/// Sets of pages that were written and that a log has not told of since.
#[derive(Default)]
struct Owed {
    migration: BTreeSet<u64>,
    host: BTreeSet<u64>,
}

impl Owed {
    fn write(&mut self, page: u64) {
        self.migration.insert(page);
        self.host.insert(page);
    }

    /// What is in a page that was taken is nobody's to copy.
    fn gone(&mut self, page: u64) {
        self.migration.remove(&page);
        self.host.remove(&page);
    }
}

/// Frames of the pages that the device reaches.
fn frames(vm: &Vm) -> Vec<(u64, Option<u64>)> {
    let reached = vm.machine.reached.borrow().clone();
    let frame = |at: u64| {
        let pa = vm.gmap.translate(&vm.machine, ipa(at));
        (at, pa.map(|(pa, _)| pa.raw()))
    };
    reached.into_iter().map(frame).collect()
}

fn run(ops: &[Op], hafdbs: bool) -> Result<(), TestCaseError> {
    let mut vm = Vm::new(PAGES * PAGE, hafdbs);
    let mut owed = Owed::default();
    for op in ops {
        let before = frames(&vm);
        let mut taken = false;
        match op {
            Op::Write(page) => {
                vm.touch(at(*page), true).expect("RAM");
                owed.write(*page);
            }
            Op::Declare(page) => {
                vm.touch(at(*page), true).expect("RAM");
                owed.write(*page);
                vm.machine.reached.borrow_mut().insert(at(*page));
            }
            Op::Undeclare(page) => {
                let there = vm.machine.reached.borrow_mut().remove(&at(*page));
                if there {
                    let marked = vm.gmap.mark_written(&vm.machine, ipa(at(*page)));
                    prop_assert!(marked, "what a device reached can be written");
                    taken = true;
                }
            }
            Op::Dma(page) => {
                if vm.machine.reached.borrow().contains(&at(*page)) {
                    owed.write(*page);
                }
            }
            Op::Sync(host, from, most) => sync(&vm, &mut owed, *host, *from, *most)?,
            Op::Age => {
                let end = at(PAGES);
                vm.gmap
                    .age(&vm.machine, RAM, end, Budget::UNBOUNDED, |_, _| ());
            }
            Op::Largest(largest) => vm.gmap.set_policy(Policy {
                largest: *largest,
                ..vm.gmap.policy()
            }),
            Op::Split => {
                let to = RAM + 2 * LARGE;
                vm.fill_cache();
                let budget = Budget::UNBOUNDED;
                let _ = vm
                    .gmap
                    .split_large(&vm.machine, &mut vm.cache, RAM, to, budget);
            }
            Op::Collapse => {
                let range = (RAM, at(PAGES));
                let _ = vm.gmap.collapse(&mut vm.machine, range, Budget::UNBOUNDED);
            }
            Op::Move => {
                let range = (RAM, at(PAGES));
                let all = |_, _| true;
                let _ = vm
                    .gmap
                    .move_frames(&mut vm.machine, range, Budget::UNBOUNDED, all);
            }
            Op::DropZeroes => {
                let range = (RAM, at(PAGES));
                let mut dropped = Vec::new();
                let report = |from: arch::Ipa, bytes: u64| dropped.push((from.raw(), bytes));
                vm.gmap
                    .drop_zeroes(&mut vm.machine, range, Budget::UNBOUNDED, report);
                for (from, bytes) in dropped {
                    (from..from + bytes)
                        .step_by(4096)
                        .for_each(|at| owed.gone((at - RAM) / PAGE));
                }
                // What was clean is not told of, and is gone as well.
                let there = |page: &u64| vm.gmap.translate(&vm.machine, ipa(at(*page))).is_some();
                owed.migration.retain(there);
                owed.host.retain(there);
            }
            Op::Take(page) => {
                let budget = Budget::UNBOUNDED;
                vm.machine.events.borrow_mut().clear();
                let was = vm.machine.reached.borrow().contains(&at(*page));
                let done = vm
                    .gmap
                    .reclaim(&mut vm.machine, ipa(at(*page)), PAGE, budget);
                done.expect("RAM");
                let lost = |event: &Event| matches!(event, Event::HeldLost { .. });
                let told = vm.machine.events.borrow().iter().any(lost);
                prop_assert!(told || !was, "the device is not told");
                owed.gone(*page);
                taken = true;
            }
        }
        if !taken {
            for (at, frame) in before {
                let now = vm
                    .gmap
                    .translate(&vm.machine, ipa(at))
                    .map(|(pa, _)| pa.raw());
                prop_assert_eq!(now, frame, "{:?} moved {:#x} under the device", op, at);
            }
        }
    }
    for host in [false, true] {
        sync(&vm, &mut owed, host, 0, PAGES)?;
    }
    vm.machine.reached.borrow_mut().clear();
    vm.end();
    Ok(())
}

/// Reads a log: everything that is owed, and everything that a device reaches, is told of.
fn sync(vm: &Vm, owed: &mut Owed, host: bool, from: u64, most: u64) -> Result<(), TestCaseError> {
    let to = (from + most).min(PAGES);
    let mut told = BTreeSet::new();
    let report = |first: arch::Ipa, bytes: u64| {
        let pages = (first.raw() - RAM) / PAGE..(first.raw() + bytes - RAM) / PAGE;
        told.extend(pages);
    };
    let (start, end, all) = (at(from), at(to), Budget::UNBOUNDED);
    let next = if host {
        vm.gmap
            .sync_host_dirty(&vm.machine, start, end, all, report)
    } else {
        vm.gmap.sync_dirty(&vm.machine, start, end, all, report)
    };
    prop_assert_eq!(next, None);
    let debts = if host {
        &mut owed.host
    } else {
        &mut owed.migration
    };
    for page in from..to {
        prop_assert!(
            told.contains(&page) || !debts.contains(&page),
            "a write to {} is lost",
            page
        );
        let reached = vm.machine.reached.borrow().contains(&at(page));
        prop_assert!(
            told.contains(&page) || !reached,
            "{} is reached and clean",
            page
        );
    }
    // A leaf is told of whole, also where it reaches out of what was asked for.
    debts.retain(|page| !told.contains(page));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(1500)))]
    #[test]
    fn no_log_misses_what_a_device_wrote_and_no_frame_moves_under_it(
        ops in prop::collection::vec(op(), 1..60), hafdbs: bool,
    ) {
        run(&ops, hafdbs)?;
    }
}

#[test]
fn a_page_is_clean_again_once_no_device_reaches_it() {
    let mut vm = Vm::new(4 * PAGE, true);
    vm.touch(RAM, true).expect("RAM");
    let told = |vm: &Vm| {
        let mut pages = 0;
        let end = RAM + 4 * PAGE;
        vm.gmap
            .sync_dirty(&vm.machine, RAM, end, Budget::UNBOUNDED, |_, bytes| {
                pages += bytes / PAGE
            });
        pages
    };
    assert_eq!((told(&vm), told(&vm)), (1, 0));
    vm.machine.reached.borrow_mut().insert(RAM);
    assert_eq!((told(&vm), told(&vm)), (1, 1));
    vm.machine.reached.borrow_mut().clear();
    assert!(vm.gmap.mark_written(&vm.machine, ipa(RAM)));
    assert_eq!((told(&vm), told(&vm)), (1, 0));
    // Where nothing is, nothing was written.
    assert!(!vm.gmap.mark_written(&vm.machine, ipa(RAM + PAGE)));
    assert_eq!(told(&vm), 0);
    vm.end();
}
