//! W4: whichever allocation of an operation fails, it ends, says so, and loses nothing: each
//! operation for itself.

use crate::machine::Fake;
use crate::vm::{LARGE, PAGE, RAM, Vm, ipa};
use arch::Pa;
use gmap::{
    Access, Attr, Budget, Cache, Features, Flags, Gmap, Key, KeyError, Level, Machine, Perm,
    Policy, Progress, ReleaseRing, Shrink, Sift, StateOp,
};

const SLICE: Budget = Budget::leaves(40);
/// Slices that the longest of them needs many times over.
const ENOUGH: usize = 500;
const END: u64 = RAM + 4 * LARGE;
/// What the page at [`RAM`] holds.
const CONTENT: u64 = 4711;

/// Two spaces over one machine: the first has a block and pages, the second nothing yet.
struct Two {
    vm: Vm,
    other: Gmap,
    ring: ReleaseRing,
    /// A frame that the test holds.
    frame: Pa,
}

impl Two {
    fn new() -> Self {
        let mut vm = Vm::new(4 * LARGE, true);
        vm.gmap.enable_states().expect("no vCPU");
        let features = Features {
            fwb: true,
            hafdbs: true,
        };
        let mut other = Gmap::new(&mut vm.machine, 9, 40, features).expect("memory");
        other
            .add_ram(&mut vm.machine, ipa(RAM), 4 * LARGE)
            .expect("free");
        for at in [RAM, RAM + LARGE] {
            vm.touch(at, true).expect("RAM");
        }
        vm.gmap.set_policy(Policy {
            largest: Level::L3,
            ..vm.gmap.policy()
        });
        for page in 0..3 {
            vm.touch(RAM + 3 * LARGE + page * PAGE, true).expect("RAM");
        }
        vm.gmap.set_policy(Policy {
            largest: Level::L2,
            ..vm.gmap.policy()
        });
        let pa = vm.gmap.translate(&vm.machine, ipa(RAM)).expect("there").0;
        vm.machine.set_content(pa.raw(), CONTENT);
        let frame = vm.machine.alloc(0).expect("memory");
        vm.machine.scrub(frame, 0);
        Self {
            vm,
            other,
            ring: ReleaseRing::new(),
            frame,
        }
    }

    /// What the guest reads at [`RAM`], if a load does not fault.
    fn content(&self) -> Option<u64> {
        let (pa, _) = self.vm.gmap.translate(&self.vm.machine, ipa(RAM))?;
        Some(self.vm.machine.content(pa.raw()))
    }

    /// Ends both and checks that every frame is back.
    fn end(mut self) {
        self.vm.machine.release(self.frame, 0);
        self.vm.cache.release(&mut self.vm.machine);
        while self.other.destroy(&mut self.vm.machine, 40) == Progress::More {}
        self.vm.end();
    }
}

