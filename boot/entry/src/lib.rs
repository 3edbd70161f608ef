//! The first instructions: from firmware into core.
//!
//! `entry.S` is the arm64 Image header and the jump to core's link address; [`tables`]
//! builds EL2's final stage 1, in which all RAM appears once, at [`PHYSMAP`] + PA.
#![no_std]

#[cfg(target_arch = "aarch64")]
mod asm;
pub mod tables;

pub use guest_abi::root_boot::PHYSMAP;

/// Where core is linked (see `link.ld`).
pub const CORE_BASE: u64 = 0x6000_0000_0000;
/// Most cores (see `link.ld`).
pub const CPUS_MAX: usize = 16;
/// First PA that [`PHYSMAP`] cannot show.
pub const PA_LIMIT: u64 = 1 << 45;
