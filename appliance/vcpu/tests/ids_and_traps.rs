//! ID registers and trap registers, with literal numbers from the manual and from real cores.

use vcpu::features::Set;
use vcpu::ids::{GuestIds, IdReg};
use vcpu::inject::PstateFields;
use vcpu::trap::{Features, HardwareIds, Traps, values};

/// A core with every field at its largest.
fn all_ones(_: IdReg) -> u64 {
    u64::MAX
}

/// QEMU 10.0's Cortex-A72.
fn cortex_a72(register: IdReg) -> u64 {
    match register {
        IdReg::Pfr0 => 0x0100_2222,
        IdReg::Dfr0 => 0x1030_5106,
        IdReg::Isar0 => 0x0001_1120,
        IdReg::Mmfr0 => 0x0000_1124,
        IdReg::Revidr
        | IdReg::Pfr1
        | IdReg::Zfr0
        | IdReg::Isar1
        | IdReg::Isar2
        | IdReg::Mmfr1
        | IdReg::Mmfr2 => 0,
    }
}

#[test]
fn a_cortex_a72_shows_what_it_can_do_without_el2_and_el3() {
    let ids = GuestIds::new(cortex_a72, 5, Set::NONE);
    // EL0 and EL1 AArch64 only, FP and AdvSIMD, GIC registers.
    assert_eq!(ids.get(IdReg::Pfr0), 0x0100_0011);
    assert_eq!(ids.get(IdReg::Pfr1), 0);
    // Two contexts, six breakpoints, four watchpoints; no PMU.
    assert_eq!(ids.get(IdReg::Dfr0), 0x1030_5006);
    assert_eq!(ids.get(IdReg::Isar0), 0x0001_1120);
    // 44 bits, 16-bit ASIDs, 4 KiB and 64 KiB granules.
    assert_eq!(ids.get(IdReg::Mmfr0), 0x0000_0024);
    assert_eq!(ids.get(IdReg::Mmfr1), 0);
    assert_eq!(ids.get(IdReg::Mmfr2), 0);
}

/// QEMU 10.0's `max`.
fn max(register: IdReg) -> u64 {
    match register {
        IdReg::Revidr => 0,
        IdReg::Pfr0 => 0x1301_0011_2111_2222,
        IdReg::Pfr1 => 0x0000_0010_0100_0121,
        IdReg::Zfr0 => 0x0110_1101_0021_0021,
        IdReg::Dfr0 => 0x1000_0000_1030_560a,
        IdReg::Isar0 => 0x1221_1111_1021_2120,
        IdReg::Isar1 => 0x0111_2111_1021_1502,
        IdReg::Isar2 => 0x0000_0000_0011_0012,
        IdReg::Mmfr0 => 0x2100_0323_1020_1126,
        IdReg::Mmfr1 => 0x0110_1120_1031_2122,
        IdReg::Mmfr2 => 0x1221_0111_1201_1011,
    }
}

/// QEMU 10.0's Neoverse N1.
fn neoverse_n1(register: IdReg) -> u64 {
    match register {
        IdReg::Revidr | IdReg::Zfr0 | IdReg::Isar2 => 0,
        IdReg::Pfr0 => 0x1100_0000_1111_1112,
        IdReg::Pfr1 => 0x20,
        IdReg::Dfr0 => 0x1030_5408,
        IdReg::Isar0 => 0x0000_1000_1021_1120,
        IdReg::Isar1 => 0x10_0001,
        IdReg::Mmfr0 => 0x10_1125,
        IdReg::Mmfr1 => 0x1021_2122,
        IdReg::Mmfr2 => 0x1011,
    }
}

#[test]
fn qemus_max_without_what_can_be_hidden_shows_this() {
    let ids = GuestIds::new(max, 15, Set::NONE);
    for (register, shown) in [
        // CSV3, CSV2 = 1, DIT, GIC, AdvSIMD and FP with half precision.
        (IdReg::Pfr0, 0x1101_0000_0111_0011),
        (IdReg::Pfr1, 0x21),
        (IdReg::Dfr0, 0x1030_5006),
        (IdReg::Isar0, 0x1221_1111_1021_2120),
        // Without API = 5 and GPI = 1.
        (IdReg::Isar1, 0x0111_2111_0021_1002),
        // Without MOPS.
        (IdReg::Isar2, 0x10_0012),
        // ECV = 1, 16 KiB, 48 bits.
        (IdReg::Mmfr0, 0x1000_0000_0010_0025),
        (IdReg::Mmfr1, 0x0000_1020_0030_2002),
        (IdReg::Mmfr2, 0x1021_0011_1000_0010),
    ] {
        assert_eq!(ids.get(register), shown, "{register:?}");
    }
}

