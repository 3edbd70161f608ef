//! Oracles: what the hardware and the manual say, with literal numbers.
//!
//! They share no code with what they judge, and depend on none of it: a walker that is
//! consistently wrong would agree with itself.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test that goes wrong here should panic"
)]

pub mod flat;
pub mod hardware_walk;
pub mod stale_tlb;
