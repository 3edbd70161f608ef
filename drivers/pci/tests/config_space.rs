//! The guest's configuration space against a table of bytes and the bits that can be written.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test that panics has failed, which is what is meant"
)]

use pci::{Bar, Config, Emulated, Function, Kind, Power, Write, walk_extended};
use proptest::prelude::*;

/// A function as hardware: bytes, and which bits of them software can change.
#[derive(Clone)]
struct Hardware {
    bytes: Vec<u8>,
    writable: Vec<u8>,
    /// Stores that happened, with what they were.
    stores: Vec<(u16, u32)>,
}

impl Hardware {
    /// An NVMe-like function: BAR 0 of 16 KiB and 64 bits, BAR 2 of 32 bits and 4 KiB
    /// prefetchable, BAR 3 ports, BAR 4 of 2 GiB and 64 bits prefetchable; power management at
    /// 0x40, MSI at 0x48, Express with FLR at 0x60, MSI-X at 0xa0, DVSEC at 0x140.
    fn new() -> Self {
        let mut new = Self {
            bytes: vec![0; 4096],
            writable: vec![0; 4096],
            stores: Vec::new(),
        };
        new.set(0x00, 0x0010_1b36, 0);
        new.set(0x04, 0x0010_0000, 0x0000_0547);
        new.set(0x08, 0x0108_0202, 0);
        new.set(0x0c, 0, 0xff);
        new.set(0x10, 0x4, 0xffff_c000);
        new.set(0x14, 0, 0xffff_ffff);
        new.set(0x18, 0x8, 0xffff_f000);
        new.set(0x1c, 0x1, 0x0000_ffe0);
        new.set(0x20, 0xc, 0x8000_0000);
        new.set(0x24, 0, 0xffff_ffff);
        new.set(0x2c, 0x1100_1af4, 0);
        new.set(0x34, 0x40, 0);
        new.set(0x3c, 0x0100, 0xff);
        new.set(0x40, 0xfe03_4801, 0);
        new.set(0x44, 0x8, 0x3);
        new.set(0x48, 0x0080_6005, 0);
        new.set(0x60, 0x0092_a010, 0);
        new.set(0x64, 0x1000_8022, 0);
        new.set(0x68, 0x2810, 0xffff);
        new.set(0x6c, 0x0003_f411, 0);
        new.set(0xa0, 0x0040_0011, 0xc000_0000);
        new.set(0xa4, 0x2000, 0);
        new.set(0xa8, 0x3004, 0);
        new.set(0x100, 0x1401_0001, 0);
        new.set(0x140, 0x0001_0023, 0);
        new.set(0x144, 0x0180_1b36, 0);
        new.set(0x148, 0xabcd_0003, 0);
        new
    }

    fn set(&mut self, at: usize, value: u32, writable: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        self.writable[at..at + 4].copy_from_slice(&writable.to_le_bytes());
    }

    fn store(&mut self, at: usize, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            let mask = self.writable[at];
            self.bytes[at] = self.bytes[at] & !mask | byte & mask;
        }
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"))
    }
}

impl Config for Hardware {
    fn read(&mut self, offset: u16) -> u32 {
        assert!(offset.is_multiple_of(4));
        self.word(offset.into())
    }

    fn write(&mut self, offset: u16, value: u32) {
        assert!(offset.is_multiple_of(4));
        self.stores.push((offset, value));
        self.store(offset.into(), &value.to_le_bytes());
    }
}

fn probed() -> (Hardware, Function) {
    let mut hardware = Hardware::new();
    let function = Function::probe(&mut hardware).expect("is there");
    (hardware, function)
}

