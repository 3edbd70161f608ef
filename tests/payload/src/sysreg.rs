//! System registers by encoding.
#![expect(unsafe_code, reason = "MRS and MSR")]

use core::arch::asm;

/// Packs op0, op1, CRn, CRm, op2 as in bits 20:5 of MRS and MSR (DDI 0487, C6.2).
pub const fn encoding(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

/// The system register with an [`encoding`].
#[derive(Clone, Copy, Debug)]
pub struct Reg<const ENCODING: u32>;

impl<const ENCODING: u32> Reg<ENCODING> {
    /// Reads the register; 0 if that faults under [`crate::catch`].
    #[inline(always)]
    pub fn read(self) -> u64 {
        let mut value: u64 = 0;
        // SAFETY: An MRS changes nothing of the program's (IAR and RNDR, which have side
        // effects, none that Rust knows).
        unsafe {
            asm!(
                "mrs {value}, S{op0}_{op1}_C{crn}_C{crm}_{op2}",
                value = inout(reg) value,
                op0 = const ENCODING >> 14,
                op1 = const ENCODING >> 11 & 7,
                crn = const ENCODING >> 7 & 15,
                crm = const ENCODING >> 3 & 15,
                op2 = const ENCODING & 7,
                options(nostack, preserves_flags)
            );
        }
        value
    }

    /// Writes the register and synchronises.
    ///
    /// Panics for a register that decides what the program's own addresses mean, unless
    /// the MMU is off and it therefore decides nothing.
    #[inline(always)]
    pub fn write(self, value: u64) {
        const {
            assert!(ENCODING != encoding(3, 0, 1, 0, 0), "SCTLR_EL1");
            assert!(ENCODING != encoding(3, 0, 12, 0, 0), "VBAR_EL1");
        }
        assert!(!decides_addresses(ENCODING) || !crate::mmu::is_on());
        // SAFETY: The registers that could break the program are refused above; SCTLR_EL1
        // and VBAR_EL1 by the compiler. All others are data to code that uses no FP or SIMD.
        unsafe { self.write_raw(value) }
    }

    /// Writes the register and synchronises, whatever it is.
    ///
    /// # Safety
    ///
    /// The program must still find its code, stack and data afterwards.
    #[inline(always)]
    pub unsafe fn write_raw(self, value: u64) {
        // SAFETY: The caller's promise.
        unsafe {
            asm!(
                "msr S{op0}_{op1}_C{crn}_C{crm}_{op2}, {value}",
                "isb",
                value = in(reg) value,
                op0 = const ENCODING >> 14,
                op1 = const ENCODING >> 11 & 7,
                crn = const ENCODING >> 7 & 15,
                crm = const ENCODING >> 3 & 15,
                op2 = const ENCODING & 7,
                options(nostack, preserves_flags)
            );
        }
    }
}

/// Returns whether code and data could be elsewhere after a write.
const fn decides_addresses(code: u32) -> bool {
    // TTBR0, TTBR1, TCR, TCR2, MAIR, AMAIR.
    code == encoding(3, 0, 2, 0, 0)
        || code == encoding(3, 0, 2, 0, 1)
        || code == encoding(3, 0, 2, 0, 2)
        || code == encoding(3, 0, 2, 0, 3)
        || code == encoding(3, 0, 10, 2, 0)
        || code == encoding(3, 0, 10, 3, 0)
}

macro_rules! registers {
    ($($name:ident = $op0:literal $op1:literal $crn:literal $crm:literal $op2:literal;)*) => {
        $(
            #[doc = concat!(stringify!($name), ", S", $op0, "_", $op1, "_C", $crn, "_C", $crm, "_", $op2, ".")]
            pub const $name: Reg<{ encoding($op0, $op1, $crn, $crm, $op2) }> = Reg;
        )*
    };
}

registers! {
    MIDR_EL1 = 3 0 0 0 0;
    MPIDR_EL1 = 3 0 0 0 5;
    ID_AA64PFR0_EL1 = 3 0 0 4 0;
    ID_AA64PFR1_EL1 = 3 0 0 4 1;
    ID_AA64ZFR0_EL1 = 3 0 0 4 4;
    ID_AA64SMFR0_EL1 = 3 0 0 4 5;
    ID_AA64DFR0_EL1 = 3 0 0 5 0;
    ID_AA64ISAR0_EL1 = 3 0 0 6 0;
    ID_AA64ISAR1_EL1 = 3 0 0 6 1;
    ID_AA64ISAR2_EL1 = 3 0 0 6 2;
    ID_AA64MMFR0_EL1 = 3 0 0 7 0;
    ID_AA64MMFR1_EL1 = 3 0 0 7 1;
    ID_AA64MMFR2_EL1 = 3 0 0 7 2;
    SCTLR_EL1 = 3 0 1 0 0;
    CPACR_EL1 = 3 0 1 0 2;
    TTBR0_EL1 = 3 0 2 0 0;
    TTBR1_EL1 = 3 0 2 0 1;
    TCR_EL1 = 3 0 2 0 2;
    APIAKEYLO_EL1 = 3 0 2 1 0;
    APIAKEYHI_EL1 = 3 0 2 1 1;
    APGAKEYLO_EL1 = 3 0 2 3 0;
    SPSR_EL1 = 3 0 4 0 0;
    ELR_EL1 = 3 0 4 0 1;
    SP_EL0 = 3 0 4 1 0;
    ICC_PMR_EL1 = 3 0 4 6 0;
    AFSR0_EL1 = 3 0 5 1 0;
    AFSR1_EL1 = 3 0 5 1 1;
    ESR_EL1 = 3 0 5 2 0;
    FAR_EL1 = 3 0 6 0 0;
    PAR_EL1 = 3 0 7 4 0;
    MAIR_EL1 = 3 0 10 2 0;
    AMAIR_EL1 = 3 0 10 3 0;
    VBAR_EL1 = 3 0 12 0 0;
    ISR_EL1 = 3 0 12 1 0;
    ICC_RPR_EL1 = 3 0 12 11 3;
    ICC_SGI1R_EL1 = 3 0 12 11 5;
    ICC_IAR1_EL1 = 3 0 12 12 0;
    ICC_EOIR1_EL1 = 3 0 12 12 1;
    ICC_HPPIR1_EL1 = 3 0 12 12 2;
    ICC_BPR1_EL1 = 3 0 12 12 3;
    ICC_CTLR_EL1 = 3 0 12 12 4;
    ICC_SRE_EL1 = 3 0 12 12 5;
    ICC_IGRPEN1_EL1 = 3 0 12 12 7;
    CONTEXTIDR_EL1 = 3 0 13 0 1;
    TPIDR_EL1 = 3 0 13 0 4;
    CNTKCTL_EL1 = 3 0 14 1 0;
    CSSELR_EL1 = 3 2 0 0 0;
    CTR_EL0 = 3 3 0 0 1;
    DCZID_EL0 = 3 3 0 0 7;
    FPCR = 3 3 4 4 0;
    FPSR = 3 3 4 4 1;
    TPIDR_EL0 = 3 3 13 0 2;
    TPIDRRO_EL0 = 3 3 13 0 3;
    CNTFRQ_EL0 = 3 3 14 0 0;
    CNTPCT_EL0 = 3 3 14 0 1;
    CNTVCT_EL0 = 3 3 14 0 2;
    CNTP_TVAL_EL0 = 3 3 14 2 0;
    CNTP_CTL_EL0 = 3 3 14 2 1;
    CNTP_CVAL_EL0 = 3 3 14 2 2;
    CNTV_TVAL_EL0 = 3 3 14 3 0;
    CNTV_CTL_EL0 = 3 3 14 3 1;
    CNTV_CVAL_EL0 = 3 3 14 3 2;
    ZCR_EL1 = 3 0 1 2 0;
    PMOVSCLR_EL0 = 3 3 9 12 3;
    PMUSERENR_EL0 = 3 3 9 14 0;
    MDSCR_EL1 = 2 0 0 2 2;
    OSLAR_EL1 = 2 0 1 0 4;
    OSLSR_EL1 = 2 0 1 1 4;
    DBGBVR0_EL1 = 2 0 0 0 4;
    DBGWVR0_EL1 = 2 0 0 0 6;
    DBGBVR1_EL1 = 2 0 0 1 4;
    DBGWVR1_EL1 = 2 0 0 1 6;
}
