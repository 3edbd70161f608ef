//! Features that a guest may have: one table for what it reads, what is trapped, and what its
//! registers do. (RELIABILITY C2, host half.) Literal numbers are DDI 0487's.

use vcpu::features::debug::{Comparator, Comparators, Debug};
use vcpu::features::pmu::{Hardware, Pmu};
use vcpu::features::{Feature, Open, Outcome, Set};
use vcpu::ids::{GuestIds, IdReg};
use vcpu::sysreg::{Direction, Register};

use proptest::prelude::*;

/// Where the manual has the fields of a feature: register, lowest bit.
const FIELDS: &[(Feature, &[(IdReg, u32)])] = &[
    (Feature::Sve, &[(IdReg::Pfr0, 32)]),
    (
        Feature::Pauth,
        &[
            (IdReg::Isar1, 4),
            (IdReg::Isar1, 8),
            (IdReg::Isar1, 24),
            (IdReg::Isar1, 28),
            (IdReg::Isar2, 8),
            (IdReg::Isar2, 12),
        ],
    ),
    (Feature::Pmu, &[(IdReg::Dfr0, 8)]),
];

fn sets() -> impl Iterator<Item = Set> {
    (0..8_u8).map(|bits| {
        let chosen = Feature::ALL
            .into_iter()
            .filter(|f| bits >> *f as u8 & 1 == 1);
        chosen.fold(Set::NONE, Set::with)
    })
}

#[test]
fn a_feature_is_shown_if_and_only_if_the_vm_has_it() {
    assert_eq!(FIELDS.len(), Feature::ALL.len());
    // Of a core that has one in each field, hidden or not.
    let one = |_| 0x1111_1111_1111_1111;
    for set in sets() {
        let ids = GuestIds::new(one, 5, set);
        for (feature, fields) in FIELDS {
            for (register, lsb) in *fields {
                let shown = ids.get(*register) >> lsb & 15;
                assert_eq!(
                    shown,
                    u64::from(set.has(*feature)),
                    "{feature:?} of {set:?}"
                );
            }
        }
        let vectors = if set.has(Feature::Sve) {
            // SVEver, AES, BitPerm, BF16, SHA3, SM4, I8MM, F32MM, F64MM.
            0x0110_1101_0011_0011
        } else {
            0
        };
        assert_eq!(ids.get(IdReg::Zfr0), vectors);
    }
}

#[test]
fn a_core_has_a_feature_if_any_of_its_fields_says_so() {
    for (feature, fields) in FIELDS {
        for (register, lsb) in *fields {
            let set = Set::detect(|asked| if asked == *register { 1 << lsb } else { 0 });
            assert_eq!(set, Set::NONE.with(*feature));
        }
    }
    assert_eq!(Set::detect(|_| 0), Set::NONE);
    // Somebody's own PMU is none; ZFR0 without SVE is SME's.
    let own = Set::detect(|asked| if asked == IdReg::Dfr0 { 0xf00 } else { 0 });
    assert_eq!(own, Set::NONE);
    let sme = Set::detect(|asked| if asked == IdReg::Zfr0 { u64::MAX } else { 0 });
    assert_eq!(sme, Set::NONE);
}

#[test]
fn a_trap_opens_for_what_is_in_use_alone() {
    for set in sets() {
        let open = Open::of(set);
        // HCR_EL2.APK and API; CPTR_EL2.TZ. The PMU stays trapped.
        let pauth = if set.has(Feature::Pauth) { 3 << 40 } else { 0 };
        let sve = if set.has(Feature::Sve) { 1 << 8 } else { 0 };
        assert_eq!((open.hcr_set, open.cptr_clear), (pauth, sve), "{set:?}");
    }
}

#[test]
fn names_are_those_that_operators_know() {
    let names = Feature::ALL.map(|feature| feature.description().name);
    assert_eq!(names, ["sve", "pauth", "pmu"]);
}

