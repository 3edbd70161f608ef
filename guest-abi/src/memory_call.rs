//! What root may ask of core about the memory of a VM: records and numbers of the core calls
//! from 0x30 up ([`crate::core_call::CoreCall`]).
//!
//! Long work is done in slices of at most 256 leaves. A call that takes a cursor returns
//! [`crate::core_call::Status::Again`] with the next cursor in x1 until it is done; the first
//! cursor is 0. A call that returns `done` may do less than was asked: it is made again for
//! the rest.

/// What core knows of the memory of one VM. All but the leaves is in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VmMemory {
    /// RAM that was promised, populated or not.
    pub promised_bytes: u64,
    /// RAM that has a frame behind it.
    pub resident_bytes: u64,
    /// Most RAM that may be populated.
    pub limit_bytes: u64,
    /// Tables.
    pub table_bytes: u64,
    /// Storage keys and page states.
    pub sidecar_bytes: u64,
    /// RAM that the VM works with, estimated from scans of age over all of it that are equally
    /// far apart; 0 before the first.
    pub working_set_bytes: u64,
    /// RAM given back since the VM was made: unused, volatile, zero or dropped.
    pub reclaimed_bytes: u64,
    /// RAM whose frames are shared with other VMs, or with themselves.
    pub shared_bytes: u64,
    /// Leaves of 4 KiB, 2 MiB and 1 GiB.
    pub leaves: [u64; 3],
    /// Stage-2 faults: all, and of these the ones for which only a flag was missing.
    pub faults: u64,
    /// See `faults`.
    pub minor_faults: u64,
    /// Blocks split.
    pub splits: u64,
    /// TLB maintenance on behalf of the VM: of one address, of a range, of the whole VMID.
    pub tlbi_page: u64,
    /// See `tlbi_page`.
    pub tlbi_range: u64,
    /// See `tlbi_page`.
    pub tlbi_vm: u64,
    /// Pages whose state migration has not read.
    pub states_dirty: u64,
    /// [`MEMORY_KEYS`] and [`MEMORY_STATES`]: what is in use.
    pub flags: u32,
    /// [`PolicyFlags`], as [`MemoryPolicy::flags`].
    pub policy: u32,
    /// Largest leaf, as [`MemoryPolicy::largest_shift`].
    pub largest_shift: u32,
    /// VMID of the VM.
    pub vmid: u32,
}
const _: () = assert!(size_of::<VmMemory>() == 18 * 8 + 16);

/// Storage keys are in use ([`VmMemory::flags`]).
pub const MEMORY_KEYS: u32 = 1;
/// Page states are in use ([`VmMemory::flags`]).
pub const MEMORY_STATES: u32 = 2;

/// What core knows of the machine's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HostMemory {
    /// Bytes that no one uses, what is scrubbed ahead of time included.
    pub free_bytes: u64,
    /// Bytes scrubbed ahead of time: pages and blocks of 2 MiB.
    pub stock_bytes: u64,
    /// Bytes scrubbed while somebody waited, since core started.
    pub scrubbed_waiting_bytes: u64,
    /// Bytes scrubbed in idle time, since core started.
    pub scrubbed_idle_bytes: u64,
    /// Order of the largest free block: `4096 << order` bytes; 255 if there is none.
    pub largest_order: u64,
    /// TLB maintenance since core started: one address, a range, a whole VMID, local.
    pub tlbi: [u64; 4],
    /// VMIDs that can be in use at once.
    pub vmids_max: u64,
    /// VMIDs in use.
    pub vmids_used: u64,
    /// What the machine's stage 2 can do: the `HARDWARE_` bits.
    pub hardware: u64,
}
const _: () = assert!(size_of::<HostMemory>() == 96);

/// Hardware sets access flag and dirty state ([`HostMemory::hardware`]).
pub const HARDWARE_HAFDBS: u64 = 1;
/// A block may become a table without an invalid entry in between (FEAT_BBM level 2).
pub const HARDWARE_BBM2: u64 = 2;
/// Stage 2 forces write-back memory (FEAT_S2FWB).
pub const HARDWARE_FWB: u64 = 4;
/// TLB maintenance takes a level hint (FEAT_TTL).
pub const HARDWARE_TTL: u64 = 8;
/// TLB maintenance by range (FEAT_TLBIRANGE).
pub const HARDWARE_TLB_RANGE: u64 = 16;

/// What a VM may have. Takes effect at once, for what is populated from then on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MemoryPolicy {
    /// Most bytes of RAM to populate; `u64::MAX` for no limit.
    pub limit_bytes: u64,
    /// Most bytes of table pages; `u64::MAX` for no limit.
    pub table_limit_bytes: u64,
    /// Largest leaf, as a power of two of bytes: 12, 21 or 30.
    pub largest_shift: u32,
    /// [`PolicyFlags`] bits.
    pub flags: u32,
}
const _: () = assert!(size_of::<MemoryPolicy>() == 24);

