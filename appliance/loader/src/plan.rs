//! Where the parts of a guest go.

use alloc::vec::Vec;
use core::fmt;

use guest_abi::map::{FLAT_OFFSET, RAM_BASE};
use image_format::{HeaderError, ImageHeader};

use crate::elf;

/// Device tree, initrd and kernel each begin at a multiple of this.
const STEP: u64 = 2 << 20;
/// Space for the device tree: the most that Linux maps (booting.rst, 2).
const TREE_BYTES: u64 = 2 << 20;
/// How far above an image whose zeroed data is unknown the rest is kept, if RAM allows.
const FLAT_MARGIN: u64 = 32 << 20;

/// What an image was declared to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An arm64 Linux `Image`, not compressed.
    Image,
    /// A flat binary, entered at its first byte.
    Flat,
    /// An AArch64 ELF executable.
    Elf,
}

/// Bytes of the image file that go to one place in guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Offset in the file.
    pub from: u64,
    /// Guest address of the first byte.
    pub to: u64,
    /// Number of bytes.
    pub bytes: u64,
}

/// Where everything goes. All of it lies inside the RAM that was stated, and nothing
/// overlaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to copy from the image. RAM not named here is zero.
    pub parts: Vec<Part>,
    /// Where vCPU 0 starts.
    pub entry: u64,
    /// Guest address of the device tree, for x0; 2 MiB are free there.
    pub tree: u64,
    /// Guest address of the initrd, if there is one.
    pub initrd: Option<u64>,
}

/// Why a guest cannot be loaded. Displayed, it follows the words "the image".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// No arm64 `Image`.
    Header(HeaderError),
    /// An EFI zboot kernel.
    Zboot,
    /// No ELF file that can be loaded, and why.
    Elf(&'static str),
    /// A segment of an ELF file is not in guest RAM.
    OutsideRam {
        /// Where the segment begins.
        at: u64,
    },
    /// Nothing in it.
    Empty,
    /// Guest RAM is too small.
    TooLittleRam {
        /// Bytes of RAM that would do.
        needed_bytes: u64,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(HeaderError::TooShort) => {
                f.write_str("is shorter than the header of an arm64 Image")
            }
            Self::Header(HeaderError::NotAnImage) => f.write_str(
                "is not an arm64 Linux Image, plain or gzip: it lacks ARM\\x64 at byte 56",
            ),
            Self::Header(HeaderError::BigEndian) => f.write_str("is a big-endian kernel"),
            Self::Zboot => f.write_str(
                "is an EFI zboot kernel, which unpacks itself under UEFI only: extract its Image",
            ),
            Self::Elf(why) => write!(f, "is an ELF file that cannot be loaded: {why}"),
            Self::OutsideRam { at } => write!(
                f,
                "has a segment at {at:#x}, outside the RAM of the guest, which begins at {RAM_BASE:#x}"
            ),
            Self::Empty => f.write_str("is empty"),
            Self::TooLittleRam { needed_bytes } => write!(
                f,
                "needs at least {} MiB of guest memory with its initrd and device tree",
                needed_bytes.div_ceil(1 << 20)
            ),
        }
    }
}

impl core::error::Error for LoadError {}

impl From<HeaderError> for LoadError {
    fn from(error: HeaderError) -> Self {
        Self::Header(error)
    }
}

/// Returns whether an image that begins so is compressed with gzip (RFC 1952, 2.3.1).
pub fn is_gzip(head: &[u8]) -> bool {
    head.starts_with(&[0x1f, 0x8b])
}

/// Plans a guest with `ram_bytes` of RAM from an image of `file_bytes`, of which `head` is
/// the beginning (at least [`crate::HEAD_BYTES`], or all of it), and an initrd of
/// `initrd_bytes`, if any.
///
/// # Errors
/// See [`LoadError`].
pub fn plan(
    kind: Kind,
    head: &[u8],
    file_bytes: u64,
    ram_bytes: u64,
    initrd_bytes: Option<u64>,
) -> Result<Plan, LoadError> {
    if file_bytes == 0 {
        return Err(LoadError::Empty);
    }
    let whole = |to: u64| {
        let from = 0;
        alloc::vec![Part {
            from,
            to,
            bytes: file_bytes,
        }]
    };
    let (parts, entry, end, margin) = match kind {
        Kind::Image => {
            if head.get(4..8) == Some(b"zimg") {
                return Err(LoadError::Zboot);
            }
            let header = ImageHeader::parse(head)?;
            let to = RAM_BASE.saturating_add(header.load_offset());
            let end = to.saturating_add(header.memory_bytes(file_bytes));
            (whole(to), to, end, 0)
        }
        Kind::Flat => {
            let to = RAM_BASE.saturating_add(FLAT_OFFSET);
            let end = to.saturating_add(file_bytes);
            (whole(to), to, end, FLAT_MARGIN)
        }
        Kind::Elf => {
            let program = elf::read(head, file_bytes)?;
            (program.parts, program.entry, program.end, 0)
        }
    };
    let ram_end = RAM_BASE.saturating_add(ram_bytes);
    let (tree, initrd) = above(end.saturating_add(margin), ram_end, initrd_bytes)
        .or_else(|_| above(end, ram_end, initrd_bytes))?;
    Ok(Plan {
        parts,
        entry,
        tree,
        initrd,
    })
}

/// Places the device tree, and the initrd above it, above `end`.
fn above(end: u64, ram_end: u64, initrd: Option<u64>) -> Result<(u64, Option<u64>), LoadError> {
    const HUGE: LoadError = LoadError::TooLittleRam {
        needed_bytes: u64::MAX,
    };
    let tree = end.checked_next_multiple_of(STEP).ok_or(HUGE)?;
    let after_tree = tree.checked_add(TREE_BYTES).ok_or(HUGE)?;
    let last = after_tree.checked_add(initrd.unwrap_or(0)).ok_or(HUGE)?;
    if last > ram_end {
        let needed = last.checked_next_multiple_of(STEP).ok_or(HUGE)?;
        return Err(LoadError::TooLittleRam {
            needed_bytes: needed.saturating_sub(RAM_BASE),
        });
    }
    Ok((tree, initrd.map(|_| after_tree)))
}
