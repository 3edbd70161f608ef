//! Reads the nodes of a tree that [`crate::check`] accepted.

use crate::check::be32;
use crate::{
    BootError, BootInfo, Bytes, CPUS_MAX, Conduit, DEPTH_MAX, Device, Gic, Interrupt, List,
    PCI_WIRES_MAX, PciHost, PciMessages, PciWire, REDISTRIBUTOR_REGIONS_MAX, RESERVED_MAX,
    RNG_SEED_MAX, Range, TimerIntids,
};
use fdt::Fdt;
use fdt::node::FdtNode;

type Node<'b, 'a> = FdtNode<'b, 'a>;

/// Reads `tree`, exactly the bytes of a checked tree.
pub(crate) fn read(tree: &[u8]) -> Result<BootInfo, BootError> {
    let fdt = Fdt::new(tree).map_err(|_| BootError::TooShort)?;
    // The first of all nodes: to find it by its name would take as much stack as all else.
    let root = fdt.all_nodes().next();
    let root = root.ok_or(BootError::Damaged { at: 0 })?;
    let mut found = Found::new();
    for entry in fdt.memory_reservations() {
        found.reserve(entry.address().addr() as u64, entry.size() as u64)?;
    }
    found.visit(root)?;
    if let Some(chosen) = child(root, "chosen") {
        found.chosen(root, chosen)?;
    }
    found.finish(tree.len())
}

/// Node `name` below `parent`; the unit address (`@…`) may be left out.
fn child<'b, 'a>(parent: Node<'b, 'a>, name: &str) -> Option<Node<'b, 'a>> {
    parent
        .children()
        .find(|node| node.name == name || base_name(*node) == name)
}

fn base_name<'a>(node: Node<'_, 'a>) -> &'a str {
    node.name.split('@').next().unwrap_or_default()
}

fn value<'a>(node: Node<'_, 'a>, name: &str) -> Option<&'a [u8]> {
    node.property(name).map(|property| property.value)
}

/// Whether the string list `raw` contains `word`.
fn lists(raw: &[u8], word: &str) -> bool {
    raw.split(|byte| *byte == 0)
        .any(|item| item == word.as_bytes())
}

/// What any node may say of itself, read in one pass: `fdt` parses all properties each time
/// one is asked for, which for the whole tree had cost a million instructions.
#[derive(Clone, Copy, Default)]
struct Facts<'a> {
    compatible: &'a [u8],
    device_type: &'a [u8],
    status: Option<&'a [u8]>,
    ranges: Option<&'a [u8]>,
}

impl<'a> Facts<'a> {
    fn of(node: Node<'_, 'a>) -> Self {
        let mut facts = Self::default();
        for property in node.properties() {
            match property.name {
                "compatible" => facts.compatible = property.value,
                "device_type" => facts.device_type = property.value,
                "status" => facts.status = Some(property.value),
                "ranges" => facts.ranges = Some(property.value),
                _ => {}
            }
        }
        facts
    }

    fn is(&self, compatible: &str) -> bool {
        lists(self.compatible, compatible)
    }

    /// Whether the node may be used (Devicetree Specification, 2.3.4).
    fn enabled(&self) -> bool {
        self.status
            .is_none_or(|status| lists(status, "okay") || lists(status, "ok"))
    }

    /// Whether addresses on this bus are those of the bus above (2.3.8).
    fn is_flat_bus(&self) -> bool {
        self.ranges.is_some_and(<[u8]>::is_empty)
    }
}

fn enabled(node: Node<'_, '_>) -> bool {
    Facts::of(node).enabled()
}

/// The ranges in `reg`; those that are empty or past 2^48 are `None`.
fn registers<'a>(node: Node<'_, 'a>) -> impl Iterator<Item = Option<Range>> + use<'a> {
    node.reg().into_iter().flatten().map(|region| {
        Range::new(
            region.starting_address.addr() as u64,
            region.size.unwrap_or_default() as u64,
        )
    })
}

fn first_range(node: Node<'_, '_>, what: &'static str) -> Result<Range, BootError> {
    let first = registers(node).next().flatten();
    first.ok_or(BootError::BadProperty { what })
}

