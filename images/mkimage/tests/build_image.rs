//! Images built from ELF files written by hand, and read back byte by byte.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that lays out small files"
)]

use mkimage::{Error, Which, build};
use proptest::prelude::*;

/// A segment: address, file bytes, memory bytes.
type Segment<'a> = (u64, &'a [u8], u64);

/// An ELF64 little-endian executable for AArch64 (System V ABI, chapters 4 and 5).
fn elf(segments: &[Segment<'_>], entry: u64, symbols: &[(&str, u64)]) -> Vec<u8> {
    elf_with_dynamic(segments, entry, symbols, None)
}

fn elf_with_dynamic(
    segments: &[Segment<'_>],
    entry: u64,
    symbols: &[(&str, u64)],
    dynamic: Option<(u64, u64)>,
) -> Vec<u8> {
    let count = segments.len() + usize::from(dynamic.is_some());
    let mut file = vec![0; 64 + 56 * count];
    let mut headers = Vec::new();
    for (address, bytes, memory) in segments {
        let offset = file.len() as u64;
        file.extend(*bytes);
        headers.push((1u32, offset, *address, bytes.len() as u64, *memory));
    }
    if let Some((table, bytes)) = dynamic {
        let offset = file.len() as u64;
        for word in [7, table, 8, bytes, 9, 24, 0, 0] {
            file.extend(u64::to_le_bytes(word));
        }
        headers.push((2, offset, 0, 64, 64));
    }
    for (n, (kind, offset, address, bytes, memory)) in headers.into_iter().enumerate() {
        let mut raw = Vec::new();
        raw.extend(kind.to_le_bytes());
        raw.extend(7u32.to_le_bytes());
        for word in [offset, address, address, bytes, memory, 4096] {
            raw.extend(word.to_le_bytes());
        }
        file[64 + 56 * n..][..56].copy_from_slice(&raw);
    }
    // Section headers: null, .symtab, .strtab.
    let mut strings = vec![0];
    let mut table = vec![0; 24];
    for (name, value) in symbols {
        table.extend(u32::try_from(strings.len()).unwrap().to_le_bytes());
        table.extend([0x10, 0, 0xf1, 0xff]);
        table.extend(value.to_le_bytes());
        table.extend([0; 8]);
        strings.extend(name.bytes());
        strings.push(0);
    }
    let symbols_at = file.len() as u64;
    file.extend(&table);
    let strings_at = file.len() as u64;
    file.extend(&strings);
    let sections_at = file.len() as u64;
    file.extend([0; 64]);
    for (kind, offset, size, link, info, entry) in [
        (2u32, symbols_at, table.len() as u64, 2u32, 1u32, 24u64),
        (3, strings_at, strings.len() as u64, 0, 0, 0),
    ] {
        file.extend(0u32.to_le_bytes());
        file.extend(kind.to_le_bytes());
        for word in [0, 0, offset, size] {
            file.extend(u64::to_le_bytes(word));
        }
        file.extend(link.to_le_bytes());
        file.extend(info.to_le_bytes());
        file.extend(1u64.to_le_bytes());
        file.extend(entry.to_le_bytes());
    }
    let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header.extend([2, 0, 183, 0, 1, 0, 0, 0]);
    for word in [entry, 64, sections_at] {
        header.extend(word.to_le_bytes());
    }
    header.extend([0, 0, 0, 0, 64, 0, 56, 0]);
    header.extend(u16::try_from(count).unwrap().to_le_bytes());
    header.extend([64, 0, 3, 0, 2, 0]);
    file[..64].copy_from_slice(&header);
    file
}

/// Core's first bytes: an Image header with image_size zero, then some code.
fn core_text() -> Vec<u8> {
    let mut text = vec![0; 80];
    text[56..60].copy_from_slice(b"ARM\x64");
    text[24] = 0b1010;
    text[64..].fill(0xc0);
    text
}

const BASE: u64 = 0x20_0000;

fn core() -> Vec<u8> {
    let text = core_text();
    let segments: [Segment<'_>; 2] = [(BASE, &text, 80), (BASE + 0x1000, b"data", 0x1800)];
    elf(
        &segments,
        BASE,
        &[("other", 5), ("__image_end", BASE + 0x3000)],
    )
}

fn le64(image: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(image[at..][..8].try_into().unwrap())
}

#[test]
fn core_is_flat_up_to_image_end_and_the_parts_follow() {
    let segments: [Segment<'_>; 2] = [
        (0x4020_0000, b"root code", 9),
        (0x4020_1000, b"root data", 0x5000),
    ];
    let root = elf(&segments, 0x4020_0004, &[]);
    let image = build(&core(), Some(&root)).unwrap();

    let mut text = core_text();
    text[16..24].copy_from_slice(&(image.len() as u64).to_le_bytes());
    assert_eq!(image[..80], text[..]);
    assert!(image[80..0x1000].iter().all(|byte| *byte == 0));
    assert_eq!(&image[0x1000..0x1004], b"data");
    assert!(image[0x1004..0x3000].iter().all(|byte| *byte == 0));

    let table = &image[0x3000..];
    assert_eq!(&table[..16], b"SKETEPAK\x01\0\0\0\x01\0\0\0");
    assert_eq!(le64(table, 16), 0x3000, "table, two pages of root");
    assert_eq!(&table[32..48], b"root\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(le64(table, 48), 0x1000);
    assert_eq!(le64(table, 56), 0x1009);
    assert_eq!(le64(table, 64), 0x4020_0000);
    assert_eq!(le64(table, 72), 0x6000);
    assert_eq!(le64(table, 80), 0x4020_0004);
    assert_eq!(&table[0x1000..0x1009], b"root code");
    assert_eq!(&table[0x2000..0x2009], b"root data");
    assert_eq!(image.len(), 0x6000);
}

#[test]
fn the_hash_is_sha256_of_the_part() {
    let root = elf(&[(0x4020_0000, b"abc", 3)], 0x4020_0000, &[]);
    let image = build(&core(), Some(&root)).unwrap();
    // FIPS 180-4's first example.
    let abc = [
        0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22,
        0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00,
        0x15, 0xad,
    ];
    assert_eq!(image[0x3000 + 88..][..32], abc);
}

#[test]
fn without_root_the_table_is_empty() {
    let image = build(&core(), None).unwrap();
    assert_eq!(image.len(), 0x4000);
    assert_eq!(&image[0x3000..0x3010], b"SKETEPAK\x01\0\0\0\0\0\0\0");
    assert_eq!(le64(&image, 16), 0x4000);
}

#[test]
fn relative_relocations_are_applied_for_the_linked_address() {
    let mut text = vec![0u8; 64];
    for (at, word) in [(16, 0x4020_0008u64), (24, 1027), (32, 0x4020_abcd)] {
        text[at..][..8].copy_from_slice(&word.to_le_bytes());
    }
    let segments: [Segment<'_>; 1] = [(0x4020_0000, &text, 64)];
    let relocations = Some((0x4020_0010, 24));
    let root = elf_with_dynamic(&segments, 0x4020_0000, &[], relocations);
    let image = build(&core(), Some(&root)).unwrap();
    assert_eq!(le64(&image, 0x4008), 0x4020_abcd);

    text[24] = 2;
    let segments: [Segment<'_>; 1] = [(0x4020_0000, &text, 64)];
    let root = elf_with_dynamic(&segments, 0x4020_0000, &[], relocations);
    let refusal = build(&core(), Some(&root)).unwrap_err();
    assert_eq!(refusal, Error::BadRelocation(Which::Root));
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let text = core_text();
    let core_of = |segments: &[Segment<'_>], end| elf(segments, BASE, &[("__image_end", end)]);
    let refused = |core: &[u8]| build(core, None).unwrap_err();
    assert!(matches!(refused(b"MZ"), Error::NotElf(Which::Core, _)));
    let mut x86 = core();
    x86[18] = 62;
    assert_eq!(refused(&x86), Error::WrongMachine(Which::Core));
    assert_eq!(refused(&elf(&[], 0, &[])), Error::Empty(Which::Core));
    let entry_out = elf(
        &[(BASE, &text, 80)],
        BASE + 80,
        &[("__image_end", BASE + 0x1000)],
    );
    assert_eq!(refused(&entry_out), Error::BadEntry(Which::Core));
    assert_eq!(
        refused(&elf(&[(BASE, &text, 80)], BASE, &[])),
        Error::NoImageEnd
    );
    for end in [BASE + 80, BASE, BASE - 0x1000, BASE + (1 << 40)] {
        assert_eq!(
            refused(&core_of(&[(BASE, &text, 80)], end)),
            Error::BadImageEnd
        );
    }
    let no_header = core_of(&[(BASE, &text[..60], 80)], BASE + 0x1000);
    assert!(
        build(&no_header, None).is_ok(),
        "the header's end may be zeroes"
    );
    let no_magic = core_of(&[(BASE, b"code", 4)], BASE + 0x1000);
    assert!(matches!(refused(&no_magic), Error::BadHeader(_)));
    for segments in [
        [(BASE, &text[..], 80), (BASE + 40, &b"over"[..], 4)],
        [(BASE, &text[..], 79), (BASE + 0x1000, &b"less"[..], 4)],
        [(BASE, &text[..], 80), (BASE + (1 << 30), &b"far"[..], 4)],
        [
            (BASE, &text[..], 80),
            (BASE + 0x1000, &b"wraps"[..], u64::MAX),
        ],
    ] {
        let core = core_of(&segments, BASE + 0x1000);
        assert_eq!(refused(&core), Error::BadSegments(Which::Core));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Headers, tables and symbols all get hit: the file is small.
    #[test]
    fn a_damaged_file_is_refused_or_built_but_never_a_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        damage_core in any::<bool>(),
    ) {
        let root = elf_with_dynamic(
            &[(0x4020_0000, &[0; 64], 64)],
            0x4020_0000,
            &[("symbol", 1)],
            Some((0x4020_0010, 24)),
        );
        let (mut core, mut root) = (core(), root);
        let damaged = if damage_core { &mut core } else { &mut root };
        for (at, value) in edits {
            let at = at.index(damaged.len());
            damaged[at] = value;
        }
        if let Ok(image) = build(&core, Some(&root)) {
            prop_assert_eq!(le64(&image, 16), image.len() as u64);
        }
    }
}
