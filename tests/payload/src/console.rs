//! The PL011, polled, without locks: one vCPU at a time prints.

use crate::mem;
use core::fmt::{self, Write};
use guest_abi::map::UART_BASE;

const UARTDR: u64 = UART_BASE;
const UARTFR: u64 = UART_BASE + 0x18;
/// UARTFR.TXFF: the transmit FIFO is full.
const TXFF: u64 = 1 << 5;

struct Pl011;

impl Write for Pl011 {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for byte in s.bytes() {
            if byte == b'\n' {
                send(b'\r');
            }
            send(byte);
        }
        Ok(())
    }
}

fn send(byte: u8) {
    while mem::read32(UARTFR) & TXFF != 0 {}
    mem::write32(UARTDR, u64::from(byte));
}

/// Prints to the console. Use [`crate::println!`].
pub fn print(args: fmt::Arguments<'_>) {
    // Nothing above returns an error; a Debug that does loses its own output only.
    let _ = Pl011.write_fmt(args);
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::console::print(core::format_args!($($arg)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arg:tt)*) => { $crate::print!("{}\n", core::format_args!($($arg)*)) };
}
