//! Instructions per operation, under QEMU's `-icount shift=0,sleep=off`.
//!
//! Prints `BENCH <key> <number>` for each operation, a file here each, and `BENCH done`.
//! What the machine does not have is a comment line, `# <key>: <why>`.
#![no_std]
#![no_main]

mod first_touch;
mod gic_read;
mod hypercall;
mod ipi;
mod lpi;
mod measure;
mod sysreg_id_read;
mod timer_latency;
mod uart_read;
mod unclaimed_read;

use payload::{gic, its, machine, mmu, println, psci, timer};

payload::guest!(main);

fn main() -> ! {
    mmu::enable();
    if its::is_there() {
        // A VM with a device: only what the others have not.
        gic::init_distributor();
        gic::init_cpu();
        lpi::run();
        println!("BENCH done");
        psci::system_off()
    }
    println!("# counter_hz {} cpus {}", timer::hz(), machine::cpus());
    hypercall::run();
    gic_read::run();
    uart_read::run();
    unclaimed_read::run();
    sysreg_id_read::run();
    gic::init_distributor();
    gic::init_cpu();
    ipi::run();
    timer_latency::run();
    first_touch::run();
    println!("BENCH done");
    psci::system_off()
}
