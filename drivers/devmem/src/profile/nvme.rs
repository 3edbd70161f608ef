//! An NVMe controller (NVM Express Base 2.0).
//!
//! After a reset CC.EN is 0, and the controller is done resetting when CSTS.RDY is 0 (3.1.4.6).
//! One that does not answer reads as ones, which is not ready. How long that may take is in
//! CAP.TO, 127.5 s at the most; [`POLICY`] waits for 30 s as the other profiles do.

use crate::ready::{Check, ReadyPolicy};

/// Offset of CSTS in BAR 0.
pub const CSTS: u64 = 0x1c;
/// CSTS.RDY.
pub const RDY: u32 = 1 << 0;

/// CSTS.RDY is 0.
pub const POLICY: ReadyPolicy = ReadyPolicy {
    checks: &[Check {
        bar: 0,
        offset: CSTS,
        mask: RDY,
        want: 0,
    }],
    quantum_ms: 10,
    timeout_ms: 30_000,
};
