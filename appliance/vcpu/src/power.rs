//! Whether a vCPU is on: the states that PSCI calls tell apart.
//!
//! [`Switch`] decides who wins when several start one at once; everything else follows it.

use core::sync::atomic::{AtomicU8, Ordering};

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

/// A word of memory that several processors change: an atomic, or what a test has for one.
pub trait Word {
    /// Returns its value.
    fn get(&self) -> u8;
    /// Sets it.
    fn set(&self, value: u8);
    /// Sets it to `new` if it is `old`; else returns what it is.
    ///
    /// # Errors
    /// The value that it has instead of `old`.
    fn exchange(&self, old: u8, new: u8) -> Result<(), u8>;
}

impl Word for AtomicU8 {
    fn get(&self) -> u8 {
        self.load(Ordering::Acquire)
    }

    fn set(&self, value: u8) {
        self.store(value, Ordering::Release);
    }

    fn exchange(&self, old: u8, new: u8) -> Result<(), u8> {
        self.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
    }
}

/// The power switch of one vCPU.
///
/// Whoever [`Switch::start`] lets through, and nobody else, says where the vCPU begins and wakes
/// it. The core that runs it says [`Switch::began`] before its first instruction, and
/// [`Switch::off`] once nothing of its last run can be seen any more.
#[derive(Debug)]
pub struct Switch<W>(W);

const OFF: u8 = 0;
const PENDING: u8 = 1;
const ON: u8 = 2;

impl Switch<AtomicU8> {
    /// A vCPU that is off.
    pub const fn new() -> Self {
        Self(AtomicU8::new(OFF))
    }
}

impl Default for Switch<AtomicU8> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W: Word> Switch<W> {
    /// The switch whose state is in `word`, where zero is off.
    pub const fn of(word: W) -> Self {
        Self(word)
    }

    /// Returns the state, as AFFINITY_INFO tells it.
    pub fn state(&self) -> PowerState {
        match self.0.get() {
            OFF => PowerState::Off,
            PENDING => PowerState::Pending,
            _ => PowerState::On,
        }
    }

    /// Starts the vCPU, for one caller of all that try.
    ///
    /// # Errors
    /// [`Busy`] if it is not off.
    pub fn start(&self) -> Result<(), Busy> {
        match self.0.exchange(OFF, PENDING) {
            Ok(()) => Ok(()),
            Err(PENDING) => Err(Busy::OnPending),
            Err(_) => Err(Busy::AlreadyOn),
        }
    }

    /// Notes that it runs from where it was told to.
    pub fn began(&self) {
        self.0.set(ON);
    }

    /// Notes that it is off.
    pub fn off(&self) {
        self.0.set(OFF);
    }
}
