//! Why a device tree cannot be used.

use core::fmt;

/// Why no [`crate::BootInfo`] could be made. Nothing has been changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BootError {
    /// Fewer bytes than the header, or than the header claims.
    TooShort,
    /// The first four bytes are not `d0 0d fe ed`.
    BadMagic {
        /// What they are.
        found: u32,
    },
    /// The header claims a total size that no boot protocol allows (more than 2 MiB).
    TooLarge {
        /// Bytes claimed.
        bytes: u32,
    },
    /// The format is older than version 17, or only for readers newer than that.
    BadVersion {
        /// The version.
        version: u32,
    },
    /// The structure contradicts itself.
    Damaged {
        /// Byte offset from the start of the tree.
        at: usize,
    },
    /// Nodes are nested more than [`crate::DEPTH_MAX`] deep.
    TooDeep {
        /// Byte offset from the start of the tree.
        at: usize,
    },
    /// A NOP token, which the parser beneath does not handle everywhere.
    Nop {
        /// Byte offset from the start of the tree.
        at: usize,
    },
    /// A property that Skete needs has the wrong form.
    BadProperty {
        /// The kind of node and the property.
        what: &'static str,
    },
    /// More of something than Skete has room for and than may be left out.
    TooMany {
        /// Of what.
        what: &'static str,
        /// Room for how many.
        room: usize,
    },
    /// A device that Skete needs lies behind a bus that translates addresses.
    Translated {
        /// Which device.
        what: &'static str,
    },
    /// No `memory` node with a range in it.
    NoMemory,
    /// No `/cpus/cpu@…` node.
    NoCpus,
    /// No GICv3.
    NoGicV3,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooShort => f.write_str(
                "the device tree is cut short: the firmware must pass the whole tree in x0",
            ),
            Self::BadMagic { found } => write!(
                f,
                "x0 does not point to a device tree (found {found:#010x} instead of \
                 0xd00dfeed): start Skete as an arm64 Image, by booti or qemu -kernel"
            ),
            Self::TooLarge { bytes } => write!(
                f,
                "the device tree claims to be {bytes} bytes long: the boot protocol allows 2 MiB"
            ),
            Self::BadVersion { version } => write!(
                f,
                "the device tree has format version {version}: Skete reads version 17"
            ),
            Self::Damaged { at } => write!(
                f,
                "the device tree is damaged at offset {at:#x}: the firmware passed a bad tree, \
                 or something overwrote it"
            ),
            Self::TooDeep { at } => write!(
                f,
                "the device tree nests more than {} nodes at offset {at:#x}: check the firmware's tree",
                crate::DEPTH_MAX
            ),
            Self::Nop { at } => write!(
                f,
                "the device tree holds a NOP token at offset {at:#x}: pass it through \
                 `dtc -I dtb -O dtb` first"
            ),
            Self::BadProperty { what } => write!(
                f,
                "the device tree's {what} is malformed: check the firmware's tree"
            ),
            Self::TooMany { what, room } => write!(
                f,
                "the device tree describes more {what} than the {room} that Skete has room for"
            ),
            Self::Translated { what } => write!(
                f,
                "the device tree puts the {what} behind a bus that translates addresses: \
                 Skete needs it on the root bus"
            ),
            Self::NoMemory => f.write_str(
                "the device tree describes no memory (device_type \"memory\"): the firmware must add it",
            ),
            Self::NoCpus => f.write_str(
                "the device tree describes no cores (/cpus/cpu@…): the firmware must add them",
            ),
            Self::NoGicV3 => f.write_str(
                "the device tree describes no GICv3 (compatible \"arm,gic-v3\"): Skete needs one; \
                 with QEMU pass -M virt,gic-version=3",
            ),
        }
    }
}

impl core::error::Error for BootError {}
