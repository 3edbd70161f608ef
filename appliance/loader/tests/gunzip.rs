//! gzip, fed in pieces of any size.

#![expect(clippy::indexing_slicing, reason = "a test that panics has failed")]

use loader::{Gunzip, GunzipError};
use proptest::prelude::*;

/// What `gzip` makes of three lines "hello, hermit", with the file name "hello.txt".
const HELLO_GZ: [u8; 46] = [
    0x1f, 0x8b, 0x08, 0x08, 0x00, 0x00, 0x00, 0x00, 0x02, 0xff, 0x68, 0x65, 0x6c, 0x6c, 0x6f, 0x2e,
    0x74, 0x78, 0x74, 0x00, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 0xd7, 0x51, 0xc8, 0x48, 0x2d, 0xca, 0xcd,
    0x2c, 0xe1, 0xca, 0xc0, 0xc3, 0x03, 0x00, 0x92, 0x19, 0xd3, 0x95, 0x2a, 0x00, 0x00,
];
const HELLO: &[u8] = b"hello, hermit\nhello, hermit\nhello, hermit\n";

fn hello_gz() -> Vec<u8> {
    let mut bytes = HELLO_GZ.to_vec();
    bytes.push(0);
    bytes
}

/// Unpacks `file` in pieces of `from` bytes into pieces of `to` bytes.
fn unpack(file: &[u8], from: usize, to: usize) -> Result<Vec<u8>, GunzipError> {
    let mut gunzip = Gunzip::new();
    let mut result = Vec::new();
    let mut rest = file;
    let mut piece = vec![0; to];
    while !gunzip.is_finished() {
        let input = &rest[..from.min(rest.len())];
        let progress = gunzip.step(input, &mut piece)?;
        result.extend_from_slice(&piece[..progress.made]);
        rest = &rest[progress.taken..];
        if progress.made == 0 && progress.taken == 0 && !gunzip.is_finished() {
            return Err(GunzipError::Truncated);
        }
    }
    Ok(result)
}

#[test]
fn a_file_made_by_gzip_is_unpacked_in_pieces_of_any_size() {
    for from in [1, 2, 7, 100] {
        for to in [1, 5, 4096] {
            assert_eq!(unpack(&hello_gz(), from, to).as_deref(), Ok(HELLO));
        }
    }
}

#[test]
fn padding_behind_the_end_is_ignored() {
    let mut file = hello_gz();
    file.extend_from_slice(&[0; 512]);
    assert_eq!(unpack(&file, 64, 64).as_deref(), Ok(HELLO));
}

#[test]
fn every_optional_header_field_is_skipped() {
    let mut file = vec![0x1f, 0x8b, 8, 0b1_1110, 0, 0, 0, 0, 0, 255];
    file.extend_from_slice(&[3, 0, 1, 2, 3]);
    file.extend_from_slice(b"name\0comment\0");
    file.extend_from_slice(&[0xab, 0xcd]);
    file.extend_from_slice(&hello_gz()[20..]);
    assert_eq!(unpack(&file, 1, 9).as_deref(), Ok(HELLO));
}

#[test]
fn every_truncation_is_noticed() {
    let file = hello_gz();
    for end in 0..file.len() {
        assert_eq!(
            unpack(&file[..end], 16, 16),
            Err(GunzipError::Truncated),
            "{end}"
        );
    }
}

#[test]
fn a_wrong_checksum_or_length_is_noticed() {
    for at in 39..47 {
        let mut file = hello_gz();
        file[at] ^= 1;
        assert_eq!(
            unpack(&file, 64, 64),
            Err(GunzipError::Checksum),
            "byte {at}"
        );
    }
}

#[test]
fn a_header_that_no_reader_may_accept_is_refused() {
    for (at, with) in [(0, 0), (1, 0), (2, 7), (3, 0x80)] {
        let mut file = hello_gz();
        file[at] = with;
        assert_eq!(unpack(&file, 64, 64), Err(GunzipError::Header));
    }
}

#[test]
fn a_header_without_end_is_refused() {
    let mut file = vec![0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 255];
    file.resize(10_000, b'x');
    assert_eq!(unpack(&file, 64, 64), Err(GunzipError::Header));
}

proptest! {
    // Unoptimised, a case takes a tenth of a second.
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// What another implementation packed comes out as it went in.
    #[test]
    fn what_was_packed_comes_out(data in prop::collection::vec(0..4u8, 0..50_000), level in 0..10u8) {
        let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
        file.extend(miniz_oxide::deflate::compress_to_vec(&data, level));
        file.extend(crc32_of(&data).to_le_bytes());
        file.extend(u32::try_from(data.len()).expect("small").to_le_bytes());
        prop_assert_eq!(unpack(&file, 1000, 4096), Ok(data));
    }

    /// Damage is noticed, or harmless; it never panics and never goes on for ever.
    #[test]
    fn damage_is_noticed(at in 0..47usize, with in any::<u8>()) {
        let mut file = hello_gz();
        file[at] = with;
        if let Ok(out) = unpack(&file, 64, 64) {
            prop_assert_eq!(out, HELLO);
        }
    }
}

/// CRC-32 bit by bit (RFC 1952, 8), sharing no code with the reader.
fn crc32_of(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}
