//! Faults, splits, dirty syncs and reclaim on several CPUs, in every interleaving.
//!
//! loom tries every order of the steps that meet: the entries named to `Tiny::watch` are its
//! atomics, everything else is memory that only one thread touches or that never changes.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test that goes wrong should panic"
)]

use arch::{Ipa, Pa};
use gmap::{Access, Budget, Cache, Features, Flags, Gmap, Level, LinkError, Look, Machine, Policy};
use loom::sync::RwLock;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

const RAM: u64 = 1 << 30;
const LARGE: u64 = 2 << 20;

/// Table memory and a pool, shared by the threads of a model.
#[derive(Clone)]
struct Tiny(Arc<Shared>);

struct Shared {
    plain: Mutex<HashMap<(u64, usize), u64>>,
    watched: Mutex<HashMap<(u64, usize), Arc<AtomicU64>>>,
    free: Mutex<Vec<u64>>,
    held: Mutex<Vec<u64>>,
    /// Users of a page besides the first.
    users: Mutex<HashMap<u64, u32>>,
    next: Mutex<u64>,
}

impl Tiny {
    fn new() -> Self {
        Self(Arc::new(Shared {
            plain: Mutex::default(),
            watched: Mutex::default(),
            free: Mutex::default(),
            held: Mutex::default(),
            users: Mutex::default(),
            next: Mutex::new(1 << 32),
        }))
    }

    /// From now on, accesses to this entry are steps that loom orders.
    fn watch(&self, table: u64, index: usize) {
        let plain = self.0.plain.lock().expect("one thread a time");
        let value = plain.get(&(table, index)).copied().unwrap_or(0);
        let atomic = Arc::new(AtomicU64::new(value));
        let mut watched = self.0.watched.lock().expect("one thread a time");
        watched.insert((table, index), atomic);
    }

    fn watched(&self, table: Pa, index: usize) -> Option<Arc<AtomicU64>> {
        let watched = self.0.watched.lock().expect("one thread a time");
        watched.get(&(table.raw(), index)).cloned()
    }

    fn held(&self) -> usize {
        self.0.held.lock().expect("one thread a time").len()
    }
}

impl Machine for Tiny {
    fn load(&self, table: Pa, index: usize) -> u64 {
        if let Some(atomic) = self.watched(table, index) {
            return atomic.load(Ordering::Acquire);
        }
        let plain = self.0.plain.lock().expect("one thread a time");
        plain.get(&(table.raw(), index)).copied().unwrap_or(0)
    }

    fn store(&self, table: Pa, index: usize, value: u64) {
        if let Some(atomic) = self.watched(table, index) {
            return atomic.store(value, Ordering::Release);
        }
        let mut plain = self.0.plain.lock().expect("one thread a time");
        plain.insert((table.raw(), index), value);
    }

    fn compare_exchange(&self, table: Pa, index: usize, old: u64, new: u64) -> Result<(), u64> {
        if let Some(atomic) = self.watched(table, index) {
            let (good, bad) = (Ordering::AcqRel, Ordering::Acquire);
            return atomic.compare_exchange(old, new, good, bad).map(|_| ());
        }
        let mut plain = self.0.plain.lock().expect("one thread a time");
        let entry = plain.entry((table.raw(), index)).or_insert(0);
        if *entry != old {
            return Err(*entry);
        }
        *entry = new;
        Ok(())
    }

    fn scrub(&self, pa: Pa, order: u8) {
        let end = pa.raw() + (4096 << order);
        let mut plain = self.0.plain.lock().expect("one thread a time");
        plain.retain(|(table, _), _| !(pa.raw()..end).contains(table));
    }

    fn copy(&self, to: Pa, from: Pa, order: u8) {
        for page in 0..1_u64 << order {
            let at = |pa: Pa| pa.raw() + (page << 12);
            let mut plain = self.0.plain.lock().expect("one thread a time");
            let value = plain.get(&(at(from), 0)).copied().unwrap_or(0);
            plain.insert((at(to), 0), value);
        }
    }

    fn is_zero(&self, pa: Pa, order: u8) -> bool {
        let end = pa.raw() + (4096 << order);
        let plain = self.0.plain.lock().expect("one thread a time");
        let mut words = plain.iter();
        words.all(|((at, _), word)| !(pa.raw()..end).contains(at) || *word == 0)
    }

