//! What an image is, by its first bytes: a kernel that is none is refused when it arrives
//! and not when somebody starts it.

use alloc::vec::Vec;

use crate::image::ImageKind;

/// Bytes that have to be seen.
const SEEN: usize = 64;

/// The first bytes of an image.
#[derive(Clone, Debug, Default)]
pub struct Start {
    bytes: Vec<u8>,
}

impl Start {
    /// Adds what arrived; all but the first bytes is ignored.
    pub fn push(&mut self, data: &[u8]) {
        let room = SEEN.saturating_sub(self.bytes.len()).min(data.len());
        self.bytes
            .extend_from_slice(data.get(..room).unwrap_or_default());
    }

    /// Says what is wrong with an image of this kind that begins so, in words that follow
    /// its name.
    pub fn check(&self, kind: ImageKind) -> Result<(), &'static str> {
        match kind {
            ImageKind::Kernel => self.check_kernel(),
            ImageKind::Elf => self.check_elf(),
            ImageKind::Initrd | ImageKind::Flat => Ok(()),
        }
    }

    fn at(&self, offset: usize, magic: &[u8]) -> bool {
        self.bytes
            .get(offset..)
            .is_some_and(|rest| rest.starts_with(magic))
    }

    /// Linux `Documentation/arch/arm64/booting.rst`, part 4: magic at byte 56.
    fn check_kernel(&self) -> Result<(), &'static str> {
        let gzip = self.at(0, &[0x1f, 0x8b]);
        if gzip || self.at(56, b"ARM\x64") {
            Ok(())
        } else if self.at(4, b"zimg") {
            Err("is an EFI zboot kernel, which unpacks itself under UEFI only: extract its Image")
        } else if self.at(0, b"\x7fELF") {
            Err("is an ELF file (vmlinux?), and a kernel is an arm64 Image, plain or gzip")
        } else {
            Err(
                "is not an arm64 Linux Image, plain or gzip: it lacks the magic ARM\\x64 at byte 56",
            )
        }
    }

    /// System V ABI, ELF-64: class 2, little-endian, EM_AARCH64 (183).
    fn check_elf(&self) -> Result<(), &'static str> {
        if !self.at(0, b"\x7fELF") {
            Err("is not an ELF file")
        } else if !self.at(4, &[2, 1]) {
            Err("is not a 64-bit little-endian ELF file")
        } else if !self.at(18, &[183, 0]) {
            Err("is an ELF file for another architecture than AArch64")
        } else {
            Ok(())
        }
    }
}

/// Returns the kind that a file most likely is, by its first 64 bytes, if they tell.
pub fn guess(first: &[u8]) -> Option<ImageKind> {
    let mut start = Start::default();
    start.push(first);
    if start.at(56, b"ARM\x64") {
        Some(ImageKind::Kernel)
    } else if start.at(0, b"\x7fELF") {
        Some(ImageKind::Elf)
    } else if start.at(0, b"070701") || start.at(0, b"070702") {
        Some(ImageKind::Initrd)
    } else {
        None
    }
}
