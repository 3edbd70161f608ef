//! core: Skete at EL2.
//!
//! `core_main` is entered by `boot_entry` on the boot core, `core_secondary` on the
//! others. From then on a core runs vCPUs (`sched`), leaves them by an exit (`vectors.S`,
//! `exits`) and idles; it never returns.
#![no_std]
#![no_main]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "overflow checks are on in release; addresses and counts here are 64-bit, and usize is"
)]

mod console;
mod epitaph;
mod gic;
mod hw;
mod layout;
mod memory;
mod per_cpu;
mod physmap;

use boot_entry::PHYSMAP;
use boot_info::{BootInfo, Range};

use crate::console::println;

/// Entered once, on the boot core, with the MMU on and a stack.
#[unsafe(no_mangle)]
extern "C" fn core_main(tree_pa: u64, image_pa: u64, reset_ticks: u64) -> ! {
    hw::set_vbar_el2(layout::vectors());
    per_cpu::install(0);
    let info = read_tree(tree_pa, image_pa);
    println!("hello");
    loop { hw::wfi() }
}
