//! What a contended lock costs, with the preempt hint and without.
//!
//! All vCPUs take one lock, over and over, for a fixed time: `BENCH lock_plain <ns>` and
//! `BENCH lock_hint <ns>` are what one acquisition took. It is the same lock both times, one
//! that spins as long as somebody else has it, as a kernel does for a mutex; without the hint
//! nobody ever seems to be preempted. The two take turns, so that what changes with time
//! changes for both.
//!
//! In QEMU's counted mode one core runs at a time, and hands on at YIELD. So that this is like
//! cores side by side, every loop here hands on after about as many instructions: a core that
//! spins takes as much time as one that works.
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
/// How long each round lasts, in nanoseconds.
const ROUND_NS: u64 = 200_000_000;
/// Rounds: without the hint, with it, and so on.
const ROUNDS: usize = 8;
/// Steps of work inside the lock and outside: some 1,200 instructions and 2,400.
const INSIDE: u64 = 10;
const OUTSIDE: u64 = 20;
/// Turns of the loop that is a step.
const STEP: u64 = 32;

static LOCK: Lock<VCPUS> = Lock::new();
/// Bumped inside the lock by a load and a store: wrong if two are ever inside.
static INSIDE_COUNT: AtomicU64 = AtomicU64::new(0);
static COUNTS: [AtomicU64; VCPUS] = [const { AtomicU64::new(0) }; VCPUS];
/// vCPUs that are ready for the round, and the round: odd while it runs.
static READY: AtomicU64 = AtomicU64::new(0);
static ROUND: AtomicU64 = AtomicU64::new(0);

/// As an ordinary kernel spins.
struct Plain;

impl Hint for Plain {
    fn is_preempted(&self, _vcpu: usize) -> bool {
        false
    }
    fn yield_to(&self, _vcpu: usize) {}
    fn relax(&self) {
        work(1);
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
        work(1);
    }
}

fn hints() -> Option<Hints> {
    let mut registers = [0; 18];
    registers[0] = u64::from(Call::PvPreemptInfo as u32);
    let [x0, x1, x2, x3, ..] = psci::call(Conduit::Hvc, registers);
    Hints::found([x0, x1, x2, x3])
}

/// Does nothing for so many steps, and lets the other core go on after each.
fn work(steps: u64) {
    for _ in 0..steps {
        for n in 0..core::hint::black_box(STEP) {
            core::hint::black_box(n);
        }
        cpu::yield_now();
    }
}

/// Takes the lock until `over`; returns how often.
fn contend(me: usize, hint: &impl Hint, over: impl Fn() -> bool) -> u64 {
    let mut taken = 0;
    while !over() {
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

/// One vCPU's part of round `n`, of which every odd one has the hint.
fn round(n: usize, me: usize, told: Option<&Told>, over: impl Fn() -> bool) {
    let taken = match told {
        Some(told) if n % 2 == 1 => contend(me, told, over),
        _ => contend(me, &Plain, over),
    };
    COUNTS[me].fetch_add(taken, Ordering::AcqRel);
}

extern "C" fn contender() {
    mmu::enable();
    let me = cpu::index();
    let told = hints().map(Told);
    for n in 0..ROUNDS {
        let number = 2 * n as u64 + 1;
        READY.fetch_add(1, Ordering::AcqRel);
        while ROUND.load(Ordering::Acquire) < number {
            cpu::yield_now();
        }
        let over = || ROUND.load(Ordering::Relaxed) != number;
        round(n, me, told.as_ref(), over);
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
    let (mut ticks, mut entered) = ([0; 2], [0; 2]);
    for n in 0..ROUNDS {
        while READY.load(Ordering::Acquire) < others * (n as u64 + 1) {
            cpu::yield_now();
        }
        let before = INSIDE_COUNT.load(Ordering::Acquire);
        let (number, start) = (2 * n as u64 + 1, timer::now());
        ROUND.store(number, Ordering::Release);
        // The first vCPU keeps the time and works like the others.
        let end = start + timer::ticks(ROUND_NS);
        round(n, 0, told.as_ref(), || timer::now() >= end);
        ticks[n % 2] += timer::now() - start;
        entered[n % 2] += INSIDE_COUNT.load(Ordering::Acquire) - before;
        ROUND.store(number + 1, Ordering::Release);
    }
    while READY.load(Ordering::Acquire) < others * (ROUNDS as u64 + 1) {
        cpu::yield_now();
    }
    for (key, (ticks, entered)) in ["lock_plain", "lock_hint"]
        .into_iter()
        .zip(ticks.into_iter().zip(entered))
    {
        let ns = u128::from(ticks) * 1_000_000_000 / u128::from(timer::hz());
        println!("BENCH {key} {}", ns as u64 / entered.max(1));
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
