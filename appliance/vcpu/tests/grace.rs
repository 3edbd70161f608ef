//! Interleavings of cores that look a record up and use it with one that takes it out of the
//! table and frees it: nobody uses what is freed.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;
use vcpu::grace::{Counter, Grace, pass, woken};

struct Count(AtomicU64);

impl Counter for Count {
    fn count(&self) -> u64 {
        self.0.fetch_add(1, Ordering::AcqRel).wrapping_add(1)
    }
    fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
    fn note(&self, count: u64) {
        self.0.store(count, Ordering::Release);
    }
}

struct Machine {
    taken: Count,
    noted: [Arc<Count>; 2],
    /// The table: whether the record is in it.
    there: AtomicBool,
    /// The record, 0 once it is freed; read and written without any order of its own.
    record: AtomicU64,
}

impl Machine {
    fn new() -> Self {
        Self {
            taken: Count(AtomicU64::new(0)),
            noted: [(); 2].map(|()| Arc::new(Count(AtomicU64::new(0)))),
            there: AtomicBool::new(true),
            record: AtomicU64::new(1),
        }
    }
}

fn core(machine: &Machine, noted: &Count) {
    for _ in 0..2 {
        // It comes from a guest.
        pass(&machine.taken, noted);
        if machine.there.load(Ordering::Acquire) {
            let value = machine.record.load(Ordering::Relaxed);
            assert_eq!(value, 1, "it is used after its end");
        }
    }
}

#[test]
fn what_is_freed_is_used_by_nobody() {
    // Every interleaving with up to three switches of thread that nothing makes necessary.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let machine = Arc::new(Machine::new());
        let cores: Vec<_> = (machine.noted.iter().cloned())
            .map(|noted| {
                let machine = Arc::clone(&machine);
                thread::spawn(move || core(&machine, &noted))
            })
            .collect();
        machine.there.swap(false, Ordering::AcqRel);
        let grace = Grace::begin(&machine.taken);
        for _ in 0..2 {
            if machine.noted.iter().all(|noted| grace.is_over(&**noted)) {
                machine.record.store(0, Ordering::Relaxed);
                break;
            }
        }
        for core in cores {
            core.join().expect("no core panics");
        }
    });
}

/// Whether an interrupt is pending. A device has one state, for everybody: what reads it modifies it.
fn is_pending(kick: &AtomicBool) -> bool {
    kick.fetch_or(false, Ordering::AcqRel)
}

/// A core that idles: it wakes when it is kicked, and once for some other reason.
fn idler(machine: &Machine, noted: &Count, kick: &AtomicBool, other: bool) {
    let mut wakes = is_pending(kick) || other;
    while wakes {
        let take = || {
            kick.swap(false, Ordering::AcqRel);
        };
        woken(take, &machine.taken, noted);
        wakes = is_pending(kick);
    }
}

#[test]
fn a_core_that_is_kicked_lets_go_whatever_else_woke_it() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let machine = Arc::new(Machine::new());
        let kick = Arc::new(AtomicBool::new(false));
        let core = {
            let (machine, kick) = (Arc::clone(&machine), Arc::clone(&kick));
            thread::spawn(move || idler(&machine, &machine.noted[0], &kick, true))
        };
        let grace = Grace::begin(&machine.taken);
        kick.swap(true, Ordering::AcqRel);
        core.join().expect("no core panics");
        // Asleep: a kick that is pending wakes it.
        idler(&machine, &machine.noted[0], &kick, false);
        assert!(grace.is_over(&*machine.noted[0]), "nobody wakes it again");
    });
}
