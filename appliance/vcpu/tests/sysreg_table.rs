//! The golden table of trapped registers: every encoding, both ways. (RELIABILITY C1, host half.)

use std::collections::BTreeMap;
use vcpu::features::{Feature, Set};
use vcpu::ids::IdReg;
use vcpu::sysreg::{Action, Direction, Quirks, Register, action};

type Encoding = (u16, u16, u16, u16, u16);

const UNDEF: Action = Action::Undefined;
const ZERO: Action = Action::Value(0);
const WI: Action = Action::Ignore;

/// Name, encoding, what a read does, what a write does. Names and encodings are DDI 0487's.
const GOLDEN: &[(&str, Encoding, Action, Action)] = &[
    // Identification, the group of HCR_EL2.TID3. What is not named reads as zero, below.
    (
        "ID_AA64PFR0_EL1",
        (3, 0, 0, 4, 0),
        Action::Id(IdReg::Pfr0),
        UNDEF,
    ),
    (
        "ID_AA64PFR1_EL1",
        (3, 0, 0, 4, 1),
        Action::Id(IdReg::Pfr1),
        UNDEF,
    ),
    (
        "ID_AA64ZFR0_EL1",
        (3, 0, 0, 4, 4),
        Action::Id(IdReg::Zfr0),
        UNDEF,
    ),
    (
        "ID_AA64DFR0_EL1",
        (3, 0, 0, 5, 0),
        Action::Id(IdReg::Dfr0),
        UNDEF,
    ),
    (
        "ID_AA64ISAR0_EL1",
        (3, 0, 0, 6, 0),
        Action::Id(IdReg::Isar0),
        UNDEF,
    ),
    (
        "ID_AA64ISAR1_EL1",
        (3, 0, 0, 6, 1),
        Action::Id(IdReg::Isar1),
        UNDEF,
    ),
    (
        "ID_AA64ISAR2_EL1",
        (3, 0, 0, 6, 2),
        Action::Id(IdReg::Isar2),
        UNDEF,
    ),
    (
        "ID_AA64MMFR0_EL1",
        (3, 0, 0, 7, 0),
        Action::Id(IdReg::Mmfr0),
        UNDEF,
    ),
    (
        "ID_AA64MMFR1_EL1",
        (3, 0, 0, 7, 1),
        Action::Id(IdReg::Mmfr1),
        UNDEF,
    ),
    (
        "ID_AA64MMFR2_EL1",
        (3, 0, 0, 7, 2),
        Action::Id(IdReg::Mmfr2),
        UNDEF,
    ),
    (
        "REVIDR_EL1",
        (3, 0, 0, 0, 6),
        Action::Id(IdReg::Revidr),
        UNDEF,
    ),
    ("AIDR_EL1", (3, 1, 0, 0, 7), ZERO, UNDEF),
    ("ACTLR_EL1", (3, 0, 1, 0, 1), ZERO, WI),
    // GIC.
    ("ICC_SGI1R_EL1", (3, 0, 12, 11, 5), UNDEF, Action::Sgi1),
    ("ICC_ASGI1R_EL1", (3, 0, 12, 11, 6), UNDEF, WI),
    ("ICC_SGI0R_EL1", (3, 0, 12, 11, 7), UNDEF, Action::Sgi0),
    ("ICC_SRE_EL1", (3, 0, 12, 12, 5), Action::Value(7), WI),
    // Debug.
    ("OSDTRRX_EL1", (2, 0, 0, 0, 2), ZERO, WI),
    ("MDCCINT_EL1", (2, 0, 0, 2, 0), ZERO, WI),
    ("MDSCR_EL1", (2, 0, 0, 2, 2), Action::Debug, Action::Debug),
    ("OSDTRTX_EL1", (2, 0, 0, 3, 2), ZERO, WI),
    ("OSECCR_EL1", (2, 0, 0, 6, 2), ZERO, WI),
    ("MDRAR_EL1", (2, 0, 1, 0, 0), ZERO, UNDEF),
    ("OSLAR_EL1", (2, 0, 1, 0, 4), Action::Debug, Action::Debug),
    ("OSLSR_EL1", (2, 0, 1, 1, 4), Action::Debug, Action::Debug),
    ("OSDLR_EL1", (2, 0, 1, 3, 4), ZERO, WI),
    ("DBGPRCR_EL1", (2, 0, 1, 4, 4), ZERO, WI),
    ("DBGCLAIMSET_EL1", (2, 0, 7, 8, 6), ZERO, WI),
    ("DBGCLAIMCLR_EL1", (2, 0, 7, 9, 6), ZERO, WI),
    ("DBGAUTHSTATUS_EL1", (2, 0, 7, 14, 6), ZERO, UNDEF),
    ("MDCCSR_EL0", (2, 3, 0, 1, 0), ZERO, UNDEF),
    ("DBGDTR_EL0", (2, 3, 0, 4, 0), ZERO, WI),
    ("DBGDTRRX_EL0", (2, 3, 0, 5, 0), ZERO, WI),
];

