//! `/v1/images`: kernels, initial RAM disks and whole programs that VMs boot.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// What an image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ImageKind {
    /// An arm64 Linux `Image`, plain or compressed with gzip.
    Kernel,
    /// An initial RAM disk.
    Initrd,
    /// A flat binary, entered at its first byte.
    Flat,
    /// An AArch64 ELF executable.
    Elf,
}

impl ImageKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Kernel, Self::Initrd, Self::Flat, Self::Elf];

    /// Returns the kind's name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Flat => "flat",
            Self::Elf => "elf",
        }
    }
}

/// How far an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ImageState {
    /// Defined; no byte has arrived.
    Empty,
    /// Some bytes have arrived.
    Uploading,
    /// Complete and checked; it never changes again.
    Ready,
}

/// Body of `PUT /v1/images/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ImageSpec {
    /// What the image is for.
    pub kind: ImageKind,
    /// Its size, if it is known before the upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Image {
    /// Its name.
    pub name: String,
    /// Its UUID: another image of the same name later has another.
    pub id: String,
    /// What it is for.
    pub kind: ImageKind,
    /// How far it is.
    pub state: ImageState,
    /// Its size, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Bytes that have arrived.
    pub received_bytes: u64,
    /// SHA-256 of a ready image, in lower-case hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Names of the VMs that boot it.
    pub used_by: Vec<String>,
    /// When it was defined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
}

/// Answer to `GET /v1/images`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ImageList {
    /// Every image, by name.
    pub images: Vec<Image>,
}