#[test]
fn d3_a_function_is_probed_and_left_as_it_was() {
    let mut hardware = Hardware::new();
    hardware.set(0x04, 0x0010_0006, 0x0547);
    hardware.set(0x10, 0x8000_4004, 0xffff_c000);
    let before = hardware.bytes.clone();
    let function = Function::probe(&mut hardware).expect("is there");
    assert_eq!(hardware.bytes, before);
    // It decoded nothing while its registers held ones, and got its status nowhere cleared.
    let ones = hardware.stores.iter().position(|s| s.1 == u32::MAX);
    assert_eq!(hardware.stores[0], (0x04, 0x0004));
    assert_eq!(ones, Some(1));
    assert_eq!(hardware.stores.last(), Some(&(0x04, 0x0006)));
    let bar = |kind, size, prefetchable| {
        Some(Bar {
            kind,
            size,
            prefetchable,
        })
    };
    assert_eq!(
        function.bars,
        [
            bar(Kind::Memory64, 0x4000, false),
            None,
            bar(Kind::Memory32, 0x1000, true),
            bar(Kind::Io, 0x20, false),
            bar(Kind::Memory64, 0x8000_0000, true),
            None,
        ]
    );
    let found = function.capabilities;
    assert_eq!(found.power, Some(0x40));
    assert_eq!(found.express.map(|e| (e.offset, e.flr)), Some((0x60, true)));
    let msi_x = found.msi_x.expect("is there");
    assert_eq!((msi_x.offset, msi_x.vectors), (0xa0, 65));
    assert_eq!((msi_x.table_bar, msi_x.table_offset), (0, 0x2000));
    assert_eq!((msi_x.pba_bar, msi_x.pba_offset), (4, 0x3000));
    assert_eq!((msi_x.table_bytes(), msi_x.pba_bytes()), (1040, 16));
    assert_eq!((function.vendor, function.device), (0x1b36, 0x0010));
    assert_eq!((function.class, function.pin), (0x01_0802, 1));
}

#[test]
fn what_is_no_function_or_a_bridge_is_none() {
    let mut hardware = Hardware::new();
    hardware.set(0x0c, 0x0001_0000, 0);
    assert_eq!(Function::probe(&mut hardware), None);
    hardware.set(0x0c, 0x0080_0000, 0);
    assert!(Function::probe(&mut hardware).is_some());
    assert!(Function::has_siblings(&mut hardware));
    hardware.set(0x00, 0xffff_ffff, 0);
    assert_eq!(Function::probe(&mut hardware), None);
}

#[test]
fn lists_that_never_end_come_to_an_end() {
    let mut hardware = Hardware::new();
    hardware.set(0x48, 0x0080_4805, 0);
    assert!(Function::probe(&mut hardware).is_some());
    hardware.set(0x140, 0x1001_0023, 0);
    let mut seen = 0;
    let end: Option<()> = walk_extended(&mut hardware, |_, _, _| {
        seen += 1;
        None
    });
    assert_eq!((end, seen), (None, 480));
}

#[test]
fn a06_the_vendor_s_own_capability_is_found_by_vendor_and_number() {
    let (mut hardware, function) = probed();
    assert_eq!(function.dvsec(&mut hardware, 3, 0xa), Some(0xabcd));
    assert_eq!(function.dvsec(&mut hardware, 3, 0x8), Some(0x0003));
    assert_eq!(function.dvsec(&mut hardware, 4, 0xa), None);
    assert_eq!(function.dvsec(&mut hardware, 3, 0xf00), None);
}

#[test]
fn d3_a_reset_is_asked_for_without_clearing_any_status() {
    let (mut hardware, function) = probed();
    hardware.set(0x68, 0x000f_2810, 0xffff);
    hardware.stores.clear();
    assert!(function.reset(&mut hardware));
    assert_eq!(hardware.stores, [(0x68, 0xa810)]);
    hardware.stores.clear();
    assert!(function.set_power(&mut hardware, false));
    assert!(function.set_power(&mut hardware, true));
    assert_eq!(hardware.stores, [(0x44, 0x000b), (0x44, 0x0008)]);
    hardware.stores.clear();
    function.place(&mut hardware, 0, 0x80_1234_4000);
    function.place(&mut hardware, 2, 0x1000_2000);
    function.place(&mut hardware, 1, 0x1000_2000);
    let placed = [(0x10, 0x1234_4000), (0x14, 0x80), (0x18, 0x1000_2000)];
    assert_eq!(hardware.stores, placed);
}

