//! Breakpoints, watchpoints and single step of a guest, which every guest has.
//!
//! Debug registers stay trapped (MDCR_EL2.TDA, TDOSA, TDRA): what a guest writes is kept here,
//! and put into the core's registers only while it can have an effect, which is while
//! MDSCR_EL1 says so and the OS lock is open. Hardware changes none of it, so that nothing is
//! ever read back. Debug exceptions go to EL1 (MDCR_EL2.TDE is zero) and are never generated at
//! EL2, whatever addresses a guest names. The communication channel to an external debugger
//! is not the guest's.

use super::Outcome;
use crate::sysreg::{Direction, Register};

/// Most breakpoints, and most watchpoints, that the architecture has.
pub const COMPARATORS_MAX: usize = 16;

/// MDSCR_EL1 (D24.3.20): SS, TDCC, KDE, MDE.
mod mdscr {
    pub(super) const SS: u64 = 1 << 0;
    pub(super) const TDCC: u64 = 1 << 12;
    pub(super) const KDE: u64 = 1 << 13;
    pub(super) const MDE: u64 = 1 << 15;
    pub(super) const KEPT: u64 = SS | TDCC | KDE | MDE;
}

/// DBGBCR<n>_EL1: E, PMC, BAS, HMC, SSC, LBN, BT.
const BCR_KEPT: u64 = 0xff_e1e7;
/// DBGBCR<n>_EL1.BT, its top bit: compares a VMID or CONTEXTIDR_EL2, which are not the guest's.
const BCR_BT_EL2: u64 = 1 << 23;
/// DBGWCR<n>_EL1: E, PAC, LSC, BAS, HMC, SSC, LBN, WT, MASK.
const WCR_KEPT: u64 = 0x1f1f_ffff;
/// DBGBCR<n>_EL1.E and DBGWCR<n>_EL1.E.
const ENABLED: u64 = 1;

/// OSLSR_EL1: there is an OS lock (OSLM is 0b10); OSLK says whether it is closed.
const OSLSR_OSLM: u64 = 1 << 3;
const OSLSR_OSLK: u64 = 1 << 1;

/// How many comparators a core has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Comparators {
    /// Breakpoints.
    pub breakpoints: usize,
    /// Watchpoints.
    pub watchpoints: usize,
}

impl Comparators {
    /// Reads DFR0.BRPs and WRPs, which are one less.
    pub const fn detect(dfr0: u64) -> Self {
        const fn count(dfr0: u64, lsb: u32) -> usize {
            let [field, ..] = (dfr0 >> lsb & 0xf).to_le_bytes();
            (field as usize).saturating_add(1)
        }
        Self {
            breakpoints: count(dfr0, 12),
            watchpoints: count(dfr0, 20),
        }
    }
}

/// A breakpoint or a watchpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Comparator {
    /// DBGBVR<n>_EL1 or DBGWVR<n>_EL1.
    pub value: u64,
    /// DBGBCR<n>_EL1 or DBGWCR<n>_EL1.
    pub control: u64,
}

/// The debug registers of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debug {
    mdscr: u64,
    os_locked: bool,
    breakpoints: [Comparator; COMPARATORS_MAX],
    watchpoints: [Comparator; COMPARATORS_MAX],
}

impl Debug {
    /// At reset: the OS lock is closed, nothing is enabled.
    pub const RESET: Self = Self {
        mdscr: 0,
        os_locked: true,
        breakpoints: [Comparator {
            value: 0,
            control: 0,
        }; COMPARATORS_MAX],
        watchpoints: [Comparator {
            value: 0,
            control: 0,
        }; COMPARATORS_MAX],
    };

    /// Returns what the core's MDSCR_EL1 is to be while this vCPU has the core.
    #[inline(always)]
    pub const fn mdscr(&self) -> u64 {
        if self.os_locked {
            // No debug exceptions but BRK (D2.5), and the channel still is not EL0's.
            self.mdscr & mdscr::TDCC
        } else {
            self.mdscr
        }
    }

    /// Returns whether the comparators can have an effect.
    pub const fn compares(&self) -> bool {
        self.mdscr() & mdscr::MDE != 0
    }

    /// Returns breakpoint `n` as the core is to have it.
    pub fn breakpoint(&self, n: usize) -> Comparator {
        let kept = self.breakpoints.get(n).copied().unwrap_or_default();
        if kept.control & BCR_BT_EL2 != 0 {
            return Comparator::default();
        }
        enabled(kept)
    }

    /// Returns watchpoint `n` as the core is to have it.
    pub fn watchpoint(&self, n: usize) -> Comparator {
        enabled(self.watchpoints.get(n).copied().unwrap_or_default())
    }

    /// Performs an access to one of the registers kept here.
    pub fn access(
        &mut self,
        register: Register,
        direction: Direction,
        value: u64,
        there: Comparators,
    ) -> Outcome {
        let (place, kept) = match register.fields() {
            (2, 0, 0, 2, 2) => (&mut self.mdscr, mdscr::KEPT),
            (2, 0, 1, 0, 4) => {
                return match direction {
                    // OSLAR_EL1 is write-only.
                    Direction::Read => Outcome::Undefined,
                    Direction::Write => {
                        self.os_locked = value & 1 != 0;
                        Outcome::Written
                    }
                };
            }
            (2, 0, 1, 1, 4) => {
                return match direction {
                    Direction::Read if self.os_locked => Outcome::Value(OSLSR_OSLM | OSLSR_OSLK),
                    Direction::Read => Outcome::Value(OSLSR_OSLM),
                    Direction::Write => Outcome::Undefined,
                };
            }
            (2, 0, 0, n, op2) => {
                let n = usize::from(n);
                let (table, count) = match op2 {
                    4 | 5 => (&mut self.breakpoints, there.breakpoints),
                    6 | 7 => (&mut self.watchpoints, there.watchpoints),
                    _ => return Outcome::Undefined,
                };
                let Some(own) = table.get_mut(n).filter(|_| n < count) else {
                    return Outcome::Undefined;
                };
                match op2 {
                    5 => (&mut own.control, BCR_KEPT),
                    7 => (&mut own.control, WCR_KEPT),
                    _ => (&mut own.value, u64::MAX),
                }
            }
            _ => return Outcome::Undefined,
        };
        match direction {
            Direction::Read => Outcome::Value(*place),
            Direction::Write => {
                *place = value & kept;
                Outcome::Written
            }
        }
    }
}

/// One that is not enabled leaves nothing in the core.
const fn enabled(kept: Comparator) -> Comparator {
    if kept.control & ENABLED != 0 {
        kept
    } else {
        Comparator {
            value: 0,
            control: 0,
        }
    }
}

/// Whether [`Debug::access`] answers for `register`.
pub(crate) const fn is_kept(register: Register) -> bool {
    matches!(
        register.fields(),
        (2, 0, 0, _, 4..=7) | (2, 0, 0, 2, 2) | (2, 0, 1, 0 | 1, 4)
    )
}
