//! PCI functions: found, sized and placed for the machine, and shown to a guest.
//!
//! [`enumerate`] finds the functions of a host, behind bridges too, which it numbers and opens;
//! [`Function::probe`] reads a function's configuration space once; [`Windows`] gives its BARs
//! addresses, for where there is no firmware nobody has. [`Emulated`] is the configuration
//! space that a guest sees instead: nothing that a guest writes there reaches the function but
//! what its owner carries over, a [`Write`] at a time.
//!
//! Names and numbers are those of PCI Local Bus 3.0 and PCI Express Base 4.0.
#![no_std]

mod address;
mod bar;
mod bridge;
mod capability;
mod config;
mod emulated;
mod function;
mod resizable;
mod tree;
mod vectors;
mod window;

pub use address::Address;
pub use bar::{BARS, BRIDGE_BARS, Bar, Kind, size_bars};
pub use bridge::{Bridge, Span};
pub use capability::{Capabilities, Express, MsiX, Port, walk_extended};
pub use config::{Config, command, offset};
pub use emulated::{Emulated, Power, Write};
pub use function::Function;
pub use resizable::Resizable;
pub use tree::{Closed, DEPTH_MAX, Found, Host, enumerate};
pub use vectors::{VECTORS_MAX, Vector, Vectors};
pub use window::{Mark, Reach, Window, Windows};
