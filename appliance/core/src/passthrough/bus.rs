//! Finding the machine's functions, and giving their BARs addresses.

use arch::Pa;
use boot_info::{BootInfo, Range};
use pci::{Address, BARS, Config, Function, Window, Windows, offset};

use super::ecam::{self, Ecam};
use super::{FUNCTIONS, Slot, lpi, smmu};
use crate::console::println;
use crate::physmap;

/// Bytes of configuration space of one bus.
const BUS_BYTES: u64 = 1 << 20;

/// Finds the functions of the first bus. Bridges, and what is behind them, are left alone.
pub(crate) fn init(info: &BootInfo) {
    smmu::init(info);
    lpi::init(info);
    let Some(host) = info.pci else { return };
    let Some(bus) = Range::new(host.ecam.pa, BUS_BYTES.min(host.ecam.bytes)) else {
        return;
    };
    if bus.bytes < BUS_BYTES || physmap::add_device(bus).is_err() {
        println!(
            "PCI at {:#x} cannot be mapped: no devices for guests",
            bus.pa
        );
        return;
    }
    ecam::init(bus.pa);
    let window = |range: Range| Window {
        base: range.pa,
        bytes: range.bytes,
    };
    let mut windows = Windows::new(host.low.map(window), host.high.map(window));
    let mut slots = FUNCTIONS.iter();
    for device in 0..32_u16 {
        let first = Address::from_raw(u16::from(host.bus_first) << 8 | device << 3);
        let mut config = Ecam::of(first);
        if config.read(offset::ID) & 0xffff == 0xffff {
            continue;
        }
        let functions = if Function::has_siblings(&mut config) {
            8
        } else {
            1
        };
        for n in 0..functions {
            let address = Address::from_raw(first.raw() | n);
            let Some(found) = place(address, &mut windows) else {
                continue;
            };
            let wire = host.wire(address.raw().to_le_bytes()[0], found.function.pin);
            let Some(slot) = slots.next() else {
                println!("more PCI functions than core keeps: {address} is left out");
                return;
            };
            *slot.lock() = Some(Slot { wire, ..found });
        }
    }
}

/// Reads a function and places its BARs; leaves it quiet. A bridge to the processor is none.
fn place(address: Address, windows: &mut Windows) -> Option<Slot> {
    const HOST_BRIDGE: u32 = 0x06_0000;
    let mut config = Ecam::of(address);
    let function = Function::probe(&mut config).filter(|f| f.class & 0xff_ff00 != HOST_BRIDGE)?;
    function.set_command(&mut config, Function::QUIET);
    let mut placed = [None; BARS];
    for (n, (bar, place)) in function.bars.iter().zip(&mut placed).enumerate() {
        let Some(bar) = bar else { continue };
        if let Some(at) = windows.take(*bar).and_then(Pa::new) {
            function.place(&mut config, n, at.raw());
            *place = Some(at);
        } else if bar.kind != pci::Kind::Io {
            println!("{address}: no room for BAR {n}, {:#x} bytes", bar.size);
        }
    }
    Some(Slot {
        address,
        function,
        placed,
        wire: None,
        companion_of: None,
        assigned: None,
    })
}
