//! EL2's own stage 1: built once, never changed while other cores run.
//!
//! The builder takes pages from a fixed pool and writes descriptors (DDI 0487, D8.3) with
//! the largest block that alignment allows. It touches memory only through [`Pages`].

/// Memory for tables, and how to write to it.
pub trait Pages {
    /// Returns a zeroed page, as its physical address, or `None` if none is left.
    fn page(&mut self) -> Option<u64>;
    /// Reads entry `index` of the table at `table`.
    fn read(&self, table: u64, index: usize) -> u64;
    /// Writes entry `index` of the table at `table`.
    fn write(&mut self, table: u64, index: usize, value: u64);
}

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Instructions: read-only, executable.
    Text,
    /// Constants: read-only.
    Rodata,
    /// RAM: writable, never executable.
    Data,
    /// Device registers, nGnRE: writable, never executable.
    Device,
}

/// Why a mapping could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// An address or length is not a multiple of 4 KiB, or lies past 2^48.
    Unaligned,
    /// The pool of table pages is used up.
    NoPages,
    /// Something else is mapped there.
    Occupied,
}

const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 1 << 1;
const ATTR_DEVICE: u64 = 1 << 2;
/// AP[1] is RES1 in a regime with one privilege level.
const AP_RES1: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 0b11 << 8;
const ACCESSED: u64 = 1 << 10;
const XN: u64 = 1 << 54;
const OUTPUT: u64 = 0x0000_ffff_ffff_f000;

const fn leaf(kind: Kind) -> u64 {
    let common = VALID | AP_RES1 | ACCESSED;
    match kind {
        Kind::Text => common | INNER_SHAREABLE | READ_ONLY,
        Kind::Rodata => common | INNER_SHAREABLE | READ_ONLY | XN,
        Kind::Data => common | INNER_SHAREABLE | XN,
        Kind::Device => common | ATTR_DEVICE | XN,
    }
}

/// Returns the level 3 descriptor of the page at `pa`, for whoever keeps an entry of its own.
pub const fn page(pa: u64, kind: Kind) -> u64 {
    pa & OUTPUT | leaf(kind) | TABLE_OR_PAGE
}

/// Maps `bytes` from `va` to `pa` in the tree at `root`.
///
/// What is already mapped to the same output stays; anything else there is an error, and
/// mappings made before it was met stay.
pub fn map(
    pages: &mut impl Pages,
    root: u64,
    va: u64,
    pa: u64,
    bytes: u64,
    kind: Kind,
) -> Result<(), MapError> {
    if (va | pa | bytes) & 0xfff != 0 || va.saturating_add(bytes) >> 48 != 0 || pa >> 48 != 0 {
        return Err(MapError::Unaligned);
    }
    let mut done = 0;
    while done < bytes {
        let (va, pa) = (va.wrapping_add(done), pa.wrapping_add(done));
        let left = bytes.wrapping_sub(done);
        let (level, span) = match (va | pa) & 0x3fff_ffff {
            0 if left >= 1 << 30 => (1, 1 << 30),
            low if low & 0x1f_ffff == 0 && left >= 1 << 21 => (2, 1 << 21),
            _ => (3, 1 << 12),
        };
        map_one(pages, root, va, pa, level, kind)?;
        done = done.wrapping_add(span);
    }
    Ok(())
}

fn map_one(
    pages: &mut impl Pages,
    root: u64,
    va: u64,
    pa: u64,
    leaf_level: u32,
    kind: Kind,
) -> Result<(), MapError> {
    let mut table = root;
    for level in 0..4u32 {
        let shift = 39_u32.saturating_sub(level.saturating_mul(9));
        let index = usize::try_from(va >> shift & 0x1ff).unwrap_or(0);
        let old = pages.read(table, index);
        if level == leaf_level {
            let page_bit = if level == 3 { TABLE_OR_PAGE } else { 0 };
            let new = pa | leaf(kind) | page_bit;
            if old != 0 && old != new {
                return Err(MapError::Occupied);
            }
            pages.write(table, index, new);
            return Ok(());
        }
        table = match old & (VALID | TABLE_OR_PAGE) {
            0 => {
                let fresh = pages.page().ok_or(MapError::NoPages)?;
                pages.write(table, index, fresh | TABLE_OR_PAGE | VALID);
                fresh
            }
            0b11 => old & OUTPUT,
            _ => return Err(MapError::Occupied),
        };
    }
    Err(MapError::Occupied)
}
