//! What the firmware's device tree says, checked once and copied.
//!
//! [`BootInfo::from_fdt`] reads the tree that the firmware left in memory and keeps what
//! Skete needs in fixed arrays: nothing here points into the tree afterwards, so its
//! memory may be reused. Addresses are physical, interrupts are INTIDs.
//!
//! The tree is firmware's and thus trusted more than a guest, but it may be damaged or
//! absurd. The module `check` refuses whatever would make the parser beneath (crate `fdt`) panic;
//! `walk` reads the nodes. What remains to trust: that addresses in the tree are real.
#![no_std]

mod check;
mod error;
mod free;
mod list;
mod walk;

pub use check::DEPTH_MAX;
pub use error::BootError;
pub use free::FreeRuns;
pub use list::{Bytes, List};

/// Most RAM ranges kept; more are left unused and counted.
pub const RAM_RANGES_MAX: usize = 16;
/// Most reserved ranges.
pub const RESERVED_MAX: usize = 16;
/// Most cores kept; more stay off and are counted.
pub const CPUS_MAX: usize = 64;
/// Most redistributor regions.
pub const REDISTRIBUTOR_REGIONS_MAX: usize = 8;
/// Most virtio-mmio transports kept; more are left unused and counted.
pub const VIRTIO_MAX: usize = 32;
/// Most wires of a PCI host kept: those of four devices with four pins each, twice.
pub const PCI_WIRES_MAX: usize = 32;
/// Most bytes of boot arguments.
pub const BOOTARGS_MAX: usize = 1024;
/// Most bytes of entropy kept.
pub const RNG_SEED_MAX: usize = 64;

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First physical address.
    pub pa: u64,
    /// Number of bytes; `pa + bytes` does not overflow.
    pub bytes: u64,
}

impl Range {
    /// Returns the range, if it is not empty and ends below 2^48.
    pub const fn new(pa: u64, bytes: u64) -> Option<Self> {
        match pa.checked_add(bytes) {
            Some(end) if bytes != 0 && end <= 1 << 48 => Some(Self { pa, bytes }),
            _ => None,
        }
    }

    /// Returns the first address past the range.
    pub const fn end(self) -> u64 {
        self.pa.saturating_add(self.bytes)
    }

    /// Returns whether `pa` is in the range.
    pub const fn contains(self, pa: u64) -> bool {
        pa >= self.pa && pa < self.end()
    }
}

/// An interrupt of the machine's GIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// The INTID: 16 to 31 for a PPI, 32 to 1019 for an SPI.
    pub intid: u32,
    /// Edge-triggered rather than level-sensitive.
    pub edge: bool,
}

/// A memory-mapped device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its registers.
    pub registers: Range,
    /// Its interrupt, if it has one.
    pub interrupt: Option<Interrupt>,
}

/// The GICv3.
#[derive(Clone, Copy, Debug)]
pub struct Gic {
    /// Distributor registers.
    pub distributor: Range,
    /// Redistributor regions, each with the frames of several cores.
    pub redistributors: List<Range, REDISTRIBUTOR_REGIONS_MAX>,
    /// Bytes from one core's frames to the next, if the tree says so; otherwise
    /// GICR_TYPER.VLPIS tells (128 KiB, or 256 KiB with GICv4).
    pub redistributor_stride: Option<u64>,
    /// Registers of the interrupt translation service.
    pub its: Option<Range>,
}

/// How PSCI is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// By SMC: there is firmware at EL3.
    Smc,
    /// By HVC: there is a hypervisor beneath, and Skete does not run at its EL2.
    Hvc,
}

/// INTIDs of a core's own timers (PPIs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerIntids {
    /// EL1 physical timer, 30 unless the tree says otherwise.
    pub physical: u32,
    /// EL1 virtual timer, 27 unless the tree says otherwise.
    pub virt: u32,
    /// EL2 physical timer, 26 unless the tree says otherwise.
    pub hyp_physical: u32,
}

/// A wire of a PCI device, as the host's `interrupt-map` leads it to the GIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciWire {
    /// Device and function, of which only the bits in [`PciHost::wire_mask`] count.
    pub devfn: u8,
    /// 1 for INTA to 4 for INTD.
    pub pin: u8,
    /// Where it ends.
    pub interrupt: Interrupt,
}