/// Interrupt `index` of a node whose parent is the GIC: three cells or more, of which
/// type (0 SPI, 1 PPI), number and flags come first (binding `arm,gic-v3`).
fn interrupt(node: Node<'_, '_>, index: usize) -> Option<Interrupt> {
    const CELL: usize = 4;
    let raw = value(node, "interrupts")?;
    let at = index.checked_mul(3 * CELL)?;
    let number = be32(raw, at.checked_add(CELL)?)?;
    let flags = be32(raw, at.checked_add(2 * CELL)?)?;
    let intid = match be32(raw, at)? {
        0 if number <= 987 => number.checked_add(32)?,
        1 if number <= 15 => number.checked_add(16)?,
        _ => return None,
    };
    let edge = flags & 0b11 != 0;
    Some(Interrupt { intid, edge })
}

/// Binding `arm,smmu-v3`: `eventq` is one of the interrupts, or `combined` is all of them.
fn events_of_smmu(node: Node<'_, '_>) -> Option<Interrupt> {
    let names = value(node, "interrupt-names")?;
    let is = |name: &[u8]| name == b"eventq" || name == b"combined";
    let index = names.split(|byte| *byte == 0).position(is)?;
    interrupt(node, index)
}

fn device(node: Node<'_, '_>, what: &'static str) -> Result<Device, BootError> {
    Ok(Device {
        registers: first_range(node, what)?,
        interrupt: interrupt(node, 0),
    })
}

/// A number of one or two cells.
fn number(raw: &[u8]) -> Option<u64> {
    match (be32(raw, 0), be32(raw, 4), raw.len()) {
        (Some(low), None, 4) => Some(low.into()),
        (Some(high), Some(low), 8) => Some(u64::from(high) << 32 | u64::from(low)),
        _ => None,
    }
}

/// The first PL011 that is enabled, whatever else the tree lacks.
pub(crate) fn console(blob: &[u8]) -> Option<Device> {
    let tree = Fdt::new(blob).ok()?;
    tree.all_nodes()
        .find(|node| {
            let facts = Facts::of(*node);
            facts.is("arm,pl011") && facts.enabled()
        })
        .and_then(|node| device(node, "PL011 reg").ok())
}

/// What the walk has seen so far.
struct Found {
    info: BootInfo,
    gic: Option<Gic>,
    its: Option<Range>,
}

impl Found {
    const fn new() -> Self {
        const NOWHERE: Range = Range { pa: 0, bytes: 0 };
        let gic = Gic {
            distributor: NOWHERE,
            redistributors: List::new(),
            redistributor_stride: None,
            its: None,
        };
        Self {
            gic: None,
            its: None,
            info: BootInfo {
                tree_bytes: 0,
                ram: List::new(),
                ram_dropped: 0,
                reserved: List::new(),
                cpus: List::new(),
                cpus_dropped: 0,
                gic,
                uart: None,
                rtc: None,
                psci: None,
                // Arm BSA (DEN 0094), 3.8.2: the INTIDs every server uses.
                timers: TimerIntids {
                    physical: 30,
                    virt: 27,
                    hyp_physical: 26,
                },
                virtio: List::new(),
                virtio_dropped: 0,
                smmu: None,
                smmu_events: None,
                pci: None,
                bootargs: Bytes::new(),
                rng_seed: Bytes::new(),
                initrd: None,
            },
        }
    }

    /// Visits everything below `root`. On each level bus addresses are physical ones, or not.
    ///
    /// Without recursion: at boot core has no more stack than it ever has.
    fn visit(&mut self, root: Node<'_, '_>) -> Result<(), BootError> {
        let mut levels: [_; DEPTH_MAX] = core::array::from_fn(|_| None);
        let mut depth = 0_usize;
        if let Some(level) = levels.first_mut() {
            *level = Some((root.children(), true));
        }
        // `check` has bounded the depth already; what is below the last level is not visited.
        while let Some(Some((children, identity))) = levels.get_mut(depth) {
            let identity = *identity;
            let Some(below) = children.next() else {
                match depth.checked_sub(1) {
                    Some(above) => depth = above,
                    None => break,
                }
                continue;
            };
            match (depth, base_name(below)) {
                (0, "reserved-memory") => self.reserved_memory(below)?,
                (0, "cpus") => self.cpus(below)?,
                _ => {
                    let facts = Facts::of(below);
                    if !facts.enabled() {
                        continue;
                    }
                    self.node(below, facts, identity)?;
                    let inside = depth.saturating_add(1);
                    if let Some(level) = levels.get_mut(inside) {
                        *level = Some((below.children(), identity && facts.is_flat_bus()));
                        depth = inside;
                    }
                }
            }
        }
        Ok(())
    }

