//! Age, dirty log and host dirty state against a table of pages.

use crate::cases;
use crate::vm::{LARGE, PAGE, RAM, Vm, ipa};
use gmap::{Access, Budget, Key, KeyError, Level, Policy};
use proptest::prelude::*;

const PAGES: usize = 4 * 512 + 7;
const BYTES: u64 = 4 * LARGE + 7 * PAGE;

#[derive(Clone, Debug)]
enum Op {
    Touch(usize, bool),
    Populate(usize),
    Age(usize, usize),
    SyncDirty(usize, usize),
    SyncHost(usize, usize),
    Reclaim(usize, usize),
    Largest(Level),
    SplitLarge,
    EnableKeys,
    SetKey(usize, u8),
    ResetReferenced(usize),
}

fn op() -> impl Strategy<Value = Op> {
    // Pages that differ in one bit of one level, and the tail that no block fits into.
    let page = || {
        prop::sample::select(
            &[
                0_usize, 1, 2, 255, 511, 512, 513, 1024, 1535, 2047, 2048, 2054,
            ][..],
        )
    };
    let range = || {
        (
            page(),
            prop::sample::select(&[1_usize, 2, 511, 512, 513, 2100][..]),
        )
    };
    prop_oneof![
        6 => (page(), any::<bool>()).prop_map(|(p, w)| Op::Touch(p, w)),
        1 => page().prop_map(Op::Populate),
        2 => range().prop_map(|(p, n)| Op::Age(p, n)),
        2 => range().prop_map(|(p, n)| Op::SyncDirty(p, n)),
        2 => range().prop_map(|(p, n)| Op::SyncHost(p, n)),
        2 => range().prop_map(|(p, n)| Op::Reclaim(p, n)),
        1 => prop::sample::select(&[Level::L2, Level::L3][..]).prop_map(Op::Largest),
        1 => Just(Op::SplitLarge),
        1 => Just(Op::EnableKeys),
        2 => (page(), any::<u8>()).prop_map(|(p, k)| Op::SetKey(p, k & 0xfe)),
        2 => page().prop_map(Op::ResetReferenced),
    ]
}

/// What is so of one page, as far as its leaf can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Page {
    present: bool,
    /// Accessed since age was last asked.
    young: bool,
    /// Written, or new, since the log was last read.
    soft_dirty: bool,
    /// Written since the host last asked.
    host_dirty: bool,
    /// Access key and fetch protection, as in the key byte.
    key: u8,
    /// What the key says of references and changes.
    referenced: bool,
    changed: bool,
}

struct Model {
    vm: Vm,
    pages: Vec<Page>,
    keys: bool,
}

fn address(page: usize) -> u64 {
    RAM + u64::try_from(page).expect("small") * PAGE
}

impl Model {
    /// Pages of the leaf around `page`.
    fn leaf(&self, page: usize) -> std::ops::Range<usize> {
        match self.vm.leaf(address(page)) {
            Some((2, _)) => page / 512 * 512..page / 512 * 512 + 512,
            _ => page..page + 1,
        }
    }

    fn touch(&mut self, page: usize, write: bool, by_guest: bool) {
        let was = self.pages[page].present;
        if by_guest {
            self.vm.touch(address(page), write).expect("RAM");
        } else {
            let at = ipa(address(page));
            self.vm
                .gmap
                .populate(&mut self.vm.machine, at)
                .expect("RAM");
        }
        let leaf = self.leaf(page);
        for one in &mut self.pages[leaf] {
            if !was {
                assert!(!one.present, "mapped over a page that was there");
                one.present = true;
                one.soft_dirty = true;
            }
            one.young = true;
            one.referenced = true;
            one.soft_dirty |= write;
            one.host_dirty |= write;
            one.changed |= write;
        }
    }

