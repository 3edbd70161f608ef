//! Every interleaving of a core that starts, parks and runs a vCPU with one that wants something
//! of it: nothing that is wanted stays unseen.

use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use vcpu::wakes::{Flag, may_wait};

struct Attention(AtomicBool);

impl Flag for Attention {
    fn raise(&self) {
        self.0.swap(true, Ordering::Release);
    }
    fn lower(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
    fn is_raised(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Queued,
    Running,
    Blocked,
}

struct Vcpu {
    attention: Attention,
    /// Guarded by the lock of its home core's queue.
    run: Mutex<Run>,
    /// What somebody wants: no lock guards it.
    wanted: AtomicU64,
}

impl Vcpu {
    fn new(run: Run) -> Arc<Self> {
        Arc::new(Self {
            attention: Attention(AtomicBool::new(false)),
            run: Mutex::new(run),
            wanted: AtomicU64::new(0),
        })
    }

    fn set_run(&self, to: Run) {
        *self.run.lock().expect("no panic under it") = to;
    }

    /// Says what is wanted, raises the flag, wakes: as core does.
    fn want(&self, what: u64) {
        self.wanted.fetch_or(what, Ordering::Relaxed);
        self.attention.raise();
        let mut run = self.run.lock().expect("no panic under it");
        match *run {
            Run::Blocked => *run = Run::Queued,
            Run::Running => {
                drop(run);
                // And the kick: the core comes out of the guest, and looks at the flag.
                self.attention.raise();
            }
            Run::Queued => {}
        }
    }

    /// As a core does that is about to run it.
    fn look(&self) -> u64 {
        self.attention.lower();
        self.seen()
    }

    fn seen(&self) -> u64 {
        self.wanted.load(Ordering::Relaxed)
    }
}

/// Every interleaving with up to three switches of thread that nothing makes necessary.
fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(run);
}

/// A vCPU that is put on a core while its VM is stopped, and an interrupt pended in it.
#[test]
fn what_is_wanted_while_it_is_started_is_seen_or_makes_it_look_again() {
    model(|| {
        let vcpu = Vcpu::new(Run::Queued);
        let core = {
            let vcpu = Arc::clone(&vcpu);
            thread::spawn(move || {
                vcpu.set_run(Run::Running);
                vcpu.look()
            })
        };
        let other = {
            let vcpu = Arc::clone(&vcpu);
            thread::spawn(move || vcpu.want(1))
        };
        vcpu.want(2);
        other.join().expect("no assertion failed");
        let seen = core.join().expect("no assertion failed");
        let told = vcpu.attention.is_raised();
        assert!(seen == 3 || told, "{seen} was seen, and nobody looks again");
    });
}

/// One that is about to wait for an interrupt, which comes.
#[test]
fn one_that_parks_is_woken() {
    model(|| {
        let vcpu = Vcpu::new(Run::Running);
        let core = {
            let vcpu = Arc::clone(&vcpu);
            thread::spawn(move || {
                if vcpu.look() != 0 {
                    return;
                }
                let mut run = vcpu.run.lock().expect("no panic under it");
                if may_wait(&vcpu.attention) {
                    *run = Run::Blocked;
                }
            })
        };
        vcpu.want(1);
        core.join().expect("no assertion failed");
        let run = *vcpu.run.lock().expect("no panic under it");
        assert_ne!(run, Run::Blocked, "it waits for what is there already");
        let looks = vcpu.attention.is_raised() || run == Run::Queued;
        assert!(looks || vcpu.seen() == 1, "it runs on and does not look");
    });
}

/// It parks, is woken, and is started on a core again while more is wanted.
#[test]
fn one_that_is_woken_twice_misses_nothing() {
    model(|| {
        let vcpu = Vcpu::new(Run::Running);
        let core = {
            let vcpu = Arc::clone(&vcpu);
            thread::spawn(move || {
                let mut seen = vcpu.look();
                {
                    let mut run = vcpu.run.lock().expect("no panic under it");
                    if may_wait(&vcpu.attention) {
                        *run = Run::Blocked;
                    }
                }
                // The queue's next choice, if it is in the queue.
                let chosen = {
                    let mut run = vcpu.run.lock().expect("no panic under it");
                    let queued = *run == Run::Queued;
                    if queued {
                        *run = Run::Running;
                    }
                    queued
                };
                if chosen {
                    seen = vcpu.look();
                }
                seen
            })
        };
        vcpu.want(1);
        vcpu.want(2);
        let seen = core.join().expect("no assertion failed");
        let run = *vcpu.run.lock().expect("no panic under it");
        let told = vcpu.attention.is_raised() || run == Run::Queued;
        assert!(seen == 3 || told, "{seen} was seen; {run:?}");
    });
}
