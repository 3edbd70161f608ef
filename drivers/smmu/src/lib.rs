//! SMMUv3, for a hypervisor that gives a device its VM's stage 2 and nothing else.
//!
//! What lies in memory ([`Ste`], [`Command`], [`Event`]), how far a queue is ([`Ring`]), and what
//! the registers are ([`register`], [`Features`]). Names and bit numbers are IHI 0070's. Nothing
//! here reads or writes: that is core's.
#![no_std]

mod command;
mod event;
mod features;
mod limit;
mod queue;
pub mod register;
mod stream;

pub use command::Command;
pub use event::{Event, Kind};
pub use features::{Features, Unfit};
pub use limit::Limit;
pub use queue::Ring;
pub use stream::{STE_WORDS, Stage2, Ste};
