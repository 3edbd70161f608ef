//! Spins on every vCPU with every interrupt masked, for ever.
#![no_std]
#![no_main]

use payload::{cpu, machine, println, smp};

payload::guest!(main);

fn main() -> ! {
    println!("ADVERSARY spin cpus {}", machine::cpus());
    smp::start_all(spin);
    spin();
    loop {}
}

extern "C" fn spin() {
    cpu::mask_all();
    loop {
        core::hint::black_box(());
    }
}