    fn share(&self, pa: Pa, _: u8) -> bool {
        let mut users = self.0.users.lock().expect("one thread a time");
        *users.entry(pa.raw()).or_default() += 1;
        true
    }

    fn shared(&self, pa: Pa, _: u8) -> bool {
        let users = self.0.users.lock().expect("one thread a time");
        users.get(&pa.raw()).is_some_and(|more| *more > 0)
    }

    fn release(&mut self, pa: Pa, order: u8) {
        let mut users = self.0.users.lock().expect("one thread a time");
        match users.get_mut(&pa.raw()) {
            Some(more) if *more > 0 => *more -= 1,
            _ => {
                drop(users);
                self.free(pa, order);
            }
        }
    }

    fn alloc(&mut self, order: u8) -> Option<Pa> {
        let mut next = self.0.next.lock().expect("one thread a time");
        let size = 4096_u64 << order;
        let reused = match order {
            0 => self.0.free.lock().expect("one thread a time").pop(),
            _ => None,
        };
        let at = reused.unwrap_or_else(|| {
            let at = next.next_multiple_of(size);
            *next = at + size;
            at
        });
        self.0.held.lock().expect("one thread a time").push(at);
        Pa::new(at)
    }

    fn free(&mut self, pa: Pa, order: u8) {
        let mut held = self.0.held.lock().expect("one thread a time");
        let before = held.len();
        held.retain(|at| *at != pa.raw());
        assert_eq!(held.len() + 1, before, "freed once");
        if order == 0 {
            self.0
                .free
                .lock()
                .expect("one thread a time")
                .push(pa.raw());
        }
    }

    fn invalidate_ipa(&self, _: u16, _: Ipa, _: u8) {}

    fn invalidate_vmid(&self, _: u16) {}
}

fn ipa(raw: u64) -> Ipa {
    Ipa::new(raw).expect("low")
}

/// A space with four blocks of RAM, nothing populated; leaves no larger than `largest`.
fn space(largest: Level) -> (Tiny, Gmap) {
    let mut machine = Tiny::new();
    let mut gmap = Gmap::new(&mut machine, 1, 39, Features::default()).expect("memory");
    gmap.set_policy(Policy {
        largest,
        eager: false,
        ..Policy::default()
    });
    gmap.add_ram(&mut machine, ipa(RAM), 4 * LARGE)
        .expect("free");
    (machine, gmap)
}

/// The table that the entry of the block at [`RAM`] is in, and its index there.
fn block_entry(machine: &Tiny, gmap: &Gmap) -> (u64, usize) {
    let root = Pa::new(gmap.vttbr() & 0x0000_ffff_ffff_f000).expect("low");
    (machine.load(root, 1) & 0x0000_ffff_ffff_f000, 0)
}

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 100_000;
    builder.check(f);
}

#[test]
fn b12_a_write_is_never_lost_between_a_fix_up_a_split_and_a_sync() {
    for bbm2 in [false, true] {
        model(move || {
            let (mut machine, mut gmap) = space(Level::L2);
            gmap.set_bbm2(bbm2);
            gmap.fault(&mut machine, ipa(RAM), Access::READ)
                .expect("RAM");
            // All is logged and clean: what is dirty later was written later.
            gmap.sync_dirty(&machine, RAM, RAM + LARGE, Budget::SLICE, |_, _| ());
            let mut cache = Cache::new();
            cache.topup(&mut machine, 1).expect("memory");
            let table = *machine
                .0
                .held
                .lock()
                .expect("one thread")
                .last()
                .expect("held");
            let (parent, index) = block_entry(&machine, &gmap);
            machine.watch(parent, index);
            machine.watch(table, 0);
            let gmap = Arc::new(gmap);
            let splitter = thread::spawn({
                let (gmap, machine) = (gmap.clone(), machine.clone());
                move || {
                    let (at, flags) = (ipa(RAM), Flags::SPLIT);
                    let place = gmap.walk(&machine, &mut cache, at, Level::L3, flags);
                    assert!(place.is_ok());
                }
            });
            let syncer = thread::spawn({
                let (gmap, machine) = (gmap.clone(), machine.clone());
                move || {
                    let (mut at, end, mut seen) = (RAM, RAM + 4096, false);
                    loop {
                        let report = |_, _| seen = true;
                        let slice = Budget::SLICE;
                        match gmap.sync_dirty(&machine, at, end, slice, report) {
                            Some(next) => at = next.raw(),
                            None => return seen,
                        }
                        thread::yield_now();
                    }
                }
            });
            // The vCPU: its store has happened once its leaf was dirty.
            let mut own = machine.clone();
            let fault = gmap.fault(&mut own, ipa(RAM), Access::WRITE);
            let fixed = fault == Ok(gmap::Fault::AlreadyMapped);
            assert!(fixed, "mapped anew over what was there");
            let wrote = gmap.stats().minor_faults == 1;
            splitter.join().expect("no panic");
            let seen = syncer.join().expect("no panic");
            let (leaf, level) = gmap.leaf(&machine, ipa(RAM)).expect("mapped");
            assert_eq!(level, Level::L3);
            // Where it found the entry busy, the guest has not stored yet and comes again.
            assert_eq!(wrote, leaf.dirty() || seen, "a write was lost or made up");
        });
    }
}

