//! The configuration space that a guest sees.
//!
//! What never changes is read from the function once. What a guest may write is kept here. A
//! guest's store is first understood ([`Emulated::understand`]), which changes nothing; the
//! owner then does what it means, which may take several tries, and last has it noted
//! ([`Emulated::apply`]).

use crate::bar::BARS;
use crate::capability::{Express, MsiX, Port};
use crate::config::{Config, command, offset};
use crate::function::Function;

/// Power state of the function: D1 and D2 are not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// On.
    D0,
    /// Off, but for configuration space.
    D3Hot,
}

/// What a store into configuration space means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Nothing: there is no register, or it cannot be written.
    Nothing,
    /// COMMAND becomes this.
    Command(u16),
    /// Register `n` of the BARs becomes `value`.
    Bar {
        /// 0 to 5.
        n: usize,
        /// Its address bits, as the register holds them.
        value: u32,
    },
    /// A register that only software gives a meaning: cache line or interrupt line.
    Scratch {
        /// Offset of its word.
        at: u16,
        /// The byte.
        value: u8,
    },
    /// Device Control becomes this. It stays here: what transfers look like is the machine's.
    DeviceControl(u16),
    /// A function-level reset.
    Reset,
    /// A change of power state.
    Power(Power),
    /// MSI-X Message Control: enable in bit 15, mask all in bit 14.
    MsiX(u16),
}

/// Words of the Express capability of version 2.
const EXPRESS_WORDS: usize = 15;

/// A guest's view of one function.
#[derive(Clone, Debug)]
pub struct Emulated {
    id: u32,
    class: u32,
    subsystem: u32,
    pin: u8,
    function: Function,
    express: [u32; EXPRESS_WORDS],
    msi_x: Option<MsiX>,
    command: u16,
    bars: [u32; BARS],
    cache_line: u8,
    line: u8,
    device_control: u16,
    power: Power,
    msi_x_control: u16,
}

/// Bits of COMMAND that a guest may set; its ports, if any, are not there.
const COMMAND_BITS: u16 =
    command::MEMORY | command::BUS_MASTER | command::PARITY | command::SERR | command::INTX_OFF;
/// Bits of MSI-X Message Control that can be written.
const MSI_X_BITS: u16 = 0b11 << 14;

impl Emulated {
    /// Makes the view, as after a reset. `pin` and `msi_x` say whether the guest can have the
    /// function's interrupt by wire and by message.
    pub fn new(config: &mut impl Config, function: &Function, pin: bool, msi_x: bool) -> Self {
        let mut express = [0; EXPRESS_WORDS];
        if let Some(found) = function.capabilities.express {
            let places = (found.offset..).step_by(4);
            for (word, at) in express.iter_mut().zip(places) {
                *word = if at < offset::EXTENDED {
                    config.read(at)
                } else {
                    0
                };
            }
            // Whether its owner can reset it, which need not be by the function itself.
            let [_, capabilities, ..] = &mut express;
            *capabilities &= !Express::FLR;
            *capabilities |= if found.flr { Express::FLR } else { 0 };
            if found.port == Port::Endpoint {
                integrate(&mut express);
            }
        }
        Self {
            id: config.read(offset::ID),
            class: config.read(offset::CLASS),
            subsystem: config.read(offset::SUBSYSTEM),
            pin: if pin { function.pin } else { 0 },
            function: *function,
            express,
            msi_x: function.capabilities.msi_x.filter(|_| msi_x),
            command: 0,
            bars: [0; BARS],
            cache_line: 0,
            line: 0,
            device_control: 0,
            power: Power::D0,
            msi_x_control: 0,
        }
    }

    /// Takes interrupts away that the guest cannot have: by wire, by message.
    pub fn limit(&mut self, pin: bool, msi_x: bool) {
        if !pin {
            self.pin = 0;
        }
        if !msi_x {
            self.msi_x = None;
        }
    }

    /// Returns COMMAND as the guest has it.
    pub fn command(&self) -> u16 {
        self.command
    }

    /// Returns its power state.
    pub fn power(&self) -> Power {
        self.power
    }

    /// Returns MSI-X Message Control as the guest has it, bits 15 and 14.
    pub fn msi_x_control(&self) -> u16 {
        self.msi_x_control
    }

    /// Returns MSI-X if the guest has it.
    pub fn msi_x(&self) -> Option<MsiX> {
        self.msi_x
    }

    /// Returns the address the guest gave BAR `n`, whether or not it decodes.
    pub fn bar_address(&self, n: usize) -> Option<u64> {
        let bar = self.function.bars.get(n).copied().flatten()?;
        let low = u64::from(*self.bars.get(n)?);
        match bar.kind {
            crate::Kind::Io => None,
            crate::Kind::Memory32 => Some(low),
            crate::Kind::Memory64 => {
                let high = u64::from(*self.bars.get(n.checked_add(1)?)?);
                Some(high << 32 | low)
            }
        }
    }