#[test]
fn qemus_max_with_all_that_a_guest_can_have_shows_this_besides() {
    assert_eq!(Set::detect(max), Set::ALL);
    let ids = GuestIds::new(max, 15, Set::ALL);
    for (register, shown) in [
        // SVE.
        (IdReg::Pfr0, 0x1101_0001_0111_0011),
        // SVE2.1, AES, BitPerm, BF16, SHA3, SM4, I8MM, F32MM, F64MM as the core has them.
        (IdReg::Zfr0, 0x0110_1101_0021_0021),
        // PMUv3p1, though the core has v3p5.
        (IdReg::Dfr0, 0x1030_5406),
        // API = 5 and GPI = 1.
        (IdReg::Isar1, 0x0111_2111_1021_1502),
        (IdReg::Isar2, 0x10_0012),
    ] {
        assert_eq!(ids.get(register), shown, "{register:?}");
    }
}

#[test]
fn wfxt_is_not_told_of_where_its_traps_say_wfi() {
    // QEMU's `max`, and a core of Arm's that has it.
    assert_eq!(vcpu::errata::isar2(0x000f_0510, 0x11_0012), 0x11_0010);
    assert_eq!(vcpu::errata::isar2(0x410f_d840, 0x11_0012), 0x11_0012);
}

#[test]
fn a_neoverse_n1_shows_this() {
    let ids = GuestIds::new(neoverse_n1, 5, Set::NONE);
    for (register, shown) in [
        (IdReg::Pfr0, 0x1100_0000_0111_0011),
        (IdReg::Pfr1, 0x20),
        (IdReg::Dfr0, 0x1030_5006),
        (IdReg::Isar0, 0x0000_1000_1021_1120),
        (IdReg::Isar1, 0x10_0001),
        (IdReg::Isar2, 0),
        (IdReg::Mmfr0, 0x10_0025),
        (IdReg::Mmfr1, 0x20_2002),
        (IdReg::Mmfr2, 0x10),
    ] {
        assert_eq!(ids.get(register), shown, "{register:?}");
    }
}

#[test]
fn every_register_read_is_one_that_is_shown() {
    for register in IdReg::ALL {
        let read = |asked| if asked == register { u64::MAX } else { 0 };
        let ids = GuestIds::new(read, 5, Set::ALL);
        assert_ne!(ids.get(register), 0, "{register:?}");
    }
}

#[test]
fn of_a_core_that_has_everything_only_listed_fields_are_shown() {
    let ids = GuestIds::new(all_ones, 5, Set::NONE);
    assert_eq!(ids.get(IdReg::Revidr), u64::MAX);
    //                                          CSV3, CSV2 = 1, DIT; GIC, AdvSIMD, FP, EL1, EL0.
    assert_eq!(ids.get(IdReg::Pfr0), 0xf10f_0000_01ff_0011);
    assert_eq!(ids.get(IdReg::Pfr1), 0xff);
    assert_eq!(ids.get(IdReg::Dfr0), 0x0000_00f0_f0f0_f006);
    assert_eq!(ids.get(IdReg::Isar0), 0xffff_ffff_f0ff_fff0);
    assert_eq!(ids.get(IdReg::Isar1), 0x0fff_ffff_00ff_f00f);
    assert_eq!(ids.get(IdReg::Isar2), 0x0fff_0f00_f0f0_00ff);
    // TGran4 = 15 is "no 4 KiB granule", and stays.
    assert_eq!(ids.get(IdReg::Mmfr0), 0x1000_0000_ff10_00f5);
    assert_eq!(ids.get(IdReg::Mmfr1), 0xf00f_f0f0_00f0_f002);
    assert_eq!(ids.get(IdReg::Mmfr2), 0xf0ff_00ff_f0f0_0ff0);
}

/// One field of a core that otherwise has nothing.
fn only(register: IdReg, lsb: u32, value: u64) -> GuestIds {
    let read = move |asked| if asked == register { value << lsb } else { 0 };
    GuestIds::new(read, 5, Set::NONE)
}

#[test]
fn lpa2_is_never_shown() {
    for (tgran4, shown) in [(0, 0), (1, 0), (15, 15)] {
        let ids = only(IdReg::Mmfr0, 28, tgran4);
        assert_eq!(ids.get(IdReg::Mmfr0) >> 28 & 15, shown, "TGran4 {tgran4}");
    }
    for (tgran16, shown) in [(0, 0), (1, 1), (2, 1)] {
        let ids = only(IdReg::Mmfr0, 20, tgran16);
        assert_eq!(ids.get(IdReg::Mmfr0) >> 20 & 15, shown, "TGran16 {tgran16}");
    }
}

