//! Which leaf is mapped, and what lies beyond the memory.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test that panics has failed, which is what is meant"
)]

use arch::{Ipa, Pa};
use devmem::{AccessError, Block, Memory, Order, Region, RegionError, TouchMap, block_at, clip};
use proptest::prelude::*;

const K4: u64 = 0x1000;
const K64: u64 = 0x1_0000;
const M2: u64 = 0x20_0000;
const G1: u64 = 0x4000_0000;

fn ipa(raw: u64) -> Ipa {
    Ipa::new(raw).expect("below 2^48")
}

fn pa(raw: u64) -> Pa {
    Pa::new(raw).expect("below 2^48")
}

fn region(at: u64, to: u64, len: u64) -> Region {
    let bar = len.next_power_of_two().max(16);
    Region::new(ipa(at), pa(to), len, bar, Memory::Cached).expect("legal")
}

/// What a leaf is allowed to be, by literal sizes and addresses: tries all and keeps the largest.
fn oracle(window: u64, memory: u64, len: u64, at: u64, largest: u64) -> Option<(u64, u64, u64)> {
    for size in [0x4000_0000_u64, 0x20_0000, 0x1_0000, 0x1000] {
        let start = at / size * size;
        if size > largest || start < window || start - window + size > len {
            continue;
        }
        let to = memory + (start - window);
        if to.is_multiple_of(size) {
            return Some((start, to, size));
        }
    }
    None
}

fn found(block: Option<Block>) -> Option<(u64, u64, u64)> {
    block.map(|block| (block.ipa.raw(), block.pa.raw(), block.order.bytes()))
}

/// Near every boundary that matters, in both spaces, for every length that matters.
#[test]
fn a02_the_largest_leaf_that_congruence_and_bounds_allow_is_chosen() {
    let base = 0x80_0000_0000_u64;
    let near = [
        0,
        K4,
        K64 - K4,
        K64,
        K64 + K4,
        M2 - K64,
        M2 - K4,
        M2,
        M2 + K4,
        G1 - M2,
        G1 - K4,
        G1,
        G1 + K4,
        G1 + M2,
    ];
    let lengths = [
        K4,
        2 * K4,
        K64 - K4,
        K64,
        3 * K64 + K4,
        M2 - K4,
        M2,
        M2 + K4,
        3 * M2,
        G1 - K4,
        G1,
        G1 + K4,
        G1 + M2,
        2 * G1,
        2 * G1 + 3 * M2 + 5 * K4,
    ];
    let mut cases = 0;
    for window in near {
        for memory in near {
            for len in lengths {
                let region = region(base + window, memory, len);
                let edges = near.iter().chain(&lengths);
                let touches = edges.flat_map(|at| [*at, at.saturating_sub(K4), len - 1, len]);
                for at in touches {
                    for largest in Order::LARGEST_FIRST {
                        let at = base + window + at;
                        let got = found(block_at(&region, ipa(at), largest));
                        let want = oracle(base + window, memory, len, at, largest.bytes());
                        assert_eq!(got, want, "{region:?} at {at:#x}");
                        cases += 1;
                    }
                }
            }
        }
    }
    assert!(cases > 200_000, "{cases}");
}

#[test]
fn a02_two_aligned_gibibytes_take_two_faults_and_an_odd_tail_its_pages() {
    let region = region(
        0x80_0000_0000,
        0x40_0000_0000,
        2 * G1 + M2 + 2 * K64 + 3 * K4,
    );
    let (mut at, mut leaves) = (0, [0; 4]);
    while at < region.len() {
        let touched = ipa(region.ipa().raw() + at);
        let block = block_at(&region, touched, Order::Block1G).expect("memory is there");
        assert_eq!(block.ipa, touched);
        leaves[block.order.index()] += 1;
        at += block.order.bytes();
    }
    assert_eq!(leaves, [3, 2, 1, 2]);
    assert_eq!(at, region.len());
}

