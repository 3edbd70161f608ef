//! The guest's own translation of an address, walked in software.
//!
//! A stage-2 permission fault says which virtual address was meant, not which
//! guest-physical one (HPFAR_EL2 is unknown, DDI 0487 D24.2.59). This walk finds it, in the
//! EL1&0 regime without FEAT_LPA2 and FEAT_LVA, which guests are not offered. Permissions are
//! not looked at: hardware did that before it came to stage 2.

use arch::Ipa;

/// The registers that say where the guest's tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Regime {
    /// SCTLR_EL1.
    pub sctlr: u64,
    /// TCR_EL1.
    pub tcr: u64,
    /// TTBR0_EL1.
    pub ttbr0: u64,
    /// TTBR1_EL1.
    pub ttbr1: u64,
}

const SCTLR_M: u64 = 1 << 0;
const SCTLR_EE: u64 = 1 << 25;
/// Bits 47:1: BADDR; bit 0 is CnP.
const BADDR: u64 = 0xffff_ffff_fffe;
const OUTPUT: u64 = 0xffff_ffff_f000;

/// One half of the address space.
#[derive(Clone, Copy)]
struct Half {
    ttbr: u64,
    /// Bits of address that are translated.
    input: u32,
    /// log2 of the granule.
    granule: u32,
}

impl Half {
    fn of(regime: &Regime, va: u64) -> Option<Self> {
        let field = |lsb: u32, len: u32| regime.tcr >> lsb & (1_u64 << len).wrapping_sub(1);
        // Bit 55 selects, whether or not the top byte is ignored.
        let (ttbr, size, granule, disabled) = if va >> 55 & 1 == 0 {
            let granule = [12, 16, 14]
                .get(usize::try_from(field(14, 2)).ok()?)
                .copied();
            (regime.ttbr0, field(0, 6), granule, field(7, 1))
        } else {
            let granule = match field(30, 2) {
                1 => Some(14),
                2 => Some(12),
                3 => Some(16),
                _ => None,
            };
            (regime.ttbr1, field(16, 6), granule, field(23, 1))
        };
        let input = 64_u32.checked_sub(u32::try_from(size).ok()?)?;
        if disabled != 0 || !(25..=48).contains(&input) {
            return None;
        }
        let granule = granule?;
        Some(Self {
            ttbr,
            input,
            granule,
        })
    }

    /// Bits that a table of `level` resolves: (lowest, number).
    fn bits(self, level: u32) -> (u32, u32) {
        let stride = self.granule.saturating_sub(3);
        let above = 3_u32.saturating_sub(level);
        let low = self.granule.saturating_add(stride.saturating_mul(above));
        (low, stride.min(self.input.saturating_sub(low)))
    }

    /// The level of the first table: the highest that has bits to resolve.
    fn start(self) -> u32 {
        (0..3)
            .find(|level| self.bits(*level).0 < self.input)
            .unwrap_or(3)
    }
}

