//! S6: every interleaving of vCPUs that switch one on and off and ask for its state.
//!
//! The home core and its queue are a lock, as in core: what the switch lets through leaves where to
//! begin under it, and the core that runs the vCPU takes it from there.

use loom::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use vcpu::power::{Busy, PowerState, Switch, Word};

struct Cell(AtomicU8);

impl Word for Cell {
    fn get(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }
    fn set(&self, value: u8) {
        self.0.store(value, Ordering::Release);
    }
    fn exchange(&self, old: u8, new: u8) -> Result<(), u8> {
        self.0
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
    }
}

/// What its home core knows of the vCPU.
#[derive(Default)]
struct Home {
    /// It is in the queue or runs.
    wanted: bool,
    start: Option<u64>,
}

struct Vcpu {
    switch: Switch<Cell>,
    home: Mutex<Home>,
    /// Where it began, in order: entry by entry.
    began: Mutex<Vec<u64>>,
    offs: AtomicUsize,
}

impl Vcpu {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            switch: Switch::of(Cell(AtomicU8::new(0))),
            home: Mutex::new(Home::default()),
            began: Mutex::new(Vec::new()),
            offs: AtomicUsize::new(0),
        })
    }

    /// CPU_ON by another vCPU, as core has it.
    fn power_on(&self, entry: u64) -> Result<(), Busy> {
        self.switch.start()?;
        let mut home = self.home.lock().expect("no panic under it");
        assert!(home.start.is_none(), "two have started it");
        assert!(!home.wanted, "it was off, and still in the queue");
        home.start = Some(entry);
        home.wanted = true;
        Ok(())
    }

    /// Its home core: one turn, in which it begins if it was started.
    fn turn(&self) {
        let mut home = self.home.lock().expect("no panic under it");
        if let Some(entry) = home.start.take() {
            self.began.lock().expect("no panic").push(entry);
            self.switch.began();
        }
    }

    /// CPU_OFF by itself.
    fn power_off(&self) {
        self.home.lock().expect("no panic under it").wanted = false;
        self.offs.fetch_add(1, Ordering::SeqCst);
        self.switch.off();
    }

    fn runs(&self) -> bool {
        self.switch.state() == PowerState::On
    }
}

#[test]
fn of_two_that_start_it_one_wins_and_its_entry_is_taken() {
    loom::model(|| {
        let vcpu = Vcpu::new();
        let starters: Vec<_> = [0x1000, 0x2000]
            .map(|entry| {
                let vcpu = Arc::clone(&vcpu);
                thread::spawn(move || vcpu.power_on(entry).map(|()| entry))
            })
            .into();
        vcpu.turn();
        let results: Vec<_> = starters
            .into_iter()
            .map(|starter| starter.join().expect("no panic"))
            .collect();
        vcpu.turn();
        let won: Vec<u64> = results.iter().filter_map(|r| r.ok()).collect();
        assert_eq!(won.len(), 1, "{results:?}");
        assert_eq!(*vcpu.began.lock().expect("no panic"), won);
        assert!(vcpu.runs());
    });
}

#[test]
fn a_start_that_meets_the_end_is_refused_or_is_a_new_beginning() {
    loom::model(|| {
        let vcpu = Vcpu::new();
        vcpu.power_on(1).expect("it is off");
        vcpu.turn();
        let other = {
            let vcpu = Arc::clone(&vcpu);
            thread::spawn(move || vcpu.power_on(2))
        };
        vcpu.power_off();
        vcpu.turn();
        let result = other.join().expect("no panic");
        vcpu.turn();
        let began = vcpu.began.lock().expect("no panic").clone();
        match result {
            Ok(()) => {
                assert_eq!(began, [1, 2]);
                assert!(vcpu.runs());
            }
            Err(busy) => {
                assert_eq!((busy, began), (Busy::AlreadyOn, vec![1]));
                assert_eq!(vcpu.switch.state(), PowerState::Off);
            }
        }
    });
}

#[test]
fn what_affinity_info_tells_never_goes_back() {
    loom::model(|| {
        let vcpu = Vcpu::new();
        let starter = {
            let vcpu = Arc::clone(&vcpu);
            thread::spawn(move || {
                vcpu.power_on(1).expect("nobody else starts it");
                vcpu.turn();
            })
        };
        // Off, then pending, then on: an order that no reader sees otherwise.
        let rank = |state| match state {
            PowerState::Off => 0,
            PowerState::Pending => 1,
            PowerState::On => 2,
        };
        let mut last = 0;
        for _ in 0..3 {
            let now = rank(vcpu.switch.state());
            assert!(now >= last);
            last = now;
        }
        starter.join().expect("no panic");
        assert!(vcpu.runs());
    });
}
