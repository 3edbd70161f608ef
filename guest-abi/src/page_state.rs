//! Page states: what a guest says of its pages' content, so that memory can be taken back.
//!
//! Two SMCCC fast HVC64 calls of the vendor-specific hypervisor service (owner 6). x0 holds
//! the call; on return x0 is a number of pages, or [`NOT_SUPPORTED`], [`INVALID`] or
//! [`NO_MEMORY`], sign-extended. A function that the VM may not use is [`NOT_SUPPORTED`] and
//! its bit in FEATURES is clear.

/// `(op, ipa, pages) -> (done, states)`: does operation `op` (0 to 7, see [`StateCall`]) for
/// up to `pages` pages from `ipa`.
///
/// Returns in x0 how many pages were done, at least one and at most [`PAGES_MAX`]; call again
/// for the rest. x1 holds the states that the first eight of them had before, one byte each,
/// the first in bits 7:0: 0x20 no translation tables, bits 3:2 usage (0 stable, 1 unused, 2
/// potentially volatile, 3 volatile), bits 1:0 content (0 resident, 2 absent, 3 absent and
/// zero).
pub const PAGE_STATE: u32 = 0xc600_0020;
/// `() -> (freed, left)`: gives back the frames of pages this vCPU said are unused, until an
/// interrupt comes. x1 holds how many are left; call again for them.
///
/// Core does so by itself when 256 pages wait, and when the vCPU waits and its core is given
/// to another.
pub const PAGE_STATE_DRAIN: u32 = 0xc600_0021;

/// Function numbers of this file, as bits of FEATURES.
pub const FUNCTIONS: [u8; 2] = [0x20, 0x21];
/// Most pages one call does.
pub const PAGES_MAX: u64 = 256;

/// x0 of a call that does not exist, or that the VM may not make.
pub const NOT_SUPPORTED: i64 = -1;
/// x0 of a call with an argument outside its range: nothing was done.
pub const INVALID: i64 = -3;
/// x0 of a call for which the machine or the VM has no memory left: nothing was done.
pub const NO_MEMORY: i64 = -4;

/// An operation of [`PAGE_STATE`]. Every one but [`StateCall::Get`] changes the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum StateCall {
    /// Reads the state.
    Get = 0,
    /// The content matters.
    Stable = 1,
    /// The content is of no use: the frame is given back soon, unless the page is written.
    Unused = 2,
    /// The content may be dropped at any time.
    Volatile = 3,
    /// The content may be dropped while it is unchanged.
    PotentiallyVolatile = 4,
    /// Stable, and the page should be resident. It is not made so.
    StableResident = 5,
    /// Stable, if the page is resident.
    StableIfResident = 6,
    /// Stable, and it holds no translation tables.
    StableNodat = 7,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Do not edit; add lines.
    #[test]
    fn numbers_are_forever() {
        assert_eq!(PAGE_STATE, 0xc600_0020);
        assert_eq!(PAGE_STATE_DRAIN, 0xc600_0021);
        assert_eq!(FUNCTIONS, [0x20, 0x21]);
        assert_eq!((NOT_SUPPORTED, INVALID, NO_MEMORY), (-1, -3, -4));
        assert_eq!(StateCall::Unused as u64, 2);
        assert_eq!(StateCall::StableNodat as u64, 7);
    }
}
