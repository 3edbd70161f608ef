//! The entry walker with every combination of its flags, and the range walker (B02 to B04).

use crate::machine::Fake;
use crate::vm::{LARGE, PAGE, RAM, Vm, ipa};
use arch::Pa;
use gmap::{
    Attr, Budget, Cache, Entry, Features, Flags, Gmap, Level, Machine, Perm, Policy, Stop,
    WalkError,
};

const FLAGS: [Flags; 7] = [
    Flags::LEAF,
    Flags::ANY,
    Flags::ALLOC,
    Flags::SPLIT,
    Flags::IGN_HOLES,
    Flags::CONTINUE,
    Flags::USES_KEYS,
];

const LEVELS: [Level; 4] = [Level::L0, Level::L1, Level::L2, Level::L3];

/// What lies at an address before the walk: the level at which the tables end, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum There {
    Empty(u8),
    Hole(u8),
    Leaf(u8),
    Outside,
}

/// What the walk must answer: the level reached and what is there, or why not.
fn expected(there: There, target: u8, bits: u8, pages: usize) -> Result<(u8, There), WalkError> {
    let [leaf, any, alloc, split, holes, go_on, _] =
        [1, 2, 4, 8, 16, 32, 64].map(|b| bits & b != 0);
    if target == 0 {
        return Err(WalkError::BadLevel);
    }
    let at = match there {
        There::Outside => return Err(WalkError::AddressSize),
        There::Empty(level) | There::Hole(level) | There::Leaf(level) => level,
    };
    if matches!(there, There::Hole(_)) && !holes && (target >= at || go_on) {
        return Err(WalkError::AddressSize);
    }
    if target < at {
        // Tables all the way: the target is one, unless the walk goes on to what ends it.
        return match go_on {
            true => Ok((at, there)),
            false => Ok((target, there)),
        };
    }
    if target == at {
        return Ok((at, there));
    }
    let needed = usize::from(target - at);
    match there {
        There::Leaf(_) if leaf => Ok((at, there)),
        There::Leaf(_) if split && pages >= needed => Ok((target, There::Leaf(target))),
        There::Leaf(_) if split => Err(WalkError::NoMemory),
        There::Leaf(_) if any => Ok((at, there)),
        There::Leaf(_) => Err(WalkError::LargerLeaf),
        _ if alloc && pages >= needed => Ok((target, there)),
        _ if alloc => Err(WalkError::NoMemory),
        _ if any => Ok((at, there)),
        _ => Err(WalkError::NotPresent),
    }
}

/// A space of 40 bits that holds every kind of ending at every level.
fn prepare() -> (Fake, Gmap, Vec<(u64, There)>) {
    let mut machine = Fake::new(1000);
    let features = Features::default();
    let mut gmap = Gmap::new(&mut machine, 1, 40, features).expect("memory");
    let (g, m) = (1_u64 << 30, LARGE);
    let rw = Perm::RW;
    let pa = |raw| Pa::new(raw).expect("fits");
    // A leaf of each size; the last makes holes at levels 2 and 3 beside it.
    let map = |gmap: &mut Gmap, machine: &mut Fake, at, to, bytes| {
        let result = gmap.map(machine, ipa(at), pa(to), bytes, Attr::Normal, rw);
        result.expect("free");
    };
    map(&mut gmap, &mut machine, 4 * g, 1 << 40, g);
    map(&mut gmap, &mut machine, 6 * g, 1 << 40, m);
    map(&mut gmap, &mut machine, 6 * g + 2 * m, 1 << 40, PAGE);
    // Empty at level 1, at level 2 and, beside a page that is populated, at level 3.
    gmap.add_ram(&mut machine, ipa(8 * g), 2 * g).expect("free");
    gmap.add_ram(&mut machine, ipa(12 * g), 4 * m)
        .expect("free");
    gmap.set_policy(Policy {
        largest: Level::L3,
        ..Policy::default()
    });
    let write = gmap::Access::WRITE;
    gmap.fault(&mut machine, ipa(12 * g + m), write)
        .expect("RAM");
    let places = vec![
        (4 * g + 5 * m, There::Leaf(1)),
        (6 * g + PAGE, There::Leaf(2)),
        (6 * g + 2 * m, There::Leaf(3)),
        (5 * g, There::Hole(1)),
        (6 * g + 9 * m, There::Hole(2)),
        (6 * g + 2 * m + PAGE, There::Hole(3)),
        (8 * g + 7 * PAGE, There::Empty(1)),
        (12 * g + 7 * PAGE, There::Empty(2)),
        (12 * g + m + PAGE, There::Empty(3)),
        (1 << 40, There::Outside),
    ];
    (machine, gmap, places)
}

