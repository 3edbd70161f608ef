//! The control server: bytes in, bytes and commands out.
//!
//! Nothing here opens a socket, reads a clock or starts a guest. A [`Server`] holds what
//! the control port knows; a [`Connection`] turns the bytes of one TCP connection into
//! questions to it and its answers into bytes; a [`Backend`] does what has to be done. So
//! all of it runs, and is fuzzed, on any machine.
//!
//! # How to drive it
//!
//! 1. Accept a TCP connection: [`Connection::new`].
//! 2. Bytes arrived: [`Connection::feed`]. It returns how many it took; keep the others and
//!    offer them again later, with whatever came after them. A full receive buffer is how
//!    the client learns to wait.
//! 3. Send [`Connection::output`], and say with [`Connection::sent`] how much of it went.
//! 4. When [`Connection::wants_fin`], close the sending side but go on feeding; when
//!    [`Connection::is_closed`], drop the connection. Tell it with [`Connection::eof`] that
//!    the peer closed its sending side; if the peer is gone altogether, just drop it.
//! 5. On news, after output was sent, and at the latest at [`Connection::deadline_ns`]:
//!    [`Connection::poll`]. On news and at the latest after [`Server::poll_after_ns`]:
//!    [`Server::poll`].
//!
//! The example `fake_appliance` is this loop over ordinary sockets.
#![no_std]
#![expect(
    clippy::result_large_err,
    reason = "a refusal is made once for a request and passed up a few calls: boxing it would not be seen"
)]

extern crate alloc;

pub mod auth;
pub mod backend;
mod body;
mod clock;
mod connection;
mod cpu;
mod digest;
mod events;
pub mod fake;
pub mod heritage;
mod http;
mod lease;
pub mod notes;
mod operations;
mod route;
mod scrollback;
mod server;

pub use backend::Backend;
pub use connection::Connection;
pub use server::{Config, Server, kept_token};
