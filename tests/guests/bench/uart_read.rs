//! A read of the UART's flag register, UARTFR.

use crate::measure;
use guest_abi::map::UART_BASE;
use payload::mem;

pub(crate) fn run() {
    measure::run("uart_read", || {
        mem::read32(UART_BASE + 0x18);
    });
}