#[test]
fn a03_a_window_into_the_middle_leads_to_the_middle() {
    let region = region(0x80_0000_0000, 0x1_2345_6000, 16 * K4);
    for page in 0..16 {
        let at = ipa(0x80_0000_0000 + page * K4 + 0x123);
        let block = block_at(&region, at, Order::Block1G).expect("memory is there");
        assert_eq!(block.pa.raw(), 0x1_2345_6000 + page * 0x1000);
    }
}

proptest! {
    /// A touch anywhere, memory of any length: no leaf holds a byte that is not the device's.
    #[test]
    fn a04_no_leaf_reaches_past_the_memory(
        window in 0..1_u64 << 20, memory in 0..1_u64 << 20, len in 1..5 * G1, at in 0..6 * G1,
    ) {
        let (window, memory) = (0x80_0000_0000 + window * K4, memory * K4);
        let region = region(window, memory, len);
        let got = found(block_at(&region, ipa(window + at), Order::Block1G));
        prop_assert_eq!(got, oracle(window, memory, len, window + at, G1));
        if let Some((start, to, size)) = got {
            prop_assert!(to >= memory && to + size <= memory + len);
            prop_assert!(start <= window + at && window + at < start + size);
        } else {
            prop_assert!(at >= len / K4 * K4);
        }
    }

    /// Byte by byte: in the memory, in the BAR behind it, or refused.
    #[test]
    fn a04_an_access_is_cut_to_the_bar_and_to_the_memory(
        len in 1..5000_u64, offset in 0..9000_u64, count in 0..9000_u64,
    ) {
        let region = region(0x1000_0000, 0x2000_0000, len);
        let bar = region.bar_size();
        let got = clip(&region, offset, count);
        if offset >= bar {
            prop_assert_eq!(got, Err(AccessError::Offset));
        } else {
            let bytes = (offset..offset + count).filter(|at| *at < bar);
            let (device, ones): (Vec<u64>, Vec<u64>) = bytes.partition(|at| *at < len);
            let got = got.expect("begins in the BAR");
            prop_assert_eq!(got.device, device.len() as u64);
            prop_assert_eq!(got.ones, ones.len() as u64);
        }
    }
}

#[test]
fn a04_an_access_of_the_largest_count_does_not_wrap() {
    let region = region(0x1000_0000, 0x2000_0000, 0x1800);
    let clip = clip(&region, 0x1000, u64::MAX).expect("begins in the BAR");
    assert_eq!((clip.device, clip.ones), (0x800, 0x800));
}

#[test]
fn a_region_that_cannot_be_is_refused() {
    let new = |at, to, len, bar| Region::new(ipa(at), pa(to), len, bar, Memory::Device);
    assert_eq!(new(0, 0, 0, 4096), Err(RegionError::Empty));
    assert_eq!(new(0, 0, 4096, 4095), Err(RegionError::BarSize));
    assert_eq!(new(0, 0, 4097, 4096), Err(RegionError::BarSize));
    assert_eq!(new(0, 0, 1, 8), Err(RegionError::BarSize));
    assert_eq!(new(0x800, 0, 4096, 4096), Err(RegionError::Unaligned));
    assert_eq!(new(0, 0x800, 4096, 4096), Err(RegionError::Unaligned));
    let last = (1 << 48) - 4096;
    assert_eq!(new(last, 0, 8192, 8192), Err(RegionError::TooHigh));
    assert_eq!(new(0, last, 8192, 8192), Err(RegionError::TooHigh));
    assert!(new(last, last, 4096, 4096).is_ok());
    // A BAR below a page is aligned to its own size.
    assert!(new(0x100, 0x700, 256, 256).is_ok());
}

#[test]
fn a17_touches_are_counted_by_place() {
    let mut map = TouchMap::new(2 * G1);
    assert_eq!(map.cell_bytes(), 32 << 20);
    map.count(0);
    map.count(2 * G1 - 1);
    map.count(2 * G1);
    assert_eq!((map.cells()[0], map.cells()[63]), (1, 1));
    assert_eq!(map.cells().iter().sum::<u32>(), 2);
    let mut small = TouchMap::new(256);
    small.count(255);
    assert_eq!((small.cell_bytes(), small.cells()[0]), (4096, 1));
}
