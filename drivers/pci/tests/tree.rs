//! Buses behind bridges, against a machine that passes configuration and memory accesses on as
//! bridges do: by the bytes in their registers alone.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "a test that panics has failed, which is what is meant"
)]

use std::cell::RefCell;
use std::rc::Rc;

use pci::{Address, Bridge, Closed, Config, Found, Host, Kind, Window, Windows, enumerate};
use proptest::prelude::*;

/// A function of the machine: 4096 bytes, which of their bits can be written, and what is behind.
#[derive(Clone, Debug)]
struct Node {
    device: u16,
    function: u16,
    bytes: Vec<u8>,
    writable: Vec<u8>,
    behind: Option<Vec<Node>>,
    name: usize,
}

const ROOT_PORT: u32 = 4;
const UPSTREAM: u32 = 5;
const DOWNSTREAM: u32 = 6;
const TO_PCI: u32 = 7;

impl Node {
    fn blank(device: u16, function: u16, name: usize) -> Self {
        Self {
            device,
            function,
            bytes: vec![0; 4096],
            writable: vec![0; 4096],
            behind: None,
            name,
        }
    }

    fn set(&mut self, at: usize, value: u32, writable: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        self.writable[at..at + 4].copy_from_slice(&writable.to_le_bytes());
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"))
    }

    fn half(&self, at: usize) -> u64 {
        u64::from(self.bytes[at + 1]) << 8 | u64::from(self.bytes[at])
    }

    /// A register that decodes `size` bytes, of which firmware left `old`.
    fn bar(&mut self, n: usize, kind: Kind, prefetchable: bool, size: u64, old: u64) {
        let mask = !(size - 1);
        let bits = match kind {
            Kind::Io => 1,
            Kind::Memory32 => 0,
            Kind::Memory64 => 4,
        } | if prefetchable { 8 } else { 0 };
        let low = mask as u32 & !0xf;
        self.set(0x10 + n * 4, old as u32 & low | bits, low);
        if kind == Kind::Memory64 {
            let high = (mask >> 32) as u32;
            self.set(0x14 + n * 4, (old >> 32) as u32 & high, high);
        }
    }

    /// An endpoint with an Express capability.
    fn endpoint(device: u16, function: u16, name: usize, pin: u8) -> Self {
        let mut new = Self::blank(device, function, name);
        new.set(0x00, 0x1234_0000 | (name as u32 + 1), 0);
        new.set(0x04, 0x0010_0006, 0x0000_0547);
        new.set(0x34, 0x40, 0);
        new.set(0x3c, u32::from(pin) << 8, 0xff);
        new.set(0x40, 0x0002_0010, 0);
        new
    }

    /// A port, as firmware left it: with numbers and windows that mean nothing any more.
    fn port(device: u16, function: u16, name: usize, kind: u32, old: u32, shape: Shape) -> Self {
        let mut new = Self::blank(device, function, name);
        new.set(0x00, 0xb41d_0000 | (name as u32 + 1), 0);
        new.set(0x04, 0x0010_0007, 0x0000_0547);
        new.set(0x0c, 0x0001_0000, 0);
        new.set(0x18, old, 0x00ff_ffff);
        new.set(0x1c, 0x0000_0000, 0x0000_f0f0);
        new.set(0x20, old & 0xfff0_fff0, 0xfff0_fff0);
        let wide = u32::from(shape.wide) * 0x0001_0001;
        new.set(0x24, old & 0xfff0_fff0 | wide, 0xfff0_fff0);
        if shape.wide {
            new.set(0x28, old, u32::MAX);
            new.set(0x2c, old, u32::MAX);
        }
        new.set(0x34, 0x50, 0);
        new.set(0x3c, 0x0040_0100, 0x0fff_00ff);
        new.set(0x50, 0x0002_0010 | kind << 20, 0);
        if shape.isolates {
            new.set(0x100, 0x0001_000d, 0);
            new.set(0x104, 0x0000_001f, 0x001f_0000);
        }
        if shape.registers {
            new.bar(0, Kind::Memory32, false, 4096, 0);
        }
        new.behind = Some(Vec::new());
        new
    }

    fn buses(&self) -> (u8, u8) {
        (self.bytes[0x19], self.bytes[0x1a])
    }

