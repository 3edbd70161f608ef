//! Random sequences of operations against a flat map, a hardware walk and a stale TLB.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test that goes wrong should panic"
)]

mod bbm;
mod contiguous;
mod devices;
mod failing;
mod half;
mod keys;
mod lifecycle;
mod machine;
mod pool;
mod regressions;
mod round;
mod seeded;
mod sharing;
mod states;
mod tables;
mod tracking;
mod vm;
mod walker;

/// Returns how many sequences to run: `usual`, or a hundred times as many where
/// `SKETE_LONG` is set.
fn cases(usual: u32) -> u32 {
    let long = std::env::var_os("SKETE_LONG").is_some();
    if long {
        usual.saturating_mul(100)
    } else {
        usual
    }
}
