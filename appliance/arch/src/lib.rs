//! The Arm architecture as types, for the crates that decide and for core that acts.
#![no_std]

mod addr;
pub mod tlbi;
mod width;

pub use addr::{Addr, Intermediate, Ipa, Pa, Physical, Va, Virtual};
pub use width::Width;
