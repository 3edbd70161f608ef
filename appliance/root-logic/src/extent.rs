//! Where the bytes of an image lie: 2 MiB blocks, the last of which may be smaller.

/// Bytes of a page, the smallest block.
pub const PAGE_BYTES: usize = 4096;
/// Order of the largest block: 2 MiB.
pub const LARGE_ORDER: u32 = 9;
/// Bytes of the largest block.
pub const LARGE_BYTES: usize = PAGE_BYTES << LARGE_ORDER;

/// Returns the block in which byte `offset` lies, and where there.
pub fn place(offset: u64) -> (usize, usize) {
    const LARGE: u64 = 1 << 21;
    let index = usize::try_from(offset / LARGE).unwrap_or(usize::MAX);
    let within = usize::try_from(offset % LARGE).unwrap_or(0);
    (index, within)
}

/// Returns the order of the next block for `bytes` bytes: the smallest that holds them
/// all, but at most [`LARGE_ORDER`].
pub fn order_of(bytes: u64) -> u32 {
    let pages = bytes.div_ceil(1 << 12);
    pages
        .checked_next_power_of_two()
        .map_or(LARGE_ORDER, u64::trailing_zeros)
        .min(LARGE_ORDER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_lies_in_the_block_of_its_two_mebibytes() {
        assert_eq!(place(0), (0, 0));
        assert_eq!(place(0x1f_ffff), (0, 0x1f_ffff));
        assert_eq!(place(0x20_0000), (1, 0));
        assert_eq!(place(0x3210_0004), (0x190, 0x10_0004));
    }

    #[test]
    fn a_block_is_no_larger_than_what_goes_into_it_needs() {
        let orders = [
            (1, 0),
            (4096, 0),
            (4097, 1),
            (8193, 2),
            (0x10_0001, 9),
            (0x20_0000, 9),
            (0x20_0001, 9),
            (u64::MAX, 9),
        ];
        for (bytes, order) in orders {
            assert_eq!(order_of(bytes), order, "{bytes:#x}");
        }
    }
}
