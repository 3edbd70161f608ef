//! An exception that the guest takes because core decided so.
//!
//! [`take`] follows AArch64.TakeException (DDI 0487, J1.1.2) for an exception to EL1 of
//! a guest that has no EL2: the same registers change, and no others.

/// What the guest takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An undefined instruction (EC 0).
    Undefined,
    /// A synchronous external abort on a load or store.
    DataAbort {
        /// Virtual address.
        far: u64,
        /// It was a store.
        write: bool,
        /// On which level of a table walk, if on one.
        walk_level: Option<u8>,
    },
    /// A synchronous external abort on a fetch.
    InstructionAbort {
        /// Virtual address.
        far: u64,
        /// On which level of a table walk, if on one.
        walk_level: Option<u8>,
    },
}

/// The guest as it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// ELR_EL2: the instruction that will not complete.
    pub pc: u64,
    /// SPSR_EL2.
    pub pstate: u64,
    /// VBAR_EL1.
    pub vbar: u64,
    /// SCTLR_EL1.
    pub sctlr: u64,
    /// Fields of PSTATE that the core has.
    pub fields: PstateFields,
}

/// Fields of PSTATE that an exception changes and that not every core has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PstateFields {
    /// FEAT_PAN: MMFR1.PAN is not 0.
    pub pan: bool,
    /// FEAT_SSBS: PFR1.SSBS is not 0.
    pub ssbs: bool,
}

impl PstateFields {
    /// Reads them from ID_AA64PFR1_EL1 and ID_AA64MMFR1_EL1.
    pub const fn detect(pfr1: u64, mmfr1: u64) -> Self {
        Self {
            pan: mmfr1 >> 20 & 0xf != 0,
            ssbs: pfr1 >> 4 & 0xf != 0,
        }
    }
}

/// What to write before the guest goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// ELR_EL2: the exception vector.
    pub pc: u64,
    /// SPSR_EL2.
    pub pstate: u64,
    /// ELR_EL1.
    pub elr: u64,
    /// SPSR_EL1.
    pub spsr: u64,
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1; left alone if `None`.
    pub far: Option<u64>,
}

/// PSTATE in SPSR form (C5.2.19).
mod pstate {
    pub(super) const NZCV: u64 = 0xf << 28;
    pub(super) const DIT: u64 = 1 << 24;
    pub(super) const PAN: u64 = 1 << 22;
    pub(super) const SSBS: u64 = 1 << 12;
    pub(super) const DAIF: u64 = 0xf << 6;
    pub(super) const AARCH32: u64 = 1 << 4;
    /// Exception level, bits 3:2.
    pub(super) const EL: u64 = 0b11 << 2;
    pub(super) const SP: u64 = 1;
    pub(super) const EL1H: u64 = 0b0101;
    /// DIT in the AArch32 form (G8.2.33).
    pub(super) const DIT_AARCH32: u64 = 1 << 21;
}

/// Computes the guest's state after it has taken `cause`.
pub const fn take(cause: Cause, stopped: Stopped) -> Entered {
    let from_el0 = stopped.pstate & (pstate::EL | pstate::AARCH32) != 0b0100;
    Entered {
        pc: stopped.vbar.wrapping_add(vector(stopped.pstate)),
        pstate: masked(stopped),
        elr: stopped.pc,
        spsr: stopped.pstate,
        esr: cause.syndrome(from_el0),
        far: match cause {
            Cause::Undefined => None,
            Cause::DataAbort { far, .. } | Cause::InstructionAbort { far, .. } => Some(far),
        },
    }
}

/// Offset of the vector for synchronous exceptions (D1.4.1.2).
const fn vector(from: u64) -> u64 {
    if from & pstate::AARCH32 != 0 {
        0x600
    } else if from & pstate::EL == 0 {
        0x400
    } else if from & pstate::SP != 0 {
        0x200
    } else {
        0x000
    }
}

/// PSTATE at the vector: EL1h and masked. SS, IL, BTYPE, UAO are zero; NZCV and DIT stay.
const fn masked(stopped: Stopped) -> u64 {
    const SCTLR_SPAN: u64 = 1 << 23;
    const SCTLR_DSSBS: u64 = 1 << 44;
    let from = stopped.pstate;
    let dit = if from & pstate::AARCH32 == 0 {
        from & pstate::DIT
    } else if from & pstate::DIT_AARCH32 != 0 {
        pstate::DIT
    } else {
        0
    };
    let pan = if !stopped.fields.pan {
        0
    } else if stopped.sctlr & SCTLR_SPAN == 0 {
        pstate::PAN
    } else {
        from & pstate::PAN
    };
    let ssbs = if stopped.fields.ssbs && stopped.sctlr & SCTLR_DSSBS != 0 {
        pstate::SSBS
    } else {
        0
    };
    from & pstate::NZCV | dit | pan | ssbs | pstate::DAIF | pstate::EL1H
}

impl Cause {
    /// ESR_EL1 (D24.2.40): EC, IL, and for aborts WnR and the fault status.
    const fn syndrome(self, from_el0: bool) -> u64 {
        const IL: u64 = 1 << 25;
        const DATA: u64 = 0x24 << 26;
        const INSTRUCTION: u64 = 0x20 << 26;
        const SAME_LEVEL: u64 = 1 << 26;
        let same = if from_el0 { 0 } else { SAME_LEVEL };
        match self {
            Self::Undefined => IL,
            Self::DataAbort {
                write, walk_level, ..
            } => DATA | same | IL | (write as u64) << 6 | status(walk_level),
            Self::InstructionAbort { walk_level, .. } => {
                INSTRUCTION | same | IL | status(walk_level)
            }
        }
    }
}

/// Synchronous external abort, not on a walk or on a walk of level 0 to 3.
const fn status(walk_level: Option<u8>) -> u64 {
    match walk_level {
        None => 0b01_0000,
        Some(level) => 0b01_0100 | level as u64 & 0b11,
    }
}
