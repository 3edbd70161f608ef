//! Arithmetic on measurements.

/// Sorts `samples` and returns the middle one, or 0 of none.
pub fn median(samples: &mut [u64]) -> u64 {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or(0)
}

/// Returns instructions per operation, rounded, from counter ticks.
///
/// Under QEMU's `-icount shift=0` one instruction takes one nanosecond of virtual time, so
/// `ticks` at `counter_hz` are `ticks * 10^9 / counter_hz` instructions. Returns 0 for no
/// operations or no frequency.
pub fn insns_per_op(ticks: u64, counter_hz: u64, ops: u64) -> u64 {
    let (Some(insns), true) = (
        (u128::from(ticks) * 1_000_000_000).checked_div(u128::from(counter_hz)),
        ops != 0,
    ) else {
        return 0;
    };
    let ops = u128::from(ops);
    u64::try_from((insns + ops / 2) / ops).unwrap_or(u64::MAX)
}

/// Adds one 64-bit value to an FNV-1a hash, byte by byte, least significant first.
pub fn fnv1a(hash: u64, value: u64) -> u64 {
    value.to_le_bytes().iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// What an FNV-1a hash starts from.
pub const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// Returns the next number of a splitmix64 sequence and advances `state`.
pub fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_one_wild_sample() {
        assert_eq!(median(&mut [5, 1_000_000, 4, 6, 5]), 5);
        assert_eq!(median(&mut []), 0);
    }

    #[test]
    fn a_tick_of_a_62_5_mhz_counter_is_16_instructions() {
        assert_eq!(insns_per_op(100, 62_500_000, 1), 1600);
        assert_eq!(insns_per_op(1000, 62_500_000, 100), 160);
        assert_eq!(insns_per_op(299, 1_000_000_000, 2), 150);
        assert_eq!(insns_per_op(1, 0, 1), 0);
        assert_eq!(insns_per_op(1, 1, 0), 0);
    }

    #[test]
    fn splitmix64_gives_the_published_sequence() {
        let mut state = 1_234_567;
        assert_eq!(splitmix64(&mut state), 6_457_827_717_110_365_317);
        assert_eq!(splitmix64(&mut state), 3_203_168_211_198_807_973);
    }

    #[test]
    fn fnv1a_of_eight_zero_bytes_is_the_prime_to_the_eighth() {
        let mut expected = FNV_START;
        for _ in 0..8 {
            expected = expected.wrapping_mul(1_099_511_628_211);
        }
        assert_eq!(fnv1a(FNV_START, 0), expected);
    }
}
