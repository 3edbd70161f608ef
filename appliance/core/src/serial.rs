//! The UART a guest sees, between the model and the rings shared with root; and root's
//! own, which prints lines on the machine's console.

use core::cell::Cell;
use core::sync::atomic::Ordering;

use guest_abi::vm_shared::{CONSOLE_IN_BYTES, CONSOLE_OUT_BYTES, VmShared};
use uart::{Pl011, Port};
use vgic::Level;

use crate::{console, hw, timer};

/// How long a guest waits for root to make room before its output is dropped, and counted.
const PATIENCE_NS: u64 = 200_000_000;
/// Bytes of a line of root's that are held back to be printed whole.
const LINE_BYTES: usize = 256;

/// A VM's UART.
#[derive(Debug, Default)]
pub(crate) struct Serial {
    pub(crate) pl011: Pl011,
    /// CNTPCT_EL0 since when the ring has been full.
    full_since: Cell<Option<u64>>,
    /// The interrupt line as last reported.
    line: bool,
}

/// The rings, as the model's wires.
struct Rings<'a> {
    shared: &'a VmShared,
    full_since: &'a Cell<Option<u64>>,
    /// Something was put into a ring that was empty.
    news: bool,
}

impl Rings<'_> {
    fn out_used(&self) -> usize {
        let head = self.shared.out_head.load(Ordering::Relaxed);
        let tail = self.shared.out_tail.load(Ordering::Acquire);
        let used = head.wrapping_sub(tail) as usize;
        // Root's index is not trusted: a ring that claims more than it holds is empty.
        if used > CONSOLE_OUT_BYTES { 0 } else { used }
    }
}

impl Port for Rings<'_> {
    fn room(&self) -> usize {
        let used = self.out_used();
        if used < CONSOLE_OUT_BYTES {
            self.full_since.set(None);
            return CONSOLE_OUT_BYTES - used;
        }
        // Root may be dead or slow. The guest waits a while, then loses bytes, not time.
        let now = hw::cntpct();
        let since = self.full_since.get().unwrap_or(now);
        self.full_since.set(Some(since));
        usize::from(now.wrapping_sub(since) > timer::ticks(PATIENCE_NS))
    }

    fn push(&mut self, byte: u8) {
        let used = self.out_used();
        if used >= CONSOLE_OUT_BYTES {
            self.shared.out_dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let head = self.shared.out_head.load(Ordering::Relaxed);
        if let Some(cell) = self
            .shared
            .out_ring
            .get(head as usize & (CONSOLE_OUT_BYTES - 1))
        {
            cell.store(byte, Ordering::Relaxed);
        }
        self.shared
            .out_head
            .store(head.wrapping_add(1), Ordering::Release);
        self.news |= used == 0;
    }

    fn waiting(&self) -> usize {
        let head = self.shared.in_head.load(Ordering::Acquire);
        let tail = self.shared.in_tail.load(Ordering::Relaxed);
        let used = head.wrapping_sub(tail) as usize;
        if used > CONSOLE_IN_BYTES { 0 } else { used }
    }

    fn pull(&mut self) -> Option<u8> {
        if self.waiting() == 0 {
            return None;
        }
        let tail = self.shared.in_tail.load(Ordering::Relaxed);
        let byte = self
            .shared
            .in_ring
            .get(tail as usize & (CONSOLE_IN_BYTES - 1))?
            .load(Ordering::Relaxed);
        self.shared
            .in_tail
            .store(tail.wrapping_add(1), Ordering::Release);
        Some(byte)
    }
}

/// What an access left to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct After {
    /// The interrupt line, now.
    pub(crate) line: Level,
    /// The line differs from before.
    pub(crate) moved: bool,
    /// Root has something to read.
    pub(crate) news: bool,
}

impl Serial {
    /// Performs a load.
    pub(crate) fn read(&mut self, shared: &VmShared, offset: u64) -> (u64, After) {
        self.with(shared, |pl011, rings| u64::from(pl011.read(offset, rings)))
    }

    /// Performs a store.
    pub(crate) fn write(&mut self, shared: &VmShared, offset: u64, value: u64) -> After {
        self.with(shared, |pl011, rings| {
            pl011.write(offset, value as u32, rings)
        })
        .1
    }

    /// Looks at the rings again, after root did something to them.
    pub(crate) fn poll(&mut self, shared: &VmShared) -> Level {
        self.with(shared, |_, _| ()).1.line
    }

    fn with<T>(
        &mut self,
        shared: &VmShared,
        access: impl FnOnce(&mut Pl011, &mut Rings<'_>) -> T,
    ) -> (T, After) {
        let mut rings = Rings {
            shared,
            full_since: &self.full_since,
            news: false,
        };
        let value = access(&mut self.pl011, &mut rings);
        let news = rings.news;
        let high = self.pl011.irq_level(&rings);
        let moved = core::mem::replace(&mut self.line, high) != high;
        let line = if high { Level::High } else { Level::Low };
        (value, After { line, moved, news })
    }
}

/// Root's console: what it prints, a line at a time.
#[derive(Debug)]
pub(crate) struct LinePrinter {
    line: [u8; LINE_BYTES],
    len: usize,
}

impl LinePrinter {
    pub(crate) const fn new() -> Self {
        Self {
            line: [0; LINE_BYTES],
            len: 0,
        }
    }

    /// Prints what there is of a line, as one.
    pub(crate) fn end(&mut self) {
        if self.len > 0 {
            self.put(b'\n');
        }
    }

    /// Takes a byte, and prints the line if it ends here.
    pub(crate) fn put(&mut self, byte: u8) {
        if let Some(place) = self.line.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
        if byte == b'\n' || self.len == LINE_BYTES {
            console::write_bytes(self.line.get(..self.len).unwrap_or(&[]));
            self.len = 0;
        }
    }
}
