//! A client of Skete's control port, for the command line, for tests, for other tools.
//!
//! Everything blocks. [`Client`] makes one request at a time; [`Console`], [`Events`] and
//! [`Log`] are streams.
#![expect(
    clippy::result_large_err,
    reason = "an error here carries the server's whole explanation, and is seen once"
)]

mod client;
mod console;
mod device;
mod error;
mod events;
pub mod hex;
pub mod size;
mod upload;

pub use api;
pub use client::{Client, Log, Until};
pub use console::{Console, ConsoleWriter};
pub use device::Place;
pub use error::Error;
pub use events::Events;
pub use upload::guess_kind;
