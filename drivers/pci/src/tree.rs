//! The buses of a host: which functions there are, and how they are reached.
//!
//! Bus numbers and windows of bridges are given anew, whatever firmware did: a machine that is
//! started without any has none. Buses are numbered as they are found, each before those behind
//! it; addresses are given in the same order, so that what is behind a bridge is one piece.

use crate::address::Address;
use crate::bar::{BARS, Bar, Kind};
use crate::bridge::Bridge;
use crate::config::{Config, offset};
use crate::function::Function;
use crate::window::{Mark, Reach, Windows};

/// Most buses between a function and the processor, its own included.
pub const DEPTH_MAX: usize = 8;

/// A function with a header of type 0, and its way to the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub address: Address,
    /// What it is.
    pub function: Function,
    /// Where its BARs were placed.
    pub placed: [Option<u64>; BARS],
    /// How large they may become there: as large as they are, unless they can be resized.
    pub room: [u64; BARS],
    /// Device and function on the first bus, and pin, of its wire where that leaves the last
    /// bridge (PCI-to-PCI Bridge 1.2, 9.1). Pin 0 for none.
    pub wire: (u8, u8),
    /// The port behind which it is alone: a reset of that bus resets it and nothing else.
    pub port: Option<Address>,
    /// Functions of a group may reach each other without being checked on the way.
    pub group: u16,
}

/// Why a bridge stays closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It leads to conventional PCI, or does not say where.
    NotExpress,
    /// There are more buses than numbers.
    NoBus,
    /// More than [`DEPTH_MAX`] buses.
    TooDeep,
}

/// A PCI host, and who wants to know.
pub trait Host {
    /// Configuration space of one function.
    type Function: Config;
    /// Returns it; all ones where nothing is.
    fn function(&mut self, address: Address) -> Self::Function;
    /// Takes a function that was found. It is quiet.
    fn found(&mut self, found: Found);
    /// Hears that the BAR of a function was not placed.
    fn no_room(&mut self, address: Address, bar: usize, bytes: u64);
    /// Hears that a bridge stays closed, and what is behind it alone.
    fn closed(&mut self, bridge: Address, why: Closed);
}

/// A bus that is being looked at.
#[derive(Clone, Copy)]
struct Level {
    bus: u8,
    /// The next device and function.
    next: u16,
    /// Behind the last.
    end: u16,
    /// The device has more functions than the first.
    siblings: bool,
    reach: Reach,
    group: Option<u16>,
    /// A port on it that does not send up what comes from behind it.
    leak: Option<Address>,
    /// The bridge to it.
    bridge: Option<(Address, Bridge, Mark)>,
}

impl Level {
    const NONE: Self = Self {
        bus: 0,
        next: 0,
        end: 256,
        siblings: false,
        reach: Reach::Host,
        group: None,
        leak: None,
        bridge: None,
    };

    /// Returns the next function to look at: after function 0 of a device with one function
    /// comes the next device.
    fn step(&mut self) -> Option<Address> {
        if self.next & 7 != 0 && !self.siblings {
            self.next = (self.next | 7).wrapping_add(1);
        }
        let at = self.next;
        if at >= self.end {
            return None;
        }
        self.next = at.wrapping_add(1);
        Some(Address::from_raw(u16::from(self.bus) << 8 | at))
    }

    /// Whether the bus is a link with one device on it.
    fn is_link(&self) -> bool {
        self.bridge
            .is_some_and(|(_, bridge, _)| bridge.leads_to_one_device())
    }
}

