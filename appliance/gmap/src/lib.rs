//! Stage-2 tables of a guest, shared with nobody, and the pool its frames come from.
//!
//! [`Gmap`] is one VM's IPA space: RAM that is populated by fault, and fixed mappings
//! (devices, root's windows). [`Pool`] is the machine's free memory. Both are pure: what
//! they do to memory and TLBs goes through [`Machine`].
//!
//! # What the hardware may see
//!
//! Any CPU may walk these tables at any moment, so:
//!
//! 1. A table is all zeroes, or filled, before an entry points to it.
//! 2. An entry changes in one 64-bit store or compare-and-swap. It never goes from one
//!    valid output or shape to another: that is break-before-make.
//! 3. A frame or table that was unlinked goes back to the pool only after the TLB
//!    invalidation that covers it has completed (module `gather`).
//!
//! # What always holds
//!
//! No table but the root is empty; a table is built whole before it is linked, from frames
//! taken beforehand. So an operation that fails for want of memory has changed nothing.
#![no_std]

mod desc;
mod fault;
mod gather;
mod level;
mod machine;
mod map;
mod pool;
mod shape;
mod slots;
mod space;
mod tables;
mod teardown;
mod walk;

pub use desc::{Attr, Descriptor, Entry, Leaf, Perm};
pub use fault::{Access, Fault, FaultError};
pub use level::Level;
pub use machine::Machine;
pub use pool::{FRAME, ORDER_MAX, Pool, PoolError};
pub use shape::{IPA_BITS_MAX, IPA_BITS_MIN, vtcr};
pub use space::{Error, Features, Gmap, Stats};
pub use teardown::Progress;
