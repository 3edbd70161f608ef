//! A PCI function of which nothing is known: ready once it may be accessed after its reset.

use crate::ready::ReadyPolicy;

/// No register tells.
pub const POLICY: ReadyPolicy = ReadyPolicy {
    checks: &[],
    quantum_ms: 1000,
    timeout_ms: 30_000,
};
