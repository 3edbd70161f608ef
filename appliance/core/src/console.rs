//! The machine's serial line, as core uses it: reports, and what root prints.
#![expect(unsafe_code, reason = "writes a device register")]

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

/// VA of the PL011, 0 before it is known.
static UART: AtomicU64 = AtomicU64::new(0);
static LINE: Mutex<()> = Mutex::new(());

const DR: u64 = 0x00;
const FR: u64 = 0x18;
const FR_TXFF: u32 = 1 << 5;

/// Says where the PL011's registers are mapped.
pub(crate) fn init(va: u64) {
    UART.store(va, Ordering::Relaxed);
}

fn put(byte: u8) {
    let base = UART.load(Ordering::Relaxed);
    if base == 0 {
        return;
    }
    let full = || {
        // SAFETY: `base` is the PL011's frame, mapped as device memory for good.
        let flags = unsafe { core::ptr::read_volatile((base + FR) as *const u32) };
        flags & FR_TXFF != 0
    };
    // Bounded: a UART that never drains must not stop the machine.
    for _ in 0..1_000_000 {
        if !full() {
            break;
        }
    }
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile((base + DR) as *mut u32, u32::from(byte)) }
}

struct Raw;

impl Write for Raw {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

/// Writes whole bytes, not mixed with what other cores write.
pub(crate) fn write_bytes(bytes: &[u8]) {
    let _line = LINE.lock();
    for &byte in bytes {
        put(byte);
    }
}

/// Writes formatted text, not mixed with what other cores write.
pub(crate) fn print(args: fmt::Arguments<'_>) {
    let _line = LINE.lock();
    // The writer cannot fail.
    let _ = Raw.write_fmt(args);
}

/// Writes formatted text without taking the lock, whose holder may be the one that died.
pub(crate) fn print_dying(args: fmt::Arguments<'_>) {
    let _ = Raw.write_fmt(args);
}

/// Prints a line on the machine's serial console.
macro_rules! println {
    ($($arg:tt)*) => { $crate::console::print(format_args!("skete: {}\n", format_args!($($arg)*))) };
}
pub(crate) use println;
