//! Whether a vCPU is on: the states that PSCI calls tell apart.
//!
//! Who wins when several vCPUs start one at once is decided where vCPUs are scheduled,
//! under that lock; PSCI only reports it.

/// The state of one vCPU (PSCI's AFFINITY_INFO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerState {
    /// Not running, and may be started.
    Off,
    /// Someone has started it; its first instruction is still to come.
    Pending,
    /// Running.
    On,
}

/// Why a vCPU cannot be started: someone else has done so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// It runs.
    AlreadyOn,
    /// It is being started.
    OnPending,
}
