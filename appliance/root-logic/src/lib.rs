//! Decisions of root that need neither Hermit nor a machine: what the boot arguments say,
//! how the console rings move, in which block a byte of an image lies, what of a
//! dead root's memory is taken over.
#![no_std]

extern crate alloc;

pub mod bootargs;
pub mod dropped;
pub mod extent;
pub mod legacy;
mod ring;

pub use bootargs::BootArgs;
pub use ring::Ring;