const THERE: Comparators = Comparators {
    breakpoints: 6,
    watchpoints: 4,
};
const MDSCR: Register = Register::new(2, 0, 0, 2, 2);
const OSLAR: Register = Register::new(2, 0, 1, 0, 4);
const OSLSR: Register = Register::new(2, 0, 1, 1, 4);
const MDE: u64 = 1 << 15;

fn comparator(n: u16, op2: u16) -> Register {
    Register::new(2, 0, 0, n, op2)
}

fn write(debug: &mut Debug, register: Register, value: u64) -> Outcome {
    debug.access(register, Direction::Write, value, THERE)
}

fn read(debug: &mut Debug, register: Register) -> Outcome {
    debug.access(register, Direction::Read, 0, THERE)
}

#[test]
fn comparators_are_counted_from_dfr0() {
    // A Cortex-A72: BRPs 5, WRPs 3.
    assert_eq!(Comparators::detect(0x1030_5106), THERE);
}

#[test]
fn debug_begins_with_the_os_lock_closed_and_nothing_enabled() {
    let mut debug = Debug::RESET;
    assert_eq!(read(&mut debug, OSLSR), Outcome::Value(0b1010));
    assert_eq!((debug.mdscr(), debug.compares()), (0, false));
    for n in 0..16 {
        assert_eq!(debug.breakpoint(n), Comparator::default());
        assert_eq!(debug.watchpoint(n), Comparator::default());
    }
}

#[test]
fn the_os_lock_keeps_debug_exceptions_away() {
    let mut debug = Debug::RESET;
    assert_eq!(write(&mut debug, MDSCR, MDE | 1), Outcome::Written);
    assert!(!debug.compares());
    assert_eq!(debug.mdscr(), 0);
    assert_eq!(write(&mut debug, OSLAR, 0), Outcome::Written);
    assert_eq!(read(&mut debug, OSLSR), Outcome::Value(0b1000));
    assert!(debug.compares());
    assert_eq!(debug.mdscr(), MDE | 1);
    assert_eq!(write(&mut debug, OSLAR, 1), Outcome::Written);
    assert!(!debug.compares());
    // The other direction is not there.
    assert_eq!(read(&mut debug, OSLAR), Outcome::Undefined);
    assert_eq!(write(&mut debug, OSLSR, 0), Outcome::Undefined);
}

#[test]
fn only_an_enabled_comparator_of_the_guests_own_levels_reaches_the_core() {
    let mut debug = Debug::RESET;
    // (control written, kept): E = 0; EL1, all bytes; a VMID (BT = 0b1000).
    for (control, kept) in [
        (0x1e4, None),
        (0x1e5, Some(0x1e5)),
        (0x80_01e5, None),
        // Reserved bits go.
        (!(1 << 23), Some(0x7f_e1e7)),
    ] {
        write(&mut debug, comparator(2, 4), 0x1000);
        write(&mut debug, comparator(2, 5), control);
        let expected = kept.map_or(Comparator::default(), |control| Comparator {
            value: 0x1000,
            control,
        });
        assert_eq!(debug.breakpoint(2), expected, "{control:#x}");
    }
    write(&mut debug, comparator(3, 6), 0x2000);
    write(&mut debug, comparator(3, 7), u64::MAX);
    assert_eq!(debug.watchpoint(3).control, 0x1f1f_ffff);
    assert_eq!(read(&mut debug, comparator(3, 6)), Outcome::Value(0x2000));
}

#[test]
fn comparators_that_the_core_lacks_are_undefined() {
    let mut debug = Debug::RESET;
    for n in 0..16 {
        for (op2, count) in [(4, 6), (5, 6), (6, 4), (7, 4)] {
            let there = n < count;
            let expected = if there {
                Outcome::Value(0)
            } else {
                Outcome::Undefined
            };
            assert_eq!(read(&mut debug, comparator(n, op2)), expected, "{n} {op2}");
        }
    }
}

