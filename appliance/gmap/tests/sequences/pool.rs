//! The pool against a naive list of frames.

use crate::cases;
use arch::Pa;
use gmap::{FRAME, Pool, PoolError};
use proptest::prelude::*;

/// Frames of the span: not a multiple of any block, and begun in the middle of one.
const FRAMES: usize = 1500;
const BASE: u64 = 777;

#[derive(Clone, Debug)]
enum Op {
    Donate(usize, usize),
    Alloc(u8),
    /// Frees the n-th allocation still there, or a part of it of this order.
    Free(usize, u8),
    /// Frees whatever lies there.
    FreeAny(u64, u8),
    /// Counts another user of whatever lies there.
    Share(u64, u8),
    /// Ends a use of whatever lies there.
    Release(u64, u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => (0..FRAMES + 9, 0..600_usize).prop_map(|(a, n)| Op::Donate(a, n)),
        4 => (0..12_u8).prop_map(Op::Alloc),
        4 => (0..64_usize, 0..12_u8).prop_map(|(n, o)| Op::Free(n, o)),
        1 => (BASE - 9..BASE + 1600, 0..22_u8).prop_map(|(f, o)| Op::FreeAny(f, o)),
        3 => (800..1100_u64, 0..7_u8).prop_map(|(f, o)| Op::Share(f >> o << o, o)),
        3 => (800..1100_u64, 0..7_u8).prop_map(|(f, o)| Op::Release(f >> o << o, o)),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Frame {
    Foreign,
    Used,
    Free,
}

fn pa(frame: u64) -> Pa {
    Pa::new(frame * 4096).expect("low")
}

/// Whether a block of `order` could be had: an aligned run of free frames.
fn possible(frames: &[Frame], order: u8) -> bool {
    let size = 1_usize << order;
    let base = usize::try_from(BASE).expect("small");
    let first = base.div_ceil(size) * size - base;
    let mut starts = (first..)
        .step_by(size)
        .take_while(|at| at + size <= frames.len());
    starts.any(|at| frames[at..at + size].iter().all(|f| *f == Frame::Free))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(2_000)))]

    /// The pool gives a block exactly when an aligned run of free frames exists, never
    /// gives a frame twice, and refuses what is free, foreign or crooked.
    #[test]
    fn the_pool_agrees_with_a_list_of_frames(ops in prop::collection::vec(op(), 1..64)) {
        let count = u64::try_from(FRAMES).expect("small");
        let mut meta = vec![u64::MAX; Pool::metadata_words(count)];
        let mut pool = Pool::new(&mut meta, pa(BASE), count).expect("enough words");
        let mut frames = vec![Frame::Foreign; FRAMES];
        let mut live: Vec<(u64, u8)> = Vec::new();
        // Users of each frame besides the first.
        let mut more = vec![0_u32; FRAMES];
        for op in ops {
            match op {
                Op::Share(frame, order) | Op::Release(frame, order) => {
                    let Some(from) = frame.checked_sub(BASE) else { continue };
                    let from = usize::try_from(from).expect("small");
                    let range = from..(from + (1 << order)).min(FRAMES);
                    let used = range.len() == 1 << order
                        && frames[range.clone()].iter().all(|f| *f == Frame::Used);
                    if matches!(op, Op::Share(..)) {
                        prop_assert_eq!(pool.share(pa(frame), order).is_ok(), used);
                        more[range.clone()].iter_mut().for_each(|n| *n += u32::from(used));
                    } else {
                        prop_assert_eq!(pool.release(pa(frame), order).is_ok(), used);
                        if used {
                            for at in range.clone() {
                                if more[at] == 0 {
                                    frames[at] = Frame::Free;
                                }
                                more[at] = more[at].saturating_sub(1);
                            }
                            // Whoever allocated it does not free it again.
                            let gone = |f: u64, o: u8| f < frame + (1 << order) && frame < f + (1 << o);
                            live.retain(|(f, o)| !gone(*f, *o));
                        }
                    }
                    if used && frames[range.clone()].iter().all(|f| *f == Frame::Used) {
                        let any = more[range].iter().any(|n| *n > 0);
                        prop_assert_eq!(pool.is_shared(pa(frame), order), any);
                    }
                }
                Op::Donate(at, n) => {
                    let start = BASE + u64::try_from(at).expect("small");
                    let end = start + u64::try_from(n).expect("small");
                    let result = pool.donate(pa(start)..pa(end));
                    if n == 0 {
                        prop_assert_eq!(result, Ok(()));
                    } else if at + n > FRAMES {
                        prop_assert_eq!(result, Err(PoolError::Foreign));
                    } else if frames[at..at + n].iter().any(|f| *f != Frame::Foreign) {
                        prop_assert_eq!(result, Err(PoolError::AlreadyFree));
                    } else {
                        prop_assert_eq!(result, Ok(()));
                        frames[at..at + n].fill(Frame::Free);
                    }
                }
                Op::Alloc(order) => {
                    let got = pool.alloc(order);
                    prop_assert_eq!(got.is_some(), possible(&frames, order));
                    if let Some(at) = got {
                        let frame = at.raw() / FRAME;
                        prop_assert_eq!(frame % (1 << order), 0);
                        let from = usize::try_from(frame - BASE).expect("small");
                        for f in &mut frames[from..from + (1 << order)] {
                            prop_assert_eq!(*f, Frame::Free);
                            *f = Frame::Used;
                        }
                        live.push((frame, order));
                    }
                }
                Op::Free(n, order) if !live.is_empty() => {
                    let n = n % live.len();
                    let (frame, whole) = live[n];
                    let order = order.min(whole);
                    let from = usize::try_from(frame - BASE).expect("small");
                    if more[from..from + (1 << order)].iter().any(|n| *n > 0) {
                        prop_assert_eq!(pool.free(pa(frame), order), Err(PoolError::Shared));
                        continue;
                    }
                    prop_assert_eq!(pool.free(pa(frame), order), Ok(()));
                    frames[from..from + (1 << order)].fill(Frame::Free);
                    live.swap_remove(n);
                    // What is left of a larger allocation are its upper buddies.
                    live.extend((order..whole).map(|o| (frame + (1 << o), o)));
                }
                Op::Free(..) => {}
                Op::FreeAny(frame, order) => {
                    let size = 1_u64 << order;
                    let inside = frame >= BASE && frame + size <= BASE + count;
                    let states = if inside {
                        let from = usize::try_from(frame - BASE).expect("small");
                        &frames[from..from + (1 << order)]
                    } else {
                        &[]
                    };
                    let expected = if order > 18 || frame % size != 0 {
                        PoolError::Unaligned
                    } else if !inside || states.contains(&Frame::Foreign) {
                        PoolError::Foreign
                    } else if states.contains(&Frame::Free) {
                        PoolError::AlreadyFree
                    } else {
                        continue;
                    };
                    prop_assert_eq!(pool.free(pa(frame), order), Err(expected));
                }
            }
            let free = frames.iter().filter(|f| **f == Frame::Free).count();
            prop_assert_eq!(pool.free_bytes(), u64::try_from(free).expect("small") * 4096);
            let largest = (0..=18).rev().find(|order| possible(&frames, *order));
            prop_assert_eq!(pool.largest_order(), largest);
        }
    }
}