    fn node(
        &mut self,
        node: Node<'_, '_>,
        facts: Facts<'_>,
        identity: bool,
    ) -> Result<(), BootError> {
        let is = |word| facts.is(word);
        let direct = |what| match identity {
            true => Ok(()),
            false => Err(BootError::Translated { what }),
        };
        if lists(facts.device_type, "memory") {
            direct("memory")?;
            self.memory(node);
        } else if is("arm,gic-v3") {
            direct("GICv3")?;
            self.gic = Some(gic(node)?);
        } else if is("arm,gic-v3-its") {
            direct("GICv3 ITS")?;
            self.its = Some(first_range(node, "ITS reg")?);
        } else if is("arm,pl011") && identity {
            let device = device(node, "PL011 reg")?;
            self.info.uart.get_or_insert(device);
        } else if is("arm,pl031") && identity {
            let device = device(node, "PL031 reg")?;
            self.info.rtc.get_or_insert(device);
        } else if is("virtio,mmio") && identity {
            self.virtio(device(node, "virtio-mmio reg")?);
        } else if is("arm,smmu-v3") && identity {
            let registers = first_range(node, "SMMU reg")?;
            if self.info.smmu.is_none() {
                self.info.smmu = Some(registers);
                self.info.smmu_events = events_of_smmu(node);
            }
        } else if is("pci-host-ecam-generic") && identity {
            let host = pci(node)?;
            self.info.pci.get_or_insert(host);
        } else if is("arm,psci-1.0") || is("arm,psci-0.2") {
            self.info.psci = Some(conduit(node)?);
        } else if is("arm,armv8-timer") {
            self.timers(node);
        }
        Ok(())
    }

    fn memory(&mut self, node: Node<'_, '_>) {
        for range in registers(node).flatten() {
            if !self.info.ram.push(range) {
                self.info.ram_dropped = self.info.ram_dropped.saturating_add(1);
            }
        }
    }

    fn reserve(&mut self, pa: u64, bytes: u64) -> Result<(), BootError> {
        // What cannot be RAM needs no reservation.
        let Some(range) = Range::new(pa, bytes) else {
            return Ok(());
        };
        match self.info.reserved.push(range) {
            true => Ok(()),
            false => Err(BootError::TooMany {
                what: "reserved memory ranges",
                room: RESERVED_MAX,
            }),
        }
    }

    fn reserved_memory(&mut self, parent: Node<'_, '_>) -> Result<(), BootError> {
        for node in parent.children().filter(|node| enabled(*node)) {
            for range in registers(node).flatten() {
                self.reserve(range.pa, range.bytes)?;
            }
        }
        Ok(())
    }

    fn cpus(&mut self, parent: Node<'_, '_>) -> Result<(), BootError> {
        // Arm's binding for cores: reg is MPIDR_EL1 with bits 39:32 in the first of two
        // cells, and everything but the affinities zero.
        const AFFINITIES: u64 = 0xff_00ff_ffff;
        for node in parent.children().filter(|node| enabled(*node)) {
            if base_name(node) != "cpu" {
                continue;
            }
            let reg = node.reg().and_then(|mut regions| regions.next());
            let mpidr = reg.map(|region| region.starting_address.addr() as u64);
            match mpidr {
                Some(mpidr) if mpidr & !AFFINITIES == 0 => {
                    if !self.info.cpus.push(mpidr) {
                        self.info.cpus_dropped = self.info.cpus_dropped.saturating_add(1);
                    }
                }
                _ => return Err(BootError::BadProperty { what: "cpu reg" }),
            }
        }
        Ok(())
    }

    fn virtio(&mut self, device: Device) {
        if !self.info.virtio.push(device) {
            self.info.virtio_dropped = self.info.virtio_dropped.saturating_add(1);
        }
    }

    /// Binding `arm,armv8-timer`: secure physical, physical, virtual, hypervisor.
    fn timers(&mut self, node: Node<'_, '_>) {
        let timers = &mut self.info.timers;
        for (index, intid) in [
            (1, &mut timers.physical),
            (2, &mut timers.virt),
            (3, &mut timers.hyp_physical),
        ] {
            if let Some(ppi) = interrupt(node, index) {
                *intid = ppi.intid;
            }
        }
    }

