//! One function, as it is found.

use crate::bar::{BARS, Bar, Kind, register, size_bars};
use crate::capability::{Capabilities, Express, dvsec_word};
use crate::config::{Config, command, offset};
use crate::resizable::{self, Resizable};

/// What a function is. Read once, when it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Class, subclass and interface in 23:0.
    pub class: u32,
    /// Interrupt pin: 1 for INTA to 4 for INTD, 0 for none.
    pub pin: u8,
    /// BARs.
    pub bars: [Option<Bar>; BARS],
    /// Capabilities.
    pub capabilities: Capabilities,
    /// Which BARs can have which sizes.
    pub resizable: [Option<Resizable>; BARS],
}

impl Function {
    /// Reads a function of header type 0 that is there. `None` if there is none, or it is a
    /// bridge.
    pub fn probe(config: &mut impl Config) -> Option<Self> {
        let [v0, v1, d0, d1] = config.read(offset::ID).to_le_bytes();
        let vendor = u16::from_le_bytes([v0, v1]);
        let [_, _, header, _] = config.read(offset::HEADER).to_le_bytes();
        if vendor == u16::MAX || header & 0x7f != 0 {
            return None;
        }
        let [_, pin, ..] = config.read(offset::INTERRUPT).to_le_bytes();
        Some(Self {
            vendor,
            device: u16::from_le_bytes([d0, d1]),
            class: config.read(offset::CLASS) >> 8,
            pin: if pin <= 4 { pin } else { 0 },
            bars: size_bars(config),
            capabilities: Capabilities::find(config),
            resizable: resizable::find(config),
        })
    }

    /// Returns whether a device has more functions than the first, which must be there.
    pub fn has_siblings(config: &mut impl Config) -> bool {
        let [_, _, header, _] = config.read(offset::HEADER).to_le_bytes();
        header & 0x80 != 0
    }

    /// Gives BAR `n` its address. Memory must be off.
    pub fn place(&self, config: &mut impl Config, n: usize, address: u64) {
        if let Some(bar) = self.bars.get(n).copied().flatten() {
            bar.place(config, register(n), address);
        }
    }

    /// Gives BAR `n` another size, while memory is off; false, and nothing changed, if it cannot
    /// have that.
    pub fn resize(&mut self, config: &mut impl Config, n: usize, bytes: u64) -> bool {
        let resizable = self.resizable.get(n).copied().flatten();
        let (Some(Some(bar)), Some(resizable)) = (self.bars.get_mut(n), resizable) else {
            return false;
        };
        let wide = bar.kind == Kind::Memory64 || bytes >> 32 == 0;
        let done = wide && bar.kind != Kind::Io && resizable.set(config, bytes);
        if done {
            bar.size = bytes;
        }
        done
    }

    /// Gives BARs the sizes again that a reset took from them.
    pub fn restore_sizes(&self, config: &mut impl Config) {
        for (bar, resizable) in self.bars.iter().zip(&self.resizable) {
            if let (Some(bar), Some(resizable)) = (bar, resizable) {
                resizable.set(config, bar.size);
            }
        }
    }

    /// Starts a function-level reset; false if it has none. For 100 ms from now the function
    /// must not be accessed (PCIe 6.6.2).
    pub fn reset(&self, config: &mut impl Config) -> bool {
        let Some(express) = self.capabilities.express.filter(|express| express.flr) else {
            return false;
        };
        let at = express.offset.wrapping_add(Express::DEVICE_CONTROL);
        // The upper half is status whose ones would be cleared by ones.
        let [low, high, ..] = config.read(at).to_le_bytes();
        let control = u16::from_le_bytes([low, high]);
        config.write_low(at, control | Express::INITIATE_FLR);
        true
    }

    /// Brings it to D0 or D3hot; false if it has no power management.
    pub fn set_power(&self, config: &mut impl Config, on: bool) -> bool {
        let Some(at) = self.capabilities.power else {
            return false;
        };
        let at = at.wrapping_add(4);
        let [low, high, ..] = config.read(at).to_le_bytes();
        // PME_Status, bit 15, is cleared by a one.
        let control = u16::from_le_bytes([low, high]) & 0x7ffc;
        config.write_low(at, control | if on { 0b00 } else { 0b11 });
        true
    }

    /// Sets COMMAND to `value`.
    pub fn set_command(&self, config: &mut impl Config, value: u16) {
        config.write_low(offset::COMMAND, value);
    }

    /// Sets MSI-X Message Control, bits 15 and 14; nothing if it has none.
    pub fn set_msi_x(&self, config: &mut impl Config, control: u16) {
        let Some(msi_x) = self.capabilities.msi_x else {
            return;
        };
        let before = config.read(msi_x.offset);
        let bits = u32::from(control & 0b11 << 14) << 16;
        config.write(msi_x.offset, before & !(0b11 << 30) | bits);
    }

    /// Returns 16 bits at `offset` of the vendor's own capability `id`.
    pub fn dvsec(&self, config: &mut impl Config, id: u16, offset: u16) -> Option<u16> {
        dvsec_word(config, self.vendor, id, offset)
    }

    /// COMMAND of a function that nobody has: it answers nothing and begins nothing.
    pub const QUIET: u16 = command::INTX_OFF;
}
