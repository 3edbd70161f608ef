//! What makes a guest stop: the trap registers, from "trap all" down.
//!
//! Each register starts with every trap the architecture had when this was written; each
//! hole is a constant with its reason. Bits of optional features are set only where the
//! feature is, so that no reserved bit is ever one.

/// What the hardware has, as far as traps depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// FEAT_RAS: PFR0.RAS is not 0.
    pub ras: bool,
    /// FEAT_LOR: MMFR1.LO is not 0.
    pub lor: bool,
    /// FEAT_MTE2: PFR1.MTE is at least 2.
    pub mte2: bool,
    /// FEAT_SPE: DFR0.PMSVer is not 0.
    pub spe: bool,
    /// FEAT_TRF: DFR0.TraceFilt is not 0.
    pub trace_filter: bool,
    /// FEAT_PMUv3: DFR0.PMUVer is neither 0 nor 15.
    pub pmu: bool,
    /// FEAT_PMUv3p1: DFR0.PMUVer is at least 4, and not 15.
    pub pmu_v3p1: bool,
    /// Event counters of the PMU: PMCR_EL0.N.
    pub pmu_counters: u8,
    /// FEAT_FGT: MMFR0.FGT is not 0 (MDCR_EL2.TDCC comes with it).
    pub fgt: bool,
    /// FEAT_MPAM: PFR0.MPAM or PFR1.MPAM_frac is not 0.
    pub mpam: bool,
    /// FEAT_S2FWB, and the stage-2 tables are written for it.
    pub fwb: bool,
}

impl Features {
    /// Reads the features from the hardware's ID registers and PMCR_EL0 (zero if there is
    /// no PMU). `fwb` is chosen by who writes the stage-2 tables.
    pub const fn detect(ids: HardwareIds, pmcr: u64, fwb: bool) -> Self {
        const fn field(register: u64, lsb: u32) -> u64 {
            register >> lsb & 0xf
        }
        let pmu_version = field(ids.dfr0, 8);
        let [pmcr_n, ..] = (pmcr >> 11 & 0x1f).to_le_bytes();
        Self {
            ras: field(ids.pfr0, 28) != 0,
            lor: field(ids.mmfr1, 16) != 0,
            mte2: field(ids.pfr1, 8) >= 2,
            spe: field(ids.dfr0, 32) != 0,
            trace_filter: field(ids.dfr0, 40) != 0,
            pmu: pmu_version != 0 && pmu_version != 15,
            pmu_v3p1: pmu_version >= 4 && pmu_version != 15,
            pmu_counters: pmcr_n,
            fgt: field(ids.mmfr0, 56) != 0,
            mpam: field(ids.pfr0, 40) != 0 || field(ids.pfr1, 16) != 0,
            fwb,
        }
    }
}

/// The hardware's registers that [`Features::detect`] reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardwareIds {
    /// ID_AA64PFR0_EL1.
    pub pfr0: u64,
    /// ID_AA64PFR1_EL1.
    pub pfr1: u64,
    /// ID_AA64DFR0_EL1.
    pub dfr0: u64,
    /// ID_AA64MMFR0_EL1.
    pub mmfr0: u64,
    /// ID_AA64MMFR1_EL1.
    pub mmfr1: u64,
}

/// Values of the trap registers while a guest runs.
///
/// Where they exist, HCRX_EL2 and all fine-grained trap registers (HFGRTR_EL2, HFGWTR_EL2,
/// HFGITR_EL2, HDFGRTR_EL2, HDFGWTR_EL2, HAFGRTR_EL2) are zero: what they enable stays off, what they can trap beyond this is not
/// trapped, and their inverted bits (`n…`) trap features that are hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traps {
    /// HCR_EL2.
    pub hcr: u64,
    /// CPTR_EL2, in its form for HCR_EL2.E2H = 0.
    pub cptr: u64,
    /// MDCR_EL2.
    pub mdcr: u64,
    /// HSTR_EL2.
    pub hstr: u64,
    /// CNTHCTL_EL2, in its form for HCR_EL2.E2H = 0.
    pub cnthctl: u64,
    /// MPAM2_EL2, if there is one.
    pub mpam2: Option<u64>,
}

/// HCR_EL2 (D24.2.58).
mod hcr {
    /// VM: stage 2 on.
    const VM: u64 = 1 << 0;
    /// SWIO: invalidation by set/way also cleans.
    const SWIO: u64 = 1 << 1;
    /// PTW: a guest's table walk into device memory faults.
    const PTW: u64 = 1 << 2;
    /// FMO, IMO, AMO: physical interrupts and SErrors come to EL2, virtual ones exist, and
    /// ICC_SGI*R_EL1 is trapped.
    const FMO_IMO_AMO: u64 = 0b111 << 3;
    /// FB, BSU = inner shareable: TLB and cache maintenance and barriers reach every core,
    /// since a vCPU may have run on another one.
    const FB_BSU: u64 = 1 << 9 | 0b01 << 10;
    /// TWI, TWE: waiting gives the core away.
    const TWI_TWE: u64 = 0b11 << 13;
    /// TID0, TID1, TID3: ID registers.
    const TID0_TID1_TID3: u64 = 0b11 << 15 | 1 << 18;
    /// TSC: SMC never reaches firmware.
    const TSC: u64 = 1 << 19;
    /// TIDCP: implementation-defined registers.
    const TIDCP: u64 = 1 << 20;
    /// TACR: ACTLR_EL1.
    const TACR: u64 = 1 << 21;
    /// TSW: cache maintenance by set/way, which would reach other VMs' lines.
    const TSW: u64 = 1 << 22;
    /// RW: EL1 is AArch64.
    const RW: u64 = 1 << 31;
    /// TLOR, with FEAT_LOR: LORegions.
    pub(super) const TLOR: u64 = 1 << 35;
    /// TERR and TEA, with FEAT_RAS: error records; synchronous external aborts come to EL2.
    pub(super) const TERR_TEA: u64 = 0b11 << 36;
    /// FWB, with FEAT_S2FWB: stage 2 decides the memory type.
    pub(super) const FWB: u64 = 1 << 46;
    /// TID5, with FEAT_MTE2: GMID_EL1.
    pub(super) const TID5: u64 = 1 << 58;

