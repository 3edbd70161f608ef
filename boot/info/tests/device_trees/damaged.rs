//! Trees that no firmware should write. They are refused, or read as what they say; they
//! never panic. (RELIABILITY P9, host half.)

use crate::tree::{Builder, tree};
use boot_info::{BootError, BootInfo};
use proptest::prelude::*;

const GOOD: &[u8] = include_bytes!("../data/virt-gicv3-4cpus-2g.dtb");

#[test]
fn structure_that_the_parser_cannot_take_is_refused_with_its_place() {
    let refused = |tree: Builder| BootInfo::from_fdt(&tree.blob()).unwrap_err();
    let damaged = |tree| matches!(refused(tree), BootError::Damaged { .. });
    assert!(damaged(Builder::default()), "no root");
    assert!(damaged(tree()), "root never ends");
    assert!(damaged(tree().end()), "no end token");
    assert!(damaged(tree().end().word(7)), "unknown token");
    assert!(
        damaged(Builder::default().begin("root").end().word(9)),
        "named root"
    );
    assert!(
        damaged(tree().begin("").end().end().word(9)),
        "nameless child"
    );
    assert!(damaged(
        tree().begin("a").end().prop("late", b"").end().word(9)
    ));
    assert!(damaged(tree().cells("#address-cells", &[]).end().word(9)));
    assert!(damaged(tree().word(3).word(u32::MAX).word(0).end().word(9)));
    assert!(damaged(tree().word(3).word(0).word(1000).end().word(9)));
    let nop = refused(tree().word(4).end().word(9));
    assert_eq!(nop, BootError::Nop { at: 40 + 16 + 12 });
    let mut deep = tree();
    for _ in 0..24 {
        deep = deep.begin("a");
    }
    assert!(matches!(refused(deep), BootError::TooDeep { .. }));
}

#[test]
fn a_tree_cut_anywhere_is_refused() {
    for len in 0..GOOD.len() {
        assert!(BootInfo::from_fdt(&GOOD[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn every_error_says_whose_fault_in_lower_case_without_a_full_stop() {
    for error in [
        BootError::TooShort,
        BootError::BadMagic { found: 0 },
        BootError::TooLarge { bytes: 0 },
        BootError::BadVersion { version: 3 },
        BootError::Damaged { at: 8 },
        BootError::TooDeep { at: 8 },
        BootError::Nop { at: 8 },
        BootError::BadProperty { what: "cpu reg" },
        BootError::TooMany { what: "x", room: 1 },
        BootError::Translated { what: "x" },
        BootError::NoMemory,
        BootError::NoCpus,
        BootError::NoGicV3,
    ] {
        let text = error.to_string();
        let lower = text.starts_with(|first: char| first.is_lowercase());
        assert!(lower && !text.ends_with('.') && text.len() > 40, "{text}");
    }
}

/// Few under Miri, which runs each of them some thousand times slower.
const CASES: u32 = if cfg!(miri) { 4 } else { 256 };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    /// A few words of a real tree replaced by small or random ones: tokens, lengths,
    /// offsets and names all get hit.
    #[test]
    fn a_tree_with_words_overwritten_never_panics(
        edits in prop::collection::vec((0..GOOD.len() / 4, prop_oneof![0..16u32, any::<u32>()]), 1..6),
    ) {
        let mut blob = GOOD.to_vec();
        for (word, value) in edits {
            blob[word * 4..][..4].copy_from_slice(&value.to_be_bytes());
        }
        let _ = BootInfo::from_fdt(&blob);
    }

    #[test]
    fn a_tree_with_bytes_overwritten_never_panics(
        edits in prop::collection::vec((0..GOOD.len(), any::<u8>()), 1..20),
    ) {
        let mut blob = GOOD.to_vec();
        for (at, value) in edits {
            blob[at] = value;
        }
        let _ = BootInfo::from_fdt(&blob);
    }

    #[test]
    fn a_header_over_random_tokens_never_panics(
        tokens in prop::collection::vec(prop_oneof![Just(1u32), Just(2), Just(3), Just(9), 0..12u32, any::<u32>()], 0..64),
        strings in prop::collection::vec(any::<u8>(), 0..32),
    ) {
        let mut tree = tree();
        tree.strings = strings;
        for token in tokens {
            tree = tree.word(token);
        }
        let _ = BootInfo::from_fdt(&tree.blob());
    }
}
