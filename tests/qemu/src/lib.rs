//! The appliance in QEMU, for the end-to-end tests and for `cargo xtask`.
//!
//! - [`Board`] is a command line: which CPU, how many, how much memory, which kernel.
//! - [`Machine`] is a running QEMU with its serial line and its QMP socket. Dropping it ends
//!   the process; a test that fails leaves its logs under `target/logs/<test>`.
//! - [`Appliance`] is a machine that runs Skete, with its control port waited for.
//! - [`Control`] speaks to that port, in plain HTTP that shares no code with the client.
//! - [`rebirth`] ends root, over and over.
//! - [`Shell`] runs commands in a Linux guest, through its console.
//! - [`paths`] says where the build puts what these need.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "deadlines and positions in a log, on the developer's own machine"
)]

mod appliance;
mod board;
mod control;
pub mod http;
mod machine;
pub mod paths;
mod qmp;
pub mod rebirth;
mod serial;
mod shell;
pub mod stress;

pub use appliance::{Appliance, PORT_INSIDE};
pub use board::{Board, Cpu};
pub use control::{Control, number};
pub use machine::{Machine, free_port};
pub use qmp::Qmp;
pub use serial::Serial;
pub use shell::Shell;