#[test]
fn of_enhanced_counters_the_guests_part_alone_is_shown() {
    for (ecv, shown) in [(0, 0), (1, 1), (2, 1)] {
        let ids = only(IdReg::Mmfr0, 60, ecv);
        assert_eq!(ids.get(IdReg::Mmfr0) >> 60, shown, "ECV {ecv}");
    }
}

#[test]
fn the_physical_address_range_is_the_smallest_of_hardware_limit_and_48_bits() {
    let range = |hardware, limit| {
        let read = move |asked| if asked == IdReg::Mmfr0 { hardware } else { 0 };
        GuestIds::new(read, limit, Set::NONE).get(IdReg::Mmfr0) & 15
    };
    assert_eq!(range(6, 15), 5);
    assert_eq!(range(4, 5), 4);
    assert_eq!(range(5, 2), 2);
    assert_eq!(range(0, 5), 0);
}

#[test]
fn features_that_would_need_help_are_hidden() {
    for (name, register, lsb, value) in [
        ("EL2", IdReg::Pfr0, 8, 1),
        ("EL3", IdReg::Pfr0, 12, 1),
        ("RAS", IdReg::Pfr0, 28, 1),
        ("SVE", IdReg::Pfr0, 32, 1),
        ("MPAM", IdReg::Pfr0, 40, 1),
        ("AMU", IdReg::Pfr0, 44, 1),
        ("MTE", IdReg::Pfr1, 8, 3),
        ("SME", IdReg::Pfr1, 24, 1),
        ("NMI", IdReg::Pfr1, 36, 1),
        ("GCS", IdReg::Pfr1, 44, 1),
        ("TraceVer", IdReg::Dfr0, 4, 1),
        ("PMUVer", IdReg::Dfr0, 8, 6),
        ("PMSVer", IdReg::Dfr0, 32, 2),
        ("TraceBuffer", IdReg::Dfr0, 44, 1),
        ("TME", IdReg::Isar0, 24, 1),
        ("APA", IdReg::Isar1, 4, 5),
        ("API", IdReg::Isar1, 8, 1),
        ("GPA", IdReg::Isar1, 24, 1),
        ("GPI", IdReg::Isar1, 28, 1),
        ("LS64", IdReg::Isar1, 60, 3),
        ("APA3", IdReg::Isar2, 12, 5),
        ("MOPS", IdReg::Isar2, 16, 1),
        ("FGT", IdReg::Mmfr0, 56, 1),
        ("VMIDBits", IdReg::Mmfr1, 4, 2),
        ("VH", IdReg::Mmfr1, 8, 1),
        ("LO", IdReg::Mmfr1, 16, 1),
        ("XNX", IdReg::Mmfr1, 28, 1),
        ("HCX", IdReg::Mmfr1, 40, 1),
        ("VARange", IdReg::Mmfr2, 16, 1),
        ("NV", IdReg::Mmfr2, 24, 2),
        ("FWB", IdReg::Mmfr2, 40, 1),
        ("EVT", IdReg::Mmfr2, 56, 2),
    ] {
        let ids = only(register, lsb, value);
        assert_eq!(ids.get(register) >> lsb & 15, 0, "{name}");
    }
}

#[test]
fn plain_instructions_are_shown() {
    for (name, register, lsb, value) in [
        ("AES", IdReg::Isar0, 4, 2),
        ("CRC32", IdReg::Isar0, 16, 1),
        ("LSE", IdReg::Isar0, 20, 2),
        ("RDM", IdReg::Isar0, 28, 1),
        ("DP", IdReg::Isar0, 44, 1),
        ("RNDR", IdReg::Isar0, 60, 1),
        ("XS", IdReg::Isar1, 56, 1),
        ("WFxT", IdReg::Isar2, 0, 2),
        ("ECV", IdReg::Mmfr0, 60, 1),
        ("I8MM", IdReg::Isar1, 52, 1),
        ("BT", IdReg::Pfr1, 0, 1),
        ("SSBS", IdReg::Pfr1, 4, 2),
        ("DIT", IdReg::Pfr0, 48, 1),
        ("FP16", IdReg::Pfr0, 16, 1),
        ("no FP", IdReg::Pfr0, 16, 15),
        ("HAFDBS", IdReg::Mmfr1, 0, 2),
        ("HPDS", IdReg::Mmfr1, 12, 1),
        ("PAN", IdReg::Mmfr1, 20, 2),
        ("CCIDX", IdReg::Mmfr2, 20, 1),
    ] {
        let ids = only(register, lsb, value);
        assert_eq!(ids.get(register) >> lsb & 15, value, "{name}");
    }
}