/// Bits of [`MemoryPolicy::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PolicyFlags {
    /// Frames are scrubbed when they leave the VM, not only before they are used again.
    Wipe = 1,
    /// Where hardware keeps no dirty state, a page counts as written from its first touch.
    Eager = 2,
    /// A page that is read before it is written shows zeroes that all VMs share, and gets a
    /// frame once it is written.
    ShareZeroes = 4,
}

/// What [`crate::core_call::CoreCall::VmMemoryScan`] looks for. A leaf larger than a page is
/// reported whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Scan {
    /// Pages accessed since the last such scan; they become old.
    Young = 1,
    /// Pages written or new since the last such scan: migration's log.
    Dirty = 2,
    /// Pages written since the last such scan, or since they were zeroed: the host's log.
    HostDirty = 3,
}

impl Scan {
    /// Returns the scan with this number.
    pub const fn from_u64(raw: u64) -> Option<Self> {
        match raw {
            1 => Some(Self::Young),
            2 => Some(Self::Dirty),
            3 => Some(Self::HostDirty),
            _ => None,
        }
    }
}

/// Most bytes of guest memory that one bitmap covers: 64 GiB in a block of 2 MiB.
pub const SCAN_BYTES_MAX: u64 = 64 << 30;

/// Bits of what [`crate::core_call::CoreCall::VmReclaim`] may take.
pub mod reclaim {
    /// Pages the guest said are unused and has not written since.
    pub const UNUSED: u64 = 1;
    /// Pages whose content the guest said may be dropped (volatile, or potentially so and
    /// unchanged).
    pub const VOLATILE: u64 = 2;
    /// Pages of zeroes: their frames go, their content does not change.
    pub const ZERO: u64 = 4;
    /// Everything: what was there is lost, and the next touch finds zeroes. Alone only.
    pub const DROP: u64 = 8;
    /// Nothing goes: pages move to other frames. Alone only.
    pub const MOVE: u64 = 16;
    /// Nothing goes: leaves larger than the policy allows are split. Alone only.
    pub const SPLIT: u64 = 32;
}

/// Operations of [`crate::core_call::CoreCall::VmKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum KeyOp {
    /// Reads the key (ISKE).
    Get = 1,
    /// Resets referenced (RRBE); returns referenced (0x04) and changed (0x02) as they were.
    ResetReferenced = 2,
    /// Sets the key (SSKE); returns the old one.
    Set = 3,
}

/// Most keys that one series of calls may read or write.
pub const KEYS_MAX: u64 = 1 << 20;

/// Operations of [`crate::core_call::CoreCall::VmPageStates`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum StatesOp {
    /// Reads the states of pages from `ipa`, changing nothing: one byte each, usage in bits
    /// 1:0 and 0x40 if the page holds no translation tables.
    Peek = 1,
    /// Finds the first page from `ipa` on whose state changed since this was last asked, and
    /// reads from there until more than 16 pages in a row have not changed.
    Take = 2,
    /// Writes states as `Peek` reads them.
    Set = 3,
    /// Makes every page stable.
    Reset = 4,
    /// Makes every state count as changed.
    Unread = 5,
}

impl StatesOp {
    /// Returns the operation with this number.
    pub const fn from_u64(raw: u64) -> Option<Self> {
        match raw {
            1 => Some(Self::Peek),
            2 => Some(Self::Take),
            3 => Some(Self::Set),
            4 => Some(Self::Reset),
            5 => Some(Self::Unread),
            _ => None,
        }
    }
}

/// Operand of [`crate::core_call::CoreCall::VmExchange`]; values are little-endian and use the
/// first bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Exchange {
    /// What is expected; core writes what was there.
    pub old: [u8; 16],
    /// What is stored if it was there.
    pub new: [u8; 16],
}
const _: () = assert!(size_of::<Exchange>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_forever() {
        for raw in 0..8 {
            assert_eq!(Scan::from_u64(raw).map_or(raw, |scan| scan as u64), raw);
            assert_eq!(StatesOp::from_u64(raw).map_or(raw, |op| op as u64), raw);
        }
        assert_eq!(Scan::from_u64(0), None);
        assert_eq!(StatesOp::from_u64(6), None);
        assert_eq!((KeyOp::Get as u64, KeyOp::ResetReferenced as u64), (1, 2));
        assert_eq!(KeyOp::Set as u64, 3);
        assert_eq!(core::mem::offset_of!(VmMemory, leaves), 64);
        assert_eq!(core::mem::offset_of!(VmMemory, flags), 144);
        assert_eq!(core::mem::offset_of!(HostMemory, hardware), 88);
    }
}
