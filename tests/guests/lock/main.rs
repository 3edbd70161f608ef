//! What a contended lock costs, with the preempt hint and without.
//!
//! All vCPUs take one queued lock, over and over, for a fixed time: `BENCH lock_plain <ns>`
//! and `BENCH lock_hint <ns>` are what one acquisition took. The plain lock is the same lock
//! without the hint: an MCS lock whose waiters spin, as a kernel's do.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};
use guest_abi::lock::{Hint, Lock};
use guest_abi::map::VCPUS_MAX;
use guest_abi::pv::{Call, Hints};
use payload::psci::{self, Conduit};
use payload::{cpu, machine, mem, mmu, println, smp, timer};

payload::guest!(main);

const VCPUS: usize = VCPUS_MAX as usize;
/// How long each variant runs, in nanoseconds.
const RUN_NS: u64 = 400_000_000;
/// Turns of the loops that stand for work, inside the lock and outside.
const INSIDE: u64 = 300;
const OUTSIDE: u64 = 600;

static LOCK: Lock<VCPUS> = Lock::new();
/// Bumped inside the lock by a load and a store: wrong if two are ever inside.
static INSIDE_COUNT: AtomicU64 = AtomicU64::new(0);
static COUNTS: [AtomicU64; VCPUS] = [const { AtomicU64::new(0) }; VCPUS];
/// vCPUs that are ready for the round, and the round: odd while it runs.
static READY: AtomicU64 = AtomicU64::new(0);
static ROUND: AtomicU64 = AtomicU64::new(0);
const ROUNDS: u64 = 2;

/// As an ordinary kernel spins.
struct Plain;

impl Hint for Plain {
    fn is_preempted(&self, _vcpu: usize) -> bool {
        false
    }
    fn yield_to(&self, _vcpu: usize) {}
    fn relax(&self) {
        cpu::yield_now();
    }
}

/// As one that asks.
struct Told(Hints);

impl Hint for Told {
    fn is_preempted(&self, vcpu: usize) -> bool {
        let byte = mem::read8(self.0.byte(vcpu));
        self.0.is_preempted(byte as u8)
    }
    fn yield_to(&self, vcpu: usize) {
        psci::hvc(Call::YieldTo as u32, vcpu as u64, 0, 0);
    }
    fn relax(&self) {
        cpu::yield_now();
    }
}

fn hints() -> Option<Hints> {
    let mut registers = [0; 18];
    registers[0] = u64::from(Call::PvPreemptInfo as u32);
    let [x0, x1, x2, x3, ..] = psci::call(Conduit::Hvc, registers);
    Hints::found([x0, x1, x2, x3])
}

fn work(turns: u64) {
    for n in 0..turns {
        core::hint::black_box(n);
    }
}

/// Takes the lock until the round is over; returns how often.
fn contend(me: usize, round: u64, hint: &impl Hint) -> u64 {
    let mut taken = 0;
    while ROUND.load(Ordering::Relaxed) == round {
        LOCK.with(me, hint, || {
            let count = INSIDE_COUNT.load(Ordering::Relaxed);
            work(INSIDE);
            INSIDE_COUNT.store(count + 1, Ordering::Relaxed);
        });
        taken += 1;
        work(OUTSIDE);
    }
    taken
}

extern "C" fn contender() {
    mmu::enable();
    let me = cpu::index();
    let told = hints().map(Told);
    for n in 0..ROUNDS {
        let round = 2 * n + 1;
        READY.fetch_add(1, Ordering::AcqRel);
        while ROUND.load(Ordering::Acquire) < round {
            cpu::yield_now();
        }
        let taken = match &told {
            Some(told) if n == 1 => contend(me, round, told),
            _ => contend(me, round, &Plain),
        };
        COUNTS[me].fetch_add(taken, Ordering::AcqRel);
    }
    READY.fetch_add(1, Ordering::AcqRel);
}

fn main() -> ! {
    mmu::enable();
    let vcpus = machine::cpus().min(VCPUS);
    let told = hints().map(Told);
    println!("# vcpus {vcpus} hint {}", told.is_some());
    smp::start_all(contender);
    let others = vcpus as u64 - 1;
    for n in 0..ROUNDS {
        while READY.load(Ordering::Acquire) < others * (n + 1) {
            cpu::yield_now();
        }
        let before = INSIDE_COUNT.load(Ordering::Acquire);
        let (round, start) = (2 * n + 1, timer::now());
        ROUND.store(round, Ordering::Release);
        // The first vCPU keeps the time and works like the others.
        let end = start + timer::ticks(RUN_NS);
        let mut mine = 0;
        while timer::now() < end {
            let enter = || {
                let count = INSIDE_COUNT.load(Ordering::Relaxed);
                work(INSIDE);
                INSIDE_COUNT.store(count + 1, Ordering::Relaxed);
            };
            match &told {
                Some(told) if n == 1 => LOCK.with(0, told, enter),
                _ => LOCK.with(0, &Plain, enter),
            }
            mine += 1;
            work(OUTSIDE);
        }
        let ticks = timer::now() - start;
        let entered = INSIDE_COUNT.load(Ordering::Acquire) - before;
        ROUND.store(round + 1, Ordering::Release);
        COUNTS[0].fetch_add(mine, Ordering::AcqRel);
        let ns = u128::from(ticks) * 1_000_000_000 / u128::from(timer::hz());
        let each = ns as u64 / entered.max(1);
        let key = if n == 0 { "lock_plain" } else { "lock_hint" };
        println!("BENCH {key} {each}");
    }
    while READY.load(Ordering::Acquire) < others * (ROUNDS + 1) {
        cpu::yield_now();
    }
    let sum: u64 = COUNTS.iter().map(|n| n.load(Ordering::Acquire)).sum();
    let inside = INSIDE_COUNT.load(Ordering::Acquire);
    println!("# taken {sum} inside {inside}");
    if sum == inside {
        println!("BENCH done");
    } else {
        println!("FAIL two were inside at once");
    }
    psci::system_off()
}