    /// Runs `ask` over a range in small slices and compares with `expected`, by leaves.
    fn ask(
        &mut self,
        from: usize,
        count: usize,
        expected: impl Fn(&mut Page) -> bool,
        ask: impl Fn(&Vm, u64, u64, &mut dyn FnMut(usize, usize)) -> Option<u64>,
    ) {
        let to = (from + count).min(PAGES);
        let mut wanted = vec![false; PAGES];
        let mut page = from;
        while page < to {
            let leaf = self.leaf(page);
            page = leaf.end;
            let mut any = false;
            for one in leaf.clone() {
                any |= self.pages[one].present & expected(&mut self.pages[one]);
            }
            wanted[leaf].fill(any);
        }
        let mut found = vec![false; PAGES];
        let mut at = address(from);
        loop {
            let mut report = |page: usize, count: usize| {
                assert!(!found[page], "reported twice");
                found[page..page + count].fill(true);
            };
            match ask(&self.vm, at, address(to), &mut report) {
                Some(next) => at = next,
                None => break,
            }
        }
        let marked =
            |marks: &[bool]| -> Vec<usize> { (0..PAGES).filter(|page| marks[*page]).collect() };
        assert_eq!(marked(&wanted), marked(&found));
    }

    fn apply(&mut self, op: &Op) {
        const SLICE: Budget = Budget::leaves(3);
        match *op {
            Op::Touch(page, write) => self.touch(page, write, true),
            Op::Populate(page) => self.touch(page, true, false),
            Op::Age(from, count) => self.ask(
                from,
                count,
                |page| std::mem::take(&mut page.young),
                |vm, at, to, report| {
                    let report = |at: arch::Ipa, bytes| report(index(at), pages(bytes));
                    let next = vm.gmap.age(&vm.machine, at, to, SLICE, report);
                    next.map(arch::Ipa::raw)
                },
            ),
            Op::SyncDirty(from, count) => self.ask(
                from,
                count,
                |page| std::mem::take(&mut page.soft_dirty),
                |vm, at, to, report| {
                    let report = |at: arch::Ipa, bytes| report(index(at), pages(bytes));
                    let next = vm.gmap.sync_dirty(&vm.machine, at, to, SLICE, report);
                    next.map(arch::Ipa::raw)
                },
            ),
            Op::SyncHost(from, count) => self.ask(
                from,
                count,
                |page| std::mem::take(&mut page.host_dirty),
                |vm, at, to, report| {
                    let report = |at: arch::Ipa, bytes| report(index(at), pages(bytes));
                    let next = vm.gmap.sync_host_dirty(&vm.machine, at, to, SLICE, report);
                    next.map(arch::Ipa::raw)
                },
            ),
            Op::Reclaim(from, count) => {
                let to = (from + count).min(PAGES);
                let (mut at, end) = (address(from), address(to));
                while at < end {
                    let gmap = &mut self.vm.gmap;
                    let next = gmap.reclaim(&mut self.vm.machine, ipa(at), end - at, SLICE);
                    at = next.expect("RAM").map_or(end, arch::Ipa::raw);
                }
                for page in &mut self.pages[from..to] {
                    *page = Page {
                        // Keys survive their page, and what a page has seen with them.
                        key: page.key,
                        referenced: page.referenced,
                        changed: page.changed,
                        ..Page::default()
                    };
                }
            }
            Op::Largest(largest) => self.vm.gmap.set_policy(Policy {
                largest,
                ..self.vm.gmap.policy()
            }),
            Op::SplitLarge => {
                let mut at = RAM;
                loop {
                    self.vm.fill_cache();
                    let (gmap, machine) = (&self.vm.gmap, &self.vm.machine);
                    let cache = &mut self.vm.cache;
                    let slice = Budget::leaves(3);
                    match gmap.split_large(machine, cache, at, RAM + BYTES, slice) {
                        (Some(next), _) => at = next.raw(),
                        (None, error) => break assert_eq!(error, None),
                    }
                }
                let largest = self.vm.gmap.policy().largest.number();
                let leaves = (0..PAGES).filter_map(|page| self.vm.leaf(address(page)));
                assert!(leaves.into_iter().all(|(level, _)| level >= largest));
            }
            Op::EnableKeys if self.keys => {}
            Op::EnableKeys => {
                self.vm.enable_keys();
                self.keys = true;
                for page in &mut self.pages {
                    (page.referenced, page.changed, page.key) = (false, false, 0);
                }
            }
            Op::SetKey(page, byte) => {
                let key = Key::from_byte(byte).expect("no reserved bit");
                self.vm.fill_cache();
                let (machine, cache) = (&self.vm.machine, &mut self.vm.cache);
                let result = self
                    .vm
                    .gmap
                    .set_key(machine, cache, ipa(address(page)), key);
                if !self.keys {
                    return assert_eq!(result, Err(KeyError::Off));
                }
                assert_eq!(result, Ok(()));
                let one = &mut self.pages[page];
                one.key = byte & 0xf8;
                (one.referenced, one.changed) = (byte & 4 != 0, byte & 2 != 0);
                one.soft_dirty |= one.present;
            }
            Op::ResetReferenced(page) if self.keys => {
                self.vm.fill_cache();
                let (machine, cache) = (&self.vm.machine, &mut self.vm.cache);
                let at = ipa(address(page));
                let old = self.vm.gmap.reset_referenced(machine, cache, at);
                let one = &mut self.pages[page];
                assert_eq!(old, Ok((one.referenced, one.changed)));
                one.referenced = false;
            }
            Op::ResetReferenced(_) => {}
        }
    }

