//! Trees that no firmware should write. They are refused, or read as what they say; they
//! never panic. (RELIABILITY P9, host half.)

#![expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test that builds small trees"
)]

use boot_info::{BootError, BootInfo};
use proptest::prelude::*;

const GOOD: &[u8] = include_bytes!("data/virt-gicv3-4cpus-2g.dtb");

/// A tree built by hand: (tokens, strings).
#[derive(Default)]
struct Builder {
    structs: Vec<u8>,
    strings: Vec<u8>,
    reserved: Vec<(u64, u64)>,
}

impl Builder {
    fn word(mut self, word: u32) -> Self {
        self.structs.extend(word.to_be_bytes());
        self
    }
    fn padded(mut self, bytes: &[u8]) -> Self {
        self.structs.extend(bytes);
        self.structs
            .resize(self.structs.len().next_multiple_of(4), 0);
        self
    }
    fn begin(self, name: &str) -> Self {
        self.word(1).padded(format!("{name}\0").as_bytes())
    }
    fn prop(mut self, name: &str, value: &[u8]) -> Self {
        let at = self.strings.len() as u32;
        self.strings.extend(format!("{name}\0").bytes());
        self.word(3).word(value.len() as u32).word(at).padded(value)
    }
    fn cells(self, name: &str, cells: &[u32]) -> Self {
        let raw: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.prop(name, &raw)
    }
    fn end(self) -> Self {
        self.word(2)
    }
    /// Memory at 1 GiB, one core, and a GICv3 at the usual place.
    fn usual(self) -> Self {
        self.cells("#address-cells", &[2])
            .cells("#size-cells", &[2])
            .begin("memory@40000000")
            .prop("device_type", b"memory\0")
            .cells("reg", &[0, 0x4000_0000, 0, 0x4000_0000])
            .end()
            .begin("cpus")
            .cells("#address-cells", &[2])
            .cells("#size-cells", &[0])
            .begin("cpu@100000000")
            .cells("reg", &[1, 0])
            .end()
            .end()
            .begin("interrupt-controller@8000000")
            .prop("compatible", b"arm,gic-v3\0")
            .cells(
                "reg",
                &[0, 0x800_0000, 0, 0x1_0000, 0, 0x80a_0000, 0, 0x2_0000],
            )
            .end()
    }
    fn blob(self) -> Vec<u8> {
        let mut body = Vec::new();
        for (pa, bytes) in self.reserved {
            body.extend(pa.to_be_bytes());
            body.extend(bytes.to_be_bytes());
        }
        body.extend([0; 16]);
        let structs_at = 40 + body.len() as u32;
        body.extend(&self.structs);
        let strings_at = 40 + body.len() as u32;
        body.extend(&self.strings);
        let header: [u32; 10] = [
            0xd00d_feed,
            40 + body.len() as u32,
            structs_at,
            strings_at,
            40,
            17,
            16,
            0,
            self.strings.len() as u32,
            self.structs.len() as u32,
        ];
        let mut blob: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
        blob.extend(body);
        blob
    }
    fn read(self) -> Result<BootInfo, BootError> {
        BootInfo::from_fdt(&self.word(9).blob())
    }
}

fn tree() -> Builder {
    Builder::default().begin("")
}

#[test]
fn reservations_of_both_kinds_and_boot_arguments_are_copied() {
    let mut tree = tree()
        .usual()
        .begin("reserved-memory")
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2])
        .prop("ranges", b"")
        .begin("firmware@7ff00000")
        .cells("reg", &[0, 0x7ff0_0000, 0, 0x10_0000])
        .end()
        .begin("dynamic")
        .cells("size", &[0, 0x10_0000])
        .end()
        .end()
        .begin("chosen")
        .prop("bootargs", b"quiet net=10.0.2.15\0")
        .cells("linux,initrd-start", &[0x4800_0000])
        .cells("linux,initrd-end", &[0, 0x4801_0000])
        .end()
        .end();
    tree.reserved.push((0x4000_0000, 0x8_0000));
    let info = tree.read().unwrap();
    let reserved: Vec<_> = info.reserved.iter().map(|r| (r.pa, r.bytes)).collect();
    assert_eq!(
        reserved,
        [(0x4000_0000, 0x8_0000), (0x7ff0_0000, 0x10_0000)]
    );
    assert_eq!(&*info.bootargs, b"quiet net=10.0.2.15");
    let initrd = info.initrd.unwrap();
    assert_eq!((initrd.pa, initrd.bytes), (0x4800_0000, 0x1_0000));
    assert_eq!(info.cpus.get(0), Some(1 << 32));
    assert!(info.uart.is_none() && info.psci.is_none());
}

#[test]
fn the_console_is_the_uart_that_stdout_path_names() {
    let with = |path: &[u8]| {
        let uart = |tree: Builder, name: &str, pa| {
            tree.begin(name)
                .prop("compatible", b"arm,pl011\0")
                .cells("reg", &[0, pa, 0, 0x1000])
                .end()
        };
        let tree = uart(tree().usual(), "uart@1000", 0x1000);
        let tree = uart(tree, "uart@2000", 0x2000)
            .begin("aliases")
            .prop("serial1", b"/uart@2000\0")
            .prop("loop", b"loop\0")
            .prop("/a", b"/a\0")
            .end()
            .begin("chosen")
            .prop("stdout-path", path)
            .end()
            .end();
        tree.read().unwrap().uart.unwrap().registers.pa
    };
    assert_eq!(with(b"/uart@2000\0"), 0x2000);
    assert_eq!(with(b"/uart@2000:115200n8\0"), 0x2000);
    assert_eq!(with(b"serial1:115200\0"), 0x2000);
    for nothing in [&b""[..], b"loop", b"/a", b"/", b"\xff\0", b"serial7"] {
        assert_eq!(with(nothing), 0x1000);
    }
}

#[test]
fn more_reservations_than_there_is_room_for_are_refused_rather_than_forgotten() {
    let mut tree = tree().usual().end();
    tree.reserved = (0..17)
        .map(|n| (0x4000_0000 + n * 0x1000, 0x1000))
        .collect();
    assert!(matches!(
        tree.read().unwrap_err(),
        BootError::TooMany { room: 16, .. }
    ));
}

#[test]
fn a_gic_behind_a_translating_bus_is_refused_rather_than_misplaced() {
    let gic = tree()
        .begin("soc")
        .cells("ranges", &[0, 0x1000_0000, 0x1000_0000])
        .begin("gic@0")
        .prop("compatible", b"arm,gic-v3\0")
        .end()
        .end()
        .end();
    assert_eq!(
        gic.read().unwrap_err(),
        BootError::Translated { what: "GICv3" }
    );
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(tree().end().read().unwrap_err(), BootError::NoMemory);
    let memory = || {
        tree()
            .begin("memory")
            .prop("device_type", b"memory\0")
            .cells("reg", &[0, 0x4000_0000, 0x1000])
            .end()
    };
    assert_eq!(memory().end().read().unwrap_err(), BootError::NoCpus);
    let one_core = memory()
        .begin("cpus")
        .cells("#address-cells", &[1])
        .cells("#size-cells", &[0])
        .begin("cpu@0")
        .cells("reg", &[0])
        .end()
        .end()
        .end();
    assert_eq!(one_core.read().unwrap_err(), BootError::NoGicV3);
}

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
const CASES: u32 = if cfg!(miri) { 4 } else { 1024 };

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
