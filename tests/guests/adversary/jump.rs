//! Jumps to where nothing is, with its exception vectors there too: it aborts for ever.
#![no_std]
#![no_main]

use guest_abi::map::RAM_BASE;
use payload::{exception, machine, println, smp};

payload::guest!(main);

fn main() -> ! {
    println!("ADVERSARY jump cpus {}", machine::cpus());
    smp::start_all(crash);
    exception::crash_for_ever(nowhere())
}

/// Above RAM, aligned as VBAR_EL1 has to be.
fn nowhere() -> u64 {
    (RAM_BASE + machine::ram_bytes() + 0x1000_0000) & !0x7ff
}

extern "C" fn crash() {
    exception::crash_for_ever(nowhere())
}
