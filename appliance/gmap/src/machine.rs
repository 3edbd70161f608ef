//! What the stage-2 manager asks of the machine.
//!
//! Everything in this crate is a decision over 64-bit table entries; the loads, stores,
//! barriers and invalidations themselves are core's, over the linear map.

use arch::{Ipa, Pa};

use crate::level::Level;

/// Something that somebody asked to be told of. Raised under the VM's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A page that a running vCPU needs is going away or becomes read-only: request that
    /// the vCPU pins it again before it enters, and kick it out of the guest.
    PinLost {
        /// First address of the leaf.
        ipa: Ipa,
        /// Its level.
        level: Level,
    },
    /// The frame of a page that a device may reach is going away ([`Machine::holds`]), which no
    /// caller means to do but one that takes the VM apart: the device must not reach it any
    /// more when this returns.
    HeldLost {
        /// First address of the leaf.
        ipa: Ipa,
        /// Its level.
        level: Level,
    },
    /// A page that shadow tables refer to changed its frame or lost rights.
    NestedChanged {
        /// First address of the leaf.
        ipa: Ipa,
        /// Its level.
        level: Level,
    },
}

/// Table memory, frames and TLB maintenance.
pub trait Machine {
    /// Reads entry `index` (below 512) of the table page at `table`, in one 64-bit load.
    fn load(&self, table: Pa, index: usize) -> u64;

    /// Writes entry `index` of `table` in one 64-bit store.
    ///
    /// On return the store is visible to the table walkers of every CPU (DSB ISHST).
    fn store(&self, table: Pa, index: usize, value: u64);

    /// Writes entry `index` of a `table` that nothing points to yet.
    ///
    /// It need be visible to the walkers only once a later [`Self::store`] or
    /// [`Self::compare_exchange`] is; so no barrier is needed where those order their store
    /// after earlier ones. The default does not make use of that.
    fn prepare(&self, table: Pa, index: usize, value: u64) {
        self.store(table, index, value);
    }

    /// Replaces `old` by `new` in entry `index` of `table`, or returns what was found.
    ///
    /// On success the store is visible to the table walkers of every CPU.
    fn compare_exchange(&self, table: Pa, index: usize, old: u64, new: u64) -> Result<(), u64>;

    /// Zeroes `4096 << order` bytes from `pa` and cleans them to the point of coherency.
    fn scrub(&self, pa: Pa, order: u8);

    /// Copies `4096 << order` bytes and cleans them to the point of coherency, as
    /// [`Self::scrub`] does. `from` may change meanwhile; what is copied is then anything.
    fn copy(&self, to: Pa, from: Pa, order: u8);

    /// Returns whether `4096 << order` bytes from `pa` are all zero.
    fn is_zero(&self, pa: Pa, order: u8) -> bool;

    /// Takes `4096 << order` bytes, aligned to their size, from the pool. Not zeroed.
    fn alloc(&mut self, order: u8) -> Option<Pa>;

    /// Takes a frame as [`Self::alloc`] does, zeroed and clean to the point of coherency.
    ///
    /// The default scrubs it now; a machine with a [`crate::Stock`] need not.
    fn alloc_zeroed(&mut self, order: u8) -> Option<Pa> {
        let pa = self.alloc(order)?;
        self.scrub(pa, order);
        Some(pa)
    }

    /// Returns to the pool a frame that [`Self::alloc`] gave, or an aligned part of one.
    fn free(&mut self, pa: Pa, order: u8);

    /// Counts another user of `4096 << order` bytes from `pa`, which the caller holds.
    ///
    /// Returns false, changing nothing, if they cannot be shared or have too many users
    /// already.
    fn share(&self, pa: Pa, order: u8) -> bool;

    /// Returns whether any of `4096 << order` bytes from `pa` has a user besides the caller,
    /// or must not be written for another reason.
    fn shared(&self, pa: Pa, order: u8) -> bool;

    /// Ends the caller's use of memory that is or was shared: a frame goes back to the pool
    /// with its last user. Nothing of the caller's reaches it any more.
    fn release(&mut self, pa: Pa, order: u8);

    /// Returns a block of zeroes that nobody writes and nobody frees, and its order. A
    /// machine that has one returns it always.
    fn zeroes(&self) -> Option<(Pa, u8)> {
        None
    }

    /// Drops, on every CPU, what is cached of `vmid`'s translation of `ipa`; complete on
    /// return (TLBI IPAS2E1IS, DSB, TLBI VMALLE1IS, DSB; DDI 0487 D8.14).
    ///
    /// `level` is a hint for the TTL field: 1 to 3 when only a leaf of that level changed;
    /// 0 when a table was unlinked too, so that entries of every level must go.
    fn invalidate_ipa(&self, vmid: u16, ipa: Ipa, level: u8);

    /// As [`Self::invalidate_ipa`] for every leaf of `level` in `bytes` from `ipa`.
    ///
    /// Where FEAT_TLBIRANGE is present this is one instruction. The default does sixteen
    /// addresses singly, and more by dropping the whole VMID.
    fn invalidate_range(&self, vmid: u16, ipa: Ipa, bytes: u64, level: u8) {
        let span = match level {
            1 => Level::L1.span(),
            2 => Level::L2.span(),
            3 => Level::L3.span(),
            _ => bytes.max(1),
        };
        if bytes > span.saturating_mul(16) {
            return self.invalidate_vmid(vmid);
        }
        let mut offset = 0_u64;
        while offset < bytes {
            if let Some(at) = ipa.checked_add(offset) {
                self.invalidate_ipa(vmid, at, level);
            }
            offset = offset.saturating_add(span);
        }
    }

    /// Returns whether a device may reach a page of the leaf of `level` at `ipa` by itself, so
    /// that its frame has to stay, and is written without anybody's knowledge. Asked under the
    /// VM's lock: by who takes frames, held exclusively; by the dirty logs, held shared.
    fn holds(&self, ipa: Ipa, level: Level) -> bool {
        let _ = (ipa, level);
        false
    }

    /// Tells core of an [`Event`].
    fn event(&self, event: Event) {
        let _ = event;
    }

    /// Returns whether an interrupt waits for this CPU: what is done in slices ends its slice,
    /// once it has got a step further.
    fn interrupted(&self) -> bool {
        false
    }

    /// Drops, on every CPU, all that is cached of `vmid`; complete on return
    /// (TLBI VMALLS12E1IS, DSB).
    fn invalidate_vmid(&self, vmid: u16);
}