    fn check(&self) {
        for (page, one) in self.pages.iter().enumerate() {
            let at = address(page);
            if page % 64 > 2 && page % 512 != 511 && page < 2048 && page != 255 {
                continue;
            }
            assert_eq!(self.vm.leaf(at).is_some(), one.present, "page {page}");
            let key = self.vm.gmap.key(&self.vm.machine, ipa(at));
            if self.keys {
                let byte = one.key | u8::from(one.referenced) << 2 | u8::from(one.changed) << 1;
                assert_eq!(key.map(Key::byte), Ok(byte), "page {page}");
            } else {
                assert_eq!(key, Err(KeyError::Off));
            }
        }
    }
}

fn index(at: arch::Ipa) -> usize {
    pages(at.raw() - RAM)
}

fn pages(bytes: u64) -> usize {
    usize::try_from(bytes / PAGE).expect("small")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(1_000)))]

    /// With hardware updates and without, whatever is asked: age, dirty log, host dirty
    /// state and storage keys are exact, each independent of the others (B11, B17, B18,
    /// B19, B23, B25, B27, B39).
    #[test]
    fn what_was_touched_is_known_exactly(
        ops in prop::collection::vec(op(), 1..40),
        hafdbs in any::<bool>(),
        bbm2 in any::<bool>(),
    ) {
        let mut vm = Vm::new(BYTES, hafdbs);
        vm.gmap.set_bbm2(bbm2);
        let pages = vec![Page::default(); PAGES];
        let mut model = Model { vm, pages, keys: false };
        for op in &ops {
            model.apply(op);
            model.check();
        }
        model.vm.end();
    }
}

#[test]
fn b11_a_clean_guest_takes_no_second_fault_where_hardware_keeps_the_flags() {
    for (hafdbs, second) in [(true, 0), (false, 1)] {
        let mut vm = Vm::new(LARGE, hafdbs);
        assert_eq!(vm.touch(RAM, false), Ok(1));
        assert_eq!(vm.touch(RAM + 8, true), Ok(second), "first write");
        assert_eq!(vm.touch(RAM + PAGE, true), Ok(0));
        assert_eq!(vm.gmap.stats().minor_faults, u64::from(second));
        vm.end();
    }
}

#[test]
fn b10_a_minor_fault_takes_no_frame() {
    let mut vm = Vm::new(LARGE, false);
    vm.touch(RAM, false).expect("RAM");
    let (free, invalidations) = (vm.machine.free_bytes(), vm.machine.invalidations.get());
    vm.gmap
        .age(&vm.machine, RAM, RAM + LARGE, Budget::SLICE, |_, _| ());
    assert_eq!(vm.touch(RAM, true), Ok(1));
    assert_eq!(vm.machine.free_bytes(), free);
    assert_eq!(vm.gmap.stats().minor_faults, 1);
    // One for age; the fix-up of an old leaf needs none, for no TLB has it.
    assert_eq!(vm.machine.invalidations.get(), invalidations + 1);
    vm.end();
}