/// A PCI host: configuration space, what it passes on, and where its wires end.
#[derive(Clone, Copy, Debug)]
pub struct PciHost {
    /// ECAM: 1 MiB for each bus.
    pub ecam: Range,
    /// First bus number.
    pub bus_first: u8,
    /// Last bus number.
    pub bus_last: u8,
    /// Memory below 4 GiB whose PCI addresses are physical ones.
    pub low: Option<Range>,
    /// Memory above 4 GiB whose PCI addresses are physical ones.
    pub high: Option<Range>,
    /// Bits of device and function that choose a wire.
    pub wire_mask: u8,
    /// Wires.
    pub wires: List<PciWire, PCI_WIRES_MAX>,
    /// Where its messages go, if that is to an ITS.
    pub messages: Option<PciMessages>,
}

/// The first entry of a host's `msi-map`: which device each requester is for the ITS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciMessages {
    /// The first requester ID.
    pub requester_first: u32,
    /// The device ID that the ITS knows it by.
    pub device_first: u32,
    /// How many requesters there are; the others' device IDs follow.
    pub count: u32,
}

impl PciHost {
    /// Returns where the wire of `pin` (1 to 4) of a function ends.
    pub fn wire(&self, devfn: u8, pin: u8) -> Option<Interrupt> {
        let devfn = devfn & self.wire_mask;
        self.wires
            .iter()
            .find(|wire| wire.devfn == devfn && wire.pin == pin)
            .map(|wire| wire.interrupt)
    }
}

/// What the machine is.
#[derive(Clone, Copy, Debug)]
pub struct BootInfo {
    /// Bytes of the tree itself.
    pub tree_bytes: usize,
    /// RAM.
    pub ram: List<Range, RAM_RANGES_MAX>,
    /// RAM ranges in the tree for which there was no room.
    pub ram_dropped: usize,
    /// RAM that must not be touched: the memory reservation block and `/reserved-memory`.
    pub reserved: List<Range, RESERVED_MAX>,
    /// Affinities of the cores that may be started, as PSCI's CPU_ON and `MPIDR_EL1`
    /// (without bits 31:24) have them.
    pub cpus: List<u64, CPUS_MAX>,
    /// Cores in the tree for which there was no room.
    pub cpus_dropped: usize,
    /// The interrupt controller.
    pub gic: Gic,
    /// The console: the PL011 that `/chosen/stdout-path` names, or else the first one.
    pub uart: Option<Device>,
    /// The PL031 real-time clock.
    pub rtc: Option<Device>,
    /// How PSCI is called, if there is any.
    pub psci: Option<Conduit>,
    /// Timer interrupts.
    pub timers: TimerIntids,
    /// virtio-mmio transports, lowest address first; most have no device behind them.
    pub virtio: List<Device, VIRTIO_MAX>,
    /// Transports for which there was no room.
    pub virtio_dropped: usize,
    /// Registers of the SMMUv3.
    pub smmu: Option<Range>,
    /// The interrupt that says that its event queue is no longer empty.
    pub smmu_events: Option<Interrupt>,
    /// The first PCI host with an ECAM.
    pub pci: Option<PciHost>,
    /// `/chosen/bootargs`, without the final zero.
    pub bootargs: Bytes<BOOTARGS_MAX>,
    /// The first bytes of `/chosen/rng-seed`.
    pub rng_seed: Bytes<RNG_SEED_MAX>,
    /// `/chosen/linux,initrd-start` and `-end`.
    pub initrd: Option<Range>,
}
// Core keeps one on a boot stack.
const _: () = assert!(size_of::<BootInfo>() <= 6144);

impl BootInfo {
    /// Reads the device tree at the start of `blob`, which may be longer than the tree.
    ///
    /// # Errors
    /// See [`BootError`]: the tree is malformed, or lacks something Skete cannot do
    /// without (memory, cores, a GICv3).
    pub fn from_fdt(blob: &[u8]) -> Result<Self, BootError> {
        walk::read(check::check(blob)?)
    }
}

/// Finds a PL011 in the tree at the start of `blob`, to say on it what else is wrong with
/// the tree. `None` if there is none, or the tree is malformed.
pub fn console(blob: &[u8]) -> Option<Device> {
    walk::console(check::check(blob).ok()?)
}

/// Returns how many bytes the tree whose first eight bytes are `header` claims to have.
///
/// For mapping it before it is read; at most 2 MiB.
///
/// # Errors
/// [`BootError::BadMagic`] or [`BootError::TooLarge`].
pub fn tree_bytes(header: [u8; 8]) -> Result<usize, BootError> {
    check::claimed_bytes(&header)
}
