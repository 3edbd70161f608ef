//! BARs whose size software chooses (Resizable BAR, PCIe 7.8.6).
//!
//! The capability is read when the function is found, and no guest sees it: to a guest the BAR has
//! the size that the operator chose. Sizes are of whole mebibytes, powers of two.

use crate::bar::BARS;
use crate::capability::walk_extended;
use crate::config::Config;

const RESIZABLE: u16 = 0x0015;
/// Most BARs in the capability.
const ENTRIES_MAX: u16 = 6;
/// log2 of the smallest size.
const SHIFT_MIN: u32 = 20;
/// BAR Size, bits 13:8 of the control register.
const SIZE_LSB: u32 = 8;
const SIZE_MASK: u32 = 0x3f;

/// What sizes a BAR can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resizable {
    /// Where its control register is.
    control: u16,
    /// Bit n: it can have 2^n bytes.
    sizes: u64,
}

impl Resizable {
    /// Returns the sizes as a set: bit n stands for 2^n bytes.
    pub fn sizes(&self) -> u64 {
        self.sizes
    }

    /// Returns whether it can have `bytes` bytes.
    pub fn takes(&self, bytes: u64) -> bool {
        bytes.is_power_of_two() && self.sizes & bytes_bit(bytes) != 0
    }

    /// Returns the sizes up to `most` bytes, largest first.
    pub fn up_to(&self, most: u64) -> impl Iterator<Item = u64> {
        let sizes = self.sizes;
        (SHIFT_MIN..63)
            .rev()
            .filter(move |n| sizes >> n & 1 != 0)
            .map(|n| 1 << n)
            .filter(move |bytes| *bytes <= most)
    }

    /// Gives the BAR `bytes` bytes, while the function decodes no memory; its address is to be
    /// written afterwards. False, and nothing changed, if it cannot have that size or does not
    /// take it.
    pub fn set(&self, config: &mut impl Config, bytes: u64) -> bool {
        if !self.takes(bytes) {
            return false;
        }
        let before = config.read(self.control);
        let field = bytes.trailing_zeros().wrapping_sub(SHIFT_MIN) & SIZE_MASK;
        let wanted = before & !(SIZE_MASK << SIZE_LSB) | field << SIZE_LSB;
        config.write(self.control, wanted);
        let taken = config.read(self.control) >> SIZE_LSB & SIZE_MASK == field;
        if !taken {
            config.write(self.control, before);
        }
        taken
    }
}

/// The bit that stands for a size.
const fn bytes_bit(bytes: u64) -> u64 {
    1_u64.wrapping_shl(bytes.trailing_zeros())
}

/// Reads which BARs can have which sizes.
pub(crate) fn find(config: &mut impl Config) -> [Option<Resizable>; BARS] {
    let mut found = [None; BARS];
    let at = walk_extended(config, |_, kind, at| (kind == RESIZABLE).then_some(at));
    let Some(at) = at else { return found };
    let mut entries = 1;
    for n in 0..ENTRIES_MAX {
        let capability = at.wrapping_add(4).wrapping_add(n.wrapping_mul(8));
        let control = capability.wrapping_add(4);
        if n >= entries || control >= 4096 {
            break;
        }
        let (low, high) = (config.read(capability), config.read(control));
        if n == 0 {
            // How many entries there are is said in the first alone.
            let [count, ..] = (high >> 5 & 0b111).to_le_bytes();
            entries = u16::from(count);
        }
        // Bit 4 of the capability is 1 MiB; bit 16 of the control register goes on with 2^48.
        let sizes = u64::from(low >> 4) << SHIFT_MIN | u64::from(high >> 16) << 48;
        let bar = usize::try_from(high & 0b111).unwrap_or(BARS);
        if let Some(place) = found.get_mut(bar)
            && sizes != 0
        {
            *place = Some(Resizable { control, sizes });
        }
    }
    found
}
