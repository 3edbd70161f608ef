//! A framework for test guests: flat bare-metal images at EL1 of QEMU's `virt` map.
//!
//! A guest is entered as `guest_abi::map` says: at RAM + 0x80000, EL1h, MMU off, x0 = device
//! tree. It runs on Skete and under plain QEMU alike, which makes every test a differential
//! one. [`guest!`] names its main function; [`run_tests`] runs a list of [`el1_test!`]s and
//! ends the machine by PSCI SYSTEM_OFF.
//!
//! What it prints is read by programs: `TEST <name> ok`, `TEST <name> FAIL <why>`,
//! `SUMMARY passed=<n> failed=<m>`, `BENCH <key> <number>`.
//!
//! Only [`stats`] and [`text`] exist on other targets: the rest is instructions.
#![no_std]

pub mod stats;
pub mod text;

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod console;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod cpu;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod entry;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod exception;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod fp;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod gic;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod its;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod late;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod machine;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod mem;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod mmu;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod psci;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod root;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod smp;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod stub;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod sysreg;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod test;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod timer;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod vectors;

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub use exception::{Fault, catch};
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub use test::{Test, TestResult, run_tests};
