//! C2: what the ID registers deny is undefined, and Skete denies what it must.
#![expect(unsafe_code, reason = "it runs instructions that must not be there")]

use payload::stub;
use payload::sysreg::encoding;
use payload::{Fault, TestResult, expect, expect_eq, machine, println};

/// How the use of a feature begins.
enum Probe {
    /// A read of a system register.
    Read(u32),
    /// An instruction that touches nothing but x0.
    Run(u32),
}
use Probe::{Read, Run};

/// A feature: where the ID registers tell of it, and what is undefined without it.
struct Feature {
    name: &'static str,
    /// Encoding of an ID register and the lowest bit of a four-bit field; the feature is
    /// there if any of the fields is at least `least`.
    fields: &'static [(u32, u32)],
    least: u64,
    probes: &'static [Probe],
    /// Skete has no file for it, so no guest sees it (STYLE, feature-is-a-file).
    hidden_on_skete: bool,
}

const PFR0: u32 = encoding(3, 0, 0, 4, 0);
const PFR1: u32 = encoding(3, 0, 0, 4, 1);
const DFR0: u32 = encoding(3, 0, 0, 5, 0);
const ISAR0: u32 = encoding(3, 0, 0, 6, 0);
const ISAR1: u32 = encoding(3, 0, 0, 6, 1);
const ISAR2: u32 = encoding(3, 0, 0, 6, 2);
const MMFR1: u32 = encoding(3, 0, 0, 7, 1);
const MMFR3: u32 = encoding(3, 0, 0, 7, 3);

const fn feature(
    name: &'static str,
    fields: &'static [(u32, u32)],
    probes: &'static [Probe],
) -> Feature {
    Feature {
        name,
        fields,
        least: 1,
        probes,
        hidden_on_skete: true,
    }
}

/// A feature that Skete may show.
const fn optional(
    name: &'static str,
    fields: &'static [(u32, u32)],
    probes: &'static [Probe],
) -> Feature {
    Feature {
        hidden_on_skete: false,
        ..feature(name, fields, probes)
    }
}

