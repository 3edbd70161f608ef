//! Reads and writes on behalf of someone who has no mapping: the control port, and a guest
//! whose access lies where no whole page is the device's.

use crate::region::Region;
use core::fmt;

/// The part of an access that each rule is for, in bytes. Their sum is how far the access got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clip {
    /// From the offset on: memory of the device.
    pub device: u64,
    /// Behind that, still in the BAR: reads as 0xff, and what is written there is dropped.
    pub ones: u64,
}

/// Why an access was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessError {
    /// The offset is not in the BAR (EINVAL).
    Offset,
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offset => f.write_str("offset outside the BAR"),
        }
    }
}

impl core::error::Error for AccessError {}

/// Cuts an access of `count` bytes at `offset` to the BAR, and tells memory from what is behind.
///
/// # Errors
/// [`AccessError::Offset`] if it begins outside the BAR.
pub fn clip(region: &Region, offset: u64, count: u64) -> Result<Clip, AccessError> {
    let room = region
        .bar_size()
        .checked_sub(offset)
        .filter(|room| *room > 0)
        .ok_or(AccessError::Offset)?;
    let total = count.min(room);
    let device = total.min(region.len().saturating_sub(offset));
    Ok(Clip {
        device,
        ones: total.saturating_sub(device),
    })
}
