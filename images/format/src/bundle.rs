//! The table of what follows core in an image.
//!
//! All numbers are little-endian. Header, 32 bytes: magic `SKETEPAK`, version u32, count
//! u32, total bytes u64 (header, table and parts), 8 bytes zero. Then `count` records of
//! 96 bytes: name, 16 bytes padded with zeroes; offset from the header, bytes, load
//! address, memory bytes and entry, u64 each; SHA-256 of the part's bytes; 8 bytes zero.
//! Parts begin at multiples of 4 KiB and come in the order of the table.

use core::fmt;

/// First eight bytes of a bundle.
pub const BUNDLE_MAGIC: [u8; 8] = *b"SKETEPAK";
/// The format written and read here.
pub const BUNDLE_VERSION: u32 = 1;
/// A bundle and each of its parts begin at a multiple of this many bytes.
pub const BUNDLE_ALIGN: usize = 4096;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 32;
/// Bytes of one record of the table.
pub const RECORD_BYTES: usize = 96;
/// Bytes of a part's name.
pub const NAME_BYTES: usize = 16;
/// Most parts in a bundle.
pub const PARTS_MAX: usize = 16;

/// Why bytes are not a usable bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleError {
    /// Does not begin with `SKETEPAK`.
    NotABundle,
    /// Written by a later version of the builder.
    BadVersion {
        /// The version found.
        found: u32,
    },
    /// The bundle is longer than the bytes there are.
    Truncated,
    /// More than [`PARTS_MAX`] parts.
    TooManyParts,
    /// A record contradicts itself or the bundle.
    BadPart {
        /// Its number in the table, from 0.
        index: usize,
    },
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotABundle => f.write_str("no SKETEPAK table behind core: build with mkimage"),
            Self::BadVersion { found } => write!(
                f,
                "table of parts has version {found}, this core reads {BUNDLE_VERSION}"
            ),
            Self::Truncated => f.write_str("image is cut short: its loader dropped the end"),
            Self::TooManyParts => write!(f, "more than {PARTS_MAX} parts in the image"),
            Self::BadPart { index } => write!(f, "part {index} of the image is malformed"),
        }
    }
}

impl core::error::Error for BundleError {}

/// One part of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Name, padded with zeroes.
    pub name: [u8; NAME_BYTES],
    /// What is loaded: the flat image without its zeroed end.
    pub data: &'a [u8],
    /// Address at which it was linked.
    pub load_address: u64,
    /// Bytes of memory it needs from there, at least `data.len()`; the rest is zero.
    pub memory_bytes: u64,
    /// Address of its first instruction, inside `data`.
    pub entry: u64,
    /// SHA-256 of `data`; not checked here.
    pub sha256: [u8; 32],
}

impl Part<'_> {
    /// Returns the name as bytes without the padding.
    pub fn name(&self) -> &[u8] {
        self.name
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default()
    }

    /// Returns the record of this part, whose bytes lie at `offset` from the header.
    pub fn record(&self, offset: u64) -> [u8; RECORD_BYTES] {
        let bytes = u64::try_from(self.data.len()).unwrap_or(u64::MAX);
        let numbers = [
            offset,
            bytes,
            self.load_address,
            self.memory_bytes,
            self.entry,
        ];
        let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
        let fields = self.name.into_iter().chain(numbers).chain(self.sha256);
        let mut raw = [0; RECORD_BYTES];
        for (to, byte) in raw.iter_mut().zip(fields) {
            *to = byte;
        }
        raw
    }

    /// Whether a bundle may hold this part.
    fn is_sound(&self) -> bool {
        let bytes = u64::try_from(self.data.len()).unwrap_or(u64::MAX);
        let entry_offset = self.entry.checked_sub(self.load_address);
        let padding = self.name.get(self.name().len()..).unwrap_or_default();
        !self.name().is_empty()
            && padding.iter().all(|byte| *byte == 0)
            && self.memory_bytes >= bytes
            && self.load_address.checked_add(self.memory_bytes).is_some()
            && entry_offset.is_some_and(|offset| offset < bytes)
    }
}

