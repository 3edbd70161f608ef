//! The PL011 UART (DDI 0183, revision r1p4: FIFOs of 16 bytes).
//!
//! The FIFOs are the [`Port`]'s: a byte written goes straight out, and one that the port
//! holds for the guest is in the receive FIFO. So the state of the FIFOs, and the
//! interrupts that depend on it, are computed when they are asked for and cannot be stale.
//!
//! Three things differ from a real line, all in the guest's favour: a disabled UART
//! transmits, since flat guests write without setting it up; bytes leave at once, as long
//! as the port takes them; and the receive timeout has always passed already.

/// Where bytes go and come from.
pub trait Port {
    /// Returns how many bytes [`Port::push`] will take now; more than 16 counts as 16.
    fn room(&self) -> usize;
    /// Sends a byte. Called only after [`Port::room`] was not 0; a byte that does not fit
    /// after all is lost.
    fn push(&mut self, byte: u8);
    /// Returns how many bytes wait for the guest; more than 16 counts as 16.
    fn waiting(&self) -> usize;
    /// Takes the next byte for the guest.
    fn pull(&mut self) -> Option<u8>;
}

/// Bytes in a FIFO that is enabled.
const FIFO_BYTES: usize = 16;
/// UARTPeriphID0 to 3: part 0x011, designer 0x41, revision 1, configuration 0.
const PERIPHERAL_ID: [u8; 4] = [0x11, 0x10, 0x14, 0x00];

/// UARTFR.
mod flag {
    pub(super) const BUSY: u32 = 1 << 3;
    pub(super) const RXFE: u32 = 1 << 4;
    pub(super) const TXFF: u32 = 1 << 5;
    pub(super) const RXFF: u32 = 1 << 6;
    pub(super) const TXFE: u32 = 1 << 7;
}

/// UARTRIS, UARTMIS, UARTIMSC and UARTICR.
mod interrupt {
    pub(super) const RX: u32 = 1 << 4;
    pub(super) const TX: u32 = 1 << 5;
    pub(super) const RT: u32 = 1 << 6;
    pub(super) const ALL: u32 = 0x7ff;
}

/// UARTLCR_H.FEN: FIFOs enabled.
const FIFO_ENABLE: u32 = 1 << 4;
/// UARTCR.LBE: what is sent comes back instead of going out.
const LOOPBACK: u32 = 1 << 7;

/// A PL011.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pl011 {
    low_power: u32,
    baud: u32,
    baud_fraction: u32,
    line: u32,
    control: u32,
    levels: u32,
    mask: u32,
    dma: u32,
    /// Something was sent since the transmit interrupt was last cleared. Until then there
    /// is nothing whose going out could be reported (3.4.3).
    sent: bool,
    dropped: u64,
}

impl Pl011 {
    /// Returns a UART after reset (3.2).
    pub const fn new() -> Self {
        Self {
            low_power: 0,
            baud: 0,
            baud_fraction: 0,
            line: 0,
            control: 0x300,
            levels: 0x12,
            mask: 0,
            dma: 0,
            sent: false,
            dropped: 0,
        }
    }

    /// Performs a load from `offset`. Takes a byte from `port` if that is UARTDR.
    #[inline]
    pub fn read(&mut self, offset: u64, port: &mut impl Port) -> u32 {
        match offset {
            // First, because a driver polls it for each byte it sends.
            0x018 => self.flags(port),
            0x000 => port.pull().map_or(0, u32::from),
            0x020 => self.low_power,
            0x024 => self.baud,
            0x028 => self.baud_fraction,
            0x02c => self.line,
            0x030 => self.control,
            0x034 => self.levels,
            0x038 => self.mask,
            0x03c => self.raw_interrupts(port),
            0x040 => self.raw_interrupts(port) & self.mask,
            0x048 => self.dma,
            0xfe0..=0xfff => crate::identification(offset, PERIPHERAL_ID),
            // UARTRSR: no byte was ever damaged. UARTICR is write-only. Nothing else is there.
            _ => 0,
        }
    }