/// The PMU's registers, for a guest that may touch them; anyone else has none.
const PMU: &[(&str, Encoding)] = &[
    ("PMCR_EL0", (3, 3, 9, 12, 0)),
    ("PMCNTENSET_EL0", (3, 3, 9, 12, 1)),
    ("PMCNTENCLR_EL0", (3, 3, 9, 12, 2)),
    ("PMOVSCLR_EL0", (3, 3, 9, 12, 3)),
    ("PMSWINC_EL0", (3, 3, 9, 12, 4)),
    ("PMSELR_EL0", (3, 3, 9, 12, 5)),
    ("PMCEID0_EL0", (3, 3, 9, 12, 6)),
    ("PMCEID1_EL0", (3, 3, 9, 12, 7)),
    ("PMCCNTR_EL0", (3, 3, 9, 13, 0)),
    ("PMXEVTYPER_EL0", (3, 3, 9, 13, 1)),
    ("PMXEVCNTR_EL0", (3, 3, 9, 13, 2)),
    ("PMUSERENR_EL0", (3, 3, 9, 14, 0)),
    ("PMOVSSET_EL0", (3, 3, 9, 14, 3)),
    ("PMINTENSET_EL1", (3, 0, 9, 14, 1)),
    ("PMINTENCLR_EL1", (3, 0, 9, 14, 2)),
    ("PMMIR_EL1", (3, 0, 9, 14, 6)),
];

/// Halves of the keys: APIA, APIB; APDA, APDB; APGA.
const KEYS: [(u16, u16); 10] = [
    (1, 0),
    (1, 1),
    (1, 2),
    (1, 3),
    (2, 0),
    (2, 1),
    (2, 2),
    (2, 3),
    (3, 0),
    (3, 1),
];

fn golden(quirks: Quirks) -> BTreeMap<Encoding, (Action, Action)> {
    let mut table = BTreeMap::new();
    for crm in 1..=7 {
        for op2 in 0..=7 {
            table.insert((3, 0, 0, crm, op2), (ZERO, UNDEF));
        }
    }
    for n in 0..16 {
        // DBGBVR<n>, DBGBCR<n>, DBGWVR<n>, DBGWCR<n>.
        for op2 in [4, 5, 6, 7] {
            table.insert((2, 0, 0, n, op2), (Action::Debug, Action::Debug));
        }
    }
    for (_, encoding, read, write) in GOLDEN {
        table.insert(*encoding, (*read, *write));
    }
    let pmu = match (quirks.features.has(Feature::Pmu), quirks.pmu_raz) {
        (true, _) => Some((Action::Pmu, Action::Pmu)),
        (false, true) => Some((ZERO, WI)),
        (false, false) => None,
    };
    if let Some(pmu) = pmu {
        for (_, encoding) in PMU {
            table.insert(*encoding, pmu);
        }
        // PMEVCNTR<n> at CRm 8 to 11, PMEVTYPER<n> and PMCCFILTR at 12 to 15.
        for crm in 8..16 {
            for op2 in 0..8 {
                table.insert((3, 3, 14, crm, op2), pmu);
            }
        }
    }
    if quirks.features.has(Feature::Pauth) {
        let open = Action::Open(Feature::Pauth);
        for (crm, op2) in KEYS {
            table.insert((3, 0, 2, crm, op2), (open, open));
        }
    }
    table
}

fn every(op0s: [u16; 2]) -> impl Iterator<Item = Encoding> {
    op0s.into_iter().flat_map(|op0| {
        (0..1u16 << 14).map(move |n| (op0, n >> 11 & 7, n >> 7 & 15, n >> 3 & 15, n & 7))
    })
}

