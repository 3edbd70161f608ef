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
fn every_field_of_the_header_is_checked() {
    let len = GOOD.len() as u32;
    let word = |n: usize| u32::from_be_bytes(GOOD[n * 4..][..4].try_into().unwrap());
    let with = |n: usize, value: u32| {
        let mut blob = GOOD.to_vec();
        blob[n * 4..][..4].copy_from_slice(&value.to_be_bytes());
        BootInfo::from_fdt(&blob).map(|info| info.cpus.len())
    };
    let damaged = |n, value| matches!(with(n, value), Err(BootError::Damaged { .. }));
    assert_eq!(
        with(0, 0xedfe_0dd0),
        Err(BootError::BadMagic { found: 0xedfe_0dd0 })
    );
    assert_eq!(with(1, len + 1), Err(BootError::TooShort));
    assert_eq!(with(1, 39), Err(BootError::TooShort));
    assert_eq!(with(1, 2 << 20), Err(BootError::TooShort));
    let bytes = (2 << 20) + 1;
    assert_eq!(with(1, bytes), Err(BootError::TooLarge { bytes }));
    // Structure: aligned, inside, and where it is.
    assert!(damaged(2, word(2) + 1));
    assert!(damaged(2, word(2) + 4));
    assert!(damaged(2, len));
    assert!(damaged(2, u32::MAX));
    assert!(damaged(3, len));
    assert!(damaged(3, u32::MAX));
    assert!(damaged(4, len));
    assert!(damaged(4, u32::MAX));
    assert_eq!(with(5, 16), Err(BootError::BadVersion { version: 16 }));
    assert_eq!(
        with(5, 18),
        Ok(4),
        "a later version that says it is compatible"
    );
    assert_eq!(with(6, 18), Err(BootError::BadVersion { version: 17 }));
    assert_eq!(with(7, u32::MAX), Ok(4), "the boot core is not read");
    assert!(damaged(8, len));
    assert!(damaged(8, 8));
    assert!(damaged(9, len));
    assert!(damaged(9, word(9) - 4));
}

#[test]
fn a_reservation_block_without_an_end_is_refused() {
    let mut tree = tree().usual().end().word(9);
    tree.reserved = vec![(1, 1)];
    let blob = tree.blob();
    assert!(BootInfo::from_fdt(&blob).is_ok());
    // From its last entry on, no sixteen bytes are zero any more.
    let mut endless = blob;
    endless[56..72].fill(1);
    let refusal = BootInfo::from_fdt(&endless);
    assert!(matches!(refusal, Err(BootError::Damaged { at: 40 })));
}

#[test]
fn names_that_never_end_or_are_no_text_are_refused() {
    let refused = |tree: Builder| BootInfo::from_fdt(&tree.blob()).unwrap_err();
    let damaged = |tree| matches!(refused(tree), BootError::Damaged { .. });
    let long = "n".repeat(255);
    assert_eq!(
        tree().begin(&long).end().end().read().unwrap_err(),
        BootError::NoMemory
    );
    assert!(damaged(tree().begin(&"n".repeat(256)).end().end().word(9)));
    assert_eq!(
        tree().prop(&long, b"").end().read().unwrap_err(),
        BootError::NoMemory
    );
    assert!(damaged(tree().prop(&"n".repeat(256), b"").end().word(9)));
    let mut not_text = tree().prop("ab", b"").end().word(9);
    not_text.strings = b"\xff\xfe\0".to_vec();
    assert!(damaged(not_text));
    let mut unended = tree().prop("ab", b"").end().word(9);
    unended.strings = b"ab".to_vec();
    assert!(damaged(unended));
    assert!(damaged(
        tree().word(1).padded(b"\xff\0").end().end().word(9)
    ));
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
