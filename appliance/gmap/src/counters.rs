//! Numbers about a space, kept by whoever changes it, under whichever lock.

use crate::desc::Leaf;
use crate::level::Level;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a space holds, and what it has been through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of RAM that are populated.
    pub resident_bytes: u64,
    /// Bytes of table pages, the root included.
    pub table_bytes: u64,
    /// Leaves of 4 KiB, 2 MiB and 1 GiB, fixed mappings included.
    pub leaves: [u64; 3],
    /// Faults handled, refused ones included.
    pub faults: u64,
    /// Of these, the ones that only a flag of a present leaf was missing for.
    pub minor_faults: u64,
    /// Blocks split.
    pub splits: u64,
    /// Bytes of RAM that are promised, populated or not.
    pub promised_bytes: u64,
    /// Bytes of the sidecar: storage keys and page states.
    pub sidecar_bytes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    resident: AtomicU64,
    tables: AtomicU64,
    pages: AtomicU64,
    large: AtomicU64,
    huge: AtomicU64,
    faults: AtomicU64,
    minor: AtomicU64,
    splits: AtomicU64,
}

impl Counters {
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            resident_bytes: self.resident.load(Relaxed),
            table_bytes: self.tables.load(Relaxed),
            leaves: [&self.pages, &self.large, &self.huge].map(|count| count.load(Relaxed)),
            faults: self.faults.load(Relaxed),
            minor_faults: self.minor.load(Relaxed),
            splits: self.splits.load(Relaxed),
            promised_bytes: 0,
            sidecar_bytes: 0,
        }
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        self.resident.load(Relaxed)
    }

    pub(crate) fn table_bytes(&self) -> u64 {
        self.tables.load(Relaxed)
    }

    /// Counts `count` pages of tables that were linked.
    pub(crate) fn tables(&self, count: u64) {
        self.tables.fetch_add(count.saturating_mul(4096), Relaxed);
    }

    /// Counts `count` pages of tables that were unlinked.
    pub(crate) fn untables(&self, count: u64) {
        self.tables.fetch_sub(count.saturating_mul(4096), Relaxed);
    }

    /// Counts `count` leaves like `leaf` that were linked.
    pub(crate) fn leaves(&self, leaf: Leaf, level: Level, count: u64) {
        self.of(level).fetch_add(count, Relaxed);
        if !leaf.special() {
            let bytes = level.span().saturating_mul(count);
            self.resident.fetch_add(bytes, Relaxed);
        }
    }

    /// Counts a leaf that was unlinked.
    pub(crate) fn unleaf(&self, leaf: Leaf, level: Level) {
        self.of(level).fetch_sub(1, Relaxed);
        if !leaf.special() {
            self.resident.fetch_sub(level.span(), Relaxed);
        }
    }

    pub(crate) fn fault(&self) {
        self.faults.fetch_add(1, Relaxed);
    }

    pub(crate) fn minor(&self) {
        self.minor.fetch_add(1, Relaxed);
    }

    pub(crate) fn split(&self) {
        self.splits.fetch_add(1, Relaxed);
    }

    fn of(&self, level: Level) -> &AtomicU64 {
        match level {
            Level::L0 | Level::L1 => &self.huge,
            Level::L2 => &self.large,
            Level::L3 => &self.pages,
        }
    }
}