/// What the guest should see: the same function without ports, MSI and what is extended, and
/// with the lists joined over the gaps.
fn expected(msi_x: bool, pin: bool) -> Hardware {
    let mut view = Hardware::new();
    view.set(0x04, 0x0010_0000, 0x0000_0546);
    view.set(0x1c, 0, 0);
    view.set(0x3c, if pin { 0x0100 } else { 0 }, 0xff);
    view.set(0x40, 0x0003_6001, 0);
    view.set(0x44, 0, 0x3);
    view.set(0x48, 0, 0);
    view.set(0x60, if msi_x { 0x0092_a010 } else { 0x0092_0010 }, 0);
    view.set(0x68, 0, 0x7fff);
    if !msi_x {
        view.set(0xa0, 0, 0);
        view.set(0xa4, 0, 0);
        view.set(0xa8, 0, 0);
    }
    view.bytes[0x100..].fill(0);
    view.writable[0x100..].fill(0);
    view
}

fn fresh(msi_x: bool, pin: bool) -> (Emulated, Hardware) {
    let (mut hardware, function) = probed();
    let emulated = Emulated::new(&mut hardware, &function, pin, msi_x);
    (emulated, expected(msi_x, pin))
}

#[test]
fn an_endpoint_behind_a_port_is_part_of_the_guest_s_root_complex() {
    let mut hardware = Hardware::new();
    hardware.set(0x60, 0x0002_a010, 0);
    for at in [0x6c, 0x70, 0x8c, 0x90] {
        hardware.set(at, 0x1234_5678, 0);
    }
    let function = Function::probe(&mut hardware).expect("is there");
    assert_eq!(
        function.capabilities.express.map(|e| e.port),
        Some(pci::Port::Endpoint)
    );
    let emulated = Emulated::new(&mut hardware, &function, false, true);
    assert_eq!(emulated.read(0x60, 4), 0x0092_a010);
    assert_eq!(emulated.read(0x64, 4), 0x1000_8022);
    for at in [0x6c, 0x70, 0x8c, 0x90] {
        assert_eq!(emulated.read(at, 4), 0, "link register {at:#x}");
    }
}

fn check(emulated: &Emulated, view: &Hardware) {
    for at in 0..4096_u16 {
        assert_eq!(
            emulated.read(at, 1),
            u64::from(view.bytes[usize::from(at)]),
            "at {at:#x}"
        );
    }
}

#[test]
fn d3_a_guest_sees_the_function_without_what_it_cannot_have() {
    for (msi_x, pin) in [(false, false), (false, true), (true, false), (true, true)] {
        let (emulated, view) = fresh(msi_x, pin);
        check(&emulated, &view);
    }
}

#[test]
fn a07_a_bar_of_ones_says_its_size_and_a_reset_clears_it() {
    let (mut emulated, _) = fresh(false, false);
    for at in [0x20, 0x24] {
        let write = emulated.understand(at, 4, 0xffff_ffff);
        emulated.apply(write);
    }
    assert_eq!(emulated.read(0x20, 4), 0x8000_000c);
    assert_eq!(emulated.read(0x24, 4), 0xffff_ffff);
    assert_eq!(emulated.read(0x20, 8), 0xffff_ffff_8000_000c);
    emulated.apply(emulated.understand(0x24, 4, 0x80));
    assert_eq!(emulated.bar_address(4), Some(0x80_8000_0000));
    assert_eq!(emulated.bar_address(5), None);
    assert_eq!(emulated.bar_address(3), None);
    emulated.apply(Write::Reset);
    assert_eq!(emulated.read(0x20, 8), 0xc);
}

