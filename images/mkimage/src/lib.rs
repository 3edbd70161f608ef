//! Builds the appliance image from core's and root's ELF files.
//!
//! [`build`] is what xtask calls; the `mkimage` binary is the same for a shell. The format
//! itself is `skete-image-format`'s.

mod error;
mod flat;

pub use error::{Error, Which};

use flat::Flat;
use image_format::{
    BUNDLE_ALIGN, HEADER_BYTES, IMAGE_SIZE_OFFSET, ImageHeader, NAME_BYTES, Part, RECORD_BYTES,
    header_bytes,
};
use sha2::{Digest, Sha256};

/// Symbol in core's ELF file: where the bundle begins.
const IMAGE_END: &str = "__image_end";

/// Returns the image made of core's ELF file and, if there is one, root's.
///
/// Core is laid out as it was linked, from its lowest loaded address to its symbol
/// `__image_end`, with zeroes where the files hold nothing (bss). The table and root
/// follow. The header's `image_size` covers everything.
///
/// # Errors
/// [`Error`] says which of the files cannot be used, and why.
pub fn build(core_elf: &[u8], root_elf: Option<&[u8]>) -> Result<Vec<u8>, Error> {
    let core = Flat::load(Which::Core, core_elf)?;
    let end = core
        .symbol(IMAGE_END)
        .ok_or(Error::NoImageEnd)?
        .checked_sub(core.load_address)
        .and_then(|end| usize::try_from(end).ok())
        .ok_or(Error::BadImageEnd)?;
    if !end.is_multiple_of(BUNDLE_ALIGN) || core.memory_bytes > end || end > flat::MEMORY_MAX {
        return Err(Error::BadImageEnd);
    }
    let mut image = core.data;
    image.resize(end, 0);
    ImageHeader::parse(&image).map_err(Error::BadHeader)?;

    let root = root_elf
        .map(|elf| Flat::load(Which::Root, elf))
        .transpose()?;
    image.extend(bundle(root.as_slice())?);
    let size = u64::try_from(image.len()).map_err(|_| Error::BadImageEnd)?;
    let field = image.get_mut(IMAGE_SIZE_OFFSET..).unwrap_or_default();
    for (to, byte) in field.iter_mut().zip(size.to_le_bytes()) {
        *to = byte;
    }
    Ok(image)
}

/// Lays out a bundle whose parts are `images`, named by what they are. Its length is a
/// multiple of [`BUNDLE_ALIGN`].
fn bundle(images: &[Flat<'_>]) -> Result<Vec<u8>, Error> {
    let table = images.len().saturating_mul(RECORD_BYTES);
    let mut records = Vec::new();
    let mut parts = vec![0; HEADER_BYTES.saturating_add(table)];
    for image in images {
        pad(&mut parts);
        let offset = parts.len() as u64;
        let mut name = [0; NAME_BYTES];
        for (to, byte) in name.iter_mut().zip(image.which.name().bytes()) {
            *to = byte;
        }
        let part = Part {
            name,
            data: &image.data,
            load_address: image.load_address,
            memory_bytes: image.memory_bytes as u64,
            entry: image.entry,
            sha256: Sha256::digest(&image.data).into(),
        };
        records.extend(part.record(offset));
        parts.extend(&image.data);
    }
    pad(&mut parts);
    let count = u32::try_from(images.len()).unwrap_or(u32::MAX);
    let header = header_bytes(count, parts.len() as u64);
    for (to, byte) in parts.iter_mut().zip(header.into_iter().chain(records)) {
        *to = byte;
    }
    // What is written must be what core will accept.
    image_format::Bundle::parse(&parts).map_err(Error::BadBundle)?;
    Ok(parts)
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(BUNDLE_ALIGN), 0);
}
