//! The table of parts, against bytes written out by hand.
use image_format::{Bundle, BundleError, Part, header_bytes};
use proptest::prelude::*;

/// A bundle of two parts, byte by byte from the documented layout.
fn by_hand() -> Vec<u8> {
    let mut raw = Vec::new();
    raw.extend(b"SKETEPAK");
    raw.extend([1, 0, 0, 0, 2, 0, 0, 0]);
    raw.extend(8195u64.to_le_bytes());
    raw.extend([0; 8]);
    raw.extend(b"root\0\0\0\0\0\0\0\0\0\0\0\0");
    for number in [4096u64, 5, 0x4020_0000, 0x3000, 0x4020_0004] {
        raw.extend(number.to_le_bytes());
    }
    raw.extend([0xaa; 32]);
    raw.extend([0; 8]);
    raw.extend(b"second-part-name");
    for number in [8192u64, 3, 0, 3, 0] {
        raw.extend(number.to_le_bytes());
    }
    raw.extend([0xbb; 32]);
    raw.extend([0; 8]);
    raw.resize(4096, 0);
    raw.extend(b"hello");
    raw.resize(8192, 0);
    raw.extend(b"end");
    raw
}

#[test]
fn parts_are_found_by_name_with_what_the_table_says() {
    let raw = by_hand();
    let bundle = Bundle::parse(&raw).unwrap();
    let root = bundle.find("root").unwrap();
    assert_eq!(root.data, b"hello");
    assert_eq!(root.load_address, 0x4020_0000);
    assert_eq!(root.memory_bytes, 0x3000);
    assert_eq!(root.entry, 0x4020_0004);
    assert_eq!(root.sha256, [0xaa; 32]);
    assert_eq!(bundle.find("second-part-name").unwrap().data, b"end");
    assert_eq!(bundle.find("second"), None);
    assert_eq!(bundle.parts().count(), 2);
    assert_eq!(bundle.total_bytes(), 8195);
}

#[test]
fn what_is_written_here_is_the_documented_layout() {
    let raw = by_hand();
    let bundle = Bundle::parse(&raw).unwrap();
    assert_eq!(header_bytes(2, 8195), raw[..32]);
    let records: Vec<_> = bundle.parts().zip([4096, 8192]).collect();
    for (n, (part, offset)) in records.into_iter().enumerate() {
        assert_eq!(part.record(offset), raw[32 + 96 * n..][..96]);
    }
}

#[test]
fn bytes_behind_the_bundle_do_not_belong_to_it() {
    let mut raw = by_hand();
    raw.extend([0xff; 5000]);
    assert_eq!(Bundle::parse(&raw).unwrap().total_bytes(), 8195);
}

#[test]
fn an_empty_bundle_has_no_parts() {
    let raw = header_bytes(0, 32);
    let bundle = Bundle::parse(&raw).unwrap();
    assert_eq!((bundle.parts().count(), bundle.find("root")), (0, None));
}

#[test]
fn a_bundle_cut_anywhere_is_refused() {
    let raw = by_hand();
    for len in 0..raw.len() {
        assert!(Bundle::parse(&raw[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn each_bad_field_is_refused() {
    let with = |at: usize, bytes: &[u8]| {
        let mut raw = by_hand();
        raw[at..][..bytes.len()].copy_from_slice(bytes);
        Bundle::parse(&raw).map(|_| ()).unwrap_err()
    };
    let number = |value: u64| value.to_le_bytes();
    let (first, second) = (
        BundleError::BadPart { index: 0 },
        BundleError::BadPart { index: 1 },
    );
    assert_eq!(with(0, b"s"), BundleError::NotABundle);
    assert_eq!(with(8, &[2]), BundleError::BadVersion { found: 2 });
    assert_eq!(with(12, &[17]), BundleError::TooManyParts);
    assert_eq!(with(12, &[16]), BundleError::BadPart { index: 2 });
    assert_eq!(with(16, &number(u64::MAX)), BundleError::Truncated);
    assert_eq!(with(32, &[0; 16]), first, "no name");
    assert_eq!(with(47, b"x"), first, "bytes after the end of the name");
    assert_eq!(with(48, &number(4097)), first, "unaligned");
    assert_eq!(with(48, &number(0)), first, "over the table");
    assert_eq!(with(48, &number(!4095)), first, "far out");
    assert_eq!(with(56, &number(u64::MAX)), first, "too long");
    assert_eq!(with(64, &number(u64::MAX)), first, "wraps");
    assert_eq!(with(72, &number(4)), first, "less memory than bytes");
    assert_eq!(with(80, &number(0x4020_0005)), first, "entry past the end");
    assert_eq!(
        with(80, &number(0x401f_ffff)),
        first,
        "entry before the start"
    );
    assert_eq!(with(128, b"root\0\0\0\0\0\0\0\0\0\0\0\0"), second, "twice");
    assert_eq!(with(144, &number(4096)), second, "overlap");
}

proptest! {
    #[test]
    fn random_edits_never_panic_and_parts_stay_inside(
        edits in prop::collection::vec((0..224usize, any::<u8>()), 1..8),
    ) {
        let mut raw = by_hand();
        for (at, value) in edits {
            raw[at] = value;
        }
        if let Ok(bundle) = Bundle::parse(&raw) {
            let all: usize = bundle.parts().map(|part: Part<'_>| part.data.len()).sum();
            prop_assert!(all <= bundle.total_bytes());
        }
    }
}
