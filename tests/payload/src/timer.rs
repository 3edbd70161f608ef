//! The two EL1 timers and the counter.

use crate::sysreg::{
    CNTFRQ_EL0, CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTPCT_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0, CNTVCT_EL0,
};
use guest_abi::map::{PTIMER_INTID, VTIMER_INTID};

/// CTL.ENABLE.
pub const ENABLE: u64 = 1;
/// CTL.IMASK.
pub const IMASK: u64 = 2;
/// CTL.ISTATUS.
pub const ISTATUS: u64 = 4;

/// One of the two timers a guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// CNTV.
    Virtual,
    /// CNTP.
    Physical,
}

impl Timer {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Virtual, Self::Physical];

    /// Returns its interrupt.
    pub const fn intid(self) -> u32 {
        match self {
            Self::Virtual => VTIMER_INTID,
            Self::Physical => PTIMER_INTID,
        }
    }

    /// Reads its counter.
    #[inline(always)]
    pub fn now(self) -> u64 {
        match self {
            Self::Virtual => CNTVCT_EL0.read(),
            Self::Physical => CNTPCT_EL0.read(),
        }
    }

    /// Reads CTL.
    pub fn control(self) -> u64 {
        match self {
            Self::Virtual => CNTV_CTL_EL0.read(),
            Self::Physical => CNTP_CTL_EL0.read(),
        }
    }

    /// Writes CTL.
    #[inline(always)]
    pub fn set_control(self, value: u64) {
        match self {
            Self::Virtual => CNTV_CTL_EL0.write(value),
            Self::Physical => CNTP_CTL_EL0.write(value),
        }
    }

    /// Reads CVAL.
    pub fn compare(self) -> u64 {
        match self {
            Self::Virtual => CNTV_CVAL_EL0.read(),
            Self::Physical => CNTP_CVAL_EL0.read(),
        }
    }

    /// Writes CVAL.
    #[inline(always)]
    pub fn set_compare(self, value: u64) {
        match self {
            Self::Virtual => CNTV_CVAL_EL0.write(value),
            Self::Physical => CNTP_CVAL_EL0.write(value),
        }
    }
}

/// Returns the counters' frequency in Hz.
pub fn hz() -> u64 {
    CNTFRQ_EL0.read()
}

/// Reads the virtual counter after everything before it.
#[inline(always)]
pub fn now() -> u64 {
    crate::cpu::isb();
    CNTVCT_EL0.read()
}

/// Returns the ticks in `ns` nanoseconds, rounded up.
pub fn ticks(ns: u64) -> u64 {
    (ns * (hz() / 1_000)).div_ceil(1_000_000)
}

/// Spins for `ns` nanoseconds, yielding.
pub fn spin(ns: u64) {
    let end = now() + ticks(ns);
    while now() < end {
        crate::cpu::yield_now();
    }
}
