//! The ID registers a guest sees.
//!
//! Each is the hardware's value with an allow-list of fields: what is not listed is zero,
//! which everywhere means "not there" except in the few fields that [`GuestIds::new`] sets.
//! A feature is listed only if a guest can use it without help: plain instructions, and
//! stage 1 of translation. Those that need help are in [`crate::features`], and shown if the VM
//! is to have them. What is hidden is trapped by [`crate::trap`] as well.

use crate::features::{Feature, Set};

/// An ID register whose value is not always zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdReg {
    /// REVIDR_EL1.
    Revidr,
    /// ID_AA64PFR0_EL1.
    Pfr0,
    /// ID_AA64PFR1_EL1.
    Pfr1,
    /// ID_AA64ZFR0_EL1.
    Zfr0,
    /// ID_AA64DFR0_EL1.
    Dfr0,
    /// ID_AA64ISAR0_EL1.
    Isar0,
    /// ID_AA64ISAR1_EL1.
    Isar1,
    /// ID_AA64ISAR2_EL1.
    Isar2,
    /// ID_AA64MMFR0_EL1.
    Mmfr0,
    /// ID_AA64MMFR1_EL1.
    Mmfr1,
    /// ID_AA64MMFR2_EL1.
    Mmfr2,
}

impl IdReg {
    /// Every register that [`GuestIds::new`] reads.
    pub const ALL: [Self; 11] = [
        Self::Revidr,
        Self::Pfr0,
        Self::Pfr1,
        Self::Zfr0,
        Self::Dfr0,
        Self::Isar0,
        Self::Isar1,
        Self::Isar2,
        Self::Mmfr0,
        Self::Mmfr1,
        Self::Mmfr2,
    ];

    /// Returns the register S3_0_C0_C`crm`_`op2`; `None` is one that reads as zero.
    pub(crate) const fn at(crm: u16, op2: u16) -> Option<Self> {
        match (crm, op2) {
            (4, 0) => Some(Self::Pfr0),
            (4, 1) => Some(Self::Pfr1),
            (4, 4) => Some(Self::Zfr0),
            (5, 0) => Some(Self::Dfr0),
            (6, 0) => Some(Self::Isar0),
            (6, 1) => Some(Self::Isar1),
            (6, 2) => Some(Self::Isar2),
            (7, 0) => Some(Self::Mmfr0),
            (7, 1) => Some(Self::Mmfr1),
            (7, 2) => Some(Self::Mmfr2),
            _ => None,
        }
    }
}

/// The values a guest reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestIds {
    revidr: u64,
    pfr: [u64; 2],
    zfr0: u64,
    dfr0: u64,
    isar: [u64; 3],
    mmfr: [u64; 3],
}

impl GuestIds {
    /// Computes the values from the hardware's, for a guest that has these `features`.
    ///
    /// `pa_range` is the largest MMFR0.PARange to show (5: 48 bits, 2: 40 bits); 52 bits
    /// are never shown, since they need LPA2.
    pub fn new(read: impl Fn(IdReg) -> u64, pa_range: u8, features: Set) -> Self {
        let hardware = |register| Fields(read(register));
        let mut ids = Self {
            revidr: read(IdReg::Revidr),
            pfr: [
                pfr0(hardware(IdReg::Pfr0)),
                // BT, SSBS.
                hardware(IdReg::Pfr1).keep(&[0, 4]),
            ],
            // Only with SVE.
            zfr0: 0,
            dfr0: dfr0(hardware(IdReg::Dfr0)),
            isar: [
                // AES, SHA1, SHA2, CRC32, Atomic; RDM, SHA3, SM3, SM4, DP, FHM, TS, TLB, RNDR.
                // Not TME, 27:24.
                hardware(IdReg::Isar0)
                    .keep(&[4, 8, 12, 16, 20, 28, 32, 36, 40, 44, 48, 52, 56, 60]),
                // DPB, JSCVT, FCMA, LRCPC, FRINTTS, SB, SPECRES, BF16, DGH, I8MM, XS. Not LS64.
                hardware(IdReg::Isar1).keep(&[0, 12, 16, 20, 32, 36, 40, 44, 48, 52, 56]),
                // WFxT (which cannot be hidden: a trapped WFIT may end at any time), RPRES,
                // BC, CLRBHB, PRFMSLC, RPRFM, CSSC, LUT. Not MOPS, SYSREG_128.
                hardware(IdReg::Isar2).keep(&[0, 4, 20, 28, 40, 48, 52, 56]),
            ],
            mmfr: [
                mmfr0(hardware(IdReg::Mmfr0), pa_range),
                // HAFDBS (to dirty state), HPDS, PAN, ETS, AFP, nTLBPA, ECBHB. Not VMIDBits,
                // VH, LO, SpecSEI, XNX, TWED, HCX, TIDCP1, CMOW.
                hardware(IdReg::Mmfr1)
                    .cap(0, 2)
                    .keep(&[0, 12, 20, 36, 44, 48, 60]),
                // UAO, LSM, CCIDX (CCSIDR_EL1 is the hardware's), ST, AT, IDS, TTL, BBM, E0PD.
                // Not CnP, IESB, VARange (52 bits), NV, FWB, EVT.
                hardware(IdReg::Mmfr2).keep(&[4, 8, 20, 28, 32, 36, 48, 52, 60]),
            ],
        };
        for feature in Feature::ALL.into_iter().filter(|f| features.has(*f)) {
            let row = feature.description();
            for field in row.fields.iter().chain(row.details) {
                let shown = field.shown(read(field.register));
                let register = ids.get_mut(field.register);
                *register = Fields(*register).with(field.lsb, shown).0;
            }
        }
        ids
    }