#[test]
fn b18_a_second_sync_is_empty() {
    let mut vm = Vm::new(4 * LARGE, true);
    for at in (0..4 * LARGE).step_by(64 * 4096) {
        vm.touch(RAM + at, at % (3 * 64 * 4096) == 0).expect("RAM");
    }
    let sync = |vm: &Vm| {
        let mut bytes = 0;
        let end = RAM + 4 * LARGE;
        let done = vm
            .gmap
            .sync_dirty(&vm.machine, RAM, end, Budget::UNBOUNDED, |_, n| bytes += n);
        assert_eq!(done, None);
        bytes
    };
    assert_eq!(sync(&vm), 4 * LARGE);
    assert_eq!(sync(&vm), 0);
    vm.touch(RAM + LARGE, true).expect("RAM");
    vm.touch(RAM + 2 * LARGE, false).expect("RAM");
    assert_eq!(sync(&vm), LARGE);
    assert_eq!(sync(&vm), 0);
    vm.end();
}

#[test]
fn b21_a_fixed_mapping_is_never_dirty_or_young_for_anyone() {
    let mut vm = Vm::new(0, true);
    let (at, pa) = (ipa(RAM), arch::Pa::new(1 << 40).expect("fits"));
    let (attr, perm) = (gmap::Attr::Device, gmap::Perm::RW);
    vm.gmap
        .map(&mut vm.machine, at, pa, LARGE + PAGE, attr, perm)
        .expect("free");
    vm.touch(RAM, true).expect("mapped");
    vm.touch(RAM + LARGE, true).expect("mapped");
    for at in [RAM, RAM + LARGE] {
        let (leaf, _) = vm.gmap.leaf(&vm.machine, ipa(at)).expect("mapped");
        assert!(leaf.dirty() && !leaf.host_dirty());
    }
    let end = RAM + 2 * LARGE;
    let none = |_, _| panic!("reported");
    vm.gmap
        .sync_dirty(&vm.machine, RAM, end, Budget::SLICE, none);
    vm.gmap
        .sync_host_dirty(&vm.machine, RAM, end, Budget::SLICE, none);
    vm.gmap.age(&vm.machine, RAM, end, Budget::SLICE, none);
    vm.end();
}

#[test]
fn b20_taking_a_pinned_page_is_told_and_age_leaves_it_alone() {
    let mut vm = Vm::new(LARGE, true);
    vm.gmap.set_policy(Policy {
        largest: Level::L3,
        ..vm.gmap.policy()
    });
    assert!(!vm.gmap.pin(&vm.machine, ipa(RAM)), "nothing there to pin");
    vm.touch(RAM, false).expect("RAM");
    assert!(vm.gmap.pin(&vm.machine, ipa(RAM)));
    for _ in 0..2 {
        let mut seen = 0;
        vm.gmap
            .age(&vm.machine, RAM, RAM + LARGE, Budget::SLICE, |_, _| {
                seen += 1
            });
        vm.gmap
            .sync_dirty(&vm.machine, RAM, RAM + LARGE, Budget::SLICE, |_, _| {
                seen += 1
            });
        assert_eq!(seen, 2, "reported as long as it is pinned");
        assert_eq!(vm.touch(RAM, true), Ok(0), "but never faults");
    }
    assert!(vm.machine.events.borrow().is_empty());
    let taken = vm
        .gmap
        .reclaim(&mut vm.machine, ipa(RAM), PAGE, Budget::SLICE);
    assert_eq!(taken, Ok(None));
    let lost = gmap::Event::PinLost {
        ipa: ipa(RAM),
        level: Level::L3,
    };
    assert_eq!(*vm.machine.events.borrow(), [lost]);
    let access = Access::WRITE;
    vm.gmap
        .fault(&mut vm.machine, ipa(RAM), access)
        .expect("RAM again");
    assert!(vm.gmap.pin(&vm.machine, ipa(RAM)), "pinned again");
    vm.end();
}
