//! M11: what is given to the frame pool is RAM less what is live, to the byte.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test that goes wrong should panic"
)]

use boot_info::{FreeRuns, Range};
use proptest::prelude::*;

/// Sixty frames and a bit from here.
const BASE: u64 = 0x4000_0000;

fn range(from: u64, bytes: u64) -> Range {
    Range::new(BASE + from, bytes).expect("low")
}

/// Places at, before and after the ends of frames.
fn edge() -> impl Strategy<Value = u64> {
    (
        0..60_u64,
        prop_oneof![Just(0), Just(1), Just(4095), 0..4096_u64],
    )
        .prop_map(|(frame, offset)| frame * 4096 + offset)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn m11_what_is_free_is_ram_less_what_is_live(
        banks in prop::collection::vec((edge(), 1..80_000_u64), 1..4),
        live in prop::collection::vec((edge(), 1..40_000_u64), 0..6),
    ) {
        // Banks one after another, with holes between them.
        let mut at = 0;
        let banks: Vec<Range> = banks.iter().map(|(gap, bytes)| {
            let bank = range(at + gap, *bytes);
            at += gap + bytes;
            bank
        }).collect();
        let live: Vec<Range> = live.iter().map(|(from, bytes)| range(*from, *bytes)).collect();
        let mut free = vec![];
        for bank in &banks {
            for run in FreeRuns::new(*bank, live.iter().copied()) {
                prop_assert!(run.pa % 4096 == 0 && run.bytes % 4096 == 0);
                free.push(run);
            }
        }
        let is = |ranges: &[Range], pa: u64| ranges.iter().any(|range| range.contains(pa));
        for frame in 0..=at / 4096 {
            let start = BASE + frame * 4096;
            // Byte by byte, as seldom as that is needed: at each range's ends.
            let ends = banks.iter().chain(&live).flat_map(|r| [r.pa, r.end() - 1, r.end()]);
            let bytes: Vec<u64> = ends
                .chain([start, start + 4095])
                .filter(|pa| (start..start + 4096).contains(pa))
                .collect();
            let in_one_bank = banks.iter().any(|b| b.pa <= start && start + 4096 <= b.end());
            let untouched = bytes.iter().all(|pa| !is(&live, *pa));
            prop_assert_eq!(is(&free, start), in_one_bank && untouched, "frame {:#x}", start);
            prop_assert_eq!(is(&free, start), is(&free, start + 4095));
        }
    }
}