#[test]
fn b02_every_combination_of_flags_gives_exactly_the_result_it_promises() {
    let (_, _, places) = prepare();
    for (at, there) in places {
        for target in LEVELS {
            for bits in 0..128_u8 {
                for pages in [0, 1, 8] {
                    let (mut machine, gmap, _) = prepare();
                    let mut cache = Cache::new();
                    cache.topup(&mut machine, pages).expect("memory");
                    let set = FLAGS.iter().enumerate();
                    let set = set.filter(|(n, _)| bits >> n & 1 == 1);
                    let flags = set.fold(Flags::NONE, |sum, (_, flag)| sum | *flag);
                    let keys = bits & 0b100_1000 == 0b100_1000 && bits & 1 == 0;
                    if keys && matches!(there, There::Leaf(1 | 2)) && pages < 8 {
                        // Room for keys comes first; how much is not this test's matter.
                        continue;
                    }
                    let result = gmap.walk(&machine, &mut cache, ipa(at), target, flags);
                    let found = result.map(|place| {
                        let level = place.level().number();
                        match place.entry() {
                            Entry::Leaf(_) => (level, There::Leaf(level)),
                            Entry::Hole(_) => (level, There::Hole(level)),
                            Entry::Empty => (level, There::Empty(level)),
                            Entry::Table(_) => (level, there),
                            other => panic!("{other:?}"),
                        }
                    });
                    let wanted = expected(there, target.number(), bits, pages);
                    let wanted = wanted.map(|(level, what)| match what {
                        There::Hole(_) if level >= depth(there) => (level, There::Hole(level)),
                        There::Empty(_) if level >= depth(there) => (level, There::Empty(level)),
                        other => (level, other),
                    });
                    let what = format!("{there:?} to {target:?} flags {bits:#x} pages {pages}");
                    assert_eq!(found, wanted, "{what}");
                }
            }
        }
    }
}

fn depth(there: There) -> u8 {
    match there {
        There::Empty(level) | There::Hole(level) | There::Leaf(level) => level,
        There::Outside => 0,
    }
}

#[test]
fn b03_a_range_walk_stops_at_once_where_its_visitor_says_so() {
    let mut vm = Vm::new(8 * LARGE, true);
    for n in 0..8 {
        vm.touch(RAM + n * LARGE, true).expect("RAM");
    }
    let mut seen = Vec::new();
    let visit = |_: &Fake, at: arch::Ipa, place: &mut gmap::Place| match place.entry() {
        Entry::Leaf(_) => {
            seen.push(at.raw());
            if seen.len() == 3 {
                Err("enough")
            } else {
                Ok(())
            }
        }
        _ => Ok(()),
    };
    let end = RAM + 8 * LARGE;
    let result = vm
        .gmap
        .range(&vm.machine, RAM, end, true, Budget::UNBOUNDED, visit);
    let third = RAM + 2 * LARGE;
    let why = "enough";
    assert_eq!(
        result,
        Err(Stop::Visitor {
            at: ipa(third),
            why
        })
    );
    assert_eq!(seen, [RAM, RAM + LARGE, third]);
    vm.end();
}

