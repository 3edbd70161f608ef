//! What the stage-2 manager asks of the machine.
//!
//! Everything in this crate is a decision over 64-bit table entries; the loads, stores,
//! barriers and invalidations themselves are core's, over the linear map.

use arch::{Ipa, Pa};

/// Table memory, frames and TLB maintenance.
pub trait Machine {
    /// Reads entry `index` (below 512) of the table page at `table`, in one 64-bit load.
    fn load(&self, table: Pa, index: usize) -> u64;

    /// Writes entry `index` of `table` in one 64-bit store.
    ///
    /// On return the store is visible to the table walkers of every CPU (DSB ISHST).
    fn store(&self, table: Pa, index: usize, value: u64);

    /// Replaces `old` by `new` in entry `index` of `table`, or returns what was found.
    ///
    /// On success the store is visible to the table walkers of every CPU.
    fn compare_exchange(&self, table: Pa, index: usize, old: u64, new: u64) -> Result<(), u64>;

    /// Zeroes `4096 << order` bytes from `pa` and cleans them to the point of coherency.
    fn scrub(&self, pa: Pa, order: u8);

    /// Takes `4096 << order` bytes, aligned to their size, from the pool. Not zeroed.
    fn alloc(&mut self, order: u8) -> Option<Pa>;

    /// Returns to the pool a frame that [`Self::alloc`] gave, or an aligned part of one.
    fn free(&mut self, pa: Pa, order: u8);

    /// Drops, on every CPU, what is cached of `vmid`'s translation of `ipa`; complete on
    /// return (TLBI IPAS2E1IS, DSB, TLBI VMALLE1IS, DSB; DDI 0487 D8.14).
    ///
    /// `level` is a hint for the TTL field: 1 to 3 when only a leaf of that level changed;
    /// 0 when a table was unlinked too, so that entries of every level must go.
    fn invalidate_ipa(&self, vmid: u16, ipa: Ipa, level: u8);

    /// Drops, on every CPU, all that is cached of `vmid`; complete on return
    /// (TLBI VMALLS12E1IS, DSB).
    fn invalidate_vmid(&self, vmid: u16);
}