    /// Performs a store to `offset`. Sends a byte if that is UARTDR.
    #[inline]
    pub fn write(&mut self, offset: u64, value: u32, port: &mut impl Port) {
        match offset {
            0x000 => self.send(value, port),
            0x020 => self.low_power = value & 0xff,
            0x024 => self.baud = value & 0xffff,
            0x028 => self.baud_fraction = value & 0x3f,
            0x02c => self.line = value & 0xff,
            0x030 => self.control = value & 0xff87,
            0x034 => self.levels = value & 0x3f,
            0x038 => self.mask = value & interrupt::ALL,
            // What the receive interrupts report is still so after they are cleared, and the
            // timeout has passed again: only the transmit interrupt has a memory.
            0x044 => self.sent &= value & interrupt::TX == 0,
            0x048 => self.dma = value & 0b111,
            // UARTECR clears errors, of which there are none. The rest is read-only or absent.
            _ => {}
        }
    }

    /// Returns the level of UARTINTR. Ask again after each access, and after the other side
    /// of `port` has put bytes in or taken bytes out.
    #[inline]
    pub fn irq_level(&self, port: &impl Port) -> bool {
        self.mask != 0 && self.raw_interrupts(port) & self.mask != 0
    }

    /// Returns how many bytes were written while there was no room for them.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    fn send(&mut self, value: u32, port: &mut impl Port) {
        let [byte, ..] = value.to_le_bytes();
        self.sent = true;
        if self.control & LOOPBACK != 0 {
            // Linux before 3.15 sent a zero to itself to see the transmit interrupt once.
            return;
        }
        if port.room() == 0 {
            self.dropped = self.dropped.saturating_add(1);
        } else {
            port.push(byte);
        }
    }

    /// Bytes in each FIFO: 16, or 1 while they are disabled.
    const fn depth(&self) -> usize {
        if self.line & FIFO_ENABLE == 0 {
            1
        } else {
            FIFO_BYTES
        }
    }

    /// UARTFR. Modem lines are inactive.
    #[inline]
    fn flags(&self, port: &impl Port) -> u32 {
        let (depth, room, waiting) = (self.depth(), port.room(), port.waiting());
        let mut flags = 0;
        if room >= depth {
            flags |= flag::TXFE;
        } else {
            flags |= flag::BUSY;
        }
        if room == 0 {
            flags |= flag::TXFF;
        }
        if waiting == 0 {
            flags |= flag::RXFE;
        }
        if waiting >= depth {
            flags |= flag::RXFF;
        }
        flags
    }

    /// UARTRIS.
    fn raw_interrupts(&self, port: &impl Port) -> u32 {
        let waiting = port.waiting();
        let unsent = self.depth().saturating_sub(port.room());
        let mut raw = 0;
        if waiting >= self.trigger(self.levels >> 3).max(1) {
            raw |= interrupt::RX;
        }
        if waiting != 0 {
            raw |= interrupt::RT;
        }
        if self.sent && unsent <= self.trigger(self.levels) {
            raw |= interrupt::TX;
        }
        raw
    }

    /// Trigger level of UARTIFLS in bytes, from the field's lowest three bits. Without
    /// FIFOs, it is the transmit register becoming empty.
    const fn trigger(&self, select: u32) -> usize {
        if self.line & FIFO_ENABLE == 0 {
            return 0;
        }
        match select & 0b111 {
            0b000 => FIFO_BYTES / 8,
            0b001 => FIFO_BYTES / 4,
            0b010 => FIFO_BYTES / 2,
            0b011 => FIFO_BYTES / 4 * 3,
            // 0b101 and up are reserved.
            _ => FIFO_BYTES / 8 * 7,
        }
    }
}

impl Default for Pl011 {
    fn default() -> Self {
        Self::new()
    }
}
