//! A guest's MSI-X table (PCI 3.0, 6.8.2): what it says stays here, and its owner brings the
//! function's own in line.

use arch::Width;

/// Most vectors that a guest sees of a function.
pub const VECTORS_MAX: u16 = 256;

/// One vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector {
    /// Where its message goes.
    pub address: u64,
    /// What it is.
    pub data: u32,
    /// It is held back.
    pub masked: bool,
}

/// The table.
#[derive(Clone, Debug)]
pub struct Vectors {
    count: u16,
    vectors: [Vector; 256],
}

impl Vector {
    /// As after a reset.
    const RESET: Self = Self {
        address: 0,
        data: 0,
        masked: true,
    };

    /// Word `n` of the entry.
    fn word(self, n: u32) -> u32 {
        let [a, b, c, d, e, f, g, h] = self.address.to_le_bytes();
        match n {
            0 => u32::from_le_bytes([a, b, c, d]),
            1 => u32::from_le_bytes([e, f, g, h]),
            2 => self.data,
            _ => u32::from(self.masked),
        }
    }

    fn set_word(&mut self, n: u32, value: u32) {
        const LOW: u64 = 0xffff_ffff;
        match n {
            // Messages are words: bits 1:0 of the address are zero.
            0 => self.address = self.address & !LOW | u64::from(value & !0b11),
            1 => self.address = self.address & LOW | u64::from(value) << 32,
            2 => self.data = value,
            _ => self.masked = value & 1 != 0,
        }
    }
}

impl Vectors {
    /// A table of `count` vectors, [`VECTORS_MAX`] at the most, as after a reset.
    pub const fn new(count: u16) -> Self {
        Self {
            count: if count > VECTORS_MAX {
                VECTORS_MAX
            } else {
                count
            },
            vectors: [Vector::RESET; 256],
        }
    }

    /// Number of vectors.
    pub const fn count(&self) -> u16 {
        self.count
    }

    /// Returns a vector that is there.
    pub fn get(&self, n: u16) -> Option<Vector> {
        let n = Some(n).filter(|n| *n < self.count)?;
        self.vectors.get(usize::from(n)).copied()
    }

    /// Everything is as after a reset.
    pub fn reset(&mut self) {
        self.vectors = [Vector::RESET; 256];
    }

    /// Reads at `offset` of the table: aligned words, alone or in pairs. Zero for anything else,
    /// and behind the end.
    pub fn read(&self, offset: u64, width: Width) -> u64 {
        let word = |offset: u64| {
            let (n, word) = split(offset)?;
            Some(u64::from(self.get(n)?.word(word)))
        };
        let there = match width {
            Width::Word if offset.is_multiple_of(4) => word(offset),
            Width::Double if offset.is_multiple_of(8) => word(offset)
                .zip(word(offset.wrapping_add(4)))
                .map(|(low, high)| low | high << 32),
            _ => None,
        };
        there.unwrap_or(0)
    }

    /// Writes at `offset` of the table as [`Self::read`] reads; returns the vector that was
    /// written to.
    pub fn write(&mut self, offset: u64, width: Width, value: u64) -> Option<u16> {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        let (low, high) = (
            u32::from_le_bytes([a, b, c, d]),
            u32::from_le_bytes([e, f, g, h]),
        );
        let (n, word) = split(offset)?;
        let aligned = match width {
            Width::Word => offset.is_multiple_of(4),
            Width::Double => offset.is_multiple_of(8),
            Width::Byte | Width::Half => false,
        };
        if !aligned || n >= self.count {
            return None;
        }
        let vector = self.vectors.get_mut(usize::from(n))?;
        vector.set_word(word, low);
        if width == Width::Double {
            vector.set_word(word.wrapping_add(1), high);
        }
        Some(n)
    }
}

/// Splits an offset in the table: vector, and word in its entry.
fn split(offset: u64) -> Option<(u16, u32)> {
    let n = u16::try_from(offset >> 4).ok()?;
    let word = u32::try_from(offset >> 2 & 3).ok()?;
    Some((n, word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_written_and_read_in_words_and_pairs() {
        let mut table = Vectors::new(3);
        assert_eq!(table.read(0x2c, Width::Word), 1, "masked at first");
        assert_eq!(table.write(0x20, Width::Word, 0x0809_0043), Some(2));
        assert_eq!(table.write(0x24, Width::Word, 0x12), Some(2));
        assert_eq!(
            table.write(0x28, Width::Double, 0x0000_0000_0000_0007),
            Some(2)
        );
        let vector = Vector {
            address: 0x12_0809_0040,
            data: 7,
            masked: false,
        };
        assert_eq!(table.get(2), Some(vector));
        assert_eq!(table.read(0x20, Width::Double), 0x12_0809_0040);
        assert_eq!(table.read(0x28, Width::Word), 7);
        assert_eq!(table.write(0x2c, Width::Word, 0xffff_ffff), Some(2));
        assert_eq!(table.read(0x2c, Width::Word), 1, "one bit is kept");
        table.reset();
        assert_eq!(table.get(2), Some(Vector::RESET));
    }

    #[test]
    fn what_is_no_register_is_zero_and_takes_nothing() {
        let mut table = Vectors::new(3);
        for (offset, width) in [
            (0x30, Width::Word),
            (0x2a, Width::Word),
            (0x24, Width::Double),
            (0x20, Width::Byte),
            (0x20, Width::Half),
            (u64::MAX - 3, Width::Word),
        ] {
            assert_eq!(table.write(offset, width, u64::MAX), None, "{offset:#x}");
            assert_eq!(table.read(offset, width), 0, "{offset:#x}");
        }
        for n in 0..3 {
            assert_eq!(table.get(n), Some(Vector::RESET));
        }
        assert_eq!(table.get(3), None);
        assert_eq!(Vectors::new(2048).count(), 256);
    }
}