/// Does something with the pages and tables it is given; false if there were too few.
fn with_cache(
    two: &mut Two,
    f: impl Fn(&Gmap, &Fake, &mut Cache, &mut ReleaseRing) -> Result<(), KeyError>,
) -> bool {
    for _ in 0..ENOUGH {
        let (machine, cache) = (&two.vm.machine, &mut two.vm.cache);
        match f(&two.vm.gmap, machine, cache, &mut two.ring) {
            Ok(()) => return true,
            Err(KeyError::NoMemory) => {
                if two.vm.cache.topup(&mut two.vm.machine, 8).is_err() {
                    return false;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("asks for memory for ever");
}

fn keys(two: &mut Two) -> bool {
    for _ in 0..ENOUGH {
        let (machine, cache) = (&two.vm.machine, &mut two.vm.cache);
        match two.vm.gmap.enable_keys(machine, cache, SLICE) {
            Ok(None) => return true,
            Ok(Some(_)) => {}
            Err(KeyError::NoMemory) => {
                if two.vm.cache.topup(&mut two.vm.machine, 8).is_err() {
                    return false;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("keys are never in use");
}

/// Calls `slice` until it is done or fails.
fn slices(mut slice: impl FnMut(u64) -> Result<Option<arch::Ipa>, ()>, start: u64) -> bool {
    let mut at = start;
    for _ in 0..ENOUGH {
        match slice(at) {
            Ok(None) => return true,
            Ok(Some(next)) => at = next.raw(),
            Err(()) => return false,
        }
    }
    panic!("does not come to an end");
}

fn share(two: &mut Two) -> bool {
    let (gmap, machine) = (&mut two.vm.gmap, &mut two.vm.machine);
    let other = &mut two.other;
    let one = |at| {
        gmap.share_with(other, machine, (at, END), SLICE)
            .map_err(|_| ())
    };
    slices(one, RAM)
}

type Operation = (&'static str, fn(&mut Two) -> bool, fn(&mut Two) -> bool);

fn nothing(_: &mut Two) -> bool {
    true
}

/// Name, what comes before it with all the memory it wants, and the operation itself; both
/// return whether there was enough.
const OPERATIONS: &[Operation] = &[
    ("populate a page", nothing, |two| {
        two.vm.gmap.set_policy(Policy {
            largest: Level::L3,
            ..two.vm.gmap.policy()
        });
        let at = ipa(RAM + 2 * LARGE);
        two.vm.gmap.populate(&mut two.vm.machine, at).is_ok()
    }),
    ("populate a block", nothing, |two| {
        let at = ipa(RAM + 2 * LARGE);
        two.vm.gmap.populate(&mut two.vm.machine, at).is_ok()
    }),
    ("fault with a cache", nothing, |two| {
        let (machine, cache) = (&mut two.vm.machine, &mut two.vm.cache);
        let at = ipa(RAM + 2 * LARGE);
        two.vm
            .gmap
            .fault_with(machine, cache, at, Access::READ)
            .is_ok()
    }),
    ("map", nothing, |two| {
        let pa = Pa::new(1 << 40).expect("fits");
        let (attr, perm) = (Attr::Device, Perm::RW);
        let machine = &mut two.vm.machine;
        two.vm
            .gmap
            .map(machine, ipa(9 << 30), pa, LARGE + PAGE, attr, perm)
            .is_ok()
    }),
    (
        "unmap a part",
        |two| {
            let pa = Pa::new(1 << 40).expect("fits");
            let (attr, perm) = (Attr::Device, Perm::RW);
            let machine = &mut two.vm.machine;
            two.vm
                .gmap
                .map(machine, ipa(9 << 30), pa, LARGE, attr, perm)
                .is_ok()
        },
        |two| {
            let at = ipa((9 << 30) + PAGE);
            two.vm.gmap.unmap(&mut two.vm.machine, at, PAGE).is_ok()
        },
    ),
    ("add RAM", nothing, |two| {
        let at = ipa((16 << 30) + PAGE);
        let machine = &mut two.vm.machine;
        two.vm.gmap.add_ram(machine, at, LARGE).is_ok()
    }),
    ("delete RAM", nothing, |two| {
        let (gmap, machine) = (&mut two.other, &mut two.vm.machine);
        slices(
            |_| gmap.delete_ram(machine, ipa(RAM), SLICE).map_err(|_| ()),
            0,
        )
    }),
    ("move RAM", share, |two| {
        let (gmap, machine) = (&mut two.other, &mut two.vm.machine);
        let (from, to) = (ipa(RAM), ipa(RAM + (20 << 30) + PAGE));
        slices(
            |_| gmap.move_ram(machine, from, to, SLICE).map_err(|_| ()),
            0,
        )
    }),
    ("reclaim a part", nothing, |two| {
        let at = ipa(RAM + LARGE + PAGE);
        let machine = &mut two.vm.machine;
        two.vm.gmap.reclaim(machine, at, PAGE, SLICE).is_ok()
    }),
    ("split", nothing, |two| {
        if two.vm.cache.topup(&mut two.vm.machine, 3).is_err() {
            return false;
        }
        let (machine, cache) = (&two.vm.machine, &mut two.vm.cache);
        let place = two
            .vm
            .gmap
            .walk(machine, cache, ipa(RAM), Level::L3, Flags::SPLIT);
        place.is_ok()
    }),
    ("enable keys", nothing, keys),
    ("set a key in a block", keys, |two| {
        let key = Key::from_byte(0x30).expect("a key");
        with_cache(two, |gmap, machine, cache, _| {
            gmap.set_key(machine, cache, ipa(RAM + 7 * PAGE), key)
        })
    }),
    ("set a key of a page that is not there", keys, |two| {
        let key = Key::from_byte(0x30).expect("a key");
        with_cache(two, |gmap, machine, cache, _| {
            gmap.set_key(machine, cache, ipa(RAM + 2 * LARGE), key)
        })
    }),
    ("say that a page in a block is unused", nothing, |two| {
        with_cache(two, |gmap, machine, cache, ring| {
            gmap.page_state(
                machine,
                cache,
                ring,
                StateOp::Unused,
                ipa(RAM + LARGE + PAGE),
            )
            .map(|_| ())
        })
    }),
    ("write a state", nothing, |two| {
        with_cache(two, |gmap, machine, cache, _| {
            gmap.write_state(machine, cache, ipa(RAM + 2 * LARGE), 0x43)
        })
    }),
    ("share", nothing, share),
    ("link a shared frame", nothing, |two| {
        let (machine, cache) = (&mut two.vm.machine, &mut two.vm.cache);
        let at = ipa(RAM + 2 * LARGE);
        two.other
            .link_shared(machine, cache, at, two.frame, Level::L3)
            .is_ok()
    }),
    ("copy a page that is shared", share, |two| {
        let (machine, cache) = (&mut two.vm.machine, &mut two.vm.cache);
        let write = Access::WRITE;
        two.other.unshare(machine, cache, ipa(RAM), write).is_ok()
    }),
    ("populate what is shared", share, |two| {
        let machine = &mut two.vm.machine;
        two.other.populate_own(machine, ipa(RAM + PAGE)).is_ok()
    }),
    ("end all sharing", share, |two| {
        let (gmap, machine) = (&mut two.vm.gmap, &mut two.vm.machine);
        gmap.set_policy(Policy {
            copy: Level::L2,
            ..gmap.policy()
        });
        let one = |at| gmap.unshare_all(machine, at, END, SLICE).map_err(|_| ());
        slices(one, RAM)
    }),
    ("show zeroes", nothing, |two| {
        two.vm.gmap.set_policy(Policy {
            zeroes: true,
            ..two.vm.gmap.policy()
        });
        two.vm.machine.zeroes.set(Some((two.frame.raw(), 0)));
        let (machine, cache) = (&mut two.vm.machine, &mut two.vm.cache);
        let at = ipa(RAM + 2 * LARGE);
        let read = Access::READ;
        let result = two.vm.gmap.fault_with(machine, cache, at, read);
        // Taken out again: the frame is the test's.
        let machine = &mut two.vm.machine;
        let gone = two.vm.gmap.reclaim(machine, at, PAGE, SLICE);
        two.vm.machine.zeroes.set(None);
        gone.expect("nothing is split");
        result.is_ok()
    }),
    ("move frames", nothing, |two| {
        let (gmap, machine) = (&mut two.vm.gmap, &mut two.vm.machine);
        let one = |at| {
            let moved = gmap.move_frames(machine, (at, END), SLICE, |_, _| true);
            if moved.short { Err(()) } else { Ok(moved.next) }
        };
        slices(one, RAM)
    }),
    (
        "collapse",
        |two| {
            // Pages of one frame, but for one that lies elsewhere.
            two.vm.fill_cache();
            let (machine, cache) = (&two.vm.machine, &mut two.vm.cache);
            let at = ipa(RAM + LARGE);
            let place = two
                .vm
                .gmap
                .walk(machine, cache, at, Level::L3, Flags::SPLIT);
            let range = (at.raw(), at.raw() + PAGE);
            let machine = &mut two.vm.machine;
            let moved = two.vm.gmap.move_frames(machine, range, SLICE, |_, _| true);
            place.is_ok() && moved.bytes == PAGE
        },
        |two| {
            let (gmap, machine) = (&mut two.vm.gmap, &mut two.vm.machine);
            let mut short = 0;
            let one = |at| {
                let done = gmap.collapse(machine, (at, END), Budget::UNBOUNDED);
                short += done.short;
                Ok(done.next)
            };
            slices(one, RAM) && short == 0
        },
    ),
    ("drop zeroes", nothing, |two| {
        let (gmap, machine) = (&mut two.vm.gmap, &mut two.vm.machine);
        slices(
            |at| Ok(gmap.drop_zeroes(machine, (at, END), SLICE, |_, _| ())),
            RAM,
        )
    }),
    ("sift", nothing, |two| {
        let (gmap, machine) = (&mut two.vm.gmap, &mut two.vm.machine);
        let sift = Sift {
            unused: true,
            volatile: true,
        };
        slices(
            |at| Ok(gmap.sift(machine, (at, END), sift, SLICE, |_, _| ()).1),
            RAM,
        )
    }),
    ("shrink", nothing, |two| {
        let (gmap, machine) = (&mut two.vm.gmap, &mut two.vm.machine);
        let mut shrink = Shrink::default();
        let mut left = ENOUGH;
        while gmap.shrink(machine, &mut shrink, LARGE, SLICE, |_, _| ()) == Progress::More {
            left -= 1;
            assert!(left > 0, "does not come to an end");
        }
        true
    }),
    ("widen", nothing, |two| {
        two.vm.gmap.set_ipa_bits(&mut two.vm.machine, 48).is_ok()
    }),
    ("narrow", nothing, |two| {
        two.other.set_ipa_bits(&mut two.vm.machine, 36).is_ok()
    }),
];

#[test]
fn w4_whichever_allocation_of_whichever_operation_fails_it_ends_and_nothing_is_lost() {
    let mut fallible = 0;
    for (name, before, operation) in OPERATIONS {
        let mut failures = 0;
        for n in 0..200 {
            let mut whole = true;
            // Only the n-th allocation fails, or all from the n-th on.
            for forever in [false, true] {
                let mut two = Two::new();
                assert!(before(&mut two), "{name}: what comes before has memory");
                two.vm.cache.release(&mut two.vm.machine);
                let content = two.content();
                two.vm.machine.fail_at.set(Some((n, forever)));
                let enough = operation(&mut two);
                let failed = two
                    .vm
                    .machine
                    .fail_at
                    .take()
                    .is_none_or(|(left, _)| left == 0);
                // A failure may also be made up for: pages instead of a block.
                assert!(failed || enough, "{name} gave up at allocation {n}");
                assert!(
                    content.is_none() || *name == "shrink" || two.content() == content,
                    "{name} lost what the guest wrote, allocation {n}"
                );
                failures += u32::from(!enough);
                whole &= !failed;
                two.end();
            }
            if whole {
                break;
            }
            assert!(n < 199, "{name} allocates without end");
        }
        fallible += u32::from(failures > 0);
    }
    assert!(fallible >= 18, "only {fallible} of them can fail");
}
