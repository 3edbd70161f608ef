//! Where the parts of a guest go.

#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that panics has failed"
)]

use loader::{Kind, LoadError, Part, plan};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

/// An arm64 Image header, by the offsets of Linux's booting.rst.
fn image(text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[8..16].copy_from_slice(&text_offset.to_le_bytes());
    bytes[16..24].copy_from_slice(&image_size.to_le_bytes());
    bytes[24..32].copy_from_slice(&flags.to_le_bytes());
    bytes[56..60].copy_from_slice(b"ARM\x64");
    bytes
}

/// An ELF-64 file for AArch64 with one segment, by the offsets of the System V ABI.
fn elf(entry: u64, vaddr: u64, paddr: u64, filesz: u64, memsz: u64) -> Vec<u8> {
    let mut bytes = vec![0; 0x2000];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[16..20].copy_from_slice(&[2, 0, 183, 0]);
    bytes[20] = 1;
    bytes[24..32].copy_from_slice(&entry.to_le_bytes());
    bytes[32] = 64; // e_phoff
    bytes[52] = 64; // e_ehsize
    bytes[54] = 56; // e_phentsize
    bytes[56] = 1; // e_phnum
    let header = &mut bytes[64..120];
    header[0] = 1; // PT_LOAD
    for (at, value) in [
        (8, 0x1000),
        (16, vaddr),
        (24, paddr),
        (32, filesz),
        (40, memsz),
    ] {
        header[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

#[test]
fn a_debian_kernel_goes_to_the_start_of_ram_and_the_rest_above_its_bss() {
    // What linux-image-6.1-cloud-arm64 says of itself: text_offset 0, 28 MiB, flags 0xa.
    let head = image(0, 28 * MIB, 0xa);
    let plan = plan(Kind::Image, &head, 21 * MIB, 256 * MIB, Some(5 * MIB)).expect("fits");
    assert_eq!(plan.entry, 0x4000_0000);
    assert_eq!(
        plan.parts,
        [Part {
            from: 0,
            to: 0x4000_0000,
            bytes: 21 * MIB
        }]
    );
    assert_eq!(plan.tree, 0x41c0_0000);
    assert_eq!(plan.initrd, Some(0x41e0_0000));
}

#[test]
fn a_kernel_with_a_text_offset_is_entered_there() {
    let head = image(0x8_0000, 28 * MIB, 0xa);
    let plan = plan(Kind::Image, &head, 21 * MIB, 256 * MIB, None).expect("fits");
    assert_eq!(plan.entry, 0x4008_0000);
    assert_eq!(plan.tree, 0x41e0_0000);
}

#[test]
fn a_guest_too_small_is_told_how_much_it_needs() {
    let head = image(0, 28 * MIB, 0xa);
    let refused = plan(Kind::Image, &head, 21 * MIB, 32 * MIB, Some(5 * MIB));
    let needed_bytes = 36 * MIB;
    assert_eq!(refused, Err(LoadError::TooLittleRam { needed_bytes }));
    let fits = plan(Kind::Image, &head, 21 * MIB, needed_bytes, Some(5 * MIB));
    assert!(fits.is_ok());
}

#[test]
fn a_flat_image_is_entered_half_a_mebibyte_into_ram() {
    let plan = plan(Kind::Flat, b"\x00\x00\x00\x14", 4, 128 * MIB, None).expect("fits");
    assert_eq!(plan.entry, 0x4008_0000);
    // 32 MiB of room for data that the file does not mention.
    assert!(plan.tree >= 0x4208_0004);
}

#[test]
fn a_flat_image_in_a_small_guest_gets_less_room() {
    let plan = plan(Kind::Flat, b"\x00\x00\x00\x14", 4, 16 * MIB, None).expect("fits");
    assert_eq!(plan.tree, 0x4020_0000);
}

#[test]
fn an_elf_file_is_entered_where_its_entry_is_loaded() {
    let file = elf(
        0xffff_0000_0010,
        0xffff_0000_0000,
        0x4020_0000,
        0x800,
        0x9000,
    );
    let plan = plan(Kind::Elf, &file, 0x2000, 64 * MIB, None).expect("fits");
    assert_eq!(plan.entry, 0x4020_0010);
    let bytes = 0x800;
    assert_eq!(
        plan.parts,
        [Part {
            from: 0x1000,
            to: 0x4020_0000,
            bytes
        }]
    );
    assert_eq!(plan.tree, 0x4040_0000);
}

#[test]
fn what_cannot_be_booted_is_refused_in_words() {
    let mut zboot = image(0, MIB, 0xa);
    zboot[4..8].copy_from_slice(b"zimg");
    let mut foreign = elf(0x4020_0000, 0x4020_0000, 0x4020_0000, 8, 8);
    foreign[18] = 62;
    let cases: [(Kind, Vec<u8>, &str); 8] = [
        (Kind::Image, vec![0; 4096], "lacks ARM"),
        (Kind::Image, vec![0; 32], "shorter"),
        (Kind::Image, zboot, "zboot"),
        (Kind::Image, image(0, MIB, 0xb), "big-endian"),
        (Kind::Elf, foreign, "another architecture"),
        (Kind::Elf, elf(0, 0, 0, 8, 8), "outside the RAM"),
        (
            Kind::Elf,
            elf(0x4020_0000, 0x4020_0000, 0x4020_0000, 0x9000, 0x9000),
            "cut short",
        ),
        (
            Kind::Elf,
            elf(0x5000_0000, 0x4020_0000, 0x4020_0000, 8, 8),
            "entry",
        ),
    ];
    for (kind, file, words) in cases {
        let refused = plan(kind, &file, file.len() as u64, 64 * MIB, None).expect_err(words);
        assert!(refused.to_string().contains(words), "{refused}");
    }
    assert_eq!(
        plan(Kind::Flat, b"", 0, 64 * MIB, None),
        Err(LoadError::Empty)
    );
}

proptest! {
    /// Whatever the headers claim, nothing lies outside RAM and nothing overlaps.
    #[test]
    fn everything_lies_inside_ram_and_apart(
        text_offset in prop_oneof![0..64 * MIB, any::<u64>()],
        image_size in prop_oneof![0..512 * MIB, any::<u64>()],
        file in prop_oneof![1..256 * MIB, any::<u64>()],
        ram in 1..300u64,
        initrd in prop_oneof![Just(None), (0..100 * MIB).prop_map(Some), any::<u64>().prop_map(Some)],
        flat in any::<bool>(),
    ) {
        let head = image(text_offset, image_size, 0xa);
        let kind = if flat { Kind::Flat } else { Kind::Image };
        let end = 0x4000_0000 + ram * 2 * MIB;
        if let Ok(plan) = plan(kind, &head, file, ram * 2 * MIB, initrd) {
            for part in &plan.parts {
                prop_assert!(part.to >= 0x4000_0000);
                prop_assert!(part.to.checked_add(part.bytes).is_some_and(|to| to <= plan.tree));
            }
            prop_assert_eq!(plan.tree % (2 * MIB), 0);
            let mut last = plan.tree + 2 * MIB;
            if let (Some(at), Some(bytes)) = (plan.initrd, initrd) {
                prop_assert!(at >= last);
                last = at.checked_add(bytes).expect("inside RAM");
            }
            prop_assert!(last <= end);
        }
    }

    /// Whatever an ELF header holds, it is refused or loaded inside RAM.
    #[test]
    fn a_mangled_elf_file_never_panics(at in 0..120usize, with in any::<u8>(), file in 0..0x4000u64) {
        let mut bytes = elf(0x4020_0000, 0x4020_0000, 0x4020_0000, 0x800, 0x9000);
        bytes[at] = with;
        if let Ok(plan) = plan(Kind::Elf, &bytes, file, 64 * MIB, None) {
            for part in plan.parts {
                prop_assert!(part.to >= 0x4000_0000 && part.to + part.bytes <= 0x4400_0000);
                prop_assert!(part.from + part.bytes <= file);
            }
        }
    }
}
