//! Stream table entries (IHI 0070, 5.2).

/// Words of 64 bits of an entry.
pub const STE_WORDS: usize = 8;

/// A stage 2, as the cores use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2 {
    /// VTTBR_EL2: the tables and the VMID.
    pub vttbr: u64,
    /// VTCR_EL2.
    pub vtcr: u64,
}

/// A stream table entry: what becomes of a device's transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ste([u64; STE_WORDS]);
const _: () = assert!(size_of::<Ste>() == 64);

const VALID: u64 = 1;
/// Config (word 0, 3:1): stage 1 bypassed, stage 2 translates.
const STAGE_2: u64 = 0b110 << 1;
/// SHCFG (word 1, 45:44): shareability as the transaction has it.
const SHAREABILITY_INCOMING: u64 = 0b01 << 44;
/// Word 2.
const AARCH64: u64 = 1 << 51;
/// Access flags mean nothing: a device's access makes no page young.
const NO_ACCESS_FLAG_FAULT: u64 = 1 << 53;
/// Faults are recorded.
const RECORD: u64 = 1 << 58;
/// T0SZ to PS of VTCR_EL2 (bits 18:0), which lie in word 2 at 50:32 in the same order.
const VTCR_SHAPE: u64 = 0x7_ffff;
const TABLE: u64 = 0x0000_ffff_ffff_fff0;

impl Ste {
    /// Aborts everything, and says so in an event.
    pub const ABORT: Self = Self([0; STE_WORDS]);

    /// Lets a device see what a VM sees through `stage2`.
    pub const fn stage2(stage2: Stage2) -> Self {
        let vmid = stage2.vttbr >> 48;
        let shape = (stage2.vtcr & VTCR_SHAPE) << 32;
        let mut words = [0; STE_WORDS];
        words = match words {
            [_, _, _, _, rest @ ..] => {
                let [a, b, c, d] = rest;
                [
                    VALID | STAGE_2,
                    SHAREABILITY_INCOMING,
                    vmid | shape | AARCH64 | NO_ACCESS_FLAG_FAULT | RECORD,
                    stage2.vttbr & TABLE & !1,
                    a,
                    b,
                    c,
                    d,
                ]
            }
        };
        Self(words)
    }

    /// Returns the entry as it lies in memory. The first word makes it valid: it is written
    /// last, and made invalid first (3.21.3.1).
    pub const fn words(&self) -> &[u64; STE_WORDS] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit numbers of the whole entry, as the manual counts them.
    fn field(ste: &Ste, high: usize, low: usize) -> u64 {
        let bit = |n: usize| ste.words()[n / 64] >> (n % 64) & 1;
        (low..=high).rev().fold(0, |value, n| value << 1 | bit(n))
    }

    #[test]
    fn a02_device_sees_its_vm_s_stage_2_and_faults_are_recorded() {
        // VTCR for 40 bits: T0SZ 24, SL0 1, write-back, inner shareable, 4 KiB, PS 44 bits; HA
        // and HD, which are not for devices.
        let ste = Ste::stage2(Stage2 {
            vttbr: 0x1234_0000_8123_2000,
            vtcr: 0x8064_3558,
        });
        assert_eq!(field(&ste, 0, 0), 1);
        assert_eq!(field(&ste, 3, 1), 0b110);
        assert_eq!(field(&ste, 109, 108), 0b01);
        assert_eq!(field(&ste, 143, 128), 0x1234);
        assert_eq!(field(&ste, 165, 160), 24);
        assert_eq!(field(&ste, 167, 166), 1);
        assert_eq!((field(&ste, 169, 168), field(&ste, 171, 170)), (1, 1));
        assert_eq!((field(&ste, 173, 172), field(&ste, 175, 174)), (3, 0));
        assert_eq!(field(&ste, 178, 176), 4);
        assert_eq!((field(&ste, 179, 179), field(&ste, 181, 181)), (1, 1));
        assert_eq!((field(&ste, 183, 183), field(&ste, 184, 184)), (0, 0));
        assert_eq!((field(&ste, 185, 185), field(&ste, 186, 186)), (0, 1));
        assert_eq!(field(&ste, 243, 196) << 4, 0x8123_2000);
        assert_eq!(field(&ste, 511, 256), 0);
        assert_eq!(Ste::ABORT.words(), &[0; 8]);
    }
}
