//! PCI functions: found, sized and placed for the machine, and shown to a guest.
//!
//! [`Function::probe`] reads a function's configuration space once; [`Windows`] gives its BARs
//! addresses, for where there is no firmware nobody has. [`Emulated`] is the configuration
//! space that a guest sees instead: nothing that a guest writes there reaches the function but
//! what its owner carries over, a [`Write`] at a time.
//!
//! Names and numbers are those of PCI Local Bus 3.0 and PCI Express Base 4.0.
#![no_std]

mod address;
mod bar;
mod capability;
mod config;
mod emulated;
mod function;
mod vectors;
mod window;

pub use address::Address;
pub use bar::{BARS, Bar, Kind, size_bars};
pub use capability::{Capabilities, Express, MsiX, walk_extended};
pub use config::{Config, command, offset};
pub use emulated::{Emulated, Power, Write};
pub use function::Function;
pub use vectors::{VECTORS_MAX, Vector, Vectors};
pub use window::{Window, Windows};