    /// Addresses that it passes down: below 4 GiB, and prefetchable.
    fn passes(&self, at: u64) -> bool {
        if self.word(4) & 2 == 0 {
            return false;
        }
        let half = |at| self.half(at) & 0xfff0;
        let low = half(0x20) << 16..=half(0x22) << 16 | 0xf_ffff;
        let upper = |at| u64::from(self.word(at)) << 32;
        let first = upper(0x28) | half(0x24) << 16;
        let last = upper(0x2c) | half(0x26) << 16 | 0xf_ffff;
        low.contains(&at) || (first..=last).contains(&at)
    }
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    wide: bool,
    isolates: bool,
    registers: bool,
}

/// Finds a function as configuration accesses do. Two bridges that both answer are a fault.
fn route(nodes: &mut [Node], bus: u8, wanted: Address) -> Option<&mut Node> {
    if wanted.bus() == bus {
        return nodes.iter_mut().find(|node| {
            (node.device, node.function) == (wanted.device().into(), wanted.function().into())
        });
    }
    let mut ways = nodes.iter_mut().filter(|node| {
        let (first, last) = node.buses();
        node.behind.is_some() && first != 0 && (first..=last).contains(&wanted.bus())
    });
    let way = ways.next()?;
    assert!(ways.next().is_none(), "two bridges answer for {wanted}");
    let first = way.buses().0;
    route(way.behind.as_mut().expect("a bridge"), first, wanted)
}

#[derive(Clone)]
struct Machine(Rc<RefCell<Vec<Node>>>, Vec<Found>, Vec<(Address, Closed)>);

struct Space(Rc<RefCell<Vec<Node>>>, Address);

impl Config for Space {
    fn read(&mut self, offset: u16) -> u32 {
        let mut nodes = self.0.borrow_mut();
        route(&mut nodes, 0, self.1).map_or(u32::MAX, |node| node.word(offset.into()))
    }

    fn write(&mut self, offset: u16, value: u32) {
        let mut nodes = self.0.borrow_mut();
        let Some(node) = route(&mut nodes, 0, self.1) else {
            return;
        };
        for (at, byte) in (usize::from(offset)..).zip(value.to_le_bytes()) {
            let mask = node.writable[at];
            node.bytes[at] = node.bytes[at] & !mask | byte & mask;
        }
    }
}

impl Host for Machine {
    type Function = Space;
    fn function(&mut self, address: Address) -> Space {
        Space(self.0.clone(), address)
    }
    fn found(&mut self, found: Found) {
        self.1.push(found);
    }
    fn no_room(&mut self, address: Address, bar: usize, bytes: u64) {
        panic!("{address}: no room for {bar}, {bytes:#x} bytes");
    }
    fn closed(&mut self, bridge: Address, why: Closed) {
        self.2.push((bridge, why));
    }
}

/// Returns the names of all functions that answer an access at `at`. On each bus one function at
/// the most may take it for its own, or pass it on.
fn answers(nodes: &[Node], at: u64) -> Vec<usize> {
    let mut names = Vec::new();
    let mut claims = 0;
    for node in nodes {
        let bars = if node.behind.is_some() { 2 } else { 6 };
        let mut n = 0;
        while n < bars {
            let (low, mask) = (
                node.word(0x10 + n * 4),
                u32::from_le_bytes(node.writable[0x10 + n * 4..][..4].try_into().expect("four")),
            );
            let wide = low & 7 == 4;
            let mut base = u64::from(low & !0xf);
            let mut ones = u64::from(mask) | 0xffff_ffff << 32;
            if wide {
                base |= u64::from(node.word(0x14 + n * 4)) << 32;
                let high = &node.writable[0x14 + n * 4..][..4];
                let high = u32::from_le_bytes(high.try_into().expect("four"));
                ones = u64::from(high) << 32 | u64::from(mask);
            }
            if mask & !0xf != 0 && low & 1 == 0 || wide && ones != 0 && ones >> 32 != 0 {
                let size = !ones + 1;
                if (base..base + size).contains(&at) {
                    names.push(node.name);
                    claims += 1;
                }
            }
            n += 1 + usize::from(wide);
        }
        if let Some(behind) = &node.behind
            && node.passes(at)
        {
            names.extend(answers(behind, at));
            claims += 1;
        }
    }
    assert!(claims <= 1, "{claims} of one bus answer at {at:#x}");
    names
}

