//! virtio devices of the machine, driven by root.
//!
//! The queues and transports are those of crate `virtio-drivers`; its ready-made network
//! driver is not used, for it trusts the device: it slices buffers with lengths that the
//! device wrote (RELIABILITY 10.1), and with EVENT_IDX it stops notifying when the ring
//! index wraps. [`Nic`] checks every length and token, and negotiates only what it needs.
#![no_std]

mod entropy;
mod mmio;
mod nic;

pub use entropy::fill;
pub use mmio::acknowledge;
pub use nic::{BUFFER_BYTES, Buffer, Fault, Nic, QUEUE, Received};
