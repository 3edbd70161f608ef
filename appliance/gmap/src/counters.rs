//! Numbers about a space, kept by whoever changes it, under whichever lock.

use crate::desc::Leaf;
use crate::level::Level;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a space holds, and what it has been through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of RAM that are populated with frames of the VM's own.
    pub resident_bytes: u64,
    /// Bytes of RAM that are populated with frames which others may use too.
    pub shared_bytes: u64,
    /// Leaves of such RAM, of any size.
    pub shared_leaves: u64,
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
    /// Tables of 512 leaves made one block.
    pub collapses: u64,
    /// Shared leaves that got a copy of their own.
    pub copies: u64,
    /// Leaves moved to another frame.
    pub moves: u64,
    /// Bytes of zeroes whose frames were taken back.
    pub zero_bytes: u64,
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
    shared: AtomicU64,
    shared_leaves: AtomicU64,
    collapses: AtomicU64,
    copies: AtomicU64,
    moves: AtomicU64,
    zeroes: AtomicU64,
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
            shared_bytes: self.shared.load(Relaxed),
            shared_leaves: self.shared_leaves.load(Relaxed),
            collapses: self.collapses.load(Relaxed),
            copies: self.copies.load(Relaxed),
            moves: self.moves.load(Relaxed),
            zero_bytes: self.zeroes.load(Relaxed),
            promised_bytes: 0,
            sidecar_bytes: 0,
        }
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        self.resident.load(Relaxed)
    }

    pub(crate) fn shared_leaves(&self) -> u64 {
        self.shared_leaves.load(Relaxed)
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
        let bytes = level.span().saturating_mul(count);
        if leaf.shared() {
            self.shared_leaves.fetch_add(count, Relaxed);
            self.shared.fetch_add(bytes, Relaxed);
        } else if !leaf.special() {
            self.resident.fetch_add(bytes, Relaxed);
        }
    }

    /// Counts a leaf that changed from `old` to `new` where it is.
    pub(crate) fn releaf(&self, old: Leaf, new: Leaf, level: Level) {
        self.unleaf(old, level);
        self.leaves(new, level, 1);
    }

    /// Counts a leaf that was unlinked.
    pub(crate) fn unleaf(&self, leaf: Leaf, level: Level) {
        self.of(level).fetch_sub(1, Relaxed);
        if leaf.shared() {
            self.shared_leaves.fetch_sub(1, Relaxed);
            self.shared.fetch_sub(level.span(), Relaxed);
        } else if !leaf.special() {
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

    pub(crate) fn collapse(&self) {
        self.collapses.fetch_add(1, Relaxed);
    }

    pub(crate) fn copy(&self) {
        self.copies.fetch_add(1, Relaxed);
    }

    pub(crate) fn moved(&self) {
        self.moves.fetch_add(1, Relaxed);
    }

    pub(crate) fn zeroed(&self, level: Level) {
        self.zeroes.fetch_add(level.span(), Relaxed);
    }

    fn of(&self, level: Level) -> &AtomicU64 {
        match level {
            Level::L0 | Level::L1 => &self.huge,
            Level::L2 => &self.large,
            Level::L3 => &self.pages,
        }
    }
}
