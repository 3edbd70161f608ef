//! Who runs next.
//!
//! [`RunQueue`] is one core's queue of vCPUs that want to run: first come, first served,
//! with a front door for root. Time slices, blocking and waking are core's business.
#![no_std]

mod deadlines;
mod run_queue;
mod turns;

pub use deadlines::Deadlines;
pub use run_queue::{Full, RunQueue};
pub use turns::{Phase, Turns};

/// Nanoseconds a vCPU may keep a core that others wait for.
pub const SLICE_NS: u64 = 10_000_000;