/// Returns the guest-physical address of `va` in `regime`, or `None` if the tables do not say
/// (any more). `read` loads 64 bits, little-endian, of the guest's memory.
///
/// At most four loads.
pub fn translate(
    regime: &Regime,
    va: u64,
    mut read: impl FnMut(Ipa) -> Option<u64>,
) -> Option<Ipa> {
    if regime.sctlr & SCTLR_M == 0 {
        return Ipa::new(va);
    }
    let half = Half::of(regime, va)?;
    let start = half.start();
    let (_, bits) = half.bits(start);
    // A table is aligned to its size, and to 64 bytes at least (D8.2.5).
    let size = (8_u64 << bits).max(64);
    let mut table = half.ttbr & BADDR & !size.wrapping_sub(1);
    for level in start..4 {
        let (low, bits) = half.bits(level);
        let index = va >> low & (1_u64 << bits).wrapping_sub(1);
        let word = read(Ipa::new(table.checked_add(index.checked_mul(8)?)?)?)?;
        let word = if regime.sctlr & SCTLR_EE != 0 {
            word.swap_bytes()
        } else {
            word
        };
        let offset_mask = (1_u64 << low).wrapping_sub(1);
        match (word & 3, level) {
            (3, 3) => return Ipa::new(word & OUTPUT & !offset_mask | va & offset_mask),
            (3, _) => table = word & OUTPUT & !(1_u64 << half.granule).wrapping_sub(1),
            // Blocks: level 1 with 4 KiB, level 2 with all.
            (1, 2) => return Ipa::new(word & OUTPUT & !offset_mask | va & offset_mask),
            (1, 1) if half.granule == 12 => {
                return Ipa::new(word & OUTPUT & !offset_mask | va & offset_mask);
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks with memory given as (address, word) pairs; anything else is unreadable.
    fn walk(regime: Regime, va: u64, memory: &[(u64, u64)]) -> Option<u64> {
        let read = |ipa: Ipa| {
            let word = memory.iter().find(|(at, _)| *at == ipa.raw());
            word.map(|(_, word)| *word)
        };
        translate(&regime, va, read).map(Ipa::raw)
    }

    /// 48 bits of 4 KiB pages in both halves: T0SZ = T1SZ = 16, TG0 = 0, TG1 = 2.
    fn linux() -> Regime {
        Regime {
            sctlr: 1,
            tcr: 16 | 16 << 16 | 2 << 30,
            ttbr0: 0x4100_0001,
            ttbr1: 0x0012_0000_4200_0000,
        }
    }

    #[test]
    fn without_the_mmu_an_address_is_itself() {
        let regime = Regime {
            sctlr: 0,
            ..linux()
        };
        assert_eq!(walk(regime, 0x4008_0123, &[]), Some(0x4008_0123));
    }

    #[test]
    fn four_levels_of_4_kib_lead_to_a_page() {
        // VA 0xffff_8012_3456_789a: indices 256, 72, 418, 359 (bits 47:39, 38:30, 29:21, 20:12).
        let va = 0xffff_8012_3456_789a;
        let memory = [
            (0x4200_0000 + 256 * 8, 0x4300_0003),
            (0x4300_0000 + 72 * 8, 0x4400_0003),
            (0x4400_0000 + 418 * 8, 0x0060_0000_4500_0003),
            (0x4500_0000 + 359 * 8, 0x0068_0000_4abc_d703),
        ];
        assert_eq!(walk(linux(), va, &memory), Some(0x4abc_d89a));
        // The same with a tag in the top byte.
        let tagged = va & 0x00ff_ffff_ffff_ffff | 0xa5 << 56;
        assert_eq!(walk(linux(), tagged, &memory), Some(0x4abc_d89a));
        // One table taken away.
        assert_eq!(walk(linux(), va, &memory[..2]), None);
    }

    #[test]
    fn blocks_end_the_walk_at_level_1_and_2() {
        let level1 = [(0x4100_0000, 0x4300_0003), (0x4300_0008, 0x8000_0701)];
        assert_eq!(walk(linux(), 0x7234_5678, &level1), Some(0xb234_5678));
        let level2 = [
            (0x4100_0000, 0x4300_0003),
            (0x4300_0008, 0x4400_0003),
            // VA bits 29:21 of 0x7234_5678 are 401.
            (0x4400_0000 + 401 * 8, 0x4860_0701),
        ];
        assert_eq!(walk(linux(), 0x7234_5678, &level2), Some(0x4874_5678));
    }

    #[test]
    fn a_short_space_starts_lower_and_an_invalid_entry_is_nothing() {
        // 39 bits: level 1 first.
        let regime = Regime {
            tcr: 25 | 25 << 16 | 2 << 30,
            ..linux()
        };
        let memory = [(0x4100_0008, 0x4000_0701)];
        assert_eq!(walk(regime, 0x4000_1234, &memory), Some(0x4000_1234));
        assert_eq!(
            walk(regime, 0x8000_1234, &[(0x4100_0010, 0x4000_0700)]),
            None
        );
    }

    #[test]
    fn granules_of_16_and_64_kib() {
        // TG0 = 2 (16 KiB), 36 bits: level 2 first (bits 35:25), then 24:14.
        let sixteen = Regime {
            tcr: 28 | 2 << 14,
            ..linux()
        };
        let memory = [
            (0x4100_0000 + 8 * 8, 0x4300_0003),
            (0x4300_0000 + 3 * 8, 0x5000_4703),
        ];
        let va = 8 << 25 | 3 << 14 | 0x2345;
        assert_eq!(walk(sixteen, va, &memory), Some(0x5000_4000 | 0x2345));
        // TG0 = 1 (64 KiB), 42 bits: level 2 first (bits 41:29), a block of 512 MiB.
        let sixty_four = Regime {
            tcr: 22 | 1 << 14,
            ..linux()
        };
        let memory = [(0x4100_0000 + 5 * 8, 0x6000_0701)];
        let va = 5 << 29 | 0x1234_5678;
        assert_eq!(
            walk(sixty_four, va, &memory),
            Some(0x6000_0000 | 0x1234_5678)
        );
    }

    #[test]
    fn tables_may_be_big_endian_and_a_half_may_be_off() {
        let regime = Regime {
            sctlr: 1 | 1 << 25,
            tcr: 25,
            ..linux()
        };
        let memory = [(0x4100_0008, 0x4000_0701_u64.swap_bytes())];
        assert_eq!(walk(regime, 0x4000_1234, &memory), Some(0x4000_1234));
        let off = Regime {
            tcr: 16 | 1 << 7,
            ..linux()
        };
        assert_eq!(walk(off, 0x1000, &[(0x4100_0000, 0x4300_0003)]), None);
    }
}