const LOW: Window = Window {
    base: 0x1000_0000,
    bytes: 0x2eff_0000,
};
const HIGH: Window = Window {
    base: 0x80_0000_0000,
    bytes: 0x80_0000_0000,
};

fn search(nodes: Vec<Node>) -> (Machine, u8) {
    let mut machine = Machine(Rc::new(RefCell::new(nodes)), Vec::new(), Vec::new());
    let mut windows = Windows::new(Some(LOW), Some(HIGH));
    let last = enumerate(&mut machine, 0, 63, &mut windows);
    (machine, last)
}

/// What is on a bus: how many endpoints and ports, and how they look.
#[derive(Clone, Debug)]
struct Plan {
    ends: Vec<(bool, bool, u8, u64)>,
    ports: Vec<(Shape, u32, Plan)>,
}

fn shape() -> impl Strategy<Value = Shape> {
    any::<(bool, bool, bool)>().prop_map(|(wide, isolates, registers)| Shape {
        wide,
        isolates,
        registers,
    })
}

fn plan() -> impl Strategy<Value = Plan> {
    let end = (any::<bool>(), any::<bool>(), 12..18_u8, any::<u64>());
    let leaf = prop::collection::vec(end.clone(), 0..3).prop_map(|ends| Plan {
        ends,
        ports: Vec::new(),
    });
    leaf.prop_recursive(3, 20, 3, move |inner| {
        (
            prop::collection::vec(end.clone(), 0..3),
            prop::collection::vec((shape(), any::<u32>(), inner), 0..3),
        )
            .prop_map(|(ends, ports)| Plan { ends, ports })
    })
}

/// Builds a bus. On a link there is one device: several things on it are its functions.
fn build(plan: &Plan, kind: u32, link: bool, next: &mut usize) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut place = 0;
    let mut at = |next: &mut usize| {
        *next += 1;
        place += 1;
        if link {
            (0, place - 1)
        } else {
            (place * 3 % 32, 0)
        }
    };
    for (shape, old, inner) in &plan.ports {
        let (device, function) = at(next);
        let name = *next;
        // Under a root port is a switch's upstream port or an endpoint; under that, downstream
        // ports; and so on.
        let below = match kind {
            ROOT_PORT | DOWNSTREAM => UPSTREAM,
            _ => DOWNSTREAM,
        };
        let mut port = Node::port(device, function, name, kind, *old, *shape);
        port.behind = Some(build(inner, below, kind != UPSTREAM, next));
        nodes.push(port);
    }
    for (wide, prefetchable, bits, old) in &plan.ends {
        let (device, function) = at(next);
        let mut end = Node::endpoint(device, function, *next, (*next % 4) as u8 + 1);
        let kind = if *wide {
            Kind::Memory64
        } else {
            Kind::Memory32
        };
        end.bar(0, kind, *prefetchable, 1 << bits, *old);
        end.bar(2, Kind::Memory64, true, 1 << (bits + 6), *old);
        end.bar(4, Kind::Memory32, false, 256, *old);
        nodes.push(end);
    }
    if link && nodes.len() > 1 {
        for node in &mut nodes {
            node.bytes[0x0e] |= 0x80;
        }
    }
    nodes
}

/// Every endpoint with the bridges above it.
fn ends(nodes: &[Node]) -> Vec<(usize, Vec<Node>)> {
    let mut all = Vec::new();
    for node in nodes {
        match &node.behind {
            None => all.push((node.name, Vec::new())),
            Some(behind) => {
                for (name, mut above) in ends(behind) {
                    let mut bridge = node.clone();
                    bridge.behind = None;
                    above.push(bridge);
                    all.push((name, above));
                }
            }
        }
    }
    all
}

