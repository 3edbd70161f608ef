//! Timer interrupts on every vCPU at once, at odd times, and SGIs between them: each comes
//! exactly once, none early, none lost.
//!
//! `n=` rounds on each vCPU (60), `seed=` where the odd times begin (1). In a round a vCPU arms
//! one timer or both, for a time past, soon, or some milliseconds away; disarms one before it
//! is due, now and then; sends an SGI to another vCPU; then spins, yields or waits by WFI until
//! everything has come that has to.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use guest_abi::map::VCPUS_MAX;
use payload::stats::splitmix64;
use payload::timer::{self, ENABLE, IMASK, Timer};
use payload::{cpu, gic, machine, mmu, println, psci, smp};

payload::guest!(main);

/// An interrupt that is this late is lost: longer than a core is taken away at once.
const PATIENCE_NS: u64 = 5_000_000_000;
const VCPUS: usize = VCPUS_MAX as usize;

/// Where each vCPU is: 0 not yet begun, 1 at work, 2 through.
static STEP: [AtomicU32; VCPUS] = [const { AtomicU32::new(0) }; VCPUS];
/// How late an interrupt of each vCPU was at the most, in ticks.
static LATEST: [AtomicU64; VCPUS] = [const { AtomicU64::new(0) }; VCPUS];

const WHAT: [&str; 6] = [
    "nothing",
    "early interrupt (counter, deadline)",
    "interrupts of the virtual timer",
    "interrupts of the physical timer",
    "SGIs from a vCPU",
    "interrupt that came though it was disarmed",
];

/// Says what is wrong, and ends.
fn fail(what: usize, got: u64, expected: u64) -> ! {
    let words = WHAT.get(what).unwrap_or(&"");
    println!(
        "FAIL vCPU {}: {words}: {got:#x}, not {expected:#x}",
        cpu::index()
    );
    psci::system_off()
}

/// In [`WHAT`].
const SGIS: usize = 4;

/// What a vCPU expects to have happened.
struct Vcpu {
    me: usize,
    state: u64,
    /// Interrupts of each timer.
    fired: [u32; 2],
    /// SGIs sent to each vCPU.
    sent: [u32; VCPUS],
}

impl Vcpu {
    fn below(&mut self, limit: u64) -> u64 {
        splitmix64(&mut self.state) % limit
    }

    /// Waits, in one of the ways there are, until `done`.
    fn wait(&mut self, what: usize, count: impl Fn() -> u64, expected: u64) {
        let start = timer::now();
        // What another vCPU takes wakes nobody here.
        let ways = if what == SGIS { 2 } else { 3 };
        let way = self.below(ways);
        while count() != expected {
            if count() > expected || timer::now() - start > timer::ticks(PATIENCE_NS) {
                fail(what, count(), expected);
            }
            match way {
                0 => {}
                1 => cpu::yield_now(),
                _ => {
                    // Masked, so that what comes between the look and WFI ends it.
                    cpu::mask_irq();
                    if count() != expected {
                        cpu::wfi();
                    }
                    cpu::unmask_irq();
                    cpu::isb();
                }
            }
        }
    }

    fn count(&self, timer: usize) -> u64 {
        u64::from(gic::count(self.me, Timer::BOTH[timer].intid()))
    }

    /// Arms a timer; returns when it is due.
    fn arm(&mut self, n: usize) -> u64 {
        let timer = Timer::BOTH[n];
        let away = match self.below(4) {
            0 => 0,
            1 => self.below(timer::ticks(50_000)),
            2 => self.below(timer::ticks(500_000)),
            _ => self.below(timer::ticks(4_000_000)),
        };
        let due = timer.now() + away;
        timer.set_compare(due);
        timer.set_control(ENABLE);
        due
    }