/// Returns the header of a bundle of `count` parts and `total` bytes.
pub fn header_bytes(count: u32, total: u64) -> [u8; HEADER_BYTES] {
    let mut raw = [0; HEADER_BYTES];
    let fields = BUNDLE_MAGIC
        .into_iter()
        .chain(BUNDLE_VERSION.to_le_bytes())
        .chain(count.to_le_bytes())
        .chain(total.to_le_bytes());
    for (to, byte) in raw.iter_mut().zip(fields) {
        *to = byte;
    }
    raw
}

/// A checked bundle: every part it names is inside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bundle<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Bundle<'a> {
    /// Reads the bundle at the start of `bytes`, which may be longer.
    ///
    /// # Errors
    /// See [`BundleError`]. Hashes are not checked: that costs some 20 instructions a byte.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BundleError> {
        let header = bytes
            .first_chunk::<HEADER_BYTES>()
            .ok_or(BundleError::Truncated)?;
        if !header.starts_with(&BUNDLE_MAGIC) {
            return Err(BundleError::NotABundle);
        }
        let found = le32(header, 8);
        if found != BUNDLE_VERSION {
            return Err(BundleError::BadVersion { found });
        }
        let count = usize::try_from(le32(header, 12)).unwrap_or(usize::MAX);
        if count > PARTS_MAX {
            return Err(BundleError::TooManyParts);
        }
        let total = usize::try_from(le64(header, 16)).unwrap_or(usize::MAX);
        let bytes = bytes.get(..total).ok_or(BundleError::Truncated)?;
        let bundle = Self { bytes, count };
        bundle.check()?;
        Ok(bundle)
    }

    fn check(&self) -> Result<(), BundleError> {
        let table = self.count.saturating_mul(RECORD_BYTES);
        let mut free_from = HEADER_BYTES.saturating_add(table);
        if free_from > self.bytes.len() {
            return Err(BundleError::Truncated);
        }
        for index in 0..self.count {
            let bad = BundleError::BadPart { index };
            let (offset, part) = self.record(index).ok_or(bad)?;
            let aligned = offset.is_multiple_of(BUNDLE_ALIGN);
            let again = self
                .parts()
                .take(index)
                .any(|other| other.name == part.name);
            if !part.is_sound() || !aligned || offset < free_from || again {
                return Err(bad);
            }
            free_from = offset.saturating_add(part.data.len());
        }
        Ok(())
    }

    /// Returns the offset and the contents of part `index`, if its bytes are there.
    fn record(&self, index: usize) -> Option<(usize, Part<'a>)> {
        let start = index.checked_mul(RECORD_BYTES)?.checked_add(HEADER_BYTES)?;
        let raw = self.bytes.get(start..)?.first_chunk::<RECORD_BYTES>()?;
        let (name, numbers) = raw.split_first_chunk::<NAME_BYTES>()?;
        let offset = usize::try_from(le64(numbers, 0)).ok()?;
        let len = usize::try_from(le64(numbers, 8)).ok()?;
        let part = Part {
            name: *name,
            data: self.bytes.get(offset..offset.checked_add(len)?)?,
            load_address: le64(numbers, 16),
            memory_bytes: le64(numbers, 24),
            entry: le64(numbers, 32),
            sha256: *numbers.get(40..)?.first_chunk()?,
        };
        Some((offset, part))
    }

    /// Returns the parts in the order of the table.
    pub fn parts(&self) -> impl Iterator<Item = Part<'a>> {
        (0..self.count).filter_map(|index| Some(self.record(index)?.1))
    }

    /// Returns the part called `name`.
    pub fn find(&self, name: &str) -> Option<Part<'a>> {
        self.parts().find(|part| part.name() == name.as_bytes())
    }

    /// Returns the bytes of the whole bundle.
    pub const fn total_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Reads a number whose place is known to be inside `raw`; zero past its end.
fn le32(raw: &[u8], at: usize) -> u32 {
    let chunk = raw.get(at..).and_then(|raw| raw.first_chunk());
    chunk.copied().map_or(0, u32::from_le_bytes)
}

/// Reads a number whose place is known to be inside `raw`; zero past its end.
fn le64(raw: &[u8], at: usize) -> u64 {
    let chunk = raw.get(at..).and_then(|raw| raw.first_chunk());
    chunk.copied().map_or(0, u64::from_le_bytes)
}