/// Which bus each bridge is on, and whether a port there does not keep its neighbours apart.
fn leaks(nodes: &[Node], all: &mut std::collections::HashMap<usize, (usize, bool)>) {
    let bus = all.len();
    let ports: Vec<_> = nodes.iter().filter(|node| node.behind.is_some()).collect();
    let down = |port: &Node| port.word(0x50) >> 20 & 0xf != UPSTREAM;
    let leaky = ports
        .iter()
        .any(|port| down(port) && port.word(0x100) & 0xffff != 0xd);
    // A bus is named by how many bridges were seen before it; one without bridges needs no name.
    for port in &ports {
        all.insert(port.name, (bus, leaky));
    }
    for port in &ports {
        leaks(port.behind.as_ref().expect("a bridge"), all);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Every endpoint is found once; what it decodes leads to it alone; nothing else is open.
    #[test]
    fn what_is_behind_bridges_is_found_and_reached_and_nothing_answers_twice(plan in plan()) {
        let mut count = 0;
        let nodes = build(&plan, ROOT_PORT, false, &mut count);
        let (machine, last) = search(nodes);
        let nodes = machine.0.borrow();
        let mut names: Vec<usize> = machine.1.iter().map(|found| usize::from(found.function.vendor)).collect();
        names.sort_unstable();
        let mut there: Vec<usize> = ends(&nodes).into_iter().map(|(name, _)| name + 1).collect();
        there.sort_unstable();
        prop_assert_eq!(names, there);
        prop_assert_eq!(&machine.2, &[]);
        for found in &machine.1 {
            prop_assert!(found.address.bus() <= last);
            let name = usize::from(found.function.vendor) - 1;
            let mut copy = nodes.clone();
            let node = route(&mut copy, 0, found.address).expect("its number leads to it");
            prop_assert_eq!(node.name, name);
            // It answers nothing and begins nothing until somebody has it.
            prop_assert_eq!(node.word(4) & 0xffff, 1 << 10);
            for (bar, at) in found.function.bars.iter().zip(found.placed) {
                let Some(bar) = bar else { continue };
                let at = at.expect("there is room");
                prop_assert_eq!(at % bar.size, 0);
                for at in [at, at + bar.size / 2, at + bar.size - 1] {
                    prop_assert_eq!(answers(&nodes, at), [name]);
                }
            }
        }
        // Behind the last address given out no bridge is open.
        prop_assert_eq!(answers(&nodes, HIGH.base + HIGH.bytes - 1), Vec::<usize>::new());
        prop_assert_eq!(answers(&nodes, 0), Vec::<usize>::new());
    }

    /// Two functions are of one group if and only if something between them does not send up
    /// what goes from one to the other; only what is alone can be reset with its bus.
    #[test]
    fn groups_are_what_no_port_keeps_apart(plan in plan()) {
        let mut count = 0;
        let nodes = build(&plan, ROOT_PORT, false, &mut count);
        let (machine, _) = search(nodes);
        let nodes = machine.0.borrow();
        let above: std::collections::HashMap<_, _> = ends(&nodes).into_iter().collect();
        let ways: Vec<_> = machine.1.iter().map(|found| {
            let name = usize::from(found.function.vendor) - 1;
            (found, &above[&name])
        }).collect();
        let mut buses = std::collections::HashMap::new();
        leaks(&nodes, &mut buses);
        let down = |port: &Node| port.word(0x50) >> 20 & 0xf != UPSTREAM;
        for (a, over_a) in &ways {
            for (b, over_b) in &ways {
                if a.address == b.address { continue; }
                let device = |f: &Found| f.address.raw() >> 3;
                // They meet on a bus where some port passes to its neighbours what it likes.
                let meets = |x: &Node, y: &Node| {
                    let (bus, leaky) = buses[&x.name];
                    leaky && bus == buses[&y.name].0
                };
                let meet = over_a.iter().any(|x| over_b.iter().any(|y| meets(x, y)));
                prop_assert_eq!(a.group == b.group, meet || device(a) == device(b));
            }
            let parent = over_a.first();
            let alone = parent.is_some_and(|port| {
                let siblings = ways.iter().filter(|(_, over)| over.iter().any(|x| x.name == port.name)).count();
                down(port) && siblings == 1
            });
            // Alone, but beside a port without anything behind it, is not alone.
            prop_assert!(alone || a.port.is_none());
            if let Some(port) = a.port {
                let mut copy = nodes.clone();
                let port = route(&mut copy, 0, port).expect("is there");
                prop_assert_eq!(Some(port.name), parent.map(|p| p.name));
            }
        }
    }
}

#[test]
fn a_wire_turns_at_every_bridge() {
    // Root port at device 3; upstream; downstream ports at devices 0 and 2; endpoints INTA, INTB.
    let plain = Shape {
        wide: true,
        isolates: true,
        registers: true,
    };
    let mut root = Node::port(3, 0, 1, ROOT_PORT, 0, plain);
    let mut up = Node::port(0, 0, 2, UPSTREAM, 0, plain);
    let mut first = Node::port(0, 0, 3, DOWNSTREAM, 0, plain);
    let mut second = Node::port(2, 0, 4, DOWNSTREAM, 0, plain);
    first.behind = Some(vec![Node::endpoint(0, 0, 5, 1)]);
    second.behind = Some(vec![Node::endpoint(0, 0, 6, 2)]);
    up.behind = Some(vec![first, second]);
    root.behind = Some(vec![up]);
    let (machine, last) = search(vec![root, Node::endpoint(1, 0, 7, 3)]);
    // Devices go by number: 1 before 3. Behind the second downstream port INTB becomes INTD.
    let wires: Vec<_> = machine
        .1
        .iter()
        .map(|f| (f.address.raw(), f.wire, f.port.map(Address::raw)))
        .collect();
    assert_eq!(
        wires,
        [
            (0x0008, (0x08, 3), None),
            (0x0300, (0x18, 1), Some(0x0200)),
            (0x0400, (0x18, 4), Some(0x0210)),
        ]
    );
    assert_eq!(last, 4);
}

#[test]
fn what_cannot_be_told_apart_or_numbered_stays_closed() {
    let plain = Shape {
        wide: true,
        isolates: true,
        registers: false,
    };
    let mut old = Node::port(1, 0, 1, TO_PCI, 0x0003_0201, plain);
    old.behind = Some(vec![Node::endpoint(0, 0, 2, 1)]);
    // Twelve ports in a row: eight buses are looked at.
    let mut chain = vec![Node::endpoint(0, 0, 3, 1)];
    for n in 0..12 {
        let kind = if n % 2 == 0 { DOWNSTREAM } else { UPSTREAM };
        let mut port = Node::port(0, 0, 10 + n, kind, 0x0009_0807, plain);
        port.behind = Some(chain);
        chain = vec![port];
    }
    chain[0].device = 2;
    let (machine, last) = search(vec![old, chain.remove(0)]);
    assert_eq!(machine.1, []);
    let closed: Vec<_> = machine.2.iter().map(|(at, why)| (at.raw(), *why)).collect();
    assert_eq!(
        closed,
        [(0x0008, Closed::NotExpress), (0x0700, Closed::TooDeep)]
    );
    assert_eq!(last, 7);
    // A closed bridge passes nothing on, whatever firmware left in it.
    let nodes = machine.0.borrow();
    assert_eq!(nodes[0].buses(), (0, 0));
    assert_eq!(nodes[0].word(4) & 0b111, 0);
    assert!((0..4096).all(|n| !nodes[0].passes(n << 20)));

    // More ports than bus numbers.
    let ports = (0..3).map(|n| {
        let mut port = Node::port(n, 0, n.into(), ROOT_PORT, 0, plain);
        port.behind = Some(vec![Node::endpoint(0, 0, 5 + usize::from(n), 1)]);
        port
    });
    let mut machine = Machine(
        Rc::new(RefCell::new(ports.collect())),
        Vec::new(),
        Vec::new(),
    );
    let mut windows = Windows::new(Some(LOW), Some(HIGH));
    assert_eq!(enumerate(&mut machine, 0, 2, &mut windows), 2);
    assert_eq!(machine.1.len(), 2);
    let (at, why) = machine.2[0];
    assert_eq!((at.raw(), why), (0x10, Closed::NoBus));
}

#[test]
fn a_bus_is_reset_without_touching_what_else_bridge_control_says() {
    let plain = Shape {
        wide: true,
        isolates: false,
        registers: false,
    };
    let mut port = Node::port(0, 0, 1, ROOT_PORT, 0, plain);
    // SERR# is passed on; the discard timer's status is set, which a one would clear.
    port.set(0x3c, 0x0402_010b, 0x0fff_00ff);
    let machine = Rc::new(RefCell::new(vec![port]));
    let mut config = Space(machine.clone(), Address::from_raw(0));
    Bridge::set_bus_reset(&mut config, true);
    assert_eq!(machine.borrow()[0].word(0x3c), 0x0042_010b);
    Bridge::set_bus_reset(&mut config, false);
    assert_eq!(machine.borrow()[0].word(0x3c), 0x0002_010b);
}