    fn chosen(&mut self, root: Node<'_, '_>, node: Node<'_, '_>) -> Result<(), BootError> {
        if let Some(raw) = value(node, "bootargs") {
            let text = raw.split(|byte| *byte == 0).next().unwrap_or_default();
            self.info.bootargs = Bytes::copy(text).ok_or(BootError::TooMany {
                what: "bytes of bootargs",
                room: crate::BOOTARGS_MAX,
            })?;
        }
        if let Some(raw) = value(node, "rng-seed") {
            let seed = raw.get(..RNG_SEED_MAX).unwrap_or(raw);
            self.info.rng_seed = Bytes::copy(seed).unwrap_or_default();
        }
        let address = |name| value(node, name).and_then(number);
        if let (Some(start), Some(end)) =
            (address("linux,initrd-start"), address("linux,initrd-end"))
        {
            let bytes = end.checked_sub(start);
            self.info.initrd = bytes.and_then(|bytes| Range::new(start, bytes));
        }
        if let Some(console) = value(node, "stdout-path").and_then(|path| by_path(root, path))
            && Facts::of(console).is("arm,pl011")
            && enabled(console)
        {
            self.info.uart = Some(device(console, "PL011 reg")?);
        }
        Ok(())
    }

    fn finish(mut self, tree_bytes: usize) -> Result<BootInfo, BootError> {
        if self.info.ram.is_empty() {
            return Err(BootError::NoMemory);
        }
        if self.info.cpus.is_empty() {
            return Err(BootError::NoCpus);
        }
        self.info.gic = self.gic.ok_or(BootError::NoGicV3)?;
        self.info.gic.its = self.its;
        self.info.tree_bytes = tree_bytes;
        self.info.virtio = sorted(&self.info.virtio);
        Ok(self.info)
    }
}

/// The same devices, lowest address first. A selection: there are at most 32.
fn sorted<const N: usize>(devices: &List<Device, N>) -> List<Device, N> {
    let mut sorted = List::new();
    let mut past = None;
    while let Some(next) = devices
        .iter()
        .filter(|device| past.is_none_or(|past| device.registers.pa > past))
        .min_by_key(|device| device.registers.pa)
    {
        past = Some(next.registers.pa);
        if !sorted.push(next) {
            break;
        }
    }
    sorted
}

/// The node that `stdout-path` names: an absolute path, or an alias, up to a colon.
fn by_path<'b, 'a>(root: Node<'b, 'a>, raw: &[u8]) -> Option<Node<'b, 'a>> {
    let text = |raw| core::str::from_utf8(raw).ok();
    let end = |byte: &u8| *byte == 0 || *byte == b':';
    let path = text(raw.split(end).next()?)?;
    let path = match path.strip_prefix('/') {
        Some(path) => path,
        None => {
            let alias = value(child(root, "aliases")?, path)?;
            text(alias.split(end).next()?)?.strip_prefix('/')?
        }
    };
    let mut node = root;
    for name in path.split('/').take(DEPTH_MAX) {
        node = child(node, name)?;
    }
    Some(node)
}

fn gic(node: Node<'_, '_>) -> Result<Gic, BootError> {
    const MALFORMED: BootError = BootError::BadProperty { what: "GICv3 reg" };
    let mut ranges = registers(node);
    let distributor = ranges.next().flatten().ok_or(MALFORMED)?;
    let count = match value(node, "#redistributor-regions") {
        Some(raw) => number(raw).and_then(|count| usize::try_from(count).ok()),
        None => Some(1),
    };
    let mut redistributors = List::<_, REDISTRIBUTOR_REGIONS_MAX>::new();
    for range in ranges.take(count.ok_or(MALFORMED)?) {
        if !redistributors.push(range.ok_or(MALFORMED)?) {
            return Err(BootError::TooMany {
                what: "redistributor regions",
                room: REDISTRIBUTOR_REGIONS_MAX,
            });
        }
    }
    if redistributors.is_empty() {
        return Err(MALFORMED);
    }
    let stride = value(node, "redistributor-stride").and_then(number);
    Ok(Gic {
        distributor,
        redistributors,
        redistributor_stride: stride.filter(|stride| *stride != 0),
        its: None,
    })
}

