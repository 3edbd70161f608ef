//! Device trees: real ones, ones built by hand node by node, and damaged ones.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "tests that build small trees"
)]

mod damaged;
mod nodes;
mod real;
mod tree;
