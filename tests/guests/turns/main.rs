//! Says when it had its core and when not: two VMs with one vCPU each, on one core, under
//! `direct`. Between the last look at the physical counter of the one and the first of the other
//! lies a switch from one VM to the other, and nothing else.
//!
//! Prints a line `TURN first last` for each turn, in nanoseconds.
#![no_std]
#![no_main]

use payload::timer::{self, Timer};
use payload::{mmu, println, psci, stats};

payload::guest!(main);

/// Turns that are noted.
const TURNS: usize = 24;
/// A turn that lasts longer is that of who is alone.
const ALONE_NS: u64 = 100_000_000;
/// Longer between two looks is a turn of somebody else's.
const AWAY_NS: u64 = 400_000;

fn main() -> ! {
    mmu::enable();
    let (away, alone) = (timer::ticks(AWAY_NS), timer::ticks(ALONE_NS));
    let mut turns = [(0, 0); TURNS];
    let mut first = Timer::Physical.now();
    let mut last = first;
    for turn in &mut turns {
        loop {
            let now = Timer::Physical.now();
            if now - last > away || now - first > alone {
                *turn = (first, last);
                (first, last) = (now, now);
                break;
            }
            last = now;
        }
    }
    let ns = |ticks| stats::insns_per_op(ticks, timer::hz(), 1);
    for (first, last) in turns.map(|(first, last)| (ns(first), ns(last))) {
        println!("TURN {first} {last}");
    }
    println!("BENCH done");
    psci::system_off()
}
