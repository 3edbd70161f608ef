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
//! No table but the root holds one and the same token throughout; what is needed is taken
//! before anything changes. So an operation that fails for want of memory has changed nothing.
//!
//! # Locks
//!
//! One lock a VM. `&self` methods run under it shared, on any number of CPUs: they change
//! entries by compare-and-swap and may add tables. `&mut self` methods need it exclusively:
//! only they take frames and tables away.
#![no_std]

mod access;
mod age;
mod bbm;
mod cache;
mod collapse;
mod contiguous;
mod counters;
mod cow;
mod desc;
mod fault;
mod gather;
mod half;
mod keys;
mod large;
mod level;
mod limit;
mod locks;
mod machine;
mod map;
mod pool;
mod ram;
mod range;
mod relocate;
mod replace;
mod round;
mod sequence;
mod shape;
mod share;
mod shrink;
mod sidecar;
mod sift;
mod slot_move;
mod slots;
mod space;
mod states;
mod stock;
mod teardown;
mod vmid;
mod walk;
mod want;
mod working_set;

pub use access::Access;
pub use bbm::{Change, change};
pub use cache::{CACHE_PAGES, Cache, NoMemory};
pub use collapse::Collapsed;
pub use contiguous::CONTIGUOUS_BYTES;
pub use counters::Stats;
pub use desc::{Attr, Descriptor, Entry, HOLE_NO_MEMORY, Leaf, Perm};
pub use fault::{Fault, FaultError};
pub use keys::{KEYS_MAX, Key, KeyError, Mask};
pub use level::Level;
pub use locks::{Ask, Held, OrderViolation, Rank};
pub use machine::{Event, Machine};
pub use pool::{FRAME, ORDER_MAX, Pool, PoolError};
pub use range::{Budget, Stop};
pub use relocate::Moved;
pub use round::{Asking, Givers, Round};
pub use sequence::{Sequence, Ticket};
pub use shape::{IPA_BITS_MAX, IPA_BITS_MIN, vtcr};
pub use shrink::Shrink;
pub use sidecar::{Pgx, Usage};
pub use sift::Sift;
pub use space::{Error, Features, Gmap, Policy};
pub use states::{ReleaseRing, Reset, StateOp, Taken, state_byte};
pub use stock::{Scrubbing, Stock, Unscrubbed, Zeroed};
pub use teardown::Progress;
pub use vmid::Vmids;
pub use walk::{Flags, Place, WalkError};
pub use want::{LinkError, Look, Want, settle};
pub use working_set::WorkingSet;
