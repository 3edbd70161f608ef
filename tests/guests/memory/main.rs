//! A guest that does what its root asks: the other half of `memory_root`.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "exclusive accesses")]

mod guard;
mod orders;

use core::arch::asm;

use guest_abi::map::RAM_BASE;
use payload::psci::{self, Conduit};
use payload::timer::{self, Timer};
use payload::{cpu, gic, late, mem, mmu};

payload::guest!(main);

const MAILBOX: u64 = RAM_BASE + orders::MAILBOX;

fn main() -> ! {
    mmu::enable();
    let mut last = 0;
    loop {
        let sequence = mem::read64(MAILBOX + orders::SEQUENCE);
        if sequence == last {
            cpu::yield_now();
            continue;
        }
        cpu::dsb();
        let order = mem::read64(MAILBOX + orders::ORDER);
        let argument = |n: u64| mem::read64(MAILBOX + orders::ARGUMENTS + n * 8);
        let arguments = [0, 1, 2, 3].map(argument);
        let start = timer::now();
        let [first, second] = carry_out(order, arguments);
        let ticks = timer::now() - start;
        for (n, result) in (0..).zip([first, second, ticks]) {
            mem::write64(MAILBOX + orders::RESULTS + n * 8, result);
        }
        cpu::dsb();
        mem::write64(MAILBOX + orders::DONE, sequence);
        last = sequence;
    }
}

fn carry_out(order: u64, [a, b, c, d]: [u64; 4]) -> [u64; 2] {
    match order {
        orders::READ => {
            let sum = (0..b).fold(0, |sum: u64, n| sum.wrapping_add(mem::read64(a + n * c)));
            [sum, 0]
        }
        orders::WRITE => {
            for n in 0..b {
                mem::write64(a + n * c, d.wrapping_add(n));
            }
            [0; 2]
        }
        orders::CHECK => {
            let wrong = (0..b).filter(|n| mem::read64(a + n * c) != d.wrapping_add(*n));
            [wrong.count() as u64, 0]
        }
        orders::CALL => call(a, [b, c, d]),
        orders::COUNT => {
            for _ in 0..c {
                add_one(a, b);
            }
            [0; 2]
        }
        orders::LOAD => [load(a, b, c, d), 0],
        orders::EACH => {
            let mut done = 0;
            while done < d {
                let [n, _] = call(a, [b, c + done * 4096, d - done]);
                if n.cast_signed() <= 0 {
                    return [done, n];
                }
                done += n;
            }
            [done, 0]
        }
        orders::SLEEP => {
            let timer = Timer::Virtual;
            let end = timer.now() + timer::ticks(a);
            timer.set_compare(end);
            timer.set_control(timer::ENABLE);
            while timer.now() < end {
                cpu::wfi();
            }
            timer.set_control(0);
            [0; 2]
        }
        orders::GUARD => {
            guard::begin(a, b, c);
            [0; 2]
        }
        orders::UNGUARD => guard::end(),
        orders::HIDE => {
            for n in 0..b / 8 {
                mem::write64(a + n * 8, orders::secret(c, n));
            }
            [0; 2]
        }
        orders::LATE => {
            gic::init_distributor();
            gic::init_cpu();
            let late = late::interrupt(b, || mem::write64(a, c));
            [late.unwrap_or(u64::MAX), 0]
        }
        orders::LATE_CALL => {
            gic::init_distributor();
            gic::init_cpu();
            let mut got = [0; 2];
            let late = late::interrupt(orders::AHEAD_NS, || got = call(a, [b, c, d]));
            [late.unwrap_or(u64::MAX), got[0]]
        }
        orders::OFF => psci::system_off(),
        _ => [u64::MAX; 2],
    }
}

fn call(function: u64, [a, b, c]: [u64; 3]) -> [u64; 2] {
    let mut registers = [0; 18];
    [registers[0], registers[1], registers[2], registers[3]] = [function, a, b, c];
    let got = psci::call(Conduit::Hvc, registers);
    [got[0], got[1]]
}

/// Pages that are written in round 0 hold what they held: zeroes.
fn load(address: u64, pages: u64, rounds: u64, seed: u64) -> u64 {
    let mut wrong = 0;
    for round in 0..rounds {
        for page in 0..pages {
            let base = address + page * 4096;
            for n in (0..512).step_by(16) {
                let at = base + n * 8;
                if round > 0 && mem::read64(at) != orders::pattern(seed, page, round - 1, n) {
                    wrong += 1;
                }
                mem::write64(at, orders::pattern(seed, page, round, n));
            }
        }
    }
    wrong
}

/// Adds one to the number of `bytes` bytes at `address`, by exclusives.
fn add_one(address: u64, bytes: u64) {
    macro_rules! add {
        ($load:literal, $store:literal) => {
            // SAFETY: the address is RAM outside the image, which root asked to be changed.
            unsafe {
                asm!(
                    concat!("2: ", $load),
                    "add {value:x}, {value:x}, #1",
                    $store,
                    "cbnz {failed:w}, 2b",
                    value = out(reg) _,
                    failed = out(reg) _,
                    at = in(reg) address,
                    options(nostack)
                )
            }
        };
    }
    match bytes {
        1 => add!(
            "ldaxrb {value:w}, [{at}]",
            "stlxrb {failed:w}, {value:w}, [{at}]"
        ),
        2 => add!(
            "ldaxrh {value:w}, [{at}]",
            "stlxrh {failed:w}, {value:w}, [{at}]"
        ),
        4 => add!(
            "ldaxr {value:w}, [{at}]",
            "stlxr {failed:w}, {value:w}, [{at}]"
        ),
        8 => add!(
            "ldaxr {value:x}, [{at}]",
            "stlxr {failed:w}, {value:x}, [{at}]"
        ),
        // SAFETY: as above.
        _ => unsafe {
            asm!(
                "2: ldaxp {low}, {high}, [{at}]",
                "adds {low}, {low}, #1",
                "adc {high}, {high}, xzr",
                "stlxp {failed:w}, {low}, {high}, [{at}]",
                "cbnz {failed:w}, 2b",
                low = out(reg) _,
                high = out(reg) _,
                failed = out(reg) _,
                at = in(reg) address,
                options(nostack)
            )
        },
    }
}