#[test]
fn a_core_of_armv8_0_gets_the_traps_of_armv8_0() {
    let ids = HardwareIds {
        pfr0: 0x2222,
        dfr0: 0x1030_5106,
        ..HardwareIds::default()
    };
    // Six counters, as a Cortex-A72 has.
    let features = Features::detect(ids, 6 << 11, false);
    let expected = Traps {
        // RW, TSW, TACR, TIDCP, TSC, TID3, TID1, TID0, TWE, TWI, BSU = 1, FB, AMO, IMO,
        // FMO, PTW, SWIO, VM.
        hcr: 0x807d_e63f,
        cptr: 0x4010_33ff,
        // TDRA, TDOSA, TDA, TPM, TPMCR, HPMN = 6.
        mdcr: 0x0e66,
        hstr: 0xbfef,
        cnthctl: 3,
        mpam2: None,
    };
    assert_eq!(values(features), expected);
}

#[test]
fn bits_of_optional_features_come_with_the_feature_only() {
    let with = |change: fn(&mut Features)| {
        let mut features = Features::default();
        change(&mut features);
        let (now, none) = (values(features), values(Features::default()));
        (now.hcr ^ none.hcr, now.mdcr ^ none.mdcr)
    };
    assert_eq!(values(Features::default()).mdcr, 0xe00);
    assert_eq!(with(|f| f.lor = true), (1 << 35, 0));
    assert_eq!(with(|f| f.ras = true), (3 << 36, 0));
    assert_eq!(with(|f| f.fwb = true), (1 << 46, 0));
    assert_eq!(with(|f| f.mte2 = true), (1 << 58, 0));
    assert_eq!(with(|f| f.pmu = true), (0, 3 << 5));
    assert_eq!(with(|f| f.pmu_v3p1 = true), (0, 1 << 17));
    assert_eq!(with(|f| f.spe = true), (0, 1 << 14));
    assert_eq!(with(|f| f.trace_filter = true), (0, 1 << 19));
    assert_eq!(with(|f| f.fgt = true), (0, 1 << 27));
}

#[test]
fn features_are_read_from_their_fields() {
    let none = Features::default();
    let pfr0 = |pfr0| {
        let ids = HardwareIds {
            pfr0,
            ..HardwareIds::default()
        };
        Features::detect(ids, 0, false)
    };
    assert_eq!(pfr0(1 << 28), Features { ras: true, ..none });
    let mpam = Features { mpam: true, ..none };
    assert_eq!(pfr0(1 << 40), mpam);
    assert_eq!(values(mpam).mpam2, Some(3 << 48));
    let pfr1 = |pfr1| {
        let ids = HardwareIds {
            pfr1,
            ..HardwareIds::default()
        };
        Features::detect(ids, 0, false)
    };
    assert_eq!(pfr1(1 << 8), none);
    assert_eq!(pfr1(1 << 16), mpam);
    assert_eq!(pfr1(2 << 8), Features { mte2: true, ..none });
    let dfr0 = |dfr0| {
        let ids = HardwareIds {
            dfr0,
            ..HardwareIds::default()
        };
        Features::detect(ids, 0, false)
    };
    assert_eq!(dfr0(0xf << 8), none, "an implementation-defined PMU");
    assert_eq!(dfr0(1 << 8), Features { pmu: true, ..none });
    let v3p1 = Features {
        pmu: true,
        pmu_v3p1: true,
        ..none
    };
    assert_eq!(dfr0(4 << 8), v3p1);
    assert_eq!(dfr0(1 << 32), Features { spe: true, ..none });
    let filtered = Features {
        trace_filter: true,
        ..none
    };
    assert_eq!(dfr0(1 << 40), filtered);
    let mmfr = HardwareIds {
        mmfr0: 1 << 56,
        mmfr1: 1 << 16,
        ..HardwareIds::default()
    };
    let expected = Features {
        fgt: true,
        lor: true,
        fwb: true,
        pmu_counters: 31,
        ..none
    };
    assert_eq!(Features::detect(mmfr, u64::MAX, true), expected);
}

#[test]
fn cache_identification_is_not_trapped() {
    // TID2, bit 17, and TID4, bit 49: a Linux boot reads CTR_EL0 90,000 times.
    let hcr = values(Features::default()).hcr;
    assert_eq!(hcr >> 17 & 1, 0);
    assert_eq!(hcr >> 49 & 1, 0);
}

#[test]
fn fields_of_pstate_are_those_the_core_has() {
    let fields = |pan, ssbs| PstateFields { pan, ssbs };
    assert_eq!(PstateFields::detect(0, 0), fields(false, false));
    assert_eq!(PstateFields::detect(0x20, 0), fields(false, true));
    assert_eq!(PstateFields::detect(0, 0x10_0000), fields(true, false));
}
