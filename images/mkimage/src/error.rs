//! Why an image cannot be built.

use image_format::{BundleError, HeaderError};
use std::fmt;

/// Which of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Core.
    Core,
    /// Root.
    Root,
}

impl Which {
    /// Returns the name of the part.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Root => "root",
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why no image was built. Nothing has been written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Not a file that the ELF reader can read.
    NotElf(Which, String),
    /// ELF, but not a 64-bit little-endian executable for Arm.
    WrongMachine(Which),
    /// Nothing to load.
    Empty(Which),
    /// Segments overlap, are cut, or span more than 256 MiB.
    BadSegments(Which),
    /// The entry point is not inside the loaded bytes.
    BadEntry(Which),
    /// A relocation other than `R_AARCH64_RELATIVE`, or one outside the image.
    BadRelocation(Which),
    /// Core does not begin with an arm64 `Image` header.
    BadHeader(HeaderError),
    /// Core has no symbol `__image_end` (or was stripped).
    NoImageEnd,
    /// `__image_end` is not 4 KiB-aligned from core's start, or lies before the end of
    /// what core loads.
    BadImageEnd,
    /// The table that was made would not be accepted by core.
    BadBundle(BundleError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf(which, why) => write!(f, "{which} is not an ELF file: {why}"),
            Self::WrongMachine(which) => write!(
                f,
                "{which} is not a little-endian 64-bit Arm executable: build it for an aarch64 target"
            ),
            Self::Empty(which) => write!(f, "{which} has nothing to load: check its linker script"),
            Self::BadSegments(which) => write!(
                f,
                "the segments of {which} overlap, are cut short or span more than 256 MiB"
            ),
            Self::BadEntry(which) => write!(f, "the entry point of {which} is outside its code"),
            Self::BadRelocation(which) => write!(
                f,
                "{which} needs relocations that mkimage does not apply: link it statically"
            ),
            Self::BadHeader(why) => write!(
                f,
                "core does not begin with an arm64 Image header ({why}): check its linker script"
            ),
            Self::NoImageEnd => f.write_str(
                "core has no symbol __image_end: check its linker script, and do not strip it",
            ),
            Self::BadImageEnd => f.write_str(
                "core's __image_end is not 4 KiB-aligned, or lies before the end of what it loads",
            ),
            Self::BadBundle(why) => write!(f, "root does not fit the image format: {why}"),
        }
    }
}

impl std::error::Error for Error {}
