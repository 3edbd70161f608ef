//! A guest that does to a PCI device what it is told, a command a line.
//!
//! Commands come from the boot argument `script=`, with `+` for spaces and `;` for line ends,
//! and then from the console. Numbers are hexadecimal. Each answers with one line: `= <value>`,
//! or `! <esr> <far>` if an instruction of it took an exception.
//!
//! | command | does |
//! |---|---|
//! | `cr D O`, `cw D O V` | loads, stores a word at offset O of configuration space of device D |
//! | `ch D O V` | stores half a word there |
//! | `r A`, `w A V` | loads, stores a word at A |
//! | `rd A` | loads eight bytes by LDP, which has no syndrome |
//! | `fill A N S` | stores, at each S-th byte of N bytes from A, a word that depends on where |
//! | `zero A N` | stores zeroes in N bytes from A |
//! | `check A N S` | counts the words of `fill` that are not there |
//! | `size D B` | writes ones to BAR B and gives the size that it says |
//! | `bench A N S` | touches as `fill` does; gives instructions a touch under `-icount` |
//! | `declare A N`, `undeclare A N` | lets devices reach N pages from A, or no longer; gives N or the refusal |
//! | `store D O V` | as `ch`; gives the instructions it took under `-icount` |
//! | `when A` | loads a word, and gives the milliseconds that took |
//! | `loop A` | loads at A over and over, until a key comes; gives how many took an exception |
//! | `off` | switches the machine off |
#![no_std]
#![no_main]

mod command;

use guest_abi::map::UART_BASE;
use payload::{machine, mem, print, println, psci};

payload::guest!(main);

const UARTFR: u64 = UART_BASE + 0x18;
const RXFE: u64 = 1 << 4;

fn main() -> ! {
    println!("DEVICE guest");
    for line in machine::argument_text("script").unwrap_or("").split(';') {
        run(line, '+');
    }
    println!("READY");
    let mut line = [0; 128];
    loop {
        let mut len = 0;
        loop {
            match receive() {
                b'\n' | b'\r' => break,
                byte => {
                    if let Some(place) = line.get_mut(len) {
                        *place = byte;
                        len += 1;
                    }
                }
            }
        }
        run(core::str::from_utf8(&line[..len]).unwrap_or(""), ' ');
    }
}

/// Returns a byte from the console, if one has come.
fn key() -> Option<u8> {
    (mem::read32(UARTFR) & RXFE == 0).then(|| mem::read32(UART_BASE) as u8)
}

fn receive() -> u8 {
    loop {
        if let Some(byte) = key() {
            return byte;
        }
    }
}

fn run(line: &str, space: char) {
    let line = line.trim();
    if line.is_empty() {
        return;
    }
    let mut words = line.split(space).filter(|word| !word.is_empty());
    let name = words.next().unwrap_or("");
    let mut numbers = [0; 3];
    for (number, word) in numbers.iter_mut().zip(words) {
        match u64::from_str_radix(word, 16) {
            Ok(value) => *number = value,
            Err(_) => return println!("? {word}"),
        }
    }
    if name == "off" {
        println!("BYE");
        psci::system_off();
    }
    print!("{line} ");
    match command::run(name, numbers) {
        Some(Ok(value)) => println!("= {value:x}"),
        Some(Err(fault)) => println!("! {:x} {:x}", fault.esr, fault.far),
        None => println!("? {name}"),
    }
}
