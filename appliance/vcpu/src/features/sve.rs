//! The Scalable Vector Extension: shown where the core has it, trapped until first used, then
//! moved whole when another vCPU takes the core.
//!
//! A guest sees vectors of up to 512 bits: no core made has longer ones, and what core keeps
//! for a vCPU stays small. At reset and at the first use every bit beyond V0 to V31 is zero.

use super::{Description, Field, Open};
use crate::ids::IdReg;

/// Longest vector that a guest sees, in bytes.
pub const VECTOR_BYTES_MAX: usize = 64;

/// ZCR_EL2.LEN: the longest vector in units of 128 bits, less one. Shorter ones the hardware
/// chooses itself (D24.2.231).
pub const ZCR_EL2: u64 = 3;

/// CPTR_EL2.TZ.
const TZ: u64 = 1 << 8;

const fn part(lsb: u32) -> Field {
    Field::new(IdReg::Zfr0, lsb, 0xf)
}

pub(super) const DESCRIPTION: Description = Description {
    name: "sve",
    fields: &[
        // PFR0.SVE.
        Field::new(IdReg::Pfr0, 32, 1),
    ],
    details: &[
        // ZFR0: SVEver up to SVE2p1, AES, BitPerm, BF16, SHA3, SM4, I8MM, F32MM, F64MM.
        Field::new(IdReg::Zfr0, 0, 2),
        part(4),
        part(16),
        part(20),
        part(32),
        part(40),
        part(44),
        part(52),
        part(56),
    ],
    open: Open {
        hcr_set: 0,
        cptr_clear: TZ,
    },
};
