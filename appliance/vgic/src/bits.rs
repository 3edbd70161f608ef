//! Walking and spreading bitmaps.

/// The numbers of the set bits of a word, lowest first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bits(pub(crate) u32);

impl Iterator for Bits {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        if self.0 == 0 {
            return None;
        }
        let n = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        Some(n)
    }
}

/// Returns a word with bit `n` set, or zero if `n` is 32 or more.
pub(crate) const fn bit(n: u32) -> u32 {
    match 1u32.checked_shl(n) {
        Some(mask) => mask,
        None => 0,
    }
}

/// Moves bit n of the low half to bit 2n+1: the high bit of the n-th two-bit field.
pub(crate) const fn spread(half: u32) -> u32 {
    let mut x = half & 0xffff;
    x = (x | x << 8) & 0x00ff_00ff;
    x = (x | x << 4) & 0x0f0f_0f0f;
    x = (x | x << 2) & 0x3333_3333;
    x = (x | x << 1) & 0x5555_5555;
    x << 1
}

/// Undoes [`spread`]: collects the high bit of each two-bit field into the low half.
pub(crate) const fn gather(fields: u32) -> u32 {
    let mut x = fields >> 1 & 0x5555_5555;
    x = (x | x >> 1) & 0x3333_3333;
    x = (x | x >> 2) & 0x0f0f_0f0f;
    x = (x | x >> 4) & 0x00ff_00ff;
    (x | x >> 8) & 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreading_puts_each_bit_in_the_high_half_of_its_field() {
        assert_eq!(spread(0x0001), 0x0000_0002);
        assert_eq!(spread(0x8000), 0x8000_0000);
        assert_eq!(spread(0xffff), 0xaaaa_aaaa);
        assert_eq!(spread(0x00ff), 0x0000_aaaa);
        for half in 0..=0xffff {
            assert_eq!(gather(spread(half) | 0x5555_5555), half);
        }
    }

    #[test]
    fn bits_are_walked_from_the_lowest() {
        assert!(Bits(0x8000_0011).eq([0, 4, 31]));
        assert_eq!(bit(31), 0x8000_0000);
        assert_eq!(bit(32), 0);
    }
}