#[test]
fn b12_of_two_vcpus_that_populate_a_page_one_frame_stays() {
    model(|| {
        let (mut machine, gmap) = space(Level::L3);
        // A neighbour is populated, so that the table is there.
        gmap.fault(&mut machine, ipa(RAM + 4096), Access::WRITE)
            .expect("RAM");
        let (parent, index) = block_entry(&machine, &gmap);
        let parent = Pa::new(parent).expect("low");
        let table = machine.load(parent, index) & 0x0000_ffff_ffff_f000;
        machine.watch(table, 0);
        let before = machine.held();
        let gmap = Arc::new(gmap);
        let other = thread::spawn({
            let (gmap, mut machine) = (gmap.clone(), machine.clone());
            move || gmap.fault(&mut machine, ipa(RAM), Access::WRITE).is_ok()
        });
        let mut own = machine.clone();
        assert!(gmap.fault(&mut own, ipa(RAM), Access::WRITE).is_ok());
        assert!(other.join().expect("no panic"));
        assert_eq!(machine.held(), before + 1, "the loser's frame is free");
        assert_eq!(gmap.stats().leaves, [2, 0, 0]);
    });
}

#[test]
fn b12_of_two_vcpus_that_build_a_table_one_table_stays() {
    model(|| {
        let (machine, gmap) = space(Level::L3);
        let (parent, index) = block_entry(&machine, &gmap);
        machine.watch(parent, index);
        let before = machine.held();
        let gmap = Arc::new(gmap);
        let other = thread::spawn({
            let (gmap, mut machine) = (gmap.clone(), machine.clone());
            move || gmap.fault(&mut machine, ipa(RAM), Access::WRITE).is_ok()
        });
        let mut own = machine.clone();
        assert!(gmap.fault(&mut own, ipa(RAM + 4096), Access::WRITE).is_ok());
        assert!(other.join().expect("no panic"));
        assert_eq!(machine.held(), before + 3, "two pages and one table");
        assert_eq!(gmap.stats().leaves, [2, 0, 0]);
    });
}

#[test]
fn b12_a_frame_looked_up_before_a_reclaim_is_linked_after_it_or_not_at_all() {
    model(|| {
        let (machine, gmap) = space(Level::L2);
        let before = machine.held();
        let gmap = Arc::new(RwLock::new(gmap));
        let reclaimer = thread::spawn({
            let (gmap, mut machine) = (gmap.clone(), machine.clone());
            move || {
                let mut gmap = gmap.write().expect("no panic");
                let was = gmap.leaf(&machine, ipa(RAM)).is_some();
                let next = gmap.reclaim(&mut machine, ipa(RAM), LARGE, Budget::SLICE);
                assert_eq!(next, Ok(None));
                assert_eq!(gmap.leaf(&machine, ipa(RAM)), None);
                was
            }
        });
        let mut own = machine.clone();
        let look = gmap
            .read()
            .expect("no panic")
            .look(&own, ipa(RAM), Access::WRITE);
        let Ok(Look::Missing(want)) = look else {
            panic!("{look:?}")
        };
        // Without the lock, as a scrub of 2 MiB should be.
        let frame = own.alloc(want.order()).expect("memory");
        own.scrub(frame, want.order());
        let mut cache = Cache::new();
        let result = {
            let gmap = gmap.read().expect("no panic");
            gmap.link(&own, &mut cache, want, frame, Access::WRITE, |_, _| ())
        };
        if result.is_err() {
            assert_eq!(result, Err(LinkError::Again));
            own.free(frame, want.order());
        }
        let taken = reclaimer.join().expect("no panic");
        let present = gmap
            .read()
            .expect("no panic")
            .leaf(&machine, ipa(RAM))
            .is_some();
        // Linked before the reclaim: taken. Looked up after it: stays. Else: refused.
        assert_eq!(present, result.is_ok() && !taken);
        assert_eq!(machine.held(), before + usize::from(present));
    });
}