/// A PMUv3 with six counters, as a Cortex-A72 has it, and one with v3p1.
fn pmus() -> [Hardware; 2] {
    let pmcr = 0x4102_3000;
    [0x106, 0x406].map(|dfr0| Hardware::detect(dfr0, pmcr, [0x7fff_0f3f, 0]))
}

const PMCR: Register = Register::new(3, 3, 9, 12, 0);
const PMCNTENSET: Register = Register::new(3, 3, 9, 12, 1);
const PMOVSCLR: Register = Register::new(3, 3, 9, 12, 3);
const PMSWINC: Register = Register::new(3, 3, 9, 12, 4);
const PMCCNTR: Register = Register::new(3, 3, 9, 13, 0);
const PMUSERENR: Register = Register::new(3, 3, 9, 14, 0);
const PMINTENSET: Register = Register::new(3, 0, 9, 14, 1);
const PMCCFILTR: Register = Register::new(3, 3, 14, 15, 7);

struct Guest(Pmu, Hardware);

impl Guest {
    fn write(&mut self, register: Register, value: u64) {
        let outcome = self.0.access(register, Direction::Write, value, self.1);
        assert_eq!(outcome, Outcome::Written, "{register}");
    }
    fn read(&mut self, register: Register) -> u64 {
        match self.0.access(register, Direction::Read, 0, self.1) {
            Outcome::Value(value) => value,
            other => panic!("{register}: {other:?}"),
        }
    }
}

#[test]
fn a_pmu_begins_at_rest() {
    for there in pmus() {
        let mut guest = Guest(Pmu::RESET, there);
        assert!(!guest.0.is_live() && !guest.0.line());
        // Six counters, LC, and the core's own implementer and code.
        assert_eq!(guest.read(PMCR), 0x4102_3040);
    }
}

#[test]
fn filters_of_el2_and_el3_are_never_kept() {
    for (there, events) in pmus().into_iter().zip([0x3ff, 0xffff]) {
        let mut guest = Guest(Pmu::RESET, there);
        guest.write(PMCCFILTR, u64::MAX);
        assert_eq!(guest.read(PMCCFILTR), 0xc000_0000);
        for n in 0..6 {
            let kind = Register::new(3, 3, 14, 12, n);
            guest.write(kind, u64::MAX);
            assert_eq!(guest.read(kind), 0xc000_0000 | events);
            assert_eq!(guest.0.hardware_counter(n.into()).1, 0xc000_0000 | events);
        }
        assert_eq!(guest.0.hardware_cycles().1, 0xc000_0000);
    }
}

#[test]
fn counters_that_the_core_lacks_are_undefined_and_their_bits_zero() {
    for there in pmus() {
        let mut guest = Guest(Pmu::RESET, there);
        for n in 6..31_u16 {
            for base in [8, 12] {
                let register = Register::new(3, 3, 14, base + (n >> 3), n & 7);
                let outcome = guest.0.access(register, Direction::Read, 0, there);
                assert_eq!(outcome, Outcome::Undefined, "{n}");
            }
        }
        for register in [PMCNTENSET, PMINTENSET] {
            guest.write(register, u64::MAX);
            assert_eq!(guest.read(register), 0x8000_003f);
        }
    }
}

#[test]
fn the_line_is_high_while_an_enabled_overflow_is_not_cleared() {
    for there in pmus() {
        let mut guest = Guest(Pmu::RESET, there);
        guest.write(PMCNTENSET, 1 << 31);
        assert!(!guest.0.is_live());
        guest.write(PMCR, 1);
        assert!(guest.0.is_live());
        guest.0.took_overflow(1 << 31, there);
        assert!(!guest.0.line());
        guest.write(PMINTENSET, 1 << 31);
        assert!(guest.0.line());
        // The core is not to tell again of what the guest knows.
        assert_eq!(guest.0.hardware_interrupts(), 0);
        guest.write(PMOVSCLR, 1 << 31);
        assert!(!guest.0.line());
        assert_eq!(guest.0.hardware_interrupts(), 1 << 31);
    }
}

