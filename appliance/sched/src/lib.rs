//! Who runs next, for how long, and where.
//!
//! [`RunQueue`] is one core: the vCPU that runs and those that wait, chosen by virtual run
//! time, so that time is shared by weight. [`Cap`] is a VM's limit. [`balance`] moves vCPUs
//! between two cores. [`Turns`] is what a vCPU's time went to and what its guest is told of
//! it; [`Deadlines`] is when sleepers wake. Times are ticks of the system counter. What only
//! core knows of a vCPU (its VM's weight and limit, where it may run) comes through [`Facts`].
#![no_std]

mod balance;
mod cap;
mod deadlines;
mod run_queue;
mod share;
mod turns;

pub use balance::balance;
pub use cap::{Cap, Limit};
pub use deadlines::Deadlines;
pub use run_queue::{Entity, Next, RunQueue, Why};
pub use share::{Rate, WEIGHT_DEFAULT, WEIGHT_MAX};
pub use turns::{Phase, Turns};

/// Nanoseconds within which a VM's limit is kept, roughly.
pub const CAP_PERIOD_NS: u64 = 50_000_000;

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What core knows of vCPUs and the queues do not.
pub trait Facts {
    /// How fast `vcpu` ages while it runs: its VM's weight, shared by those that are busy.
    fn rate(&self, vcpu: u16) -> Rate;
    /// How long `vcpu`'s VM may go on; charged by [`Facts::charge`].
    fn limit(&mut self, vcpu: u16, now: u64) -> Limit;
    /// Notes that `vcpu` ran for `ticks`.
    fn charge(&mut self, vcpu: u16, ticks: u64, now: u64);
    /// The highest floor ([`RunQueue::floor`]) of the cores that `vcpu` may run on; it may be
    /// old.
    fn floor(&self, vcpu: u16) -> u64;
    /// Whether `vcpu`, which waits, may be taken to `core` now.
    fn may_move(&self, vcpu: u16, core: usize) -> bool;
}

/// The times that scheduling works with, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How long a vCPU may keep a core that others wait for.
    pub slice: u64,
    /// How much further a vCPU that wakes must be behind to take the core at once.
    pub wake: u64,
    /// How far behind the others a vCPU that slept may begin.
    pub lag: u64,
    /// How far behind or ahead of the others one that comes from another core may begin.
    pub reach: u64,
    /// How far behind the other core's vCPUs one must be to be moved there.
    pub steal: u64,
    /// How far behind those that wait, their last turns twice apart, one that runs may be.
    pub owed: u64,
    /// How far root is put before its time.
    pub boost: u64,
}

impl Tuning {
    /// Returns the times for a counter of `hz` ticks a second.
    pub const fn new(hz: u64) -> Self {
        const fn ticks(hz: u64, us: u64) -> u64 {
            let ticks = hz.saturating_mul(us) / 1_000_000;
            if ticks == 0 { 1 } else { ticks }
        }
        Self {
            slice: ticks(hz, 5_000),
            wake: ticks(hz, 1_000),
            lag: ticks(hz, 10_000),
            reach: ticks(hz, 50_000),
            steal: ticks(hz, 5_000),
            owed: ticks(hz, 20_000),
            boost: ticks(hz, 50_000),
        }
    }
}
