//! The arm64 `Image` header, as Linux's `Documentation/arch/arm64/booting.rst` has it.

use core::fmt;

/// Bytes of the header.
pub const IMAGE_HEADER_BYTES: usize = 64;
/// Offset of `image_size`, a little-endian u64, in the file.
pub const IMAGE_SIZE_OFFSET: usize = 16;
/// Bytes 56 to 59.
const MAGIC: [u8; 4] = *b"ARM\x64";

/// Translation granule a kernel was built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSize {
    /// The kernel does not say.
    Unspecified,
    /// 4 KiB.
    Kib4,
    /// 16 KiB.
    Kib16,
    /// 64 KiB.
    Kib64,
}

/// The `flags` of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageFlags(u64);

impl ImageFlags {
    /// 4 KiB pages, may be placed anywhere in RAM, little-endian: what Skete is.
    pub const SKETE: Self = Self(0b1010);

    /// Returns the flags with this value.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Returns the flags as they lie in the header.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Whether the kernel is big-endian (bit 0).
    pub const fn big_endian(self) -> bool {
        self.0 & 1 != 0
    }

    /// The granule (bits 2:1).
    pub const fn page_size(self) -> PageSize {
        match self.0 >> 1 & 0b11 {
            0 => PageSize::Unspecified,
            1 => PageSize::Kib4,
            2 => PageSize::Kib16,
            _ => PageSize::Kib64,
        }
    }

    /// Whether the 2 MiB-aligned base may be anywhere in RAM rather than as low as
    /// possible (bit 3).
    pub const fn anywhere(self) -> bool {
        self.0 & 1 << 3 != 0
    }
}

/// The first 64 bytes of an arm64 `Image`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageHeader {
    /// The first two instructions; one of them jumps over the header.
    pub code: [u32; 2],
    /// Bytes from a 2 MiB-aligned base to the image. Use [`Self::load_offset`].
    pub text_offset: u64,
    /// Bytes of memory that the image uses, beyond the file too; 0 in kernels before 3.17.
    pub image_size: u64,
    /// Flags.
    pub flags: ImageFlags,
    /// Offset of the PE header, for UEFI; 0 if there is none.
    pub pe_offset: u32,
}

/// Why bytes are not an arm64 `Image` that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// Fewer than 64 bytes.
    TooShort,
    /// No `ARM\x64` at offset 56.
    NotAnImage,
    /// A big-endian kernel.
    BigEndian,
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooShort => "shorter than the 64-byte header of an arm64 Image",
            Self::NotAnImage => "not an arm64 Image: no \"ARM\\x64\" at offset 56",
            Self::BigEndian => "a big-endian kernel, which Skete does not run",
        })
    }
}

impl core::error::Error for HeaderError {}

impl ImageHeader {
    /// Reads the header at the start of `file`.
    ///
    /// # Errors
    /// [`HeaderError`] if there is none, or if the kernel is big-endian.
    pub fn parse(file: &[u8]) -> Result<Self, HeaderError> {
        let raw = file
            .first_chunk::<IMAGE_HEADER_BYTES>()
            .ok_or(HeaderError::TooShort)?;
        let [
            code0,
            code1,
            text_low,
            text_high,
            size_low,
            size_high,
            flags_low,
            flags_high,
            ..,
            magic,
            pe_offset,
        ] = words(raw);
        if magic != u32::from_le_bytes(MAGIC) {
            return Err(HeaderError::NotAnImage);
        }
        let flags = ImageFlags(join(flags_low, flags_high));
        if flags.big_endian() {
            return Err(HeaderError::BigEndian);
        }
        Ok(Self {
            code: [code0, code1],
            text_offset: join(text_low, text_high),
            image_size: join(size_low, size_high),
            flags,
            pe_offset,
        })
    }

