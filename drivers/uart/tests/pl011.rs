//! The PL011 as DDI 0183 documents it and as drivers use it.
#![expect(clippy::arithmetic_side_effects, reason = "a fake line of a few bytes")]

use proptest::prelude::*;
use std::collections::VecDeque;
use uart::{Pl011, Port};

const DR: u64 = 0x00;
const RSR: u64 = 0x04;
const FR: u64 = 0x18;
const IBRD: u64 = 0x24;
const FBRD: u64 = 0x28;
const LCR_H: u64 = 0x2c;
const CR: u64 = 0x30;
const IFLS: u64 = 0x34;
const IMSC: u64 = 0x38;
const RIS: u64 = 0x3c;
const MIS: u64 = 0x40;
const ICR: u64 = 0x44;

const RX: u32 = 0x10;
const TX: u32 = 0x20;
const RT: u32 = 0x40;

/// A line whose other end takes bytes only when told to.
#[derive(Default)]
struct Line {
    out: Vec<u8>,
    room: usize,
    keys: VecDeque<u8>,
}

impl Port for Line {
    fn room(&self) -> usize {
        self.room
    }
    fn push(&mut self, byte: u8) {
        assert_ne!(self.room, 0, "pushed without room");
        self.room = self.room.saturating_sub(1);
        self.out.push(byte);
    }
    fn waiting(&self) -> usize {
        self.keys.len()
    }
    fn pull(&mut self) -> Option<u8> {
        self.keys.pop_front()
    }
}

fn line(room: usize, keys: &[u8]) -> Line {
    Line {
        out: Vec::new(),
        room,
        keys: keys.iter().copied().collect(),
    }
}

/// A UART with FIFOs enabled, as Linux sets it up, and no interrupt unmasked.
fn uart(line: &mut Line) -> Pl011 {
    let mut uart = Pl011::new();
    uart.write(LCR_H, 0x70, line);
    uart.write(CR, 0x301, line);
    uart
}

#[test]
fn reset_values_are_the_manuals() {
    let (mut uart, mut line) = (Pl011::new(), line(1000, b""));
    for (offset, value) in [
        (DR, 0),
        (RSR, 0),
        (FR, 0x90),
        (IBRD, 0),
        (FBRD, 0),
        (LCR_H, 0),
        (CR, 0x300),
        (IFLS, 0x12),
        (IMSC, 0),
        (RIS, 0),
        (MIS, 0),
        (ICR, 0),
        (0x20, 0),
        (0x48, 0),
    ] {
        assert_eq!(uart.read(offset, &mut line), value, "{offset:#x}");
    }
    assert!(!uart.irq_level(&line));
}

#[test]
fn the_identification_is_that_of_an_arm_pl011() {
    let (mut uart, mut line) = (Pl011::new(), line(0, b""));
    let mut word = |base| {
        (0..4).fold(0, |word, n: u32| {
            let byte = uart.read(base + u64::from(n) * 4, &mut line);
            word | byte << (n * 8)
        })
    };
    // Linux's amba-pl011 wants 0x00041011 in the low 20 bits, and any PrimeCell.
    assert_eq!(word(0xfe0) & 0xf_ffff, 0x4_1011);
    assert_eq!(word(0xff0), 0xb105_f00d);
}

#[test]
fn a_byte_written_goes_out_at_once_even_before_the_uart_is_enabled() {
    let (mut uart, mut line) = (Pl011::new(), line(1000, b""));
    for byte in *b"hello" {
        uart.write(DR, u32::from(byte) | 0xffff_ff00, &mut line);
    }
    assert_eq!(line.out, b"hello");
    assert_eq!(uart.read(FR, &mut line) & 0xa8, 0x80);
}

#[test]
fn a_line_without_room_is_a_full_fifo_and_what_is_written_then_is_counted_as_lost() {
    let mut line = line(1, b"");
    let mut uart = uart(&mut line);
    uart.write(DR, 0x41, &mut line);
    // TXFF and BUSY, not TXFE.
    assert_eq!(uart.read(FR, &mut line) & 0xa8, 0x28);
    uart.write(DR, 0x42, &mut line);
    assert_eq!((line.out.as_slice(), uart.dropped()), (&b"A"[..], 1));
    line.room = 15;
    assert_eq!(
        uart.read(FR, &mut line) & 0xa8,
        0x08,
        "one byte has not gone out"
    );
    line.room = 16;
    assert_eq!(uart.read(FR, &mut line) & 0xa8, 0x80);
}

#[test]
fn bytes_are_read_in_order_and_an_empty_fifo_reads_as_zero() {
    let mut line = line(16, b"ok");
    let mut uart = uart(&mut line);
    assert_eq!(uart.read(FR, &mut line) & 0x10, 0);
    let read: Vec<_> = (0..3).map(|_| uart.read(DR, &mut line)).collect();
    assert_eq!(read, [0x6f, 0x6b, 0]);
    assert_eq!(uart.read(FR, &mut line) & 0x10, 0x10);
}

