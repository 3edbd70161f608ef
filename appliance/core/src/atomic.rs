//! Compare-and-exchange on a guest's memory, atomic against the guest's own accesses.
#![expect(unsafe_code, reason = "atomics on RAM in the linear map")]

use core::arch::asm;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use arch::Pa;

use crate::memory;

/// Tries of a 16-byte exchange before it is given up.
const TRIES: u32 = 1000;

/// Replaces `old` by `new` in the 1, 2, 4, 8 or 16 bytes at `pa`, a multiple of `bytes`.
///
/// Returns what was there if it was not `old`; `None` if somebody else was always quicker.
/// The caller holds the frame: it stays the guest's, and mapped, meanwhile.
pub(crate) fn compare_exchange(
    pa: Pa,
    bytes: u64,
    old: u128,
    new: u128,
) -> Option<Result<(), u128>> {
    macro_rules! narrow {
        ($atomic:ty, $word:ty) => {{
            // SAFETY: 1. the address is RAM in the linear map and a multiple of the size;
            // 2. it stays valid while the caller holds the frame; 3. the guest's accesses
            // are no Rust accesses.
            let word = unsafe { <$atomic>::from_ptr(memory::ptr::<$word>(pa)) };
            let result = word.compare_exchange(
                old as $word,
                new as $word,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            Some(result.map(|_| ()).map_err(u128::from))
        }};
    }
    match bytes {
        1 => narrow!(AtomicU8, u8),
        2 => narrow!(AtomicU16, u16),
        4 => narrow!(AtomicU32, u32),
        8 => narrow!(AtomicU64, u64),
        _ => wide(pa, old, new),
    }
}

/// Sixteen bytes, by exclusives: every core has them, and they pair with the guest's.
fn wide(pa: Pa, old: u128, new: u128) -> Option<Result<(), u128>> {
    for _ in 0..TRIES {
        let (mut low, mut high): (u64, u64);
        let mut failed: u32;
        // SAFETY: as above, for 16 bytes. What was found is stored again if it was not
        // `old`: only a store that succeeds makes the pair of loads one (DDI 0487, B2.9.3).
        unsafe {
            asm!(
                "ldaxp {low}, {high}, [{at}]",
                "cmp {low}, {old_low}",
                "ccmp {high}, {old_high}, #0, eq",
                "csel {store_low}, {new_low}, {low}, eq",
                "csel {store_high}, {new_high}, {high}, eq",
                "stlxp {failed:w}, {store_low}, {store_high}, [{at}]",
                at = in(reg) memory::va(pa),
                old_low = in(reg) old as u64,
                old_high = in(reg) (old >> 64) as u64,
                new_low = in(reg) new as u64,
                new_high = in(reg) (new >> 64) as u64,
                low = out(reg) low,
                high = out(reg) high,
                store_low = out(reg) _,
                store_high = out(reg) _,
                failed = out(reg) failed,
                options(nostack)
            );
        }
        if failed == 0 {
            let found = u128::from(low) | u128::from(high) << 64;
            return Some(if found == old { Ok(()) } else { Err(found) });
        }
    }
    None
}
