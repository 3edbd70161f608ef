//! The two lists of capabilities, walked with a bound: a function may lie.

use crate::config::{Config, offset};

/// Most capabilities that fit behind a header: 192 bytes of four each.
const CAPABILITIES_MAX: usize = 48;
/// Most extended capabilities: 3,840 bytes of eight each.
const EXTENDED_MAX: usize = 480;

const POWER: u8 = 0x01;
const EXPRESS: u8 = 0x10;
const MSI_X: u8 = 0x11;
const ACCESS_CONTROL: u16 = 0x000d;
const DVSEC: u16 = 0x0023;

/// What a function is in PCI Express (PCIe 7.5.3.2, Device/Port Type).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// A function at the end of a link.
    Endpoint,
    /// A function that is part of the root complex: no link leads to it.
    Integrated,
    /// The way from the root complex to a link.
    Root,
    /// A switch's way up.
    Upstream,
    /// A switch's way down.
    Downstream,
    /// A bridge to conventional PCI, or anything else.
    Other,
}

impl Port {
    /// Bits 7:4 of the capability's register, where that is in its first word.
    pub(crate) const KIND: u32 = 0xf << 20;
    /// Those bits for a part of the root complex.
    pub(crate) const INTEGRATED: u32 = 0b1001 << 20;

    /// Reads the capability's first word.
    pub(crate) const fn of(head: u32) -> Self {
        match head >> 20 & 0xf {
            0b0000 | 0b0001 => Self::Endpoint,
            0b0100 => Self::Root,
            0b0101 => Self::Upstream,
            0b0110 => Self::Downstream,
            0b1001 => Self::Integrated,
            _ => Self::Other,
        }
    }
}

/// PCI Express capability (PCIe 7.5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Express {
    /// Where.
    pub offset: u16,
    /// What it is.
    pub port: Port,
    /// The function can be reset alone (Device Capabilities, bit 28).
    pub flr: bool,
}

impl Express {
    /// Offset of Device Control in the capability.
    pub const DEVICE_CONTROL: u16 = 8;
    /// Bit of Device Capabilities that says that there is a function-level reset.
    pub(crate) const FLR: u32 = 1 << 28;
    /// Bit of Device Control that starts a function-level reset.
    pub const INITIATE_FLR: u16 = 1 << 15;
}

/// MSI-X capability (PCI 3.0, 6.8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiX {
    /// Where.
    pub offset: u16,
    /// Vectors, 1 to 2048.
    pub vectors: u16,
    /// BAR with the table.
    pub table_bar: u8,
    /// Offset of the table in it, a multiple of eight.
    pub table_offset: u32,
    /// BAR with the pending bits.
    pub pba_bar: u8,
    /// Offset of the pending bits in it.
    pub pba_offset: u32,
}

impl MsiX {
    /// Returns the bytes of the table.
    pub fn table_bytes(&self) -> u64 {
        u64::from(self.vectors).wrapping_mul(16)
    }

    /// Returns the bytes of the pending bits, in whole words of 64.
    pub fn pba_bytes(&self) -> u64 {
        u64::from(self.vectors).div_ceil(64).wrapping_mul(8)
    }
}

/// What was found of what we know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Offset of power management (PCI PM 1.2, 3.2).
    pub power: Option<u16>,
    /// PCI Express.
    pub express: Option<Express>,
    /// MSI-X.
    pub msi_x: Option<MsiX>,
}

impl Capabilities {
    /// Walks the list in the first 256 bytes.
    pub fn find(config: &mut impl Config) -> Self {
        const HAS_LIST: u32 = 1 << 20;
        let mut found = Self::default();
        if config.read(offset::COMMAND) & HAS_LIST == 0 {
            return found;
        }
        let mut at = pointer(config.read(offset::CAPABILITIES), 0);
        for _ in 0..CAPABILITIES_MAX {
            if at < 0x40 {
                break;
            }
            let head = config.read(at);
            let [id, ..] = head.to_le_bytes();
            match id {
                POWER if found.power.is_none() => found.power = Some(at),
                EXPRESS if found.express.is_none() => {
                    let capabilities = config.read(at.wrapping_add(4));
                    found.express = Some(Express {
                        offset: at,
                        port: Port::of(head),
                        flr: capabilities & Express::FLR != 0,
                    });
                }
                MSI_X if found.msi_x.is_none() => found.msi_x = msi_x(config, at, head),
                _ => {}
            }
            at = pointer(head, 1);
        }
        found
    }
}

