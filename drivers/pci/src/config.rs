//! The configuration space of a function, as 1,024 words.

/// Access to a function's configuration space. Offsets are multiples of four below 4096.
pub trait Config {
    /// Reads a word. All ones where there is nothing.
    fn read(&mut self, offset: u16) -> u32;
    /// Writes a word.
    fn write(&mut self, offset: u16, value: u32);

    /// Writes 16 bits at an offset that is a multiple of four, with zeroes in the upper half:
    /// for registers whose upper half is status, where only ones mean something.
    fn write_low(&mut self, offset: u16, value: u16) {
        self.write(offset, u32::from(value));
    }
}

/// Offsets of the header of type 0 (PCI 3.0, 6.1).
pub mod offset {
    /// Vendor and device.
    pub const ID: u16 = 0x00;
    /// Command, and status in the upper half.
    pub const COMMAND: u16 = 0x04;
    /// Revision and class.
    pub const CLASS: u16 = 0x08;
    /// Cache line, latency timer, header type, BIST.
    pub const HEADER: u16 = 0x0c;
    /// First BAR.
    pub const BAR0: u16 = 0x10;
    /// CardBus CIS pointer.
    pub const CIS: u16 = 0x28;
    /// Subsystem.
    pub const SUBSYSTEM: u16 = 0x2c;
    /// Expansion ROM BAR.
    pub const ROM: u16 = 0x30;
    /// First capability.
    pub const CAPABILITIES: u16 = 0x34;
    /// Interrupt line and pin, and grants nobody has used for long.
    pub const INTERRUPT: u16 = 0x3c;
    /// First extended capability (PCIe 7.6).
    pub const EXTENDED: u16 = 0x100;
}

/// Bits of COMMAND (PCI 3.0, 6.2.2).
pub mod command {
    /// It answers in I/O space.
    pub const IO: u16 = 1 << 0;
    /// It answers in memory space.
    pub const MEMORY: u16 = 1 << 1;
    /// It may begin transactions: DMA and messages.
    pub const BUS_MASTER: u16 = 1 << 2;
    /// Parity errors are answered.
    pub const PARITY: u16 = 1 << 6;
    /// SERR# may be driven.
    pub const SERR: u16 = 1 << 8;
    /// INTx is not asserted.
    pub const INTX_OFF: u16 = 1 << 10;
}