    // Holes, with their reasons:
    // TID2 (17), TID4 (49): CTR_EL0 and the cache geometry. A Linux boot reads CTR_EL0
    //   90,000 times; the values are the hardware's and tell nothing of other VMs.
    // TPCP (23), TPU (24), TICAB (50), TOCU (52): cache maintenance by address. Stage 2 bounds it.
    // TTLB (25), TTLBIS (54), TTLBOS (55): TLB maintenance. The VMID bounds it.
    // TVM (26), TRVM (30): stage-1 registers are the guest's and are switched.
    // TDZ (28): DC ZVA is a store to the guest's own memory.
    // HCD (29): HVC is how a guest calls.
    // APK, API (40, 41), ATA (56), EnSCXT (53), AMVOFFEN (51), FIEN (47): zero traps these.
    // VF, VI, VSE (6 to 8): virtual interrupts come from the list registers.
    // DC, CD, ID, MIOCNCE, TGE, E2H, NV*: other regimes.

    /// What every core has.
    pub(super) const BASE: u64 = VM
        | SWIO
        | PTW
        | FMO_IMO_AMO
        | FB_BSU
        | TWI_TWE
        | TID0_TID1_TID3
        | TSC
        | TIDCP
        | TACR
        | TSW
        | RW;
}

/// CPTR_EL2 (D24.2.34, E2H = 0).
mod cptr {
    /// Bits that are one where the features they trap are absent: 13, 12 (TSM), 9, 8 (TZ)
    /// and 7 to 0. So SVE and SME are trapped where they exist.
    const RES1_TSM_TZ: u64 = 0x33ff;
    /// TTA: trace registers.
    const TTA: u64 = 1 << 20;
    /// TAM: activity monitors. Ignored where there are none.
    const TAM: u64 = 1 << 30;

    // Holes, with their reasons:
    // TFP (10): core is compiled soft-float, so FP registers stay the guest's.
    // TCPAC (31): CPACR_EL1 is the guest's and is switched.

    pub(super) const VALUE: u64 = RES1_TSM_TZ | TTA | TAM;
}

/// MDCR_EL2 (D24.3.16).
mod mdcr {
    /// TPMCR, TPM: PMU registers.
    pub(super) const TPMCR_TPM: u64 = 0b11 << 5;
    /// TDA, TDOSA, TDRA: debug registers.
    pub(super) const TDA_TDOSA_TDRA: u64 = 0b111 << 9;
    /// TPMS, with FEAT_SPE: profiling registers. E2PB, bits 13:12, is zero: the buffer is
    /// EL2's and its registers are trapped.
    pub(super) const TPMS: u64 = 1 << 14;
    /// HPMD, with FEAT_PMUv3p1: nothing counts at EL2.
    pub(super) const HPMD: u64 = 1 << 17;
    /// TTRF, with FEAT_TRF: trace filters. E2TB, bits 25:24, is zero, likewise.
    pub(super) const TTRF: u64 = 1 << 19;
    /// TDCC, with FEAT_FGT: the debug communication channel.
    pub(super) const TDCC: u64 = 1 << 27;

    // Hole: TDE (8). Debug exceptions of the guest are the guest's.
    // Bits 4:0, HPMN, are the number of counters, so that none is EL2's by accident.
}

/// HSTR_EL2 (D24.2.66): all AArch32 CP15 accesses by CRn; 4 and 14 have no trap.
const HSTR_ALL: u64 = 0xbfef;

/// CNTHCTL_EL2 (D24.8.2, E2H = 0): EL1PCTEN and EL1PCEN are holes. A guest reads the
/// counters and programs both of its timers without an exit; both are switched.
const CNTHCTL_EL1PCTEN_EL1PCEN: u64 = 0b11;

/// MPAM2_EL2: TRAPMPAM0EL1 and TRAPMPAM1EL1; everything runs in partition 0.
const MPAM2_TRAP: u64 = 0b11 << 48;

/// Returns the values for a machine with these features.
pub const fn values(features: Features) -> Traps {
    const fn when(present: bool, bits: u64) -> u64 {
        if present { bits } else { 0 }
    }
    Traps {
        hcr: hcr::BASE
            | when(features.lor, hcr::TLOR)
            | when(features.ras, hcr::TERR_TEA)
            | when(features.fwb, hcr::FWB)
            | when(features.mte2, hcr::TID5),
        cptr: cptr::VALUE,
        mdcr: mdcr::TDA_TDOSA_TDRA
            | when(
                features.pmu,
                mdcr::TPMCR_TPM | features.pmu_counters as u64 & 0x1f,
            )
            | when(features.pmu_v3p1, mdcr::HPMD)
            | when(features.spe, mdcr::TPMS)
            | when(features.trace_filter, mdcr::TTRF)
            | when(features.fgt, mdcr::TDCC),
        hstr: HSTR_ALL,
        cnthctl: CNTHCTL_EL1PCTEN_EL1PCEN,
        mpam2: if features.mpam {
            Some(MPAM2_TRAP)
        } else {
            None
        },
    }
}