#[test]
fn b12_a_copy_a_move_and_a_sync_lose_no_write() {
    // A page is shared with another VM; a vCPU writes to it, so that it gets a copy, while its
    // frame is moved and the dirty log is read.
    model(|| {
        let (mut machine, mut gmap) = space(Level::L3);
        let mut other = Gmap::new(&mut machine, 2, 39, Features::default()).expect("memory");
        other
            .add_ram(&mut machine, ipa(RAM), 4 * LARGE)
            .expect("free");
        gmap.fault(&mut machine, ipa(RAM), Access::WRITE)
            .expect("RAM");
        let shared = gmap.share_with(&mut other, &mut machine, (RAM, RAM + 4096), Budget::SLICE);
        assert_eq!(shared, Ok(None));
        gmap.sync_dirty(&machine, RAM, RAM + 4096, Budget::SLICE, |_, _| ());
        let (parent, index) = block_entry(&machine, &gmap);
        let parent = Pa::new(parent).expect("low");
        let table = machine.load(parent, index) & 0x0000_ffff_ffff_f000;
        machine.watch(table, 0);
        let before = machine.held();
        let gmap = Arc::new(RwLock::new(gmap));
        let mover = thread::spawn({
            let (gmap, mut machine) = (gmap.clone(), machine.clone());
            move || {
                let mut gmap = gmap.write().expect("no panic");
                let range = (RAM, RAM + 4096);
                let moved = gmap.move_frames(&mut machine, range, Budget::SLICE, |_, _| true);
                assert!(!moved.short);
            }
        });
        let syncer = thread::spawn({
            let (gmap, machine) = (gmap.clone(), machine.clone());
            move || {
                let gmap = gmap.read().expect("no panic");
                let mut seen = false;
                let (slice, report) = (Budget::SLICE, |_, _| seen = true);
                gmap.sync_dirty(&machine, RAM, RAM + 4096, slice, report);
                seen
            }
        });
        // The vCPU, as core does it: look under the lock, copy without it, link under it.
        let mut own = machine.clone();
        let mut cache = Cache::new();
        let look = |own: &Tiny| {
            let gmap = gmap.read().expect("no panic");
            gmap.look(own, ipa(RAM), Access::WRITE).expect("RAM")
        };
        let mut copies = 0;
        while let Look::Shared(want) = look(&own) {
            let frame = want.prepare(&mut own).expect("memory");
            let mut gmap = gmap.write().expect("no panic");
            match gmap.link_copy(&mut own, &mut cache, want, frame) {
                Ok(()) => copies += 1,
                Err(error) => {
                    assert_eq!(error, LinkError::Again);
                    own.free(frame, 0);
                }
            }
        }
        mover.join().expect("no panic");
        let seen = syncer.join().expect("no panic");
        let gmap = gmap.read().expect("no panic");
        let (leaf, _) = gmap.leaf(&machine, ipa(RAM)).expect("mapped");
        assert_eq!(copies, 1, "copied once");
        assert!(!leaf.shared() && leaf.base() != own_frame(&other, &machine));
        assert!(
            leaf.soft_dirty() || leaf.dirty() || seen,
            "the write is in the log"
        );
        // Own and other frame: what was moved or copied in vain is free again.
        assert_eq!(machine.held(), before + 1);
    });
}

/// The frame that a space has at [`RAM`].
fn own_frame(gmap: &Gmap, machine: &Tiny) -> Pa {
    let (leaf, _) = gmap.leaf(machine, ipa(RAM)).expect("mapped");
    leaf.base()
}
