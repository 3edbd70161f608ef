//! Base address registers: what they decode, found out by writing ones (PCI 3.0, 6.2.5.1).

use crate::config::{Config, command, offset};

/// BARs of a header of type 0.
pub const BARS: usize = 6;

/// BARs of a header of type 1.
pub const BRIDGE_BARS: usize = 2;

/// What a BAR is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; the next BAR holds the upper half of its address.
    Memory64,
    /// I/O ports.
    Io,
}

/// A BAR that decodes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// What it is for.
    pub kind: Kind,
    /// Bytes, a power of two.
    pub size: u64,
    /// Reads have no effect, and stores may be merged.
    pub prefetchable: bool,
}

impl Bar {
    /// Returns the low bits of the register, which say what it is.
    pub const fn type_bits(self) -> u32 {
        let prefetchable = if self.prefetchable { 0b1000 } else { 0 };
        match self.kind {
            Kind::Memory32 => prefetchable,
            Kind::Memory64 => prefetchable | 0b100,
            Kind::Io => 0b1,
        }
    }

    /// Writes an address into its register at `at`, and into the next if it has two.
    pub(crate) fn place(self, config: &mut impl Config, at: u16, address: u64) {
        let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
        config.write(at, u32::from_le_bytes([a, b, c, d]));
        if self.kind == Kind::Memory64 {
            config.write(at.wrapping_add(4), u32::from_le_bytes([e, f, g, h]));
        }
    }

    /// Returns the bits of the low and the high register that an address can have.
    pub const fn address_mask(self) -> (u32, u32) {
        let [a, b, c, d, e, f, g, h] = (!self.size.wrapping_sub(1)).to_le_bytes();
        let low = u32::from_le_bytes([a, b, c, d]);
        match self.kind {
            Kind::Memory64 => (low & !0xf, u32::from_le_bytes([e, f, g, h])),
            Kind::Memory32 => (low & !0xf, 0),
            Kind::Io => (low & !0b11, 0),
        }
    }
}

/// Returns the offset of BAR `n`'s register.
pub(crate) fn register(n: usize) -> u16 {
    let n = u16::try_from(n).unwrap_or(0);
    offset::BAR0.wrapping_add(n.wrapping_mul(4))
}

/// Finds out what each BAR decodes. The function decodes nothing meanwhile, and all registers
/// are afterwards as they were.
pub fn size_bars(config: &mut impl Config) -> [Option<Bar>; BARS] {
    size_some(config, BARS)
}

/// Does so for the first `count` registers.
pub(crate) fn size_some(config: &mut impl Config, count: usize) -> [Option<Bar>; BARS] {
    let [low, high, ..] = config.read(offset::COMMAND).to_le_bytes();
    let before = u16::from_le_bytes([low, high]);
    let decode = command::IO | command::MEMORY;
    config.write_low(offset::COMMAND, before & !decode);
    let mut bars = [None; BARS];
    let mut n = 0;
    while n < count {
        let (bar, registers) = size_one(config, n, count);
        if let Some(place) = bars.get_mut(n) {
            *place = bar;
        }
        n = n.saturating_add(registers);
    }
    config.write_low(offset::COMMAND, before);
    bars
}

/// Sizes BAR `n`; returns how many registers it takes.
fn size_one(config: &mut impl Config, n: usize, count: usize) -> (Option<Bar>, usize) {
    let at = register(n);
    let low = probe(config, at);
    if low & 1 != 0 {
        // A device may leave the upper 16 bits out: ports are 16 bits wide.
        let mask = low & !0b11;
        let size = u64::from(mask & mask.wrapping_neg());
        return (bar(Kind::Io, size, false), 1);
    }
    let prefetchable = low & 0b1000 != 0;
    let wide = low >> 1 & 0b11 == 0b10;
    let mask = u64::from(low & !0xf);
    if !wide || n.saturating_add(1) >= count {
        let size = mask & mask.wrapping_neg();
        return (bar(Kind::Memory32, size, prefetchable), 1);
    }
    let high = probe(config, at.wrapping_add(4));
    let mask = u64::from(high) << 32 | mask;
    let size = mask & mask.wrapping_neg();
    (bar(Kind::Memory64, size, prefetchable), 2)
}

fn bar(kind: Kind, size: u64, prefetchable: bool) -> Option<Bar> {
    (size != 0).then_some(Bar {
        kind,
        size,
        prefetchable,
    })
}

fn probe(config: &mut impl Config, at: u16) -> u32 {
    let before = config.read(at);
    config.write(at, u32::MAX);
    let seen = config.read(at);
    config.write(at, before);
    seen
}
