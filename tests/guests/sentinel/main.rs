//! A guest that works and has deadlines, and says every second how it fared, beside whoever.
//!
//! A beat is 10 ms, by the virtual timer's interrupt; between beats it computes. After every
//! hundred beats one line: how late the interrupts came, the worst and all but the worst of
//! the hundred, in microseconds, and how many sums were made. A sum that is not the first one
//! ends it.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use payload::stats::splitmix64;
use payload::timer::{self, ENABLE, Timer};
use payload::{cpu, gic, machine, mmu, println, psci};

payload::guest!(main);

const BEAT_NS: u64 = 10_000_000;
const BEATS: usize = 100;
/// What is filled and summed: 16 KiB.
static WORDS: [AtomicU64; 2048] = [const { AtomicU64::new(0) }; 2048];

/// Fills memory from a seed, and sums what is there then.
fn sum(seed: u64) -> u64 {
    let mut state = seed;
    for word in &WORDS {
        word.store(splitmix64(&mut state), Ordering::Relaxed);
    }
    let add = |sum: u64, word: &AtomicU64| sum.rotate_left(7) ^ word.load(Ordering::Relaxed);
    WORDS.iter().fold(0, add)
}

fn main() -> ! {
    mmu::enable();
    gic::init_distributor();
    gic::init_cpu();
    let timer = Timer::Virtual;
    gic::set_bit(gic::ISENABLER, timer.intid());
    let seed = machine::argument("seed").unwrap_or(1);
    let expected = sum(seed);
    println!("SENTINEL begins");
    cpu::unmask_irq();
    let (mut beats, mut sums) = (0_u64, 0_u64);
    loop {
        let mut late = [0; BEATS];
        for late in &mut late {
            let due = timer::now() + timer::ticks(BEAT_NS);
            timer.set_compare(due);
            timer.set_control(ENABLE);
            beats += 1;
            while gic::taken(0) < beats {
                let got = sum(seed);
                if got != expected {
                    println!("WRONG sum {got:#x}, not {expected:#x}");
                    psci::system_off();
                }
                sums += 1;
            }
            *late = gic::entered(0).saturating_sub(due);
        }
        late.sort_unstable();
        let us = |nth: usize| late[nth] * 1_000 / (timer::hz() / 1_000);
        println!(
            "SENTINEL p99 {} worst {} sums {sums}",
            us(BEATS - 2),
            us(BEATS - 1)
        );
    }
}