const FEATURES: &[Feature] = &[
    optional(
        "SVE",
        &[(PFR0, 32)],
        // ZCR_EL1; cntb x0.
        &[Read(encoding(3, 0, 1, 2, 0)), Run(0x0420_e3e0)],
    ),
    feature(
        "SME",
        &[(PFR1, 24)],
        // SMCR_EL1, SMPRI_EL1, SVCR, TPIDR2_EL0; rdsvl x0, #1.
        &[
            Read(encoding(3, 0, 1, 2, 6)),
            Read(encoding(3, 0, 1, 2, 4)),
            Read(encoding(3, 3, 4, 2, 2)),
            Read(encoding(3, 3, 13, 0, 5)),
            Run(0x04bf_5820),
        ],
    ),
    optional(
        "pointer authentication",
        &[
            (ISAR1, 4),
            (ISAR1, 8),
            (ISAR1, 24),
            (ISAR1, 28),
            (ISAR2, 8),
            (ISAR2, 12),
        ],
        // The five keys, low and high; pacga x0, x0, x0.
        &[
            Read(encoding(3, 0, 2, 1, 0)),
            Read(encoding(3, 0, 2, 1, 1)),
            Read(encoding(3, 0, 2, 1, 2)),
            Read(encoding(3, 0, 2, 1, 3)),
            Read(encoding(3, 0, 2, 2, 0)),
            Read(encoding(3, 0, 2, 2, 1)),
            Read(encoding(3, 0, 2, 2, 2)),
            Read(encoding(3, 0, 2, 2, 3)),
            Read(encoding(3, 0, 2, 3, 0)),
            Read(encoding(3, 0, 2, 3, 1)),
            Run(0x9ac0_3000),
        ],
    ),
    feature(
        "MTE",
        &[(PFR1, 8)],
        // RGSR_EL1, GCR_EL1, TFSR_EL1, TFSRE0_EL1, GMID_EL1. Its instructions cannot be
        // trapped: without HCR_EL2.ATA they work on tags that are zero.
        &[
            Read(encoding(3, 0, 1, 0, 5)),
            Read(encoding(3, 0, 1, 0, 6)),
            Read(encoding(3, 0, 5, 6, 0)),
            Read(encoding(3, 0, 5, 6, 1)),
            Read(encoding(3, 1, 0, 0, 4)),
        ],
    ),
    feature(
        "AMU",
        &[(PFR0, 44)],
        // AMCR, AMCFGR, AMCNTENSET0, AMEVCNTR00.
        &[
            Read(encoding(3, 3, 13, 2, 0)),
            Read(encoding(3, 3, 13, 2, 1)),
            Read(encoding(3, 3, 13, 2, 5)),
            Read(encoding(3, 3, 13, 4, 0)),
        ],
    ),
    optional(
        "PMU",
        &[(DFR0, 8)],
        // PMCR, PMCNTENSET, PMCCNTR, PMUSERENR, PMINTENSET, PMEVCNTR0, PMCCFILTR.
        &[
            Read(encoding(3, 3, 9, 12, 0)),
            Read(encoding(3, 3, 9, 12, 1)),
            Read(encoding(3, 3, 9, 13, 0)),
            Read(encoding(3, 3, 9, 14, 0)),
            Read(encoding(3, 0, 9, 14, 1)),
            Read(encoding(3, 3, 14, 8, 0)),
            Read(encoding(3, 3, 14, 15, 7)),
        ],
    ),
    feature(
        "SPE",
        &[(DFR0, 32)],
        // PMSCR, PMBLIMITR, PMSIDR.
        &[
            Read(encoding(3, 0, 9, 9, 0)),
            Read(encoding(3, 0, 9, 10, 0)),
            Read(encoding(3, 0, 9, 9, 7)),
        ],
    ),
    feature(
        "TRBE",
        &[(DFR0, 44)],
        // TRBLIMITR, TRBIDR.
        &[
            Read(encoding(3, 0, 9, 11, 0)),
            Read(encoding(3, 0, 9, 11, 7)),
        ],
    ),
    feature(
        "trace registers",
        &[(DFR0, 4)],
        // TRCPRGCTLR, TRCAUTHSTATUS.
        &[
            Read(encoding(2, 1, 0, 1, 0)),
            Read(encoding(2, 1, 7, 14, 6)),
        ],
    ),
    feature(
        "trace filter",
        &[(DFR0, 40)],
        // TRFCR_EL1.
        &[Read(encoding(3, 0, 1, 2, 1))],
    ),
    feature(
        "BRBE",
        &[(DFR0, 52)],
        // BRBCR_EL1, BRBIDR0_EL1.
        &[Read(encoding(2, 1, 9, 0, 0)), Read(encoding(2, 1, 9, 2, 0))],
    ),
    feature(
        "MPAM",
        &[(PFR0, 40), (PFR1, 16)],
        // MPAM1_EL1, MPAM0_EL1, MPAMIDR_EL1.
        &[
            Read(encoding(3, 0, 10, 5, 0)),
            Read(encoding(3, 0, 10, 5, 1)),
            Read(encoding(3, 0, 10, 4, 4)),
        ],
    ),
    optional(
        "LORegions",
        &[(MMFR1, 16)],
        // LORC_EL1, LORID_EL1.
        &[
            Read(encoding(3, 0, 10, 4, 3)),
            Read(encoding(3, 0, 10, 4, 7)),
        ],
    ),
    feature("GCS", &[(PFR1, 44)], &[Read(encoding(3, 0, 2, 5, 0))]),
    optional("RNDR", &[(ISAR0, 60)], &[Read(encoding(3, 3, 2, 4, 0))]),
    // Not here: ECV, whose CNTPCTSS and CNTVCTSS are trapped only with the counters
    // themselves; WFxT, whose WFIT waits untrapped wherever WFI does.
    optional("TCR2", &[(MMFR3, 0)], &[Read(encoding(3, 0, 2, 0, 3))]),
    optional("SCTLR2", &[(MMFR3, 4)], &[Read(encoding(3, 0, 1, 0, 3))]),
    optional("S1PIE", &[(MMFR3, 8)], &[Read(encoding(3, 0, 10, 2, 3))]),
    optional("AIE", &[(MMFR3, 24)], &[Read(encoding(3, 0, 10, 2, 1))]),
    Feature {
        least: 2,
        ..optional(
            "SCXTNUM",
            &[(PFR0, 56), (PFR1, 32)],
            &[Read(encoding(3, 0, 13, 0, 7))],
        )
    },
    // ERRIDR_EL1.
    optional("RAS", &[(PFR0, 28)], &[Read(encoding(3, 0, 5, 3, 0))]),
    // swp x0, x0, [x0] would touch memory: cas and ldadd are left to C11.
];

impl Feature {
    fn present(&self) -> bool {
        self.fields.iter().any(|(register, shift)| {
            let value = stub::read_sysreg(*register).unwrap_or(0);
            let field = value >> shift & 15;
            // 0xf says "not as the architecture has it" in DFR0.
            field >= self.least && field != 15
        })
    }
}

fn probe(what: &Probe) -> Result<u64, Fault> {
    match what {
        Read(register) => stub::read_sysreg(*register),
        // SAFETY: Each instruction of the table reads and writes x0 only.
        Run(insn) => unsafe { stub::execute(&[*insn], 0) },
    }
}

pub(crate) fn undefined() -> TestResult {
    payload::fp::enable();
    for feature in FEATURES {
        if feature.present() {
            println!("# {} is shown", feature.name);
            continue;
        }
        for (n, what) in feature.probes.iter().enumerate() {
            let result = probe(what);
            let undefined = matches!(&result, Err(fault) if fault.is_undefined());
            expect!(undefined, "{} probe {n}: {result:x?}", feature.name);
        }
    }
    Ok(())
}

pub(crate) fn policy() -> TestResult {
    if !machine::on_skete() {
        return Ok(());
    }
    for feature in FEATURES.iter().filter(|feature| feature.hidden_on_skete) {
        expect!(!feature.present(), "{} is shown", feature.name);
    }
    let field = |register, shift: u32| stub::read_sysreg(register).map(|value| value >> shift & 15);
    // EL2 and EL3 do not exist for a guest; EL1 and EL0 are AArch64 only.
    expect_eq!(field(PFR0, 12), Ok(0), "EL3");
    expect_eq!(field(PFR0, 8), Ok(0), "EL2");
    expect_eq!(field(PFR0, 4), Ok(1), "EL1");
    expect_eq!(field(PFR0, 0), Ok(1), "EL0");
    // The system register interface of the GIC is there.
    expect!(field(PFR0, 24) != Ok(0), "GIC");
    Ok(())
}