    fn round(&mut self, vcpus: usize) {
        // Another vCPU, and only once it has had the last one: two that are pending are one.
        let other = (self.me + 1 + self.below(vcpus as u64 - 1) as usize) % vcpus;
        let (from, sent) = (self.me as u32, self.sent[other]);
        self.wait(SGIS, || u64::from(gic::count(other, from)), u64::from(sent));
        gic::send_sgi(from, 1 << other);
        self.sent[other] += 1;

        let which = self.below(3);
        for n in 0..2 {
            if which != 2 && which != n as u64 {
                continue;
            }
            let timer = Timer::BOTH[n];
            if self.below(8) == 0 {
                // Long before it is due: it must not come at all.
                timer.set_compare(timer.now() + timer::ticks(PATIENCE_NS));
                timer.set_control(ENABLE);
                timer.set_control(ENABLE | IMASK);
                cpu::isb();
                let expected = u64::from(self.fired[n]);
                if self.count(n) != expected {
                    fail(5, self.count(n), expected);
                }
            }
            let due = self.arm(n);
            self.fired[n] += 1;
            let expected = u64::from(self.fired[n]);
            if which != 2 {
                let me = self.me;
                self.wait(2 + n, || u64::from(gic::count(me, timer.intid())), expected);
                self.check_time(timer, due);
            }
        }
        if which == 2 {
            for n in 0..2 {
                let (me, intid) = (self.me, Timer::BOTH[n].intid());
                let expected = u64::from(self.fired[n]);
                self.wait(2 + n, || u64::from(gic::count(me, intid)), expected);
            }
        }
    }

    fn check_time(&self, timer: Timer, due: u64) {
        let now = timer.now();
        if now < due {
            fail(1, now, due);
        }
        let late = &LATEST[self.me];
        late.store(
            late.load(Ordering::Relaxed).max(now - due),
            Ordering::Relaxed,
        );
    }
}

extern "C" fn stress() {
    mmu::enable();
    gic::init_cpu();
    for timer in Timer::BOTH {
        timer.set_control(0);
        gic::set_bit(gic::ISENABLER, timer.intid());
    }
    let me = cpu::index();
    let seed = machine::argument("seed").unwrap_or(1);
    let mut vcpu = Vcpu {
        me,
        state: seed << 8 | me as u64,
        fired: [0; 2],
        sent: [0; VCPUS],
    };
    // SGIs are lost on a vCPU that has not begun.
    STEP[me].store(1, Ordering::Release);
    let vcpus = machine::cpus();
    let all = |step| {
        let mut steps = STEP.iter().take(vcpus);
        steps.all(|is| is.load(Ordering::Acquire) >= step)
    };
    while !all(1) {
        cpu::yield_now();
    }
    cpu::unmask_irq();
    for _ in 0..machine::argument("n").unwrap_or(60) {
        vcpu.round(vcpus);
    }
    for other in 0..vcpus {
        let sent = u64::from(vcpu.sent[other]);
        vcpu.wait(SGIS, || u64::from(gic::count(other, me as u32)), sent);
    }
    STEP[me].store(2, Ordering::Release);
    // The others' SGIs still come.
    while !all(2) {
        cpu::yield_now();
    }
}

fn main() -> ! {
    let vcpus = machine::cpus();
    if vcpus < 2 {
        println!("FAIL this takes two vCPUs or more");
        psci::system_off();
    }
    // Read once here: the device tree is long.
    let rounds = machine::argument("n").unwrap_or(60);
    mmu::enable();
    gic::init_distributor();
    smp::start_all(stress);
    stress();
    let timers: u64 = (0..vcpus)
        .map(|vcpu| Timer::BOTH.map(|timer| u64::from(gic::count(vcpu, timer.intid()))))
        .map(|[one, two]| one + two)
        .sum();
    let sgis: u64 = (0..vcpus)
        .flat_map(|vcpu| (0..vcpus as u32).map(move |from| u64::from(gic::count(vcpu, from))))
        .sum();
    let late = LATEST.iter().map(|late| late.load(Ordering::Relaxed)).max();
    let late_us = late.unwrap_or(0) * 1_000 / (timer::hz() / 1_000);
    println!("# rounds {rounds} timers {timers} sgis {sgis} latest {late_us} us");
    if sgis == rounds * vcpus as u64 && timers >= sgis {
        println!("TIMERS ok");
    } else {
        println!("FAIL {timers} timer interrupts and {sgis} SGIs");
    }
    psci::system_off()
}