#[test]
fn d3_flr_and_power_are_understood_and_change_nothing_by_themselves() {
    let (mut emulated, _) = fresh(true, true);
    emulated.apply(emulated.understand(0x04, 2, 0xffff));
    assert_eq!(emulated.command(), 0x0546);
    assert_eq!(emulated.understand(0x68, 2, 0x8000), Write::Reset);
    assert_eq!(emulated.understand(0x69, 1, 0x80), Write::Reset);
    assert_eq!(
        emulated.understand(0x68, 1, 0x80),
        Write::DeviceControl(0x80)
    );
    assert_eq!(emulated.command(), 0x0546);
    let down = emulated.understand(0x44, 4, 3);
    assert_eq!(down, Write::Power(Power::D3Hot));
    emulated.apply(down);
    assert_eq!(emulated.read(0x44, 4), 3);
    // D1 and D2 are not there; the store is as if it had not been.
    assert_eq!(emulated.understand(0x44, 2, 1), Write::Nothing);
    assert_eq!(emulated.understand(0x44, 2, 2), Write::Nothing);
    emulated.apply(emulated.understand(0x44, 2, 0));
    assert_eq!((emulated.power(), emulated.command()), (Power::D0, 0));
}

#[derive(Clone, Debug)]
enum Op {
    Store { at: u16, bytes: u16, value: u32 },
    Reset,
}

fn op() -> impl Strategy<Value = Op> {
    let places = prop_oneof![
        4 => 0..0x40_u16, 4 => 0x40..0xb0_u16, 1 => 0..5000_u16,
    ];
    let bytes = prop_oneof![Just(1_u16), Just(2), Just(4)];
    let values = prop_oneof![Just(0), Just(u32::MAX), any::<u32>()];
    prop_oneof![
        20 => (places, bytes, values).prop_map(|(at, bytes, value)| Op::Store { at, bytes, value }),
        1 => Just(Op::Reset),
    ]
}

proptest! {
    /// Stores of any width anywhere: every byte reads as the table of writable bits says.
    #[test]
    fn d3_the_space_is_its_bytes_and_its_writable_bits(
        ops in prop::collection::vec(op(), 0..40), msi_x: bool,
    ) {
        let (mut emulated, mut view) = fresh(msi_x, true);
        let first = view.clone();
        for op in ops {
            match op {
                Op::Reset => {
                    emulated.reset();
                    view = first.clone();
                }
                Op::Store { at, bytes, value } => {
                    let write = emulated.understand(at, bytes, value.into());
                    let unchanged = emulated.clone();
                    prop_assert_eq!(format!("{unchanged:?}"), format!("{emulated:?}"));
                    emulated.apply(write);
                    if at >= 4096 || at % bytes != 0 {
                        prop_assert_eq!(write, Write::Nothing);
                        continue;
                    }
                    let at = usize::from(at);
                    let stored = value.to_le_bytes();
                    let stored = &stored[..usize::from(bytes)];
                    // What is not a table of bits: FLR, and power states.
                    let flr = (at..at + stored.len()).contains(&0x69)
                        && stored[0x69 - at] & 0x80 != 0;
                    let power = (at..at + stored.len()).contains(&0x44);
                    if flr {
                        view = first.clone();
                    } else if power {
                        match (view.bytes[0x44], stored[0x44 - at] & 3) {
                            (3, 0) => view = first.clone(),
                            (_, 3) => view.bytes[0x44] = 3,
                            _ => {}
                        }
                    } else {
                        view.store(at, stored);
                    }
                }
            }
        }
        check(&emulated, &view);
        let bar = u64::from(view.word(0x14)) << 32 | u64::from(view.word(0x10) & !0xf);
        prop_assert_eq!(emulated.bar_address(0), Some(bar));
    }
}