#[test]
fn b03_a_range_walk_in_slices_sees_what_one_walk_sees() {
    let mut vm = Vm::new(8 * LARGE, true);
    for n in [0, 3, 4, 7] {
        vm.touch(RAM + n * LARGE, true).expect("RAM");
    }
    vm.gmap
        .reclaim(
            &mut vm.machine,
            ipa(RAM + 3 * LARGE),
            5 * PAGE,
            Budget::SLICE,
        )
        .expect("RAM");
    let walk = |budget: Budget| {
        let (mut leaves, mut at, end) = (Vec::new(), 0, RAM + 9 * LARGE);
        while at < end {
            let visit = |_: &Fake, ipa: arch::Ipa, place: &mut gmap::Place| {
                if let Entry::Leaf(_) = place.entry() {
                    leaves.push((ipa.raw(), place.level()));
                }
                Ok::<(), ()>(())
            };
            let next = vm.gmap.range(&vm.machine, at, end, true, budget, visit);
            let next = next.expect("nobody stops it");
            assert!(next > at, "no progress");
            at = next;
        }
        leaves
    };
    let whole = walk(Budget::UNBOUNDED);
    assert_eq!(whole.len(), 3 + 507);
    assert_eq!(walk(Budget::leaves(1)), whole);
    assert_eq!(walk(Budget::leaves(7)), whole);
    vm.end();
}

#[test]
fn b03_a_range_that_begins_outside_the_space_is_an_error_unless_holes_are_ignored() {
    let vm = Vm::new(0, false);
    let never = |_: &Fake, _: arch::Ipa, _: &mut gmap::Place| -> Result<(), ()> { panic!("seen") };
    let (start, end) = (1 << 40, (1 << 40) + PAGE);
    let walk = |holes| {
        let machine = &vm.machine;
        vm.gmap
            .range(machine, start, end, holes, Budget::SLICE, never)
    };
    assert_eq!(walk(true), Ok(end));
    assert_eq!(walk(false), Err(Stop::AddressSize));
    vm.end();
}

#[test]
fn b04_a_split_keeps_every_bit_of_the_block() {
    for bbm2 in [false, true] {
        let mut vm = Vm::new(2 * LARGE, false);
        vm.gmap.set_bbm2(bbm2);
        vm.touch(RAM, true).expect("RAM");
        assert!(vm.gmap.watch(&vm.machine, ipa(RAM)));
        assert!(vm.gmap.pin(&vm.machine, ipa(RAM)));
        let (level, block) = vm.leaf(RAM).expect("mapped");
        assert_eq!(level, 2);
        let invalid_seen = vm.machine.invalidations.get();
        vm.fill_cache();
        let machine = &vm.machine;
        let place = vm.gmap.walk(
            machine,
            &mut vm.cache,
            ipa(RAM + PAGE),
            Level::L3,
            Flags::SPLIT,
        );
        assert_eq!(place.map(|p| p.level()), Ok(Level::L3));
        assert_eq!(vm.machine.invalidations.get(), invalid_seen + 1);
        for n in 0..512 {
            let page = vm.leaf(RAM + n * PAGE).expect("mapped");
            // A page has bit 1 set, and its own output address.
            assert_eq!(page, (3, (block | 2) + n * PAGE));
        }
        // Without BBM level 2 a pinned vCPU is told that the block goes away for a moment.
        let told = vm.machine.events.borrow().len();
        assert_eq!(told, usize::from(!bbm2));
        vm.end();
    }
}

#[test]
fn b04_a_gibibyte_becomes_blocks_and_one_of_them_pages() {
    let mut vm = Vm::new(0, false);
    let (at, pa) = (ipa(RAM), Pa::new(1 << 40).expect("fits"));
    vm.gmap
        .map(&mut vm.machine, at, pa, 1 << 30, Attr::NormalNc, Perm::R)
        .expect("free");
    let hole = ipa(RAM + 3 * LARGE + 9 * PAGE);
    vm.gmap.unmap(&mut vm.machine, hole, PAGE).expect("mapped");
    assert_eq!(vm.gmap.stats().leaves, [511, 511, 0]);
    assert_eq!(vm.gmap.stats().splits, 2);
    let (block, _) = (vm.leaf(RAM).expect("mapped"), ());
    // Read-only, Normal non-cacheable (0x5), not executable, special (bit 56).
    assert_eq!(
        block,
        (2, 1 << 56 | 1 << 54 | 1 << 40 | 0x700 | 0x40 | 0x5 << 2 | 1)
    );
    assert_eq!(vm.leaf(hole.raw()), None);
    vm.machine.invalidate_vmid(3);
    vm.end();
}
