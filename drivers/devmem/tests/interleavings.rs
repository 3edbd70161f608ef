//! Every interleaving of a touch, a reset and a device that takes its time.

use devmem::profile::Profile;
use devmem::{Device, Refusal, Verdict, Waiter, Why};
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

/// What the device's lock guards: its state, and stage 2 as far as it leads there.
struct Guarded {
    device: Device,
    mapped: bool,
}

struct Machine {
    guarded: Mutex<Guarded>,
    /// The GPU trains: a mapping now is what must not be.
    training: AtomicBool,
    clock_ms: AtomicU64,
}

impl Machine {
    fn new(training: bool) -> Arc<Self> {
        let mut device = Device::new(Profile::NvgraceGpu.policy());
        device.memory_on();
        Arc::new(Self {
            guarded: Mutex::new(Guarded {
                device,
                mapped: false,
            }),
            training: AtomicBool::new(training),
            clock_ms: AtomicU64::new(0),
        })
    }

    fn check(&self, guarded: &Guarded) {
        assert!(
            !(guarded.mapped && self.training.load(Ordering::SeqCst)),
            "mapped while the device trains"
        );
        // While they are taken away, some are there still: the device is reset after that.
        let settled = !guarded.device.taking();
        assert!(
            !(guarded.mapped && guarded.device.pending() && settled),
            "mapped between reset and readiness"
        );
    }

    /// One touch, as core makes it: all under the lock, and no sleep there.
    fn touch(&self, waiter: &mut Option<Waiter>) -> Verdict {
        let mut guarded = self.guarded.lock().expect("no panic under it");
        let now = self.clock_ms.load(Ordering::SeqCst);
        let status = || match self.training.load(Ordering::SeqCst) {
            true => 0,
            false => 0xff,
        };
        let verdict = guarded.device.touch(now, waiter, |_, _| status());
        if verdict == Verdict::Map {
            assert!(!guarded.device.taking(), "mapped while mappings go");
            guarded.mapped = true;
        }
        self.check(&guarded);
        verdict
    }

    /// A reset in two slices, as core makes it: mappings go first, with the lock let go between.
    fn reset(&self) {
        let duty = {
            let mut guarded = self.guarded.lock().expect("no panic under it");
            guarded.device.begin(Why::Reset)
        };
        let Some(duty) = duty else { return };
        {
            let mut guarded = self.guarded.lock().expect("no panic under it");
            guarded.mapped = false;
        }
        let mut guarded = self.guarded.lock().expect("no panic under it");
        assert!(!guarded.mapped, "mapped while mappings were taken away");
        self.training.store(true, Ordering::SeqCst);
        guarded.device.taken(duty, 0);
        self.check(&guarded);
    }

    fn trained(&self) {
        self.training.store(false, Ordering::SeqCst);
        self.clock_ms.fetch_add(1000, Ordering::SeqCst);
    }
}

#[test]
fn a15_a_touch_that_races_a_reset_leaves_no_stale_mapping() {
    loom::model(|| {
        let machine = Machine::new(false);
        let toucher = {
            let machine = Arc::clone(&machine);
            thread::spawn(move || {
                let mut waiter = None;
                for _ in 0..2 {
                    machine.touch(&mut waiter);
                }
            })
        };
        let resetter = {
            let machine = Arc::clone(&machine);
            thread::spawn(move || machine.reset())
        };
        toucher.join().expect("no panic");
        resetter.join().expect("no panic");
        machine.check(&machine.guarded.lock().expect("no panic under it"));
        // Trained, the next touch maps: nothing is stuck.
        machine.trained();
        assert_eq!(machine.touch(&mut None), Verdict::Map);
    });
}

#[test]
fn a14_a_wait_survives_a_reset_and_holds_nothing() {
    loom::model(|| {
        let machine = Machine::new(true);
        let mut waiter = None;
        // The wait has begun; then reset and training race with the next touches of it.
        assert_eq!(machine.touch(&mut waiter), Verdict::Park { until_ms: 1000 });
        let toucher = {
            let machine = Arc::clone(&machine);
            thread::spawn(move || {
                for _ in 0..2 {
                    let verdict = machine.touch(&mut waiter);
                    assert_ne!(verdict, Verdict::Refuse(Refusal::NotReady), "not yet 30 s");
                }
            })
        };
        let device = {
            let machine = Arc::clone(&machine);
            thread::spawn(move || machine.trained())
        };
        machine.reset();
        device.join().expect("no panic");
        toucher.join().expect("no panic");
    });
}

#[test]
fn two_resets_at_once_are_one_after_the_other_or_one() {
    loom::model(|| {
        let machine = Machine::new(false);
        let other = {
            let machine = Arc::clone(&machine);
            thread::spawn(move || machine.reset())
        };
        machine.reset();
        other.join().expect("no panic");
        let guarded = machine.guarded.lock().expect("no panic under it");
        assert!(!guarded.device.taking(), "a duty was lost");
        assert!((2..=3).contains(&guarded.device.generation()));
    });
}
