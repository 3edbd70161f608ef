//! Weights, and how fast they let a vCPU age.

/// The weight of a VM that was given none.
pub const WEIGHT_DEFAULT: u32 = 100;
/// The largest weight; the smallest is 1.
pub const WEIGHT_MAX: u32 = 10_000;

/// Virtual ticks a vCPU ages in a tick on a core, times 2^20: the less weight, the more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(u64);

impl Rate {
    /// Returns the rate of one of `sharers` busy vCPUs of a VM of `weight`: what a VM gets
    /// does not depend on how many vCPUs it has.
    pub const fn new(weight: u32, sharers: u32) -> Self {
        let weight = if weight == 0 { 1 } else { weight as u64 };
        let sharers = if sharers == 0 { 1 } else { sharers as u64 };
        let Some(rate) = ((WEIGHT_DEFAULT as u64) << 20)
            .saturating_mul(sharers)
            .checked_div(weight)
        else {
            return Self(1 << 20);
        };
        Self(rate)
    }

    /// Returns by how much `ticks` on a core age.
    pub const fn age(self, ticks: u64) -> u64 {
        // A million years of ticks is not reached, so this does not saturate in practice.
        let whole = (ticks >> 20).saturating_mul(self.0);
        let part = (ticks & 0xf_ffff).saturating_mul(self.0) >> 20;
        whole.saturating_add(part)
    }
}
