//! Device memory by fault: what is mapped when a guest touches a BAR, and when nothing may be.
//!
//! A BAR handed to a guest is not mapped. Its first touch faults; [`Device::touch`] says
//! whether the device may be reached now, [`block_at`] which is the largest leaf that fits.
//! Every kind of reset takes all mappings away first ([`Device::begin`]), and none comes back
//! before the device's own registers say that it is ready ([`ReadyPolicy`]).
//!
//! # Protocol
//!
//! A device has one lock, which is core's. Under it: [`Device::touch`] and, if that says
//! [`Verdict::Map`], the change of stage 2. A poll of the readiness registers is a few loads
//! and happens under the lock too, so that they are never read while memory is off. Nobody
//! sleeps with the lock held: [`Verdict::Park`] names a time, the toucher alone waits for it
//! and then touches again, with its [`Waiter`], which remembers the generation it waits for.
//! A reset in between makes the generation another, and the wait begins anew.
//!
//! Nothing here reads a register or writes a table: that is core's.
#![no_std]

mod access;
mod device;
mod open;
mod order;
pub mod profile;
mod ready;
mod region;
mod touch_map;
mod trace;

pub use access::{AccessError, Clip, clip};
pub use device::{Device, Power, Refusal, Taken, Verdict, Why};
pub use open::{Failed, STEPS, Step, Steps, close, open};
pub use order::{Block, Order, block_at};
pub use ready::{Check, ReadyPolicy, Waiter};
pub use region::{Memory, Region, RegionError};
pub use touch_map::{CELLS, TouchMap};
pub use trace::{Counters, Outcome, TRACE_LEN, Trace, TraceEntry};
