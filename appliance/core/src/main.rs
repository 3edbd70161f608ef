//! core: Skete at EL2.
//!
//! `core_main` is entered by `boot_entry` on the boot core, `core_secondary` on the
//! others. From then on a core runs vCPUs (`schedule`), leaves them by an exit
//! (`vectors.S`, `exits`) and idles; it never returns.
#![no_std]
#![no_main]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "overflow checks are on in release; addresses and counts here are 64-bit, and usize is"
)]

mod atomic;
mod boot;
mod calls;
mod console;
mod epitaph;
mod exits;
mod features;
mod gic;
mod grace;
mod guarded;
mod guest;
mod guest_fault;
mod guest_memory;
mod hw;
mod hypercall;
mod interrupt;
mod its;
mod keyed;
mod layout;
mod memory;
mod memory_access;
mod memory_calls;
mod memory_sharing;
mod mmio;
mod notes;
mod paravirt;
mod passthrough;
mod per_cpu;
mod physmap;
mod pins;
mod place;
mod pressure;
mod rebirth;
mod regs;
mod root;
mod schedule;
mod scrub;
mod serial;
mod share;
mod stage2;
mod sysreg;
mod timer;
mod vectors;
mod world;

use core::sync::atomic::Ordering;

use crate::console::println;

/// Entered once, on the boot core, with the MMU on and a stack of its own.
#[expect(unsafe_code, reason = "called from entry.S by name")]
#[unsafe(no_mangle)]
extern "C" fn core_main(tree_pa: u64, image_pa: u64, reset_ticks: u64) -> ! {
    hw::set_vbar_el2(layout::vectors());
    per_cpu::install(0);
    let machine = boot::machine(tree_pa, image_pa);
    stage2::detect();
    world::detect();
    features::detect();
    let usage = memory::usage();
    println!(
        "core {} at EL2, {} MiB of {} MiB RAM free",
        env!("CARGO_PKG_VERSION"),
        usage.free >> 20,
        usage.ram >> 20
    );
    hw::tlbi_all_guests();
    join();
    passthrough::init(machine.info);
    let cores = boot::start_cores(machine.info, image_pa);
    root::boot(&machine, cores, reset_ticks);
    run()
}

/// Entered on every other core, with the MMU on and a stack of its own.
#[expect(unsafe_code, reason = "called from entry.S by name")]
#[unsafe(no_mangle)]
extern "C" fn core_secondary(index: usize) -> ! {
    hw::set_vbar_el2(layout::vectors());
    per_cpu::install(index);
    join();
    run()
}

/// Makes this core take part.
fn join() {
    let cpu = per_cpu::this();
    let Some(redistributor) = gic::init_cpu(&interrupt::OWN) else {
        boot::halt(format_args!(
            "the device tree gives core {} (mpidr {:#x}) no GICv3 redistributor",
            cpu.index.load(Ordering::Relaxed),
            cpu.mpidr.load(Ordering::Relaxed)
        ));
    };
    cpu.redistributor.store(redistributor, Ordering::Relaxed);
    world::init_cpu();
    cpu.online.store(true, Ordering::Release);
    println!("core {} is up", cpu.index.load(Ordering::Relaxed));
}

/// Runs vCPUs from here on.
fn run() -> ! {
    let first = schedule::choose(per_cpu::this());
    vectors::enter(first)
}
