//! Spins on every vCPU with every interrupt masked, for ever.
#![no_std]
#![no_main]

use payload::{cpu, machine, println, smp};

payload::guest!(main);

fn main() -> ! {
    println!("ADVERSARY spin cpus {}", machine::cpus());
    smp::start_all(spin);
    spin_for_ever()
}

extern "C" fn spin() {
    spin_for_ever()
}

fn spin_for_ever() -> ! {
    cpu::mask_all();
    loop {
        core::hint::black_box(());
    }
}
