//! The device tree that a guest finds: QEMU `virt`, as far as core models it.

use alloc::format;
use alloc::vec::Vec;

use guest_abi::map::{
    GICD_BASE, GICD_BYTES, GICR_BASE, GICR_STRIDE, ITS_BASE, ITS_BYTES, PCI_ECAM_BASE,
    PCI_ECAM_BYTES, PCI_HIGH_BASE, PCI_HIGH_BYTES, PCI_INTX_INTID, PCI_LOW_BASE, PCI_LOW_BYTES,
    RAM_BASE, RTC_BASE, UART_BASE, UART_BYTES, UART_INTID,
};
use vm_fdt::{Error, FdtWriter};

const GIC_PHANDLE: u32 = 1;
const CLOCK_PHANDLE: u32 = 2;
const ITS_PHANDLE: u32 = 3;
/// Rate of the PL011's clock, as on QEMU `virt`.
const CLOCK_HZ: u32 = 24_000_000;
/// First cell of an interrupt specifier (`arm,gic-v3.yaml`).
const SPI: u32 = 0;
const PPI: u32 = 1;
/// Third cell: level, active high.
const LEVEL_HIGH: u32 = 4;
/// First INTID of the shared peripheral interrupts, which specifiers count from 0.
const FIRST_SPI: u32 = 32;
/// SPI of the RTC on QEMU `virt`.
const RTC_SPI: u32 = 2;
const RTC_BYTES: u64 = 0x1000;

/// What a guest's device tree depends on.
#[derive(Clone, Debug)]
pub struct Tree<'a> {
    /// Bytes of RAM.
    pub ram_bytes: u64,
    /// Number of vCPUs.
    pub cpus: u32,
    /// Command line; no NUL.
    pub cmdline: &'a str,
    /// Address and bytes of the initrd, if any.
    pub initrd: Option<(u64, u64)>,
    /// Whether there is a PCI host, and with it an ITS for its devices' messages.
    pub pci: bool,
    /// Whether there are performance monitors.
    pub pmu: bool,
    /// Randomness for the guest: the seeds of its address layout and of its generator.
    pub seed: [u8; 40],
}

impl Tree<'_> {
    /// Writes the device tree, in the flattened format of version 17.
    ///
    /// # Errors
    /// Those of the writer: a NUL in the command line, for one.
    pub fn write(&self) -> Result<Vec<u8>, Error> {
        let mut fdt = FdtWriter::new()?;
        let root = fdt.begin_node("")?;
        fdt.property_string("compatible", "linux,dummy-virt")?;
        fdt.property_string("model", "skete,virt")?;
        fdt.property_u32("#address-cells", 2)?;
        fdt.property_u32("#size-cells", 2)?;
        fdt.property_u32("interrupt-parent", GIC_PHANDLE)?;

        self.chosen(&mut fdt)?;
        let memory = fdt.begin_node(&format!("memory@{RAM_BASE:x}"))?;
        fdt.property_string("device_type", "memory")?;
        fdt.property_array_u64("reg", &[RAM_BASE, self.ram_bytes])?;
        fdt.end_node(memory)?;
        self.cpus(&mut fdt)?;
        psci(&mut fdt)?;
        self.gic(&mut fdt)?;
        timer(&mut fdt)?;
        devices(&mut fdt)?;
        if self.pmu {
            pmu(&mut fdt)?;
        }
        if self.pci {
            pci(&mut fdt)?;
        }

        fdt.end_node(root)?;
        fdt.finish()
    }

    fn chosen(&self, fdt: &mut FdtWriter) -> Result<(), Error> {
        let node = fdt.begin_node("chosen")?;
        fdt.property_string("bootargs", self.cmdline)?;
        fdt.property_string("stdout-path", &format!("/pl011@{UART_BASE:x}"))?;
        if let Some((at, bytes)) = self.initrd {
            fdt.property_u64("linux,initrd-start", at)?;
            fdt.property_u64("linux,initrd-end", at.saturating_add(bytes))?;
        }
        let (kaslr, rng) = self.seed.split_at(8);
        fdt.property("kaslr-seed", kaslr)?;
        fdt.property("rng-seed", rng)?;
        fdt.end_node(node)
    }

    fn cpus(&self, fdt: &mut FdtWriter) -> Result<(), Error> {
        let node = fdt.begin_node("cpus")?;
        fdt.property_u32("#address-cells", 1)?;
        fdt.property_u32("#size-cells", 0)?;
        for cpu in 0..self.cpus {
            let node = fdt.begin_node(&format!("cpu@{cpu:x}"))?;
            fdt.property_string("device_type", "cpu")?;
            fdt.property_string("compatible", "arm,armv8")?;
            // MPIDR_EL1: vCPU n has affinity 0.0.0.n.
            fdt.property_u32("reg", cpu)?;
            fdt.property_string("enable-method", "psci")?;
            fdt.end_node(node)?;
        }
        fdt.end_node(node)
    }

    fn gic(&self, fdt: &mut FdtWriter) -> Result<(), Error> {
        let node = fdt.begin_node(&format!("intc@{GICD_BASE:x}"))?;
        fdt.property_string("compatible", "arm,gic-v3")?;
        fdt.property_null("interrupt-controller")?;
        fdt.property_u32("#interrupt-cells", 3)?;
        fdt.property_u32("#address-cells", 2)?;
        fdt.property_u32("#size-cells", 2)?;
        fdt.property_null("ranges")?;
        let redistributors = GICR_STRIDE.saturating_mul(u64::from(self.cpus));
        fdt.property_array_u64("reg", &[GICD_BASE, GICD_BYTES, GICR_BASE, redistributors])?;
        fdt.property_phandle(GIC_PHANDLE)?;
        if self.pci {
            its(fdt)?;
        }
        fdt.end_node(node)
    }
}

