//! gzip (RFC 1952), piece by piece: header, deflate stream, CRC and length.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use crc32fast::Hasher;
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus};

/// Fixed part of the header: magic, method, flags, time, extra flags, system.
const FIXED_HEADER: usize = 10;
/// CRC-32 and length at the end.
const TRAILER: usize = 8;
/// A header longer than this, which only a name or a comment could make, is refused.
const HEADER_MAX: usize = 4096;
const DEFLATE: u8 = 8;
// Flags (RFC 1952, 2.3.1).
const HAS_CRC: u8 = 1 << 1;
const HAS_EXTRA: u8 = 1 << 2;
const HAS_NAME: u8 = 1 << 3;
const HAS_COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;

/// Why a compressed image cannot be unpacked. Displayed, it follows the words "the image".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GunzipError {
    /// No gzip header, or one that no reader may accept.
    Header,
    /// The compressed data makes no sense.
    Data,
    /// The unpacked data is not what was packed.
    Checksum,
    /// The data ends too early.
    Truncated,
}

impl fmt::Display for GunzipError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "has a malformed gzip header",
            Self::Data => "has damaged gzip data",
            Self::Checksum => "does not match its gzip checksum",
            Self::Truncated => "is cut short: its gzip data has no end",
        })
    }
}

impl core::error::Error for GunzipError {}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of input taken.
    pub taken: usize,
    /// Bytes of output made.
    pub made: usize,
}

enum State {
    /// Collecting the header.
    Header(Vec<u8>),
    /// Inflating.
    Body,
    /// Collecting CRC and length.
    Trailer(Vec<u8>),
    Finished,
}

/// A gzip file being unpacked. Only its first member counts, as a kernel has one; what
/// follows (padding) is ignored.
pub struct Gunzip {
    state: State,
    inflate: Box<InflateState>,
    crc: Hasher,
    /// Bytes made, modulo 2^32 as the trailer has it.
    length: u32,
}

impl fmt::Debug for Gunzip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gunzip")
            .field("length", &self.length)
            .field("finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}

impl Default for Gunzip {
    fn default() -> Self {
        Self::new()
    }
}

impl Gunzip {
    /// Starts at the first byte of a file. Allocates about 64 KiB.
    pub fn new() -> Self {
        Self {
            state: State::Header(Vec::new()),
            inflate: InflateState::new_boxed(DataFormat::Raw),
            crc: Hasher::new(),
            length: 0,
        }
    }

    /// Returns whether the file has been unpacked and its checksum was right.
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }

    /// Unpacks from `input` into `output`, until one of them is used up or the file ends.
    ///
    /// # Errors
    /// See [`GunzipError`]; the file cannot be unpacked then. [`GunzipError::Truncated`]
    /// is for the caller to find: no input left and not finished.
    pub fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress, GunzipError> {
        let mut progress = Progress { taken: 0, made: 0 };
        loop {
            let rest = input.get(progress.taken..).unwrap_or_default();
            match &mut self.state {
                State::Header(collected) => {
                    let Some((&byte, _)) = rest.split_first() else {
                        return Ok(progress);
                    };
                    progress.taken = progress.taken.saturating_add(1);
                    collected.push(byte);
                    if header_is_complete(collected)? {
                        self.state = State::Body;
                    }
                }
                State::Body => {
                    let room = output.get_mut(progress.made..).unwrap_or_default();
                    let result = inflate(&mut self.inflate, rest, room, MZFlush::None);
                    let made = room.get(..result.bytes_written).unwrap_or_default();
                    self.crc.update(made);
                    let length = u32::try_from(made.len()).map_err(|_| GunzipError::Data)?;
                    self.length = self.length.wrapping_add(length);
                    progress.made = progress.made.saturating_add(result.bytes_written);
                    progress.taken = progress.taken.saturating_add(result.bytes_consumed);
                    match result.status {
                        Ok(MZStatus::StreamEnd) => {
                            self.state = State::Trailer(Vec::with_capacity(TRAILER));
                        }
                        Ok(MZStatus::Ok) | Err(MZError::Buf) => return Ok(progress),
                        Ok(MZStatus::NeedDict) | Err(_) => return Err(GunzipError::Data),
                    }
                }
                State::Trailer(collected) => {
                    let Some((&byte, _)) = rest.split_first() else {
                        return Ok(progress);
                    };
                    progress.taken = progress.taken.saturating_add(1);
                    collected.push(byte);
                    if let [c0, c1, c2, c3, l0, l1, l2, l3] = **collected {
                        let crc = u32::from_le_bytes([c0, c1, c2, c3]);
                        let length = u32::from_le_bytes([l0, l1, l2, l3]);
                        if crc != self.crc.clone().finalize() || length != self.length {
                            return Err(GunzipError::Checksum);
                        }
                        self.state = State::Finished;
                    }
                }
                State::Finished => return Ok(progress),
            }
        }
    }
}

/// Returns whether `bytes` are a whole gzip header.
fn header_is_complete(bytes: &[u8]) -> Result<bool, GunzipError> {
    if !b"\x1f\x8b\x08".starts_with(bytes.get(..3).unwrap_or(bytes)) || bytes.len() > HEADER_MAX {
        return Err(GunzipError::Header);
    }
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_HEADER>() else {
        return Ok(false);
    };
    let [_, _, method, flags, ..] = *fixed;
    if method != DEFLATE || flags & RESERVED != 0 {
        return Err(GunzipError::Header);
    }
    Ok(optional_fields(flags, rest).is_some_and(<[u8]>::is_empty))
}

/// Skips the optional fields; returns what follows them, or `None` if they are not whole.
fn optional_fields(flags: u8, mut rest: &[u8]) -> Option<&[u8]> {
    if flags & HAS_EXTRA != 0 {
        let (length, after) = rest.split_first_chunk::<2>()?;
        rest = after.get(usize::from(u16::from_le_bytes(*length))..)?;
    }
    for text in [HAS_NAME, HAS_COMMENT] {
        if flags & text != 0 {
            let end = rest.iter().position(|&byte| byte == 0)?;
            rest = rest.get(end.checked_add(1)?..)?;
        }
    }
    if flags & HAS_CRC != 0 {
        rest = rest.get(2..)?;
    }
    Some(rest)
}
