//! NVIDIA GH200, GB200, GB300: GPUs whose memory is coherent with the CPUs' and is part of
//! physical memory, and which train it for seconds after a reset.
//!
//! The memory appears as two BARs that the function itself does not have: *usemem*, cached, as
//! BAR 4, and *resmem*, carved out of its end and non-cached, as BAR 2, which only GPUs need
//! whose MIG does not work with cached memory.

use crate::ready::{Check, ReadyPolicy};
use crate::region::Memory;
use core::fmt;

/// PCI vendor.
pub const VENDOR: u16 = 0x10de;
/// PCI devices: three GH200, GB200, GB300.
pub const DEVICES: [u16; 5] = [0x2342, 0x2345, 0x2348, 0x2941, 0x31c2];
/// State of the chip-to-chip link, in BAR 0.
pub const C2C_LINK_STATUS: u64 = 0x1498;
/// State of the training of the memory, in BAR 0.
pub const HBM_TRAINING_STATUS: u64 = 0x2_00bc;
/// What both say when they are done.
pub const STATUS_READY: u32 = 0xff;
/// DVSEC that says whether MIG works with cached memory: vendor [`VENDOR`] and this id.
pub const DVSEC_ID: u16 = 3;
/// Offset in it of the 16 bits whose bit 0 says so.
pub const DVSEC_MIG_OFFSET: u16 = 0xa;

/// usemem is a multiple of this where there is a resmem.
const BLOCK: u64 = 512 << 20;
/// resmem has at least this.
const CARVE_OUT: u64 = 1 << 30;

/// Link up and memory trained; polled each second, for 30 s.
pub const POLICY: ReadyPolicy = ReadyPolicy {
    checks: &[
        Check {
            bar: 0,
            offset: C2C_LINK_STATUS,
            mask: u32::MAX,
            want: STATUS_READY,
        },
        Check {
            bar: 0,
            offset: HBM_TRAINING_STATUS,
            mask: u32::MAX,
            want: STATUS_READY,
        },
    ],
    quantum_ms: 1000,
    timeout_ms: 30_000,
};

/// A part of the memory, as a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Offset in the memory.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Bytes of the BAR.
    pub bar_size: u64,
    /// How it is accessed.
    pub memory: Memory,
}

/// Whether MIG works with cached memory, and so no resmem is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mig {
    /// It does: the DVSEC says so.
    Works,
    /// It does not.
    NeedsCarveOut,
}

impl Mig {
    /// Reads it out of the DVSEC's 16 bits at [`DVSEC_MIG_OFFSET`], or of there being none.
    pub const fn from_dvsec(word: Option<u16>) -> Self {
        match word {
            Some(word) if word & 1 != 0 => Self::Works,
            _ => Self::NeedsCarveOut,
        }
    }
}

/// The memory, divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// BAR 4.
    pub usemem: Part,
    /// BAR 2.
    pub resmem: Option<Part>,
}

/// Why memory cannot be divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitError {
    /// There is none: the chip-to-chip link is down (ENOMEM).
    NoMemory,
    /// Nothing is left beside resmem (EINVAL).
    TooSmall,
    /// A BAR would have 2^64 bytes (EOVERFLOW).
    TooLarge,
}

impl fmt::Display for SplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoMemory => "the device has no memory",
            Self::TooSmall => "too little memory beside the carve-out",
            Self::TooLarge => "too much memory for a BAR",
        })
    }
}

impl core::error::Error for SplitError {}

/// Divides `bytes` of memory.
///
/// # Errors
/// See [`SplitError`].
pub fn split(bytes: u64, mig: Mig) -> Result<Split, SplitError> {
    let pow2 = |n: u64| n.checked_next_power_of_two().ok_or(SplitError::TooLarge);
    if bytes == 0 {
        return Err(SplitError::NoMemory);
    }
    if mig == Mig::Works {
        let usemem = Part {
            offset: 0,
            len: bytes,
            bar_size: pow2(bytes)?,
            memory: Memory::Cached,
        };
        return Ok(Split {
            usemem,
            resmem: None,
        });
    }
    // The BAR's size is from before the rounding.
    let most = bytes.checked_sub(CARVE_OUT).ok_or(SplitError::TooSmall)?;
    let len = most & !BLOCK.wrapping_sub(1);
    if len == 0 {
        return Err(SplitError::TooSmall);
    }
    let rest = bytes.saturating_sub(len);
    Ok(Split {
        usemem: Part {
            offset: 0,
            len,
            bar_size: pow2(most)?,
            memory: Memory::Cached,
        },
        resmem: Some(Part {
            offset: len,
            len: rest,
            bar_size: pow2(rest)?,
            memory: Memory::WriteCombining,
        }),
    })
}
