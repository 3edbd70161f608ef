//! Models of the PL011 UART and the PL031 clock that guests see.
//!
//! A model owns registers and nothing else: bytes come from and go to a [`Port`], the time
//! of day is an argument. Reads and writes never block, allocate or panic, in whatever
//! order they come. Offsets are those of the 4 KiB frame; the caller cuts values to the
//! width of the access.
#![no_std]

mod pl011;
mod pl031;

pub use pl011::{Pl011, Port};
pub use pl031::Pl031;

/// Reads the PrimeCell identification: four peripheral ID bytes, then `0xb105f00d`.
///
/// `offset` is from 0xfe0 up; one byte to a word.
const fn identification(offset: u64, peripheral: [u8; 4]) -> u32 {
    let [id0, id1, id2, id3] = peripheral;
    let byte = match offset {
        0xfe0 => id0,
        0xfe4 => id1,
        0xfe8 => id2,
        0xfec => id3,
        0xff0 => 0x0d,
        0xff4 => 0xf0,
        0xff8 => 0x05,
        0xffc => 0xb1,
        _ => 0,
    };
    byte as u32
}
