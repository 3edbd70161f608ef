//! `entry.S`, as part of this crate.
#![expect(unsafe_code, reason = "this is the image's entry point")]

// SAFETY: the code runs before Rust does, with nothing of Rust's alive, and enters
// `core_main` and `core_secondary` with a stack of their own, as the comments there say.
core::arch::global_asm!(include_str!("entry.S"));
