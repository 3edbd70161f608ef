//! How wide a guest's IPA space is, and what VTCR_EL2 must say about it.

use crate::level::Level;

/// Fewest IPA bits a VM may have.
pub const IPA_BITS_MIN: u8 = 32;
/// Most IPA bits a VM may have, without FEAT_LPA2.
pub const IPA_BITS_MAX: u8 = 48;

/// Width of an IPA space, with the start level and root size that follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    bits: u8,
}

impl Shape {
    /// Accepts 32 to 48 bits.
    pub(crate) const fn new(ipa_bits: u8) -> Option<Self> {
        if ipa_bits >= IPA_BITS_MIN && ipa_bits <= IPA_BITS_MAX {
            Some(Self { bits: ipa_bits })
        } else {
            None
        }
    }

    /// Returns the first address past the space.
    pub(crate) const fn limit(self) -> u64 {
        1 << self.bits
    }

    /// Returns the level of the root.
    ///
    /// Up to 43 bits it is level 1, whose tables may be concatenated up to sixteen
    /// (DDI 0487 D8.2.9): one step less in every walk than a level 0 table would cost.
    pub(crate) const fn start(self) -> Level {
        if self.bits <= 43 {
            Level::L1
        } else {
            Level::L0
        }
    }

    /// Returns the pool order of the root: 0 for one table, up to 4 for sixteen.
    ///
    /// Concatenated tables are aligned to their total size (D8.2.9), as a frame of that
    /// order is.
    pub(crate) const fn root_order(self) -> u8 {
        match self.start() {
            Level::L1 => self.bits.saturating_sub(39),
            _ => 0,
        }
    }
    /// Returns the number of table pages the root has.
    pub(crate) const fn pages(self) -> u64 {
        1 << self.root_order()
    }
}

/// Returns the value of VTCR_EL2 for `ipa_bits`, clamped to what [`Shape`] accepts.
///
/// `pa_range` is ID_AA64MMFR0_EL1.PARange (bits 3:0); 52 bits are used as 48, because the
/// 4 KiB granule reaches no further without FEAT_LPA2. `hafdbs` lets hardware set the
/// access flag and dirty state. Walks are inner-shareable, write-back, write-allocate;
/// VMIDs have 8 bits.
pub const fn vtcr(ipa_bits: u8, pa_range: u8, hafdbs: bool) -> u64 {
    const IRGN0_WBWA: u64 = 0b01 << 8;
    const ORGN0_WBWA: u64 = 0b01 << 10;
    const SH0_INNER: u64 = 0b11 << 12;
    const HA: u64 = 1 << 21;
    const HD: u64 = 1 << 22;
    const RES1: u64 = 1 << 31;
    const PS_48: u8 = 0b101;

    let bits = if ipa_bits < IPA_BITS_MIN {
        IPA_BITS_MIN
    } else if ipa_bits > IPA_BITS_MAX {
        IPA_BITS_MAX
    } else {
        ipa_bits
    };
    let shape = Shape { bits };
    let t0sz = 64_u64.saturating_sub(shape.bits as u64);
    // With the 4 KiB granule, SL0 counts up from level 2 (D24.2.203).
    let sl0: u64 = match shape.start() {
        Level::L0 => 2,
        Level::L1 => 1,
        Level::L2 | Level::L3 => 0,
    };
    let ps = if pa_range & 0xf > PS_48 {
        PS_48
    } else {
        pa_range & 0xf
    };
    let hardware = if hafdbs { HA | HD } else { 0 };
    t0sz | sl0 << 6 | IRGN0_WBWA | ORGN0_WBWA | SH0_INNER | (ps as u64) << 16 | hardware | RES1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit positions from DDI 0487, VTCR_EL2; start levels from table D8-13.
    #[test]
    fn vtcr_is_what_the_manual_asks_for_each_width() {
        // 40 bits: T0SZ 24, SL0 1 (level 1), PS 2 (40 bits).
        assert_eq!(vtcr(40, 2, false), 0x8002_3558);
        // 48 bits: T0SZ 16, SL0 2 (level 0), PS 5, HA and HD.
        assert_eq!(vtcr(48, 6, true), 0x8065_3590);
        // 32 bits: T0SZ 32, SL0 1.
        assert_eq!(vtcr(32, 0, false), 0x8000_3560);
    }

    #[test]
    fn widths_outside_32_to_48_are_refused() {
        for bits in 0..=u8::MAX {
            assert_eq!(Shape::new(bits).is_some(), (32..=48).contains(&bits));
        }
    }

    #[test]
    fn the_root_has_as_many_tables_as_the_width_needs() {
        let orders = [
            (32, 0),
            (39, 0),
            (40, 1),
            (41, 2),
            (42, 3),
            (43, 4),
            (44, 0),
            (48, 0),
        ];
        for (bits, order) in orders {
            assert_eq!(Shape::new(bits).expect("in range").root_order(), order);
        }
    }
}
