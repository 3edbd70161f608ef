//! Ports of PCI Express: functions with a header of type 1, behind which is another bus.
//!
//! Bridges to conventional PCI are found and left closed: what is behind them begins
//! transactions under the bridge's name, so that one function cannot be told from another.

use crate::bar::{BRIDGE_BARS, Bar, register, size_some};
use crate::capability::{Capabilities, Port, access_control};
use crate::config::{Config, command, offset};

/// Register with primary, secondary and subordinate bus number (PCI-to-PCI Bridge 1.2, 3.2.5).
const BUSES: u16 = 0x18;
/// I/O base and limit; secondary status, which ones clear, in the upper half.
const IO: u16 = 0x1c;
/// Base and limit of memory below 4 GiB.
const MEMORY: u16 = 0x20;
/// Base and limit of prefetchable memory, and their upper halves.
const PREFETCHABLE: u16 = 0x24;
const PREFETCHABLE_BASE_HIGH: u16 = 0x28;
const PREFETCHABLE_LIMIT_HIGH: u16 = 0x2c;
/// Bridge Control is in the upper half of the interrupt register.
const CONTROL: u16 = offset::INTERRUPT;
/// Secondary bus reset: bit 6 of Bridge Control.
const BUS_RESET: u32 = 1 << 22;
/// Discard timer status: bit 10 of Bridge Control, cleared by a one.
const DISCARDED: u32 = 1 << 26;
/// A base that is above its limit: the window is closed.
const CLOSED: u32 = 0x0000_fff0;

/// Addresses that a bridge passes on: the first, and the last of its last mebibyte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First address, a multiple of 1 MiB.
    pub first: u64,
    /// Last address: the next is a multiple of 1 MiB.
    pub last: u64,
}

/// A bridge, as it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// What kind of port it is.
    pub port: Port,
    /// Registers of its own.
    pub bars: [Option<Bar>; BRIDGE_BARS],
    /// Its prefetchable window may lie above 4 GiB.
    pub wide: bool,
    /// What comes from behind it goes up, and is checked there, before it goes to a neighbour.
    pub isolates: bool,
}

impl Bridge {
    /// Reads a bridge and closes it: nothing is passed on, down or up. `None` if there is none.
    pub fn probe(config: &mut impl Config) -> Option<Self> {
        let [_, _, header, _] = config.read(offset::HEADER).to_le_bytes();
        if config.read(offset::ID) & 0xffff == 0xffff || header & 0x7f != 1 {
            return None;
        }
        config.write_low(offset::COMMAND, command::INTX_OFF);
        close(config);
        let express = Capabilities::find(config).express;
        let port = express.map_or(Port::Other, |express| express.port);
        config.write(PREFETCHABLE, 0xfff0_fff0);
        let wide = config.read(PREFETCHABLE) & 0xf == 1;
        config.write(PREFETCHABLE, CLOSED);
        let sized = size_some(config, BRIDGE_BARS);
        let [first, second, ..] = sized;
        Some(Self {
            port,
            bars: [first, second],
            wide,
            isolates: access_control(config),
        })
    }

    /// Returns whether functions behind it can be told apart, and so be handed to VMs.
    pub fn is_express(&self) -> bool {
        matches!(self.port, Port::Root | Port::Upstream | Port::Downstream)
    }

    /// Returns whether the bus behind it is a link, on which there is device 0 alone.
    pub fn leads_to_one_device(&self) -> bool {
        matches!(self.port, Port::Root | Port::Downstream)
    }

    /// Gives it bus numbers: its own, that of the bus behind it, and the last one behind it.
    pub fn set_buses(config: &mut impl Config, primary: u8, secondary: u8, last: u8) {
        config.write(BUSES, u32::from_le_bytes([primary, secondary, last, 0]));
    }

    /// Gives BAR `n` its address. Memory must be off.
    pub fn place(&self, config: &mut impl Config, n: usize, address: u64) {
        if let Some(bar) = self.bars.get(n).copied().flatten() {
            bar.place(config, register(n), address);
        }
    }

    /// Opens it for these addresses, and for what comes from behind. Ports stay closed.
    pub fn open(&self, config: &mut impl Config, low: Option<Span>, high: Option<Span>) {
        let window = |span: Option<Span>| {
            span.map_or(CLOSED, |span| {
                let half = |address: u64| {
                    let [_, _, b2, b3, ..] = address.to_le_bytes();
                    u32::from(u16::from_le_bytes([b2, b3]) & 0xfff0)
                };
                half(span.last) << 16 | half(span.first)
            })
        };
        let upper = |address: u64| u32::try_from(address >> 32).unwrap_or(0);
        config.write(MEMORY, window(low));
        config.write(PREFETCHABLE, window(high));
        let (first, last) = high.map_or((0, 0), |span| (span.first, span.last));
        config.write(PREFETCHABLE_BASE_HIGH, upper(first));
        config.write(PREFETCHABLE_LIMIT_HIGH, upper(last));
        let on = command::MEMORY | command::BUS_MASTER | command::INTX_OFF;
        config.write_low(offset::COMMAND, on);
    }

    /// Begins or ends a reset of everything behind it (PCIe 6.6.1): it lasts a millisecond at
    /// least, and for 100 ms after its end nothing behind is to be accessed.
    pub fn set_bus_reset(config: &mut impl Config, on: bool) {
        let now = config.read(CONTROL) & !(BUS_RESET | DISCARDED);
        config.write(CONTROL, now | if on { BUS_RESET } else { 0 });
    }
}

/// Takes bus numbers and windows from a bridge, whatever firmware gave it.
fn close(config: &mut impl Config) {
    config.write(BUSES, 0);
    config.write_low(IO, 0x00f0);
    config.write(MEMORY, CLOSED);
    config.write(PREFETCHABLE, CLOSED);
    config.write(PREFETCHABLE_BASE_HIGH, 0);
    config.write(PREFETCHABLE_LIMIT_HIGH, 0);
    Bridge::set_bus_reset(config, false);
}