/// Returns the offset in byte `n` of a word, without its reserved bits.
fn pointer(word: u32, n: usize) -> u16 {
    let byte = word.to_le_bytes().get(n).copied().unwrap_or(0);
    u16::from(byte & !0b11)
}

fn msi_x(config: &mut impl Config, at: u16, head: u32) -> Option<MsiX> {
    let [.., low, high] = head.to_le_bytes();
    let vectors = (u16::from_le_bytes([low, high]) & 0x7ff).wrapping_add(1);
    let place = |word: u32| {
        let [low, ..] = word.to_le_bytes();
        let bar = low & 7;
        (bar < 6).then_some((bar, word & !7))
    };
    let (table_bar, table_offset) = place(config.read(at.wrapping_add(4)))?;
    let (pba_bar, pba_offset) = place(config.read(at.wrapping_add(8)))?;
    Some(MsiX {
        offset: at,
        vectors,
        table_bar,
        table_offset,
        pba_bar,
        pba_offset,
    })
}

/// Shows `visit` the extended capabilities (id and offset) until it returns something.
pub fn walk_extended<C: Config, T>(
    config: &mut C,
    mut visit: impl FnMut(&mut C, u16, u16) -> Option<T>,
) -> Option<T> {
    let mut at = offset::EXTENDED;
    for _ in 0..EXTENDED_MAX {
        let head = config.read(at);
        if head == 0 || head == u32::MAX {
            return None;
        }
        let [low, high, ..] = head.to_le_bytes();
        if let Some(found) = visit(config, u16::from_le_bytes([low, high]), at) {
            return Some(found);
        }
        at = u16::try_from(head >> 20 & 0xffc).unwrap_or(0);
        if at < offset::EXTENDED {
            return None;
        }
    }
    None
}

/// Has a port check what comes from behind it and send it up (Access Control Services, PCIe
/// 6.12): requests under a wrong name are refused, and what is meant for a neighbour goes by
/// way of the root complex, where the SMMU is. Returns whether it does.
pub(crate) fn access_control(config: &mut impl Config) -> bool {
    // Source validation; redirection of requests and of completions; upstream forwarding.
    const WANTED: u32 = 0b1_1101;
    let at = walk_extended(config, |_, kind, at| {
        (kind == ACCESS_CONTROL).then_some(at.wrapping_add(4))
    });
    let Some(at) = at.filter(|at| *at < 4096) else {
        return false;
    };
    let able = config.read(at) & WANTED;
    config.write(at, able << 16);
    config.read(at) >> 16 & WANTED == WANTED
}

/// Returns 16 bits at `offset` of the vendor's own capability `id` (DVSEC, PCIe 7.9.6).
pub(crate) fn dvsec_word(
    config: &mut impl Config,
    vendor: u16,
    id: u16,
    offset: u16,
) -> Option<u16> {
    walk_extended(config, |config, kind, at| {
        let [v0, v1, ..] = config.read(at.wrapping_add(4)).to_le_bytes();
        let [i0, i1, ..] = config.read(at.wrapping_add(8)).to_le_bytes();
        if kind != DVSEC || u16::from_le_bytes([v0, v1]) != vendor || [i0, i1] != id.to_le_bytes() {
            return None;
        }
        let at = at.wrapping_add(offset);
        if at >= 4096 {
            return None;
        }
        let word = config.read(at & !0b11).to_le_bytes();
        let [b0, b1, b2, b3] = word;
        Some(match at & 0b10 {
            0 => u16::from_le_bytes([b0, b1]),
            _ => u16::from_le_bytes([b2, b3]),
        })
    })
}