/// Finds every function on the buses `first` to `last`, opens the bridges to them, and places
/// BARs in `windows`. Returns the last bus that there is.
pub fn enumerate(host: &mut impl Host, first: u8, last: u8, windows: &mut Windows) -> u8 {
    let mut levels = [Level::NONE; DEPTH_MAX];
    let mut depth = 0_usize;
    let mut used = first;
    let leak = close_bridges(host, first, 256);
    if let Some(level) = levels.first_mut() {
        (level.bus, level.leak) = (first, leak);
    }
    while let Some(level) = levels.get_mut(depth) {
        let Some(address) = level.step() else {
            // All of this bus and of those behind it is known.
            let Some((at, bridge, mark)) = level.bridge else {
                break;
            };
            let (low, high) = windows.close(mark);
            let config = &mut host.function(at);
            Bridge::set_buses(config, at.bus(), level.bus, used);
            bridge.open(config, low, high);
            depth = depth.saturating_sub(1);
            continue;
        };
        let mut config = host.function(address);
        if config.read(offset::ID) & 0xffff == 0xffff {
            if address.function() == 0 {
                level.siblings = false;
            }
            continue;
        }
        if address.function() == 0 {
            level.siblings = Function::has_siblings(&mut config);
        }
        if let Some(bridge) = Bridge::probe(&mut config) {
            let reach = level.reach;
            // What one port passes to its neighbours reaches all that is behind any of them.
            let group = level.group.or(level.leak.map(Address::raw));
            for (n, bar) in bridge.bars.iter().enumerate() {
                if let Some(at) = bar.and_then(|bar| windows.take(bar, reach)) {
                    bridge.place(&mut config, n, at);
                }
            }
            let inner = depth.saturating_add(1);
            let why = if !bridge.is_express() {
                Closed::NotExpress
            } else if used == last {
                Closed::NoBus
            } else if inner >= DEPTH_MAX {
                Closed::TooDeep
            } else {
                used = used.saturating_add(1);
                Bridge::set_buses(&mut config, address.bus(), used, last);
                let end = if bridge.leads_to_one_device() { 8 } else { 256 };
                let leak = close_bridges(host, used, end);
                depth = inner;
                if let Some(level) = levels.get_mut(inner) {
                    *level = Level {
                        bus: used,
                        end,
                        reach: reach.behind(bridge.wide),
                        group,
                        leak,
                        bridge: Some((address, bridge, windows.mark())),
                        ..Level::NONE
                    };
                }
                continue;
            };
            host.closed(address, why);
            continue;
        }
        let Some(function) = Function::probe(&mut config) else {
            continue;
        };
        let level = *level;
        let (placed, room) = place(host, address, &function, level.reach, windows);
        // Functions of one device may reach each other inside it.
        let device = address.raw() & if level.siblings { !7 } else { !0 };
        let alone = level.is_link() && !level.siblings;
        let wire = wire(&levels, depth, address, function.pin);
        host.found(Found {
            address,
            function,
            placed,
            room,
            wire,
            port: level.bridge.filter(|_| alone).map(|(at, ..)| at),
            group: level.group.unwrap_or(device),
        });
    }
    used
}

/// Takes the numbers of all bridges of a bus away, so that none answers for another's bus.
/// Returns one of its ports that does not keep what is behind it from its neighbours.
fn close_bridges(host: &mut impl Host, bus: u8, end: u16) -> Option<Address> {
    let mut leak = None;
    let mut level = Level {
        bus,
        end,
        ..Level::NONE
    };
    while let Some(address) = level.step() {
        let mut config = host.function(address);
        let there = config.read(offset::ID) & 0xffff != 0xffff;
        if address.function() == 0 {
            level.siblings = there && Function::has_siblings(&mut config);
        }
        let bridge = Bridge::probe(&mut config);
        if bridge.is_some_and(|bridge| bridge.leads_to_one_device() && !bridge.isolates) {
            leak = Some(address);
        }
    }
    leak
}

/// Most bytes that are set aside for a BAR that can be resized.
const ROOM_MAX: u64 = 64 << 30;

/// Makes a function quiet and places its BARs: one that can be resized where it can be as large
/// as possible, so that it never has to move.
fn place(
    host: &mut impl Host,
    address: Address,
    function: &Function,
    reach: Reach,
    windows: &mut Windows,
) -> ([Option<u64>; BARS], [u64; BARS]) {
    let mut config = host.function(address);
    function.set_command(&mut config, Function::QUIET);
    let mut placed = [None; BARS];
    let mut room = [0; BARS];
    let places = placed.iter_mut().zip(&mut room);
    let bars = function.bars.iter().zip(&function.resizable);
    for (n, ((bar, resizable), (place, room))) in bars.zip(places).enumerate() {
        let Some(bar) = bar else { continue };
        let most = resizable.map_or(bar.size, |_| ROOM_MAX);
        let larger = resizable.iter().flat_map(|sizes| sizes.up_to(most));
        let larger = larger.filter(|size| *size > bar.size);
        let taken = larger.chain([bar.size]).find_map(|size| {
            let at = windows.take(Bar { size, ..*bar }, reach)?;
            Some((at, size))
        });
        *place = taken.map(|(at, _)| at);
        *room = taken.map_or(0, |(_, size)| size);
        match *place {
            Some(at) => function.place(&mut config, n, at),
            None if bar.kind == Kind::Io => {}
            None => host.no_room(address, n, bar.size),
        }
    }
    (placed, room)
}

/// Follows a wire to the first bus.
fn wire(levels: &[Level; DEPTH_MAX], depth: usize, from: Address, pin: u8) -> (u8, u8) {
    let (mut at, mut pin) = (from, pin);
    let behind = levels.iter().take(depth.saturating_add(1)).skip(1).rev();
    for (bridge, ..) in behind.filter_map(|level| level.bridge) {
        if pin != 0 {
            let turned = pin.wrapping_sub(1).wrapping_add(at.device());
            pin = (turned & 3).wrapping_add(1);
        }
        at = bridge;
    }
    let [devfn, _] = at.raw().to_le_bytes();
    (devfn, pin)
}
