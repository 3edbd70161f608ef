//! Timing of short operations with the virtual counter.

use payload::{println, stats, timer};

/// Operations in one sample: one tick of a slow counter then is 16/128 instructions each.
const OPS: u64 = 128;
/// Samples, of which the median counts. 16 × 128 is 2,048 repetitions.
const SAMPLES: usize = 16;

/// Prints the result of an operation.
pub(crate) fn report(key: &str, insns: u64) {
    println!("BENCH {key} {insns}");
}

/// Times `op` and prints instructions per operation, the loop itself subtracted.
pub(crate) fn run(key: &str, op: impl Fn()) {
    // Once for what only the first does: stage-2 faults, TLB entries, lazily made state.
    op();
    let empty = median_ticks(|| core::hint::black_box(()));
    let full = median_ticks(op);
    let ticks = full.saturating_sub(empty);
    report(key, stats::insns_per_op(ticks, timer::hz(), OPS));
}

fn median_ticks(op: impl Fn()) -> u64 {
    let mut samples = [0; SAMPLES];
    for sample in &mut samples {
        let start = timer::now();
        for _ in 0..core::hint::black_box(OPS) {
            op();
        }
        *sample = timer::now() - start;
    }
    stats::median(&mut samples)
}

/// Prints the median of `samples`, which are in ticks, as instructions.
pub(crate) fn report_median(key: &str, samples: &mut [u64]) {
    let ticks = stats::median(samples);
    report(key, stats::insns_per_op(ticks, timer::hz(), 1));
}