#[test]
fn metadata_is_seven_hundredths_of_a_percent_of_memory() {
    for gib in [1_u64, 4, 32, 1024, 1 << 18] {
        let bytes = u64::try_from(Pool::metadata_words(gib << 18)).expect("fits") * 8;
        assert!(bytes * 10_000 < (7 * gib) << 30, "{gib} GiB needs {bytes}");
    }
}

#[test]
fn a_gibibyte_given_in_pieces_is_a_gibibyte_again() {
    let frames = 3 << 18;
    let mut meta = vec![0; Pool::metadata_words(frames)];
    let mut pool = Pool::new(&mut meta, pa(0x4_0000), frames).expect("enough words");
    for piece in 0..16 {
        let start = 0x8_0000 + piece * 0x4000;
        pool.donate(pa(start)..pa(start + 0x4000))
            .expect("free to give");
    }
    assert_eq!(pool.largest_order(), Some(18));
    let page = pool.alloc(0).expect("there is memory");
    assert_eq!(pool.largest_order(), Some(17));
    assert_eq!(pool.alloc(18), None);
    pool.free(page, 0).expect("was allocated");
    assert_eq!(pool.alloc(18), Some(pa(0x8_0000)));
    assert_eq!(pool.free(pa(0x8_0000), 18), Ok(()));
    assert_eq!(pool.free(pa(0x8_0000), 18), Err(PoolError::AlreadyFree));
    assert_eq!(pool.free(pa(0x8_0001), 0), Err(PoolError::AlreadyFree));
    assert_eq!(pool.free(pa(0x4_0000), 0), Err(PoolError::Foreign));
}

#[test]
fn a_frame_has_so_many_users_and_no_more_and_what_is_kept_stays() {
    let mut meta = vec![0; Pool::metadata_words(64)];
    let mut pool = Pool::new(&mut meta, pa(0), 64).expect("enough words");
    pool.donate(pa(0)..pa(64)).expect("free to give");
    let block = pool.alloc(1).expect("memory");
    for _ in 1..65_535 {
        pool.share(block, 0).expect("room for one more");
    }
    assert_eq!(pool.share(block, 0), Err(PoolError::TooManyUsers));
    assert_eq!(pool.share(block, 1), Err(PoolError::TooManyUsers));
    // Refused, so its neighbour has no other user.
    assert!(!pool.is_shared(pa(block.raw() / FRAME + 1), 0));
    for _ in 1..65_535 {
        pool.release(block, 0).expect("used");
    }
    assert!(!pool.is_shared(block, 1));
    assert_eq!(pool.keep(block, 0), Ok(()));
    for _ in 0..3 {
        assert_eq!(pool.share(block, 0), Ok(()));
        assert_eq!(pool.release(block, 0), Ok(()));
        assert_eq!(pool.release(block, 0), Ok(()));
    }
    assert_eq!(pool.free(block, 0), Err(PoolError::Shared));
    assert_eq!(pool.free_bytes(), 62 * FRAME);
}

#[test]
fn too_little_metadata_is_refused() {
    let mut meta = vec![0; Pool::metadata_words(1000) - 1];
    let result = Pool::new(&mut meta, pa(0), 1000);
    assert_eq!(result.err(), Some(PoolError::Metadata));
}