#[test]
fn the_receive_fifo_is_full_at_sixteen_or_without_fifos_at_one() {
    let mut line = line(16, &[0; 15]);
    let mut uart = uart(&mut line);
    assert_eq!(uart.read(FR, &mut line) & 0x40, 0);
    line.keys.push_back(0);
    assert_eq!(uart.read(FR, &mut line) & 0x40, 0x40);
    uart.write(LCR_H, 0x60, &mut line);
    line.keys.truncate(1);
    assert_eq!(uart.read(FR, &mut line) & 0x40, 0x40);
}

#[test]
fn the_receive_interrupt_follows_its_trigger_level() {
    // RXIFLSEL: 1/8, 1/4, 1/2, 3/4, 7/8 of sixteen; then reserved.
    for (select, level) in [(0, 2), (1, 4), (2, 8), (3, 12), (4, 14), (7, 14)] {
        let mut line = line(16, b"");
        let mut uart = uart(&mut line);
        uart.write(IFLS, select << 3, &mut line);
        for count in 1..=16 {
            line.keys.push_back(0);
            let expected = if count >= level { RX } else { 0 };
            assert_eq!(uart.read(RIS, &mut line) & RX, expected, "{select} {count}");
        }
    }
}

#[test]
fn a_single_byte_interrupts_by_the_timeout_until_it_is_read() {
    let mut line = line(16, b"x");
    let mut uart = uart(&mut line);
    uart.write(IMSC, RX | RT, &mut line);
    assert!(uart.irq_level(&line));
    assert_eq!(uart.read(MIS, &mut line), RT);
    uart.write(ICR, 0x7ff, &mut line);
    assert!(uart.irq_level(&line), "the byte is still there");
    uart.read(DR, &mut line);
    assert!(!uart.irq_level(&line));
}

#[test]
fn without_fifos_one_byte_is_a_receive_interrupt() {
    let (mut uart, mut line) = (Pl011::new(), line(16, b"x"));
    assert_eq!(uart.read(RIS, &mut line), RX | RT);
    uart.write(IMSC, RX, &mut line);
    assert!(uart.irq_level(&line));
}

#[test]
fn the_transmit_interrupt_waits_for_a_first_byte_and_can_be_cleared() {
    let mut line = line(1000, b"");
    let mut uart = uart(&mut line);
    uart.write(IMSC, TX, &mut line);
    assert!(!uart.irq_level(&line), "nothing was sent yet");
    uart.write(DR, 0x41, &mut line);
    assert!(uart.irq_level(&line), "it has gone out");
    uart.write(ICR, RT, &mut line);
    assert!(uart.irq_level(&line), "another bit was cleared");
    uart.write(ICR, TX, &mut line);
    assert!(!uart.irq_level(&line));
    uart.write(DR, 0x42, &mut line);
    assert!(uart.irq_level(&line));
}

#[test]
fn the_transmit_interrupt_follows_its_trigger_level() {
    // TXIFLSEL: at or below 1/8, 1/4, 1/2, 3/4, 7/8 of sixteen.
    for (select, level) in [(0, 2), (1, 4), (2, 8), (3, 12), (4, 14), (5, 14)] {
        let mut line = line(1000, b"");
        let mut uart = uart(&mut line);
        uart.write(IFLS, select, &mut line);
        uart.write(DR, 0x41, &mut line);
        for unsent in 0..=16 {
            line.room = 16 - unsent;
            let expected = if unsent <= level { TX } else { 0 };
            assert_eq!(
                uart.read(RIS, &mut line) & TX,
                expected,
                "{select} {unsent}"
            );
        }
    }
}

#[test]
fn registers_keep_the_bits_they_have() {
    let (mut uart, mut line) = (Pl011::new(), line(0, b""));
    for (offset, kept) in [
        (0x20, 0xff),
        (IBRD, 0xffff),
        (FBRD, 0x3f),
        (LCR_H, 0xff),
        (CR, 0xff87),
        (IFLS, 0x3f),
        (IMSC, 0x7ff),
        (0x48, 7),
    ] {
        uart.write(offset, u32::MAX, &mut line);
        assert_eq!(uart.read(offset, &mut line), kept, "{offset:#x}");
        uart.write(offset, 0, &mut line);
        assert_eq!(uart.read(offset, &mut line), 0, "{offset:#x}");
    }
}