    /// Returns the 64 bytes of this header.
    pub fn to_bytes(self) -> [u8; IMAGE_HEADER_BYTES] {
        let [code0, code1] = self.code;
        let [text_low, text_high] = split(self.text_offset);
        let [size_low, size_high] = split(self.image_size);
        let [flags_low, flags_high] = split(self.flags.raw());
        let words = [
            code0,
            code1,
            text_low,
            text_high,
            size_low,
            size_high,
            flags_low,
            flags_high,
            0,
            0,
            0,
            0,
            0,
            0,
            u32::from_le_bytes(MAGIC),
            self.pe_offset,
        ];
        let mut raw = [0; IMAGE_HEADER_BYTES];
        for (to, word) in raw.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        raw
    }

    /// Returns the offset from a 2 MiB-aligned base at which the image must lie.
    ///
    /// Kernels before 3.17 have no `image_size`, and `text_offset` then counts as 0x80000.
    pub const fn load_offset(&self) -> u64 {
        if self.image_size == 0 {
            0x8_0000
        } else {
            self.text_offset
        }
    }

    /// Returns the bytes of memory to keep free for an image of `file_bytes` bytes.
    ///
    /// Never less than the file. A kernel that does not say gets 16 MiB on top, for its
    /// bss: "as much memory as possible", says the document.
    pub const fn memory_bytes(&self, file_bytes: u64) -> u64 {
        const UNSAID_BSS: u64 = 16 << 20;
        if self.image_size == 0 {
            file_bytes.saturating_add(UNSAID_BSS)
        } else if self.image_size > file_bytes {
            self.image_size
        } else {
            file_bytes
        }
    }
}

fn words(raw: &[u8; IMAGE_HEADER_BYTES]) -> [u32; 16] {
    let mut words = [0; 16];
    let (chunks, _) = raw.as_chunks::<4>();
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u32::from_le_bytes(*chunk);
    }
    words
}

const fn join(low: u32, high: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

const fn split(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header as Linux 6.x builds it (EFI stub, 4 KiB pages), written out.
    const LINUX: [u8; 64] = [
        0x4d, 0x5a, 0x40, 0xfa, 0xff, 0xff, 0x58, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x26, 0x02,
        0, 0, 0, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0x41, 0x52, 0x4d, 0x64, 0x40, 0, 0, 0,
    ];

    #[test]
    fn a_linux_header_is_read_field_by_field() {
        let header = ImageHeader::parse(&LINUX).unwrap();
        assert_eq!(header.code, [0xfa40_5a4d, 0x1458_ffff]);
        assert_eq!(header.text_offset, 0);
        assert_eq!(header.image_size, 0x226_0000);
        assert_eq!(header.flags.raw(), 10);
        assert_eq!(header.flags.page_size(), PageSize::Kib4);
        assert!(header.flags.anywhere());
        assert_eq!(header.pe_offset, 0x40);
        assert_eq!(header.load_offset(), 0);
        assert_eq!(header.memory_bytes(0x100_0000), 0x226_0000);
        assert_eq!(header.memory_bytes(0x300_0000), 0x300_0000);
        assert_eq!(header.to_bytes(), LINUX);
    }

    #[test]
    fn a_kernel_without_image_size_lies_at_0x80000_and_gets_room_for_bss() {
        let mut old = LINUX;
        old[16..24].fill(0);
        old[8] = 7;
        let header = ImageHeader::parse(&old).unwrap();
        assert_eq!(header.load_offset(), 0x8_0000);
        assert_eq!(header.memory_bytes(1), (16 << 20) + 1);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert_eq!(ImageHeader::parse(&LINUX[..63]), Err(HeaderError::TooShort));
        let mut elf = LINUX;
        elf[56] = 0x7f;
        assert_eq!(ImageHeader::parse(&elf), Err(HeaderError::NotAnImage));
        let mut big = LINUX;
        big[24] |= 1;
        assert_eq!(ImageHeader::parse(&big), Err(HeaderError::BigEndian));
    }

    #[test]
    fn granules_are_numbered_as_in_the_document() {
        let size = |raw| ImageFlags::from_raw(raw).page_size();
        assert_eq!(size(0b0000), PageSize::Unspecified);
        assert_eq!(size(0b0010), PageSize::Kib4);
        assert_eq!(size(0b0100), PageSize::Kib16);
        assert_eq!(size(0b0110), PageSize::Kib64);
        assert!(!ImageFlags::from_raw(0).anywhere());
    }
}
