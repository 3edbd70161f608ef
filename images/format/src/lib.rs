//! The appliance image: its header and its table of parts.
//!
//! An image is one flat file. It begins with core's machine code, whose first 64 bytes are
//! an arm64 `Image` header ([`ImageHeader`]), so that QEMU, U-Boot and UEFI load it as
//! they load Linux. At the 4 KiB boundary where core ends (its linker symbol
//! `__image_end`) a [`Bundle`] follows: a table, then the parts it names, root first of
//! all.
//!
//! The same code writes the image on the builder's machine and reads it at EL2, where the
//! bytes are not trusted: every offset is checked against the slice before it is used.
#![no_std]

mod bundle;
mod header;

pub use bundle::{
    BUNDLE_ALIGN, BUNDLE_MAGIC, BUNDLE_VERSION, Bundle, BundleError, HEADER_BYTES, NAME_BYTES,
    PARTS_MAX, Part, RECORD_BYTES, header_bytes,
};
pub use header::{
    HeaderError, IMAGE_HEADER_BYTES, IMAGE_SIZE_OFFSET, ImageFlags, ImageHeader, PageSize,
};
