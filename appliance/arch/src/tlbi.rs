//! Operands of TLB maintenance by IPA (DDI 0487, C5.5: TLBI IPAS2E1IS, TLBI RIPAS2E1IS).

use crate::Ipa;

/// TG of both operands: the 4 KiB granule.
const GRANULE_4K: u64 = 0b01;
/// Most pages one operation by range covers: NUM = 31, SCALE = 3.
pub const RANGE_PAGES_MAX: u64 = 32 << 16;

/// Returns the operand of TLBI IPAS2E1IS for the page at `ipa`.
///
/// `level` 1 to 3 says that only a leaf of that level changed, in the TTL field, which takes
/// FEAT_TTL; 0 is no hint.
pub const fn page_operand(ipa: Ipa, level: u8) -> u64 {
    let ttl = match level {
        1..=3 => GRANULE_4K << 2 | level as u64,
        _ => 0,
    };
    ttl << 44 | ipa.raw() >> 12
}

/// Returns the operand of TLBI RIPAS2E1IS that covers `pages` pages (one to
/// [`RANGE_PAGES_MAX`], which it is held to) from `ipa`, and perhaps some more.
///
/// An operation covers (NUM + 1) × 2^(5 × SCALE + 1) pages.
pub const fn range_operand(ipa: Ipa, pages: u64, level: u8) -> u64 {
    let mut scale = 0_u32;
    let mut num = 31_u64;
    while scale < 4 {
        let shift = scale.wrapping_mul(5).wrapping_add(1);
        let unit = 1_u64 << shift;
        let units = pages.saturating_add(unit.wrapping_sub(1)) >> shift;
        if units <= 32 {
            num = units.saturating_sub(1);
            break;
        }
        scale = scale.wrapping_add(1);
    }
    if scale > 3 {
        scale = 3;
    }
    let ttl = match level {
        1..=3 => level as u64,
        _ => 0,
    };
    let base = ipa.raw() >> 12 & 0x1f_ffff_ffff;
    GRANULE_4K << 46 | (scale as u64) << 44 | num << 39 | ttl << 37 | base
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipa(raw: u64) -> Ipa {
        Ipa::new(raw).expect("below 2^48")
    }

    #[test]
    fn the_level_of_a_page_operand_is_in_bits_47_to_44() {
        assert_eq!(page_operand(ipa(0x4000_0000), 0), 0x4_0000);
        assert_eq!(page_operand(ipa(0x4000_0000), 3), 0x7000_0004_0000);
        assert_eq!(page_operand(ipa(0x4000_0000), 2), 0x6000_0004_0000);
        assert_eq!(page_operand(ipa(0x4000_0fff), 7), 0x4_0000, "no such level");
    }

    /// NUM in 43:39, SCALE in 45:44, TG in 47:46, TTL in 38:37.
    #[test]
    fn a_range_operand_has_base_count_scale_and_level() {
        assert_eq!(range_operand(ipa(0x1000), 2, 0), 0x4000_0000_0001);
        // 64 pages: 32 units of two.
        assert_eq!(range_operand(ipa(0), 64, 0), 0x4f80_0000_0000);
        // 128 pages: two units of 64.
        assert_eq!(range_operand(ipa(0), 128, 3), 0x50e0_0000_0000);
        // A GiB in blocks: 4 units of 65,536.
        assert_eq!(range_operand(ipa(0), 1 << 18, 2), 0x71c0_0000_0000);
    }

    /// From the definition: whatever is asked is covered, and not twice as much and a bit.
    #[test]
    fn a_range_covers_what_was_asked_and_little_more() {
        for pages in (1..5000)
            .chain((0..21).map(|n| 1 << n))
            .chain([RANGE_PAGES_MAX])
        {
            let operand = range_operand(ipa(0), pages, 0);
            let scale = operand >> 44 & 3;
            let num = operand >> 39 & 31;
            let covered = (num + 1) << (5 * scale + 1);
            assert!(covered >= pages, "{pages} pages, {covered} covered");
            assert!(covered <= 2 * pages + 2, "{pages} pages, {covered} covered");
        }
    }
}
