//! A vCPU that is moved from core to core, and sees to it that all of it comes along.
//!
//! It is moved from outside (`direct` with `pin=1`) until it has found itself on another core
//! `moves=` times (5,000). In every turn: the line's core is the core, MPIDR stays, the
//! counter never goes back, V0 to V31 and the thread registers keep their patterns, exclusive
//! increments are not lost, and a timer interrupt a millisecond comes, and an SGI with it.
//! `sanity=0`: it may have looked less than half as often as it was moved.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};
use guest_abi::map::PV_BASE;
use guest_abi::pv::Call;
use payload::sysreg::{MPIDR_EL1, TPIDR_EL0, TPIDR_EL1};
use payload::timer::{self, Timer};
use payload::{cpu, fp, gic, machine, mem, mmu, println, psci};

payload::guest!(main);

/// Offsets in a line (guest_abi::pv::PvLine).
const PCPU: u64 = 20;
const GENERATION: u64 = 24;
const SGI: u32 = 3;
/// An interrupt that is this late is lost: longer than a core is taken away at once.
const PATIENCE_NS: u64 = 2_000_000_000;

/// Raised with exclusives.
static COUNTER: AtomicU64 = AtomicU64::new(0);

fn line32(offset: u64) -> u64 {
    mem::read32(PV_BASE + offset)
}

fn generation() -> u64 {
    mem::read64(PV_BASE + GENERATION)
}

fn fail(what: &str, got: u64, expected: u64) -> ! {
    println!("FAIL {what}: {got:#x}, not {expected:#x}");
    psci::system_off()
}

fn check(what: &str, got: u64, expected: u64) {
    if got != expected {
        fail(what, got, expected);
    }
}

/// Sets off both interrupts; returns what has been taken when both have come.
fn set_off() -> u64 {
    // First: it may be long, on another core, before the next instruction.
    let due = gic::taken(0) + 2;
    let timer = Timer::Virtual;
    timer.set_compare(timer.now() + timer::ticks(1_000_000));
    timer.set_control(timer::ENABLE);
    gic::send_sgi(SGI, 1);
    due
}

fn main() -> ! {
    mmu::enable();
    fp::enable();
    gic::init_distributor();
    gic::init_cpu();
    gic::set_bit(gic::ISENABLER, Timer::Virtual.intid());
    let moves = machine::argument("moves").unwrap_or(5_000);
    let sane = machine::argument("sanity").unwrap_or(1) != 0;

    let mpidr = MPIDR_EL1.read();
    let mut pattern = [0; 64];
    for (n, word) in (1..).zip(&mut pattern) {
        *word = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(n);
    }
    if fp::load(&pattern).is_err() {
        fail("V registers", 0, 1);
    }
    TPIDR_EL0.write(0x5a5a_0001);
    TPIDR_EL1.write(0x5a5a_0002);
    let (mut samples, mut retries, mut changes, mut rounds) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut cores = 0_u64;
    let (mut last_core, mut last_time) = (line32(PCPU), timer::now());
    let mut both = set_off();
    let mut armed = last_time;
    cpu::unmask_irq();
    while changes < moves {
        let before = generation();
        let line = line32(PCPU);
        let core = psci::hvc(Call::PcpuInfo as u32, 0, 0, 0) as u64;
        if generation() != before {
            retries += 1;
        } else {
            check("generation is even", before & 1, 0);
            check("core of the line", line, core);
        }
        changes += u64::from(core != last_core);
        cores |= 1 << core;
        last_core = core;
        check("MPIDR_EL1", MPIDR_EL1.read(), mpidr);
        check("TPIDR_EL0", TPIDR_EL0.read(), 0x5a5a_0001);
        check("TPIDR_EL1", TPIDR_EL1.read(), 0x5a5a_0002);
        let now = timer::now();
        if now < last_time {
            fail("CNTVCT_EL0 went back", now, last_time);
        }
        last_time = now;
        samples += 1;
        COUNTER.fetch_add(1, Ordering::Relaxed);
        check("exclusives", COUNTER.load(Ordering::Relaxed), samples);
        if samples % 16 == 0 {
            match fp::store() {
                Ok(now) if now == pattern => {}
                _ => fail("V registers", 0, 1),
            }
        }
        if gic::taken(0) >= both {
            check("interrupts", gic::taken(0), both);
            rounds += 1;
            both = set_off();
            armed = now;
        } else if now - armed > timer::ticks(PATIENCE_NS) {
            println!(
                "# timer {} of {rounds} rounds",
                gic::count(0, Timer::Virtual.intid())
            );
            fail("interrupts", gic::taken(0), both);
        }
    }
    cpu::mask_irq();
    println!(
        "# moves {changes} samples {samples} retries {retries} cores {cores:#x} timers {rounds}"
    );
    if sane && samples < moves / 2 {
        println!("FAIL stalled too much: {samples} samples of {moves} moves (sanity=0 allows it)");
    } else if cores.count_ones() < 2 {
        println!("FAIL it was never moved");
    } else {
        println!("MIGRATED ok");
    }
    psci::system_off()
}