/// The ITS (`arm,gic-v3.yaml`), inside the GIC's node.
fn its(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("its@{ITS_BASE:x}"))?;
    fdt.property_string("compatible", "arm,gic-v3-its")?;
    fdt.property_null("msi-controller")?;
    fdt.property_u32("#msi-cells", 1)?;
    fdt.property_array_u64("reg", &[ITS_BASE, ITS_BYTES])?;
    fdt.property_phandle(ITS_PHANDLE)?;
    fdt.end_node(node)
}

/// The PCI host, as QEMU's: one bus of devices without bridges, and four wires.
fn pci(fdt: &mut FdtWriter) -> Result<(), Error> {
    /// Space codes of a PCI address: 32-bit memory, 64-bit memory (IEEE 1275 PCI binding).
    const MEMORY_32: u32 = 0x0200_0000;
    const MEMORY_64: u32 = 0x0300_0000;
    let cells = |address: u64| {
        let [a, b, c, d, e, f, g, h] = address.to_be_bytes();
        [
            u32::from_be_bytes([a, b, c, d]),
            u32::from_be_bytes([e, f, g, h]),
        ]
    };
    let node = fdt.begin_node(&format!("pcie@{PCI_ECAM_BASE:x}"))?;
    fdt.property_string("compatible", "pci-host-ecam-generic")?;
    fdt.property_string("device_type", "pci")?;
    fdt.property_u32("#address-cells", 3)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("#interrupt-cells", 1)?;
    fdt.property_array_u64("reg", &[PCI_ECAM_BASE, PCI_ECAM_BYTES])?;
    fdt.property_array_u32("bus-range", &[0, 0])?;
    fdt.property_u32("linux,pci-domain", 0)?;
    fdt.property_null("dma-coherent")?;
    // Requester IDs of bus 0 are the ITS's device IDs.
    fdt.property_array_u32("msi-map", &[0, ITS_PHANDLE, 0, 0x100])?;
    let mut ranges = Vec::new();
    for (space, base, bytes) in [
        (MEMORY_32, PCI_LOW_BASE, PCI_LOW_BYTES),
        (MEMORY_64, PCI_HIGH_BASE, PCI_HIGH_BYTES),
    ] {
        ranges.push(space);
        for number in [base, base, bytes] {
            ranges.extend(cells(number));
        }
    }
    fdt.property_array_u32("ranges", &ranges)?;
    let mut map = Vec::new();
    for device in 0..4_u32 {
        for pin in 0..4_u32 {
            let wire = device.saturating_add(pin) % 4;
            let spi = PCI_INTX_INTID
                .saturating_sub(FIRST_SPI)
                .saturating_add(wire);
            map.extend([device << 11, 0, 0, pin.saturating_add(1)]);
            // The GIC's node has two address cells, which mean nothing here.
            map.extend([GIC_PHANDLE, 0, 0, SPI, spi, LEVEL_HIGH]);
        }
    }
    fdt.property_array_u32("interrupt-map", &map)?;
    fdt.property_array_u32("interrupt-map-mask", &[0x1800, 0, 0, 7])?;
    fdt.end_node(node)
}

fn psci(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("psci")?;
    let compatible = ["arm,psci-1.0", "arm,psci-0.2"].map(Into::into);
    fdt.property_string_list("compatible", compatible.into())?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)
}

fn timer(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    // Secure and non-secure physical, virtual, hypervisor (`arm,arch_timer.yaml`).
    let interrupts: Vec<u32> = [13, 14, 11, 10]
        .into_iter()
        .flat_map(|ppi| [PPI, ppi, LEVEL_HIGH])
        .collect();
    fdt.property_array_u32("interrupts", &interrupts)?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)
}

/// The performance monitors, whose interrupt is PPI 7 (`arm,pmu.yaml`).
fn pmu(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("pmu")?;
    fdt.property_string("compatible", "arm,armv8-pmuv3")?;
    fdt.property_array_u32("interrupts", &[PPI, 7, LEVEL_HIGH])?;
    fdt.end_node(node)
}

fn devices(fdt: &mut FdtWriter) -> Result<(), Error> {
    let clock = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", CLOCK_HZ)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_phandle(CLOCK_PHANDLE)?;
    fdt.end_node(clock)?;

    let uart = fdt.begin_node(&format!("pl011@{UART_BASE:x}"))?;
    let compatible = ["arm,pl011", "arm,primecell"].map(Into::into);
    fdt.property_string_list("compatible", compatible.into())?;
    fdt.property_array_u64("reg", &[UART_BASE, UART_BYTES])?;
    let spi = UART_INTID.saturating_sub(FIRST_SPI);
    fdt.property_array_u32("interrupts", &[SPI, spi, LEVEL_HIGH])?;
    fdt.property_array_u32("clocks", &[CLOCK_PHANDLE, CLOCK_PHANDLE])?;
    let names = ["uartclk", "apb_pclk"].map(Into::into);
    fdt.property_string_list("clock-names", names.into())?;
    fdt.end_node(uart)?;

    let rtc = fdt.begin_node(&format!("pl031@{RTC_BASE:x}"))?;
    let compatible = ["arm,pl031", "arm,primecell"].map(Into::into);
    fdt.property_string_list("compatible", compatible.into())?;
    fdt.property_array_u64("reg", &[RTC_BASE, RTC_BYTES])?;
    fdt.property_array_u32("interrupts", &[SPI, RTC_SPI, LEVEL_HIGH])?;
    fdt.property_u32("clocks", CLOCK_PHANDLE)?;
    fdt.property_string("clock-names", "apb_pclk")?;
    fdt.end_node(rtc)
}
