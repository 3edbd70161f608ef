//! Whether a vCPU is on: the state that PSCI calls race for.

use core::sync::atomic::{AtomicU32, Ordering};

/// The state of one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerState {
    /// Not running, and may be started.
    Off,
    /// Someone has started it; its registers are being set.
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

/// The power state of a vCPU, for several cores to change at once.
///
/// Off → pending by whoever wins [`PowerCell::claim`]; pending → on by the winner, once
/// the vCPU's registers are written; on → off by the vCPU itself.
#[derive(Debug)]
pub struct PowerCell(AtomicU32);

const OFF: u32 = 0;
const PENDING: u32 = 1;
const ON: u32 = 2;

impl PowerCell {
    /// Returns a cell that is off.
    pub const fn new() -> Self {
        Self(AtomicU32::new(OFF))
    }

    /// Off → pending: the caller alone may now write the vCPU's registers.
    ///
    /// # Errors
    /// [`Busy`] if the vCPU is not off; nothing has changed.
    pub fn claim(&self) -> Result<(), Busy> {
        // Acquire: what the vCPU left behind when it went off is seen by the winner.
        match self
            .0
            .compare_exchange(OFF, PENDING, Ordering::Acquire, Ordering::Relaxed)
        {
            Ok(_) => Ok(()),
            Err(PENDING) => Err(Busy::OnPending),
            Err(_) => Err(Busy::AlreadyOn),
        }
    }

    /// Pending → on, by the winner. Publishes the registers that it has written.
    ///
    /// # Panics
    /// If the cell is not pending.
    pub fn publish(&self) {
        let before = self.0.swap(ON, Ordering::Release);
        assert!(before == PENDING, "published a vCPU that nobody claimed");
    }

    /// On → off, by the vCPU itself, or by whoever stops a VM none of whose vCPUs runs.
    pub fn off(&self) {
        self.0.store(OFF, Ordering::Release);
    }

    /// Returns the state as it is now.
    pub fn state(&self) -> PowerState {
        match self.0.load(Ordering::Acquire) {
            OFF => PowerState::Off,
            PENDING => PowerState::Pending,
            _ => PowerState::On,
        }
    }
}

impl Default for PowerCell {
    fn default() -> Self {
        Self::new()
    }
}