fn pci(node: Node<'_, '_>) -> Result<PciHost, BootError> {
    let bus = |at| match value(node, "bus-range") {
        Some(raw) => be32(raw, at).and_then(|bus| u8::try_from(bus).ok()),
        None => Some(if at == 0 { 0 } else { u8::MAX }),
    };
    const MALFORMED: BootError = BootError::BadProperty {
        what: "PCI bus-range",
    };
    let (mut low, mut high) = (None, None);
    for window in pci_windows(value(node, "ranges").unwrap_or_default()) {
        let place = if window.end() <= 1 << 32 {
            &mut low
        } else {
            &mut high
        };
        place.get_or_insert(window);
    }
    let mask = value(node, "interrupt-map-mask").and_then(|raw| be32(raw, 0));
    Ok(PciHost {
        ecam: first_range(node, "PCI reg")?,
        bus_first: bus(0).ok_or(MALFORMED)?,
        bus_last: bus(4).ok_or(MALFORMED)?,
        low,
        high,
        wire_mask: devfn(mask.unwrap_or(0)),
        wires: pci_wires(value(node, "interrupt-map").unwrap_or_default()),
        messages: pci_messages(value(node, "msi-map").unwrap_or_default()),
    })
}

/// Device and function in the first cell of a PCI address (IEEE 1275 PCI binding, 2.2.1.1).
fn devfn(phys_hi: u32) -> u8 {
    let [_, devfn, ..] = phys_hi.to_le_bytes();
    devfn
}

/// The memory that a host passes on unchanged. Three cells of PCI address, two of address
/// above, two of size; the address space is in bits 25:24 of the first.
fn pci_windows(raw: &[u8]) -> impl Iterator<Item = Range> + '_ {
    raw.chunks_exact(28).filter_map(|entry| {
        let cell = |n: usize| be32(entry, n.saturating_mul(4)).map(u64::from);
        let pair = |n: usize| Some(cell(n)? << 32 | cell(n.saturating_add(1))?);
        let memory = cell(0)? >> 25 & 1 == 1;
        let (inside, outside, bytes) = (pair(1)?, pair(3)?, pair(5)?);
        let window = Range::new(outside, bytes)?;
        (memory && inside == outside).then_some(window)
    })
}

/// The first entry of a host's `msi-map`: requester ID, controller, device ID, how many.
fn pci_messages(raw: &[u8]) -> Option<PciMessages> {
    Some(PciMessages {
        requester_first: be32(raw, 0)?,
        device_first: be32(raw, 8)?,
        count: be32(raw, 12)?,
    })
}

/// The wires of a host. An entry is three cells of PCI address, the pin, the controller, its
/// address in as many cells as it has there, and three cells of interrupt.
fn pci_wires(raw: &[u8]) -> List<PciWire, PCI_WIRES_MAX> {
    const CELL: usize = 4;
    const CONTROLLER: usize = 16;
    const PIN: usize = 12;
    const SPEC_BYTES: usize = 12;
    // How many cells an address of the controller has is said in its node; but only one number
    // makes every entry name the same controller.
    let controller = be32(raw, CONTROLLER);
    let bytes = [40, 32, 36].into_iter().find(|&n| {
        let mut entries = raw.chunks_exact(n);
        let same = entries.all(|entry| be32(entry, CONTROLLER) == controller);
        same && raw.chunks_exact(n).remainder().is_empty()
    });
    let mut wires = List::new();
    for entry in raw.chunks_exact(bytes.unwrap_or(usize::MAX)) {
        let wire = || {
            let spec = entry.len().checked_sub(SPEC_BYTES)?;
            let cell = |n: usize| be32(entry, spec.saturating_add(n.saturating_mul(CELL)));
            // Only SPIs: a PPI is no wire of a device.
            let (0, number, flags) = (cell(0)?, cell(1)?, cell(2)?) else {
                return None;
            };
            let intid = number.checked_add(32).filter(|intid| *intid < 1020)?;
            Some(PciWire {
                devfn: devfn(be32(entry, 0)?),
                pin: u8::try_from(be32(entry, PIN)?).ok()?,
                interrupt: Interrupt {
                    intid,
                    edge: flags & 0b11 != 0,
                },
            })
        };
        if let Some(wire) = wire()
            && !wires.push(wire)
        {
            break;
        }
    }
    wires
}

fn conduit(node: Node<'_, '_>) -> Result<Conduit, BootError> {
    let method = value(node, "method").unwrap_or_default();
    if lists(method, "smc") {
        Ok(Conduit::Smc)
    } else if lists(method, "hvc") {
        Ok(Conduit::Hvc)
    } else {
        Err(BootError::BadProperty {
            what: "psci method",
        })
    }
}

const _: () = assert!(CPUS_MAX <= 64, "core numbers fit a 64-bit mask");
