//! The appliance in QEMU, as its users meet it. `cargo xtask test` builds what this needs.
//!
//! Every test starts an appliance of its own, on each CPU model that the project answers for.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test that panics has failed, which is what is meant"
)]

/// Makes each function, which takes a CPU model, a test of every model.
macro_rules! on_both_cpus {
    ($($test:ident),* $(,)?) => {
        mod max {
            $(#[test] fn $test() { super::$test(qemu::Cpu::Max) })*
        }
        mod cortex_a72 {
            $(#[test] fn $test() { super::$test(qemu::Cpu::CortexA72) })*
        }
    };
}

mod bare;
mod beside;
mod bridges;
mod builds;
mod common;
mod cpu_api;
mod devices;
mod dma;
mod groups;
mod hint;
mod hostile;
mod lifecycle;
mod linux;
mod memory;
mod memory_api;
mod plain;
mod rebirth;
mod refusals;
mod resets;
mod storms;
mod stress;
mod turns;
