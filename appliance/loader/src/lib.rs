//! Guest loading, without a guest: what an image is, where its parts go, and the device
//! tree that the guest finds.
//!
//! [`plan`] reads the first bytes of an image and returns a [`Plan`]: which bytes of the
//! file go where, where the guest is entered, where initrd and device tree lie. [`Gunzip`]
//! unpacks a compressed kernel piece by piece. [`Tree`] writes the device tree. Root does
//! the copying.
#![no_std]

extern crate alloc;

mod elf;
mod gunzip;
mod plan;
mod tree;

pub use gunzip::{Gunzip, GunzipError, Progress};
pub use plan::{Kind, LoadError, Part, Plan, is_gzip, plan};
pub use tree::Tree;

/// Bytes at the start of an image that [`plan`] wants to see, if there are as many.
pub const HEAD_BYTES: usize = 64 << 10;