    const fn get_mut(&mut self, register: IdReg) -> &mut u64 {
        let [pfr0, pfr1] = &mut self.pfr;
        let [isar0, isar1, isar2] = &mut self.isar;
        let [mmfr0, mmfr1, mmfr2] = &mut self.mmfr;
        match register {
            IdReg::Revidr => &mut self.revidr,
            IdReg::Pfr0 => pfr0,
            IdReg::Pfr1 => pfr1,
            IdReg::Zfr0 => &mut self.zfr0,
            IdReg::Dfr0 => &mut self.dfr0,
            IdReg::Isar0 => isar0,
            IdReg::Isar1 => isar1,
            IdReg::Isar2 => isar2,
            IdReg::Mmfr0 => mmfr0,
            IdReg::Mmfr1 => mmfr1,
            IdReg::Mmfr2 => mmfr2,
        }
    }

    /// Returns what the guest reads from `register`.
    pub const fn get(&self, register: IdReg) -> u64 {
        let [pfr0, pfr1] = self.pfr;
        let [isar0, isar1, isar2] = self.isar;
        let [mmfr0, mmfr1, mmfr2] = self.mmfr;
        match register {
            IdReg::Revidr => self.revidr,
            IdReg::Pfr0 => pfr0,
            IdReg::Pfr1 => pfr1,
            IdReg::Zfr0 => self.zfr0,
            IdReg::Dfr0 => self.dfr0,
            IdReg::Isar0 => isar0,
            IdReg::Isar1 => isar1,
            IdReg::Isar2 => isar2,
            IdReg::Mmfr0 => mmfr0,
            IdReg::Mmfr1 => mmfr1,
            IdReg::Mmfr2 => mmfr2,
        }
    }
}

fn pfr0(hardware: Fields) -> u64 {
    hardware
        // CSV2 up to 1: from 2 on it promises SCXTNUM_ELx, which is trapped.
        .cap(56, 1)
        // FP, AdvSIMD, DIT, CSV2, CSV3. Not RAS, SEL2, MPAM, AMU, RME.
        .kept(&[16, 20, 48, 56, 60])
        // EL0 and EL1 are AArch64 only; there is no EL2 and no EL3; GICv3 registers.
        .with(0, 1)
        .with(4, 1)
        .with(24, 1)
        .0
}

fn dfr0(hardware: Fields) -> u64 {
    hardware
        // BRPs, WRPs, CTX_CMPs, DoubleLock. Not trace, SPE, TRBE, BRBE.
        .kept(&[12, 20, 28, 36])
        // DebugVer: Armv8.
        .with(0, 6)
        .0
}

fn mmfr0(hardware: Fields, pa_range: u8) -> u64 {
    const BITS_48: u64 = 5;
    hardware
        .cap(0, BITS_48.min(pa_range.into()))
        // TGran16: 16 KiB without LPA2.
        .cap(20, 1)
        // ECV: CNTVCTSS_EL0 and CNTPCTSS_EL0, which no trap hides; 2 would be CNTPOFF_EL2.
        .cap(60, 1)
        .with_lpa2_hidden()
        // PARange, ASIDBits, TGran16, TGran64, TGran4, ECV. Not BigEnd (devices are little-
        // endian), SNSMem, the stage-2 granules, ExS, FGT.
        .keep(&[0, 4, 20, 24, 28, 60])
}

/// A register as sixteen fields of four bits.
#[derive(Clone, Copy)]
struct Fields(u64);

impl Fields {
    /// Keeps the fields that begin at these bits.
    fn kept(self, fields: &[u32]) -> Self {
        let mask = fields.iter().fold(0, |mask, lsb| mask | 0xf << (lsb & 63));
        Self(self.0 & mask)
    }

    fn keep(self, fields: &[u32]) -> u64 {
        self.kept(fields).0
    }

    const fn field(self, lsb: u32) -> u64 {
        self.0 >> lsb & 0xf
    }

    /// Sets the field at bit `lsb`.
    const fn with(self, lsb: u32, value: u64) -> Self {
        Self(self.0 & !(0xf << lsb) | value << lsb)
    }

    /// Lowers the field at bit `lsb` to `most`.
    fn cap(self, lsb: u32, most: u64) -> Self {
        self.with(lsb, self.field(lsb).min(most))
    }

    /// MMFR0.TGran4: 0 is 4 KiB, 1 is 4 KiB with LPA2, 15 is none. Hermit wants 0.
    fn with_lpa2_hidden(self) -> Self {
        match self.field(28) {
            0xf => self,
            _ => self.with(28, 0),
        }
    }
}
