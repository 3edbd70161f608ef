//! The pages that core and root share for each VM: its state and its console.
//!
//! One block of [`VM_SHARED_BYTES`] bytes, made by `VmCreate`. Each ring has one writer
//! and one reader; indices run freely and wrap at 2^32, the byte of index i is at
//! `i % len`. Core trusts none of root's indices: it masks them, and a ring that claims
//! to hold more than its length is empty.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

/// Bytes of the guest-to-root ring, a power of two.
pub const CONSOLE_OUT_BYTES: usize = 8192;
/// Bytes of the root-to-guest ring, a power of two.
pub const CONSOLE_IN_BYTES: usize = 1024;
/// Bytes of [`VmShared`], rounded up to pages.
pub const VM_SHARED_BYTES: usize = 16384;

/// State and console of one VM.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct VmShared {
    /// A [`crate::core_call::VmState`]. Core writes.
    pub state: AtomicU32,
    /// Reserved.
    pub reserved: AtomicU32,
    /// Bytes the guest sent that found the ring full for too long. Core writes.
    pub out_dropped: AtomicU64,
    /// Next byte core will write to `out_ring`.
    pub out_head: AtomicU32,
    /// Next byte root will read from `out_ring`.
    pub out_tail: AtomicU32,
    /// Next byte root will write to `in_ring`.
    pub in_head: AtomicU32,
    /// Next byte core will read from `in_ring`.
    pub in_tail: AtomicU32,
    /// What the guest printed.
    pub out_ring: [AtomicU8; CONSOLE_OUT_BYTES],
    /// What the operator typed.
    pub in_ring: [AtomicU8; CONSOLE_IN_BYTES],
}
const _: () = assert!(size_of::<VmShared>() <= VM_SHARED_BYTES);