#[test]
fn event_counters_have_32_bits_and_the_cycle_counter_64() {
    for there in pmus() {
        let mut guest = Guest(Pmu::RESET, there);
        guest.0.took(3, 0x1_2345_6789);
        guest.0.took(31, 0x1_2345_6789);
        assert_eq!(guest.read(Register::new(3, 3, 14, 8, 3)), 0x2345_6789);
        assert_eq!(guest.read(PMCCNTR), 0x1_2345_6789);
        // PMCR.P, then PMCR.C.
        guest.write(PMCR, 2);
        assert_eq!(guest.read(Register::new(3, 3, 14, 8, 3)), 0);
        assert_eq!(guest.read(PMCCNTR), 0x1_2345_6789);
        guest.write(PMCR, 4);
        assert_eq!(guest.read(PMCCNTR), 0);
    }
}

#[test]
fn software_increments_count_where_that_is_the_event() {
    for there in pmus() {
        let mut guest = Guest(Pmu::RESET, there);
        guest.write(Register::new(3, 3, 14, 12, 1), 0x11);
        guest.write(Register::new(3, 3, 14, 8, 0), 0xffff_ffff);
        guest.write(PMCNTENSET, 0b011);
        guest.write(PMSWINC, 0b111);
        assert_eq!(guest.read(Register::new(3, 3, 14, 8, 0)), 0xffff_ffff);
        guest.write(PMCR, 1);
        guest.write(PMSWINC, 0b111);
        // Wrapped; another event; not enabled.
        assert_eq!(guest.read(Register::new(3, 3, 14, 8, 0)), 0);
        assert_eq!(guest.read(Register::new(3, 3, 14, 8, 1)), 0);
        assert_eq!(guest.read(Register::new(3, 3, 14, 8, 2)), 0);
        assert_eq!(guest.read(PMOVSCLR), 1);
    }
}

proptest! {
    #[test]
    fn whatever_a_guest_writes_the_core_gets_only_what_is_its(
        accesses in prop::collection::vec((0..32_768_u16, any::<u64>()), 1..64),
    ) {
        for there in pmus() {
            let mut pmu = Pmu::RESET;
            let mut debug = Debug::RESET;
            for (index, value) in &accesses {
                let register = Register::new(
                    2 | (index >> 14 & 1), index >> 11 & 7, index >> 7 & 15, index >> 3 & 15, index & 7,
                );
                let _ = pmu.access(register, Direction::Write, *value, there);
                let _ = debug.access(register, Direction::Write, *value, THERE);
                // Writes of these are rare among 32,768.
                let _ = pmu.access(PMUSERENR, Direction::Write, *value, there);
                let _ = debug.access(comparator(index & 7, 5), Direction::Write, *value, THERE);
                let _ = debug.access(MDSCR, Direction::Write, *value, THERE);
                let _ = debug.access(OSLAR, Direction::Write, *value, THERE);
                for n in 0..31 {
                    let (count, kind) = pmu.hardware_counter(n);
                    prop_assert_eq!(count >> 32, 0);
                    prop_assert_eq!(kind & !0xc000_ffff, 0);
                }
                prop_assert_eq!(pmu.hardware_user() & !15, 0);
                prop_assert_eq!(pmu.hardware_enabled() & !0x8000_003f, 0);
                prop_assert_eq!(pmu.hardware_interrupts() & !0x8000_003f, 0);
                // E, D, X, DP, LC.
                prop_assert_eq!(pmu.hardware_control() & !0x79, 0);
                // SS, TDCC, KDE, MDE: never HDE, nor what EL2 or a debugger owns.
                prop_assert_eq!(debug.mdscr() & !0xb001, 0);
                for n in 0..16 {
                    let control = debug.breakpoint(n).control;
                    prop_assert!(control == 0 || control & 1 == 1 && control & 1 << 23 == 0);
                }
            }
        }
    }
}