    /// Reads `bytes` bytes, 1, 2, 4 or 8, at `at`. What crosses into another word without
    /// being eight bytes, or lies past the first 4096, is ones.
    pub fn read(&self, at: u16, bytes: u16) -> u64 {
        if at >= 4096 || !at.is_multiple_of(bytes.max(1)) {
            return u64::MAX;
        }
        let low = u64::from(self.word(at & !0b11));
        match bytes {
            8 => low | u64::from(self.word(at.wrapping_add(4))) << 32,
            4 => low,
            _ => {
                let shift = u32::from(at & 0b11).wrapping_mul(8);
                let mask = if bytes == 1 { 0xff } else { 0xffff };
                low >> shift & mask
            }
        }
    }

    /// Reads the word at `at`, a multiple of four.
    fn word(&self, at: u16) -> u32 {
        match at {
            offset::ID => self.id,
            offset::COMMAND => {
                let list = u32::from(self.first_capability() != 0) << 20;
                u32::from(self.command) | list
            }
            offset::CLASS => self.class,
            offset::HEADER => u32::from(self.cache_line),
            offset::BAR0..offset::CIS => self.bar_word(at),
            offset::SUBSYSTEM => self.subsystem,
            offset::CAPABILITIES => u32::from(self.first_capability()),
            offset::INTERRUPT => u32::from(self.pin) << 8 | u32::from(self.line),
            0x40..offset::EXTENDED => self.capability_word(at),
            _ => 0,
        }
    }

    fn bar_word(&self, at: u16) -> u32 {
        let Some(n) = bar_index(at) else { return 0 };
        let value = self.bars.get(n).copied().unwrap_or(0);
        match self.function.bars.get(n).copied().flatten() {
            Some(bar) if bar.kind != crate::Kind::Io => value | bar.type_bits(),
            _ => value,
        }
    }

    /// Offsets of the capabilities shown, with their bytes, lowest first.
    fn shown(&self) -> [Option<(u16, u16)>; 3] {
        let capabilities = &self.function.capabilities;
        let mut shown = [
            capabilities.power.map(|at| (at, 8)),
            capabilities.express.map(|express| (express.offset, 60)),
            self.msi_x.map(|msi_x| (msi_x.offset, 12)),
        ];
        shown.sort_unstable_by_key(|place| place.map_or(u16::MAX, |(at, _)| at));
        shown
    }

    fn first_capability(&self) -> u16 {
        let [first, ..] = self.shown();
        first.map_or(0, |(at, _)| at)
    }

    /// Returns the capability that `at` is in, and the one after it.
    fn capability(&self, at: u16) -> Option<(u16, u16)> {
        let shown = self.shown();
        let holds = |place: &Option<(u16, u16)>| {
            place.is_some_and(|(start, bytes)| at.wrapping_sub(start) < bytes)
        };
        let n = shown.iter().position(holds)?;
        let start = shown.get(n).copied().flatten()?.0;
        let next = shown.get(n.saturating_add(1)).copied().flatten();
        Some((start, next.map_or(0, |(at, _)| at)))
    }

    fn capability_word(&self, at: u16) -> u32 {
        let Some((start, next)) = self.capability(at) else {
            return 0;
        };
        let within = at.wrapping_sub(start);
        let link = u32::from(next) << 8;
        let capabilities = &self.function.capabilities;
        if capabilities.power == Some(start) {
            return match within {
                // Version 3, and neither D1, D2 nor PME.
                0 => 0x0003_0001 | link,
                _ if self.power == Power::D3Hot => 0b11,
                _ => 0,
            };
        }
        if let Some(msi_x) = self.msi_x.filter(|msi_x| msi_x.offset == start) {
            let size = msi_x.vectors.wrapping_sub(1) | self.msi_x_control;
            return match within {
                0 => u32::from(size) << 16 | link | 0x11,
                4 => msi_x.table_offset | u32::from(msi_x.table_bar),
                _ => msi_x.pba_offset | u32::from(msi_x.pba_bar),
            };
        }
        let index = usize::from(within >> 2);
        let word = self.express.get(index).copied().unwrap_or(0);
        match within {
            0 => word & 0xffff_00ff | link,
            Express::DEVICE_CONTROL => u32::from(self.device_control),
            _ => word,
        }
    }

