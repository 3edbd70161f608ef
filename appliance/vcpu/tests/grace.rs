//! Interleavings of cores that look a record up and use it with one that takes it out of the
//! table and frees it: nobody uses what is freed.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;
use vcpu::grace::{Counter, Grace, pass};

struct Count(AtomicU64);

impl Counter for Count {
    fn count(&self) -> u64 {
        self.0.fetch_add(1, Ordering::AcqRel) + 1
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
    noted: [Count; 2],
    /// The table: whether the record is in it.
    there: AtomicBool,
    /// The record, 0 once it is freed; read and written without any order of its own.
    record: AtomicU64,
}

fn core(machine: &Machine, number: usize) {
    for _ in 0..2 {
        // It comes from a guest.
        pass(&machine.taken, &machine.noted[number]);
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
        let machine = Arc::new(Machine {
            taken: Count(AtomicU64::new(0)),
            noted: [(); 2].map(|()| Count(AtomicU64::new(0))),
            there: AtomicBool::new(true),
            record: AtomicU64::new(1),
        });
        let cores: Vec<_> = (0..2)
            .map(|number| {
                let machine = Arc::clone(&machine);
                thread::spawn(move || core(&machine, number))
            })
            .collect();
        machine.there.swap(false, Ordering::AcqRel);
        let grace = Grace::begin(&machine.taken);
        for _ in 0..2 {
            if machine.noted.iter().all(|noted| grace.is_over(noted)) {
                machine.record.store(0, Ordering::Relaxed);
                break;
            }
        }
        for core in cores {
            core.join().expect("no core panics");
        }
    });
}
