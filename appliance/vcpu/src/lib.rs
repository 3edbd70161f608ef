//! Exits, trapped registers, PSCI: what a vCPU is, without the machine.
//!
//! [`Exit`] says why a guest stopped; [`trap::Traps`] decides what makes it stop;
//! [`sysreg`] and [`ids`] answer trapped registers, as the VM's [`features`] have it; [`smccc`], [`psci`] and [`paravirt`] answer calls;
//! [`inject`] computes an exception taken by the guest; [`reset`] is a vCPU's first state;
//! [`stage1`] follows the guest's own tables.
//! Everything is a function from values to
//! values: core reads and writes the registers.
#![no_std]

pub mod context;
pub mod errata;
pub mod exit;
pub mod features;
pub mod grace;
pub mod ids;
pub mod inject;
pub mod lives;
pub mod paravirt;
pub mod power;
pub mod psci;
pub mod reset;
pub mod smccc;
pub mod stage1;
pub mod sysreg;
pub mod trap;
pub mod wakes;

pub use exit::Exit;
pub use sysreg::Register;
