//! The intermediate-physical memory map of every guest.
//!
//! It is the map of QEMU's `virt` machine, so that whatever was built for that board
//! boots unmodified. Sizes are in bytes.

/// GICv3 distributor (IHI 0069, 12.8), 64 KiB.
pub const GICD_BASE: u64 = 0x0800_0000;
/// Bytes of the distributor frame.
pub const GICD_BYTES: u64 = 0x1_0000;
/// GICv3 interrupt translation service: control and translation frame, 64 KiB each. A VM without
/// devices has none.
pub const ITS_BASE: u64 = 0x0808_0000;
/// Bytes of its two frames.
pub const ITS_BYTES: u64 = 0x2_0000;
/// Where a device writes its messages: `GITS_TRANSLATER`.
pub const ITS_TRANSLATER: u64 = ITS_BASE + 0x1_0040;
/// First GICv3 redistributor; each vCPU has two 64 KiB frames, one after the other.
pub const GICR_BASE: u64 = 0x080a_0000;
/// Bytes of one vCPU's redistributor (RD_base and SGI_base frames).
pub const GICR_STRIDE: u64 = 0x2_0000;
/// PL011 UART.
pub const UART_BASE: u64 = 0x0900_0000;
/// Bytes of the PL011 frame.
pub const UART_BYTES: u64 = 0x1000;
/// Interrupt of the PL011, as an INTID (SPI 1).
pub const UART_INTID: u32 = 33;
/// PL031 real-time clock.
pub const RTC_BASE: u64 = 0x0901_0000;
/// Lines of stolen time and preempt hints (see [`crate::pv`]); QEMU has its own there.
pub const PV_BASE: u64 = 0x090a_0000;
/// Bytes kept free for them: a page of a guest with 64 KiB pages.
pub const PV_BYTES: u64 = 0x1_0000;
/// First byte of guest RAM.
pub const RAM_BASE: u64 = 0x4000_0000;
/// Where a flat image is entered, as an offset from [`RAM_BASE`].
pub const FLAT_OFFSET: u64 = 0x8_0000;
/// Largest amount of guest RAM: 255 GiB, as on QEMU `virt` below its high windows.
pub const RAM_MAX_BYTES: u64 = 255 << 30;
/// Most vCPUs one VM may have.
pub const VCPUS_MAX: u32 = 8;
/// INTID of the EL1 physical timer (PPI 14).
pub const PTIMER_INTID: u32 = 30;
/// INTID of the EL1 virtual timer (PPI 11).
pub const VTIMER_INTID: u32 = 27;
/// Number of interrupt IDs a guest's distributor implements (SPIs are 32 up to here).
pub const INTIDS: u32 = 256;
/// PCI configuration space (ECAM): sixteen buses. A VM without devices has none.
pub const PCI_ECAM_BASE: u64 = 0x3f00_0000;
/// Bytes of the ECAM.
pub const PCI_ECAM_BYTES: u64 = 0x100_0000;
/// Where BARs of 32 bits may be; PCI addresses are the guest's.
pub const PCI_LOW_BASE: u64 = 0x1000_0000;
/// Bytes of the window below 4 GiB.
pub const PCI_LOW_BYTES: u64 = 0x2eff_0000;
/// Where BARs of 64 bits may be.
pub const PCI_HIGH_BASE: u64 = 0x80_0000_0000;
/// Bytes of the window above RAM.
pub const PCI_HIGH_BYTES: u64 = 0x80_0000_0000;
/// Interrupt of the first of the four wires (SPI 3): that of pin A of device 0. Pin and device
/// add up, modulo four.
pub const PCI_INTX_INTID: u32 = 35;
