//! Which of its pages a guest's devices may reach by themselves.
//!
//! A device that a VM was given does DMA to guest-physical addresses. The VM was defined in one
//! of two ways. Either its devices see all of its RAM, which is then populated and stays so:
//! what an operating system needs that knows nothing of these calls. Or they see the pages
//! that the guest has declared, and the rest of its RAM can be taken back like any other VM's.
//! Only then these calls are there (bits in FEATURES).
//!
//! Two SMCCC fast HVC64 calls of the vendor-specific hypervisor service (owner 6). On return x0
//! is a number of pages, or [`NOT_SUPPORTED`], [`INVALID`] or [`NO_MEMORY`], sign-extended.
//!
//! A page is declared or not; there is no count. A guest that maps a page for two transfers
//! undeclares it after the second.

pub use crate::page_state::{INVALID, NO_MEMORY, NOT_SUPPORTED};

/// `(ipa, pages) -> done`: lets the VM's devices reach up to `pages` pages of RAM from `ipa`,
/// before the guest tells a device about them.
///
/// Returns in x0 how many were done, at least one and at most [`PAGES_MAX`]; call again for the
/// rest. The pages are resident from then on, and stay where they are. A page that is declared
/// already stays so.
pub const DMA_DECLARE: u32 = 0xc600_0028;
/// `(ipa, pages) -> done`: takes them away again, once no device uses them any more.
///
/// Complete on return: whatever a device still begins is aborted, and reported to the
/// machine's operator. A page that is not declared stays so.
pub const DMA_UNDECLARE: u32 = 0xc600_0029;

/// Function numbers of this file, as bits of FEATURES.
pub const FUNCTIONS: [u8; 2] = [0x28, 0x29];
/// Most pages one call does.
pub const PAGES_MAX: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// Do not edit; add lines.
    #[test]
    fn numbers_are_forever() {
        assert_eq!(DMA_DECLARE, 0xc600_0028);
        assert_eq!(DMA_UNDECLARE, 0xc600_0029);
        assert_eq!(FUNCTIONS, [0x28, 0x29]);
        assert_eq!(PAGES_MAX, 64);
    }
}