#[test]
fn what_is_read_only_or_absent_ignores_writes_and_reads_as_zero() {
    let mut line = line(1000, b"");
    let mut uart = uart(&mut line);
    let before = uart;
    for offset in [
        FR,
        RIS,
        MIS,
        0x08,
        0x4c,
        0x80,
        0xfdc,
        0xfe0,
        0xffc,
        0x1000,
        u64::MAX,
    ] {
        uart.write(offset, u32::MAX, &mut line);
        assert_eq!(uart, before, "{offset:#x}");
    }
    for offset in [0x08, 0x1c, 0x25, 0x4c, 0x90, 0xfdc, 0xfe1, 0x1000, u64::MAX] {
        assert_eq!(uart.read(offset, &mut line), 0, "{offset:#x}");
    }
}

#[test]
fn in_loopback_nothing_goes_out() {
    let mut line = line(1000, b"");
    let mut uart = uart(&mut line);
    uart.write(CR, 0x381, &mut line);
    uart.write(DR, 0, &mut line);
    assert!(line.out.is_empty());
    assert_eq!(uart.read(FR, &mut line) & 0x08, 0, "not busy");
    assert_eq!(uart.read(RIS, &mut line), TX);
}

/// The parts of Linux's amba-pl011 that send: what `pl011_tx_chars` and `pl011_int` do to
/// the registers, in their order.
struct LinuxDriver {
    uart: Pl011,
    queue: VecDeque<u8>,
    mask: u32,
}

impl LinuxDriver {
    fn new(line: &mut Line) -> Self {
        Self {
            uart: uart(line),
            queue: VecDeque::new(),
            mask: RX | RT,
        }
    }
    fn set_mask(&mut self, mask: u32, line: &mut Line) {
        self.mask = mask;
        self.uart.write(IMSC, mask, line);
    }
    /// pl011_tx_chars: returns whether an interrupt is wanted for the rest.
    fn tx_chars(&mut self, from_irq: bool, line: &mut Line) -> bool {
        let mut budget = 8;
        while let Some(byte) = self.queue.front().copied() {
            if from_irq {
                if budget == 0 {
                    break;
                }
                budget -= 1;
            } else if self.uart.read(FR, line) & 0x20 != 0 {
                return true;
            }
            self.uart.write(DR, byte.into(), line);
            self.queue.pop_front();
        }
        if self.queue.is_empty() {
            self.set_mask(self.mask & !TX, line);
            return false;
        }
        true
    }
    fn start_tx(&mut self, bytes: &[u8], line: &mut Line) {
        self.queue.extend(bytes);
        if self.mask & TX == 0 && self.tx_chars(false, line) {
            self.set_mask(self.mask | TX, line);
        }
    }
    fn interrupt(&mut self, line: &mut Line) {
        while self.uart.read(RIS, line) & self.mask != 0 {
            let status = self.uart.read(RIS, line) & self.mask;
            self.uart.write(ICR, status & !(RX | RT | TX), line);
            if status & TX == 0 {
                break;
            }
            self.tx_chars(true, line);
        }
    }
}

proptest! {
    /// Whatever is written and however slowly the other side takes it, Linux's
    /// interrupt-driven output arrives whole, in order, and stops asking.
    #[test]
    fn interrupt_driven_output_of_linux_loses_nothing(
        lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 1..6),
        takes in prop::collection::vec(0..40usize, 1..50),
        capacity in 16..64usize,
    ) {
        let mut line = line(capacity, b"");
        let mut driver = LinuxDriver::new(&mut line);
        let expected: Vec<u8> = lines.concat();
        let mut lines = lines.into_iter();
        for take in takes.into_iter().chain(std::iter::repeat_n(7, 200)) {
            if let Some(text) = lines.next() {
                driver.start_tx(&text, &mut line);
            }
            if driver.uart.irq_level(&line) {
                driver.interrupt(&mut line);
            }
            line.room = capacity.min(line.room + take);
        }
        prop_assert_eq!(&line.out, &expected);
        prop_assert_eq!(driver.uart.dropped(), 0);
        prop_assert!(!driver.uart.irq_level(&line));
    }

    #[test]
    fn any_sequence_of_accesses_is_survived(
        accesses in prop::collection::vec((0..0x1100u64, any::<u32>(), any::<bool>()), 0..200),
        room in 0..20usize,
        keys in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut line = line(room, &keys);
        let mut uart = Pl011::new();
        for (offset, value, write) in accesses {
            if write {
                uart.write(offset, value, &mut line);
            } else {
                let low = uart.read(offset, &mut line);
                prop_assert!(low <= 0xffff);
            }
            prop_assert_eq!(uart.irq_level(&line), uart.read(MIS, &mut line) != 0);
        }
        prop_assert!(line.out.len() <= room);
        prop_assert!(keys.ends_with(line.keys.make_contiguous()));
        prop_assert!(line.keys.len() <= keys.len() && line.out[..].len() <= room);
    }
}
