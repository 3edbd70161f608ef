//! Break-before-make as data: what a change of one entry asks of us.
//!
//! A pure function of old and new (DDI 0487 D8.16.1): a change of output address, size,
//! memory type or shareability of a valid entry goes through an invalid one; a change of
//! permissions, access flag, dirty state or software bits does not.

use crate::desc::Descriptor;

/// What must go with the change of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing changes.
    None,
    /// One store is enough: the old entry was never cached, or hardware sees no difference.
    Store,
    /// One compare-and-swap, then the old entry is invalidated: it may be cached with rights
    /// or state that are wrong now, or too few.
    Invalidate,
    /// Make it invalid, invalidate, then store the new entry.
    Break,
}

/// The bits of a leaf that may change while it is valid: S2AP, AF, DBM, XN, and software's.
const FREE: u64 = 0b11 << 6 | 1 << 10 | 1 << 51 | 1 << 54 | SOFTWARE;
/// Those of them that hardware does not look at.
const SOFTWARE: u64 = 0x3f << 55;
const AF: u64 = 1 << 10;
const LEAF_OR_TABLE: u64 = 0b11;

/// Returns what changing `old` to `new` asks for, in entries of one level below which a
/// table or page has both low bits set.
///
/// Two tables, or a table and a block, differ in shape: they always break.
pub const fn change(old: Descriptor, new: Descriptor, page_level: bool) -> Change {
    let differ = old.raw() ^ new.raw();
    if differ == 0 {
        return Change::None;
    }
    if !old.valid() {
        return Change::Store;
    }
    if !new.valid() {
        return Change::Invalidate;
    }
    let table = !page_level && (old.raw() | new.raw()) & LEAF_OR_TABLE == LEAF_OR_TABLE;
    if table || differ & !FREE != 0 {
        return Change::Break;
    }
    if differ & !SOFTWARE == 0 {
        return Change::Store;
    }
    // An entry without AF is never cached (D8.4.6), unless hardware sets AF by itself; then
    // it has set it in memory too, and a compare-and-swap would have failed.
    if old.raw() & AF == 0 {
        return Change::Store;
    }
    Change::Invalidate
}
