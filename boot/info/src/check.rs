//! Refuses what would make the parser beneath panic.
//!
//! Crate `fdt` 0.1.5 trusts a tree's structure: a cut property, a name without an end or
//! a NOP in an unusual place is a panic in it. So [`check`] walks the whole tree once, by
//! the Devicetree Specification 0.4, 5.2 to 5.4, and accepts only trees on which every
//! `expect`, `assert` and slice in `fdt`'s node walk holds. It is a loop: a hostile tree
//! costs no stack.

use crate::BootError;

const MAGIC: u32 = 0xd00d_feed;
const HEADER_BYTES: usize = 40;
const TOTAL_MAX: u32 = 2 << 20;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Most bytes of a name with its final zero (2.2.1 and 2.2.4 ask for at most 31 and one).
/// `fdt` looks for the end of a name each time it passes one.
const NAME_MAX: usize = 256;

/// Deepest nesting of nodes, the root being 1. `fdt` recurses this deep.
pub const DEPTH_MAX: usize = 24;

/// Returns the bytes of the tree at the start of `blob` if it is well formed.
pub(crate) fn check(blob: &[u8]) -> Result<&[u8], BootError> {
    let tree = blob
        .get(..claimed_bytes(blob)?)
        .ok_or(BootError::TooShort)?;
    let field = |n: usize| be32(tree, n.saturating_mul(4)).ok_or(BootError::TooShort);
    if tree.len() < HEADER_BYTES {
        return Err(BootError::TooShort);
    }
    let (structs, strings, reserved) = (size(field(2)?), size(field(3)?), size(field(4)?));
    let (version, compatible) = (field(5)?, field(6)?);
    if version < 17 || compatible > 17 {
        return Err(BootError::BadVersion { version });
    }
    let strings = part(tree, strings, size(field(8)?))?;
    let struct_bytes = part(tree, structs, size(field(9)?))?;
    if !structs.is_multiple_of(4) || reserved > tree.len() {
        return Err(BootError::Damaged { at: 8 });
    }
    check_reservations(tree, reserved)?;
    Structure {
        bytes: struct_bytes,
        strings,
        base: structs,
        at: 0,
    }
    .check()?;
    Ok(tree)
}

/// Returns the total size in the header, checked against the magic number and 2 MiB.
pub(crate) fn claimed_bytes(blob: &[u8]) -> Result<usize, BootError> {
    let found = be32(blob, 0).ok_or(BootError::TooShort)?;
    if found != MAGIC {
        return Err(BootError::BadMagic { found });
    }
    match be32(blob, 4).ok_or(BootError::TooShort)? {
        bytes if bytes > TOTAL_MAX => Err(BootError::TooLarge { bytes }),
        bytes => Ok(size(bytes)),
    }
}

fn part(tree: &[u8], start: usize, len: usize) -> Result<&[u8], BootError> {
    let end = start.saturating_add(len);
    tree.get(start..end).ok_or(BootError::Damaged { at: start })
}

/// The memory reservation block must end inside the tree.
fn check_reservations(tree: &[u8], start: usize) -> Result<(), BootError> {
    let entries = tree.get(start..).unwrap_or_default().chunks_exact(16);
    if entries.into_iter().any(|entry| entry == [0; 16]) {
        Ok(())
    } else {
        Err(BootError::Damaged { at: start })
    }
}

struct Structure<'a> {
    bytes: &'a [u8],
    strings: &'a [u8],
    base: usize,
    at: usize,
}

impl Structure<'_> {
    fn check(mut self) -> Result<(), BootError> {
        let mut depth = 0usize;
        // A node's properties come before its children (5.4.2).
        let mut properties_allowed = false;
        loop {
            let token = self.token()?;
            match token {
                BEGIN_NODE => {
                    let name = self.name()?;
                    if (depth == 0) != name.is_empty() {
                        return Err(self.damaged());
                    }
                    depth = depth.saturating_add(1);
                    if depth > DEPTH_MAX {
                        return Err(BootError::TooDeep { at: self.offset() });
                    }
                    properties_allowed = true;
                }
                PROP if properties_allowed => self.property()?,
                END_NODE if depth > 0 => {
                    depth = depth.saturating_sub(1);
                    properties_allowed = false;
                    if depth == 0 {
                        break;
                    }
                }
                NOP => return Err(BootError::Nop { at: self.offset() }),
                _ => return Err(self.damaged()),
            }
        }
        match self.token()? {
            END => Ok(()),
            NOP => Err(BootError::Nop { at: self.offset() }),
            _ => Err(self.damaged()),
        }
    }

    fn offset(&self) -> usize {
        self.base.saturating_add(self.at)
    }

    fn damaged(&self) -> BootError {
        BootError::Damaged { at: self.offset() }
    }

    fn token(&mut self) -> Result<u32, BootError> {
        let token = be32(self.bytes, self.at).ok_or(self.damaged())?;
        self.at = self.at.saturating_add(4);
        Ok(token)
    }

    /// Steps over `len` bytes and their padding to a multiple of four.
    fn take(&mut self, len: usize) -> Result<&[u8], BootError> {
        let padded = len.checked_next_multiple_of(4).ok_or(self.damaged())?;
        let start = self.at;
        let next = start.saturating_add(padded);
        if next > self.bytes.len() {
            return Err(self.damaged());
        }
        self.at = next;
        let end = start.saturating_add(len);
        self.bytes
            .get(start..end)
            .ok_or(BootError::Damaged { at: start })
    }

    fn name(&mut self) -> Result<&str, BootError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let rest = rest.get(..NAME_MAX).unwrap_or(rest);
        let len = rest.iter().position(|b| *b == 0).ok_or(self.damaged())?;
        let damaged = self.damaged();
        let name = self.take(len.saturating_add(1))?;
        let name = name.split_last().map(|(_, name)| name).unwrap_or_default();
        core::str::from_utf8(name).map_err(|_| damaged)
    }

    fn property(&mut self) -> Result<(), BootError> {
        let len = size(self.token()?);
        let name_at = size(self.token()?);
        let damaged = self.damaged();
        let name = self.strings.get(name_at..).ok_or(damaged)?;
        let name = name.get(..NAME_MAX).unwrap_or(name);
        let end = name.iter().position(|b| *b == 0).ok_or(damaged)?;
        let name = core::str::from_utf8(name.get(..end).unwrap_or_default());
        let is_cells = matches!(
            name.map_err(|_| damaged)?,
            "#address-cells" | "#size-cells" | "#interrupt-cells"
        );
        let value = self.take(len)?;
        if is_cells && value.len() != 4 {
            return Err(damaged);
        }
        Ok(())
    }
}

/// Reads a big-endian word.
pub(crate) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*word))
}

/// A 32-bit size or offset as an index.
fn size(raw: u32) -> usize {
    usize::try_from(raw).unwrap_or(usize::MAX)
}
