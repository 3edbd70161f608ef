//! Finding the machine's functions, and giving their BARs addresses.

use boot_info::{BootInfo, PciHost, Range};
use pci::{Address, Closed, Found, Host, Window, Windows};

use super::ecam::{self, Ecam};
use super::{FUNCTIONS, Slot, lpi, smmu};
use crate::console::println;
use crate::physmap;

/// Bytes of configuration space of one bus.
const BUS_BYTES: u64 = 1 << 20;
/// Most buses that are looked at.
const BUSES_MAX: u64 = 32;

/// Finds the functions of the machine, behind bridges too.
pub(crate) fn init(info: &BootInfo) {
    let last = info.pci.map_or(0, |host| search(&host));
    // Requesters are named by bus, device and function: tables have an entry for each.
    let bits = 16_u32.saturating_sub(last.leading_zeros()) as u8;
    smmu::init(info, bits);
    lpi::init(info, bits);
}

/// Returns the last bus.
fn search(host: &PciHost) -> u8 {
    let first = host.bus_first;
    let numbers = u64::from(host.bus_last.saturating_sub(first)) + 1;
    let buses = (host.ecam.bytes / BUS_BYTES).min(numbers).min(BUSES_MAX);
    let space = Range::new(host.ecam.pa, buses * BUS_BYTES).filter(|_| buses > 0);
    let Some(space) = space.filter(|space| physmap::add_device(*space).is_ok()) else {
        println!(
            "PCI at {:#x} cannot be mapped: no devices for guests",
            host.ecam.pa
        );
        return first;
    };
    ecam::init(space.pa, first);
    let window = |range: Range| Window {
        base: range.pa,
        bytes: range.bytes,
    };
    let mut windows = Windows::new(host.low.map(window), host.high.map(window));
    let last = first.saturating_add((buses - 1) as u8);
    let mut search = Search { host, slots: 0 };
    pci::enumerate(&mut search, first, last, &mut windows)
}

/// Keeps what is found.
struct Search<'a> {
    host: &'a PciHost,
    slots: usize,
}

impl Host for Search<'_> {
    type Function = Ecam;

    fn function(&mut self, address: Address) -> Ecam {
        Ecam::of(address)
    }

    fn found(&mut self, found: Found) {
        // A bridge to the processor is no device.
        const HOST_BRIDGE: u32 = 0x06_0000;
        if found.function.class & 0xff_ff00 == HOST_BRIDGE {
            return;
        }
        let Some(slot) = FUNCTIONS.get(self.slots) else {
            println!(
                "more PCI functions than core keeps: {} is left out",
                found.address
            );
            return;
        };
        self.slots += 1;
        let (devfn, pin) = found.wire;
        *slot.lock() = Some(Slot {
            address: found.address,
            function: found.function,
            placed: found.placed.map(|at| at.and_then(arch::Pa::new)),
            room: found.room,
            found_bytes: found.function.bars.map(|bar| bar.map_or(0, |bar| bar.size)),
            wire: self.host.wire(devfn, pin),
            port: found.port,
            group: found.group,
            held_until_ms: None,
            rests_until_ms: 0,
            companion_of: None,
            assigned: None,
        });
    }

    fn no_room(&mut self, address: Address, bar: usize, bytes: u64) {
        println!("{address}: no room for BAR {bar}, {bytes:#x} bytes");
    }

    fn closed(&mut self, bridge: Address, why: Closed) {
        let why = match why {
            Closed::NotExpress => "it leads to no link of PCI Express",
            Closed::NoBus => "there are more buses than core looks at",
            Closed::TooDeep => "too many buses lead to it",
        };
        println!("what is behind bridge {bridge} is left alone: {why}");
    }
}