    /// Understands a store of `bytes` bytes, 1, 2 or 4, of `value` at `at`. Changes nothing.
    pub fn understand(&self, at: u16, bytes: u16, value: u64) -> Write {
        if at >= 4096 || !at.is_multiple_of(bytes.max(1)) || bytes > 4 {
            return Write::Nothing;
        }
        let shift = u32::from(at & 0b11).wrapping_mul(8);
        let mask: u32 = match bytes {
            1 => 0xff << shift,
            2 => 0xffff << shift,
            _ => u32::MAX,
        };
        let [a, b, c, d, ..] = value.to_le_bytes();
        let value = u32::from_le_bytes([a, b, c, d]) << shift;
        let at = at & !0b11;
        let old = self.word(at);
        let new = old & !mask | value & mask;
        let [byte0, byte1, byte2, byte3] = new.to_le_bytes();
        let low = u16::from_le_bytes([byte0, byte1]);
        let touched = |bits: u32| mask & bits != 0;
        match at {
            offset::COMMAND if touched(0xffff) => Write::Command(low & COMMAND_BITS),
            offset::HEADER | offset::INTERRUPT if touched(0xff) => {
                Write::Scratch { at, value: byte0 }
            }
            offset::BAR0..offset::CIS => self.understand_bar(at, new),
            0x40..offset::EXTENDED => {
                let high = u16::from_le_bytes([byte2, byte3]);
                self.understand_capability(at, mask, low, high)
            }
            _ => Write::Nothing,
        }
    }

    fn understand_bar(&self, at: u16, new: u32) -> Write {
        let Some(n) = bar_index(at) else {
            return Write::Nothing;
        };
        let bar = |n: usize| self.function.bars.get(n).copied().flatten();
        let mask = match (bar(n), n.checked_sub(1).and_then(bar)) {
            (Some(bar), _) if bar.kind != crate::Kind::Io => bar.address_mask().0,
            (None, Some(below)) if below.kind == crate::Kind::Memory64 => below.address_mask().1,
            _ => return Write::Nothing,
        };
        Write::Bar {
            n,
            value: new & mask,
        }
    }

    fn understand_capability(&self, at: u16, mask: u32, low: u16, high: u16) -> Write {
        let Some((start, _)) = self.capability(at) else {
            return Write::Nothing;
        };
        let within = at.wrapping_sub(start);
        let capabilities = &self.function.capabilities;
        if capabilities.power == Some(start) {
            return match (within, low & 0b11) {
                (4, 0b00) if mask & 0xff != 0 => Write::Power(Power::D0),
                (4, 0b11) if mask & 0xff != 0 => Write::Power(Power::D3Hot),
                _ => Write::Nothing,
            };
        }
        if self.msi_x.is_some_and(|msi_x| msi_x.offset == start) {
            return match within {
                0 if mask & 0xc000_0000 != 0 => Write::MsiX(high & MSI_X_BITS),
                _ => Write::Nothing,
            };
        }
        let flr = capabilities.express.is_some_and(|express| express.flr);
        match within {
            Express::DEVICE_CONTROL if mask & 0xffff == 0 => Write::Nothing,
            Express::DEVICE_CONTROL if flr && low & Express::INITIATE_FLR != 0 => Write::Reset,
            Express::DEVICE_CONTROL => Write::DeviceControl(low & 0x7fff),
            _ => Write::Nothing,
        }
    }

    /// Notes what a store did.
    pub fn apply(&mut self, write: Write) {
        match write {
            Write::Nothing => {}
            Write::Command(value) => self.command = value,
            Write::Bar { n, value } => {
                if let Some(bar) = self.bars.get_mut(n) {
                    *bar = value;
                }
            }
            Write::Scratch { at, value } => match at {
                offset::HEADER => self.cache_line = value,
                _ => self.line = value,
            },
            Write::DeviceControl(value) => self.device_control = value,
            Write::Reset => self.reset(),
            // Without No_Soft_Reset, coming back from D3hot is a reset (PCI PM 1.2, 5.4.1).
            Write::Power(Power::D0) if self.power == Power::D3Hot => self.reset(),
            Write::Power(power) => self.power = power,
            Write::MsiX(value) => self.msi_x_control = value,
        }
    }

    /// Everything that a guest may write is as it was at first.
    pub fn reset(&mut self) {
        self.command = 0;
        self.bars = [0; BARS];
        self.cache_line = 0;
        self.line = 0;
        self.device_control = 0;
        self.power = Power::D0;
        self.msi_x_control = 0;
    }
}

/// Makes an endpoint part of the root complex: on the guest's bus 0 no link leads to it. Words
/// of the Express capability; those of links are not there then (PCIe 7.5.3).
fn integrate(express: &mut [u32; EXPRESS_WORDS]) {
    const LINK: [usize; 4] = [0xc / 4, 0x10 / 4, 0x2c / 4, 0x30 / 4];
    let [first, ..] = express;
    *first = *first & !Port::KIND | Port::INTEGRATED;
    for n in LINK {
        if let Some(word) = express.get_mut(n) {
            *word = 0;
        }
    }
}

fn bar_index(at: u16) -> Option<usize> {
    let n = at.checked_sub(offset::BAR0)? >> 2;
    Some(usize::from(n)).filter(|n| *n < BARS)
}
