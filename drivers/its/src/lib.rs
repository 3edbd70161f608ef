//! The machine's own ITS (IHI 0069H, chapter 5): its commands, and what its registers hold.
//!
//! Numbers only; who owns the machine writes them where they belong. The ITS that a guest sees is
//! `vgic`'s.
#![no_std]

mod command;
pub mod register;

pub use command::{COMMAND_BYTES, Command, Queue};