#[test]
fn every_register_does_what_the_golden_table_says_both_ways() {
    let kinds = [
        (Set::NONE, false),
        (Set::NONE, true),
        (Set::ALL, false),
        (Set::NONE.with(Feature::Pmu), false),
        (Set::NONE.with(Feature::Pauth), false),
        (Set::NONE.with(Feature::Sve), false),
    ];
    for (features, pmu_raz) in kinds {
        let quirks = Quirks { features, pmu_raz };
        let table = golden(quirks);
        let mut seen = 0;
        for encoding in every([2, 3]) {
            let (op0, op1, crn, crm, op2) = encoding;
            let register = Register::new(op0, op1, crn, crm, op2);
            let expected = table.get(&encoding).copied().unwrap_or((UNDEF, UNDEF));
            let found = (
                action(register, Direction::Read, quirks),
                action(register, Direction::Write, quirks),
            );
            assert_eq!(found, expected, "{encoding:?} {quirks:?}");
            seen += 1;
        }
        assert_eq!(seen, 32_768);
    }
}

#[test]
fn of_system_instructions_only_set_way_operations_are_answered() {
    let quirks = Quirks::default();
    for encoding in every([0, 1]) {
        let (op0, op1, crn, crm, op2) = encoding;
        let register = Register::new(op0, op1, crn, crm, op2);
        // DC ISW, DC CSW, DC CISW.
        let by_set_way = [(1, 0, 7, 6, 2), (1, 0, 7, 10, 2), (1, 0, 7, 14, 2)];
        let write = if by_set_way.contains(&encoding) {
            WI
        } else {
            UNDEF
        };
        assert_eq!(action(register, Direction::Write, quirks), write);
        assert_eq!(action(register, Direction::Read, quirks), UNDEF);
    }
}

#[test]
fn registers_of_hidden_features_are_undefined() {
    for (name, (op0, op1, crn, crm, op2)) in [
        ("APIAKeyLo_EL1", (3, 0, 2, 1, 0)),
        ("ZCR_EL1", (3, 0, 1, 2, 0)),
        ("SMCR_EL1", (3, 0, 1, 2, 6)),
        ("RGSR_EL1", (3, 0, 1, 0, 5)),
        ("TFSR_EL1", (3, 0, 5, 6, 0)),
        ("ERRIDR_EL1", (3, 0, 5, 3, 0)),
        ("ERXSTATUS_EL1", (3, 0, 5, 4, 2)),
        ("LORC_EL1", (3, 0, 10, 4, 3)),
        ("SCXTNUM_EL1", (3, 0, 13, 0, 7)),
        ("PMSCR_EL1", (3, 0, 9, 9, 0)),
        ("TRBLIMITR_EL1", (3, 0, 9, 11, 0)),
        ("AMCR_EL0", (3, 3, 13, 2, 0)),
        ("TRCPRGCTLR", (2, 1, 0, 1, 0)),
        ("GMID_EL1", (3, 1, 0, 0, 4)),
        ("HCR_EL2", (3, 4, 1, 1, 0)),
        ("VTTBR_EL2", (3, 4, 2, 1, 0)),
        ("SCR_EL3", (3, 6, 1, 1, 0)),
        ("S3_1_C15_C2_1", (3, 1, 15, 2, 1)),
    ] {
        let register = Register::new(op0, op1, crn, crm, op2);
        for direction in [Direction::Read, Direction::Write] {
            let quirks = Quirks {
                pmu_raz: true,
                ..Quirks::default()
            };
            let found = action(register, direction, quirks);
            assert_eq!(found, UNDEF, "{name}");
        }
    }
}

#[test]
fn fields_survive_packing() {
    let register = Register::new(3, 7, 15, 15, 7);
    assert_eq!(register.index(), 0xffff);
    assert_eq!(Register::new(2, 1, 3, 5, 6).fields(), (2, 1, 3, 5, 6));
    assert_eq!(Register::ICC_SGI1R_EL1.to_string(), "s3_0_c12_c11_5");
    assert_eq!(Register::ICC_SGI1R_EL1.fields(), (3, 0, 12, 11, 5));
    assert_eq!(Register::ICC_SGI0R_EL1.fields(), (3, 0, 12, 11, 7));
    assert_eq!(Register::ICC_ASGI1R_EL1.fields(), (3, 0, 12, 11, 6));
}
