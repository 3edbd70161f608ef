//! Decisions of root that need neither Hermit nor a machine: what the boot arguments say,
//! how the console rings move, in which block a byte of an image lies.
#![no_std]

extern crate alloc;

pub mod bootargs;
pub mod dropped;
pub mod extent;
mod ring;

pub use bootargs::BootArgs;
pub use ring::Ring;
