//! The control server against a fake machine: what clients see, whatever they send.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test that is wrong may panic"
)]

mod cpu;
mod cpu_features;
mod devices;
mod framing;
mod life;
mod memory;
mod rebirth;
mod requests;
mod streams;
mod support;
mod uploads;
