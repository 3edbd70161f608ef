//! The performance monitors: PMUv3 as far as v3.1, with the core's own counters behind it.
//!
//! Its registers stay trapped (MDCR_EL2.TPM, TPMCR): what a guest writes is kept here, and put
//! into the core's registers only while a counter runs. They are read back when the guest
//! looks, when it overflows, and when another vCPU takes the core. So nothing counts for
//! another VM, and nothing counts at EL2: filters of EL2 and EL3 are never set (and
//! MDCR_EL2.HPMD is, where it exists).

use super::{Description, Field, Open, Outcome};
use crate::ids::IdReg;
use crate::sysreg::{Direction, Register};

/// Most event counters that the architecture has.
pub const COUNTERS_MAX: usize = 31;
/// The overflow interrupt: PPI 7, as the BSA and QEMU have it.
pub const INTID: u32 = 23;

pub(super) const DESCRIPTION: Description = Description {
    name: "pmu",
    // DFR0.PMUVer: PMUv3p1 at most; 15 is a PMU of somebody's own.
    fields: &[Field {
        own: Some(0xf),
        ..Field::new(IdReg::Dfr0, 8, 4)
    }],
    details: &[],
    open: Open {
        hcr_set: 0,
        cptr_clear: 0,
    },
};

/// PMCR_EL0 (D24.5.11).
mod pmcr {
    pub(super) const E: u64 = 1 << 0;
    pub(super) const P: u64 = 1 << 1;
    pub(super) const C: u64 = 1 << 2;
    /// E, D, X, DP, LC: what is kept.
    pub(super) const KEPT: u64 = E | 1 << 3 | 1 << 4 | 1 << 5 | LC;
    pub(super) const LC: u64 = 1 << 6;
    /// N, bits 15:11.
    pub(super) const N_SHIFT: u32 = 11;
    /// IMP and IDCODE.
    pub(super) const IDENTITY: u64 = 0xffff_0000;
}

/// Number of the cycle counter among the counters.
const CYCLES: u32 = 31;
/// PMEVTYPER<n>_EL0 and PMCCFILTR_EL0: P and U, which exclude EL1 and EL0. NSH would add EL2;
/// NSK, NSU and M are EL3's; MT counts other threads of the core.
const FILTERS: u64 = 0b11 << 30;
/// PMSELR_EL0.SEL, and PMUSERENR_EL0: EN, SW, CR, ER.
const SELECT: u64 = 0x1f;
const USER: u64 = 0xf;
/// The event that only PMSWINC_EL0 counts.
const SW_INCR: u64 = 0;

/// What a core's PMU is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hardware {
    identity: u64,
    counters: u32,
    /// Mask of evtCount: ten bits before PMUv3p1.
    event_mask: u64,
    events: [u64; 2],
}

impl Hardware {
    /// Reads it from ID_AA64DFR0_EL1, PMCR_EL0, PMCEID0_EL0 and PMCEID1_EL0.
    pub const fn detect(dfr0: u64, pmcr: u64, events: [u64; 2]) -> Self {
        let [n, ..] = (pmcr >> pmcr::N_SHIFT & 0x1f).to_le_bytes();
        Self {
            identity: pmcr & pmcr::IDENTITY,
            counters: n as u32,
            event_mask: if dfr0 >> 8 & 0xf >= 4 { 0xffff } else { 0x3ff },
            events,
        }
    }

    /// Returns how many event counters there are.
    pub const fn counters(self) -> u32 {
        self.counters
    }

    /// Bits of the counters that there are: n for event counter n, 31 for the cycle counter.
    const fn mask(self) -> u32 {
        !(u32::MAX << (self.counters & 31)) | 1 << CYCLES
    }
}

/// The PMU of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pmu {
    control: u64,
    enabled: u32,
    overflow: u32,
    interrupts: u32,
    select: u64,
    user: u64,
    cycles: u64,
    cycle_filter: u64,
    counts: [u64; COUNTERS_MAX],
    types: [u64; COUNTERS_MAX],
}

/// Where an access goes.
enum Place {
    /// PMXEVTYPER, PMEVTYPER<n>, PMCCFILTR.
    Type(u32),
    /// PMXEVCNTR, PMEVCNTR<n>.
    Count(u32),
    /// One of the others: CRm and op2 with op1 3, CRn 9.
    Other(u16, u16),
    /// PMINTENSET_EL1 (true) and PMINTENCLR_EL1.
    Interrupts(bool),
    None,
}

impl Pmu {
    /// At reset nothing counts. LC is one, since only AArch64 exists.
    pub const RESET: Self = Self {
        control: pmcr::LC,
        enabled: 0,
        overflow: 0,
        interrupts: 0,
        select: 0,
        user: 0,
        cycles: 0,
        cycle_filter: 0,
        counts: [0; COUNTERS_MAX],
        types: [0; COUNTERS_MAX],
    };

    /// Returns whether the core's registers have to hold it: a counter runs, or EL0 may look.
    #[inline(always)]
    pub const fn is_live(&self) -> bool {
        self.control & pmcr::E != 0 && self.enabled != 0 || self.user != 0
    }

    /// Returns whether its interrupt line is high (D13.3).
    pub const fn line(&self) -> bool {
        self.control & pmcr::E != 0 && self.overflow & self.interrupts != 0
    }

    /// PMCR_EL0 for the core while this runs there.
    pub const fn hardware_control(&self) -> u64 {
        self.control
    }

    /// PMUSERENR_EL0 for the core.
    pub const fn hardware_user(&self) -> u64 {
        self.user
    }

    /// PMCNTENSET_EL0 for the core.
    pub const fn hardware_enabled(&self) -> u32 {
        self.enabled
    }

    /// PMINTENSET_EL1 for the core: which overflows it has to tell of. One that the guest has
    /// not cleared yet is known here.
    pub const fn hardware_interrupts(&self) -> u32 {
        self.interrupts & !self.overflow
    }

    /// PMCCNTR_EL0 and PMCCFILTR_EL0 for the core.
    pub const fn hardware_cycles(&self) -> (u64, u64) {
        (self.cycles, self.cycle_filter)
    }

    /// PMEVCNTR<n>_EL0 and PMEVTYPER<n>_EL0 for the core.
    pub fn hardware_counter(&self, n: u32) -> (u64, u64) {
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        let pair = self.counts.get(n).zip(self.types.get(n));
        pair.map_or((0, 0), |(count, kind)| (*count, *kind))
    }

    /// Takes back what counter `n` of the core says; 31 is the cycle counter.
    pub fn took(&mut self, n: u32, count: u64) {
        if n == CYCLES {
            self.cycles = count;
        } else if let Some(own) = self.count_mut(n) {
            // Event counters have 32 bits before PMUv3p5, whatever is behind them.
            *own = count & 0xffff_ffff;
        }
    }

    /// Takes back PMOVSSET_EL0 of the core, which starts from zero each time.
    pub fn took_overflow(&mut self, flags: u64, there: Hardware) {
        self.overflow |= low(flags) & there.mask();
    }

    /// Performs an access. What the core counted has been taken back; afterwards the core's
    /// registers have to follow.
    pub fn access(
        &mut self,
        register: Register,
        direction: Direction,
        value: u64,
        there: Hardware,
    ) -> Outcome {
        match direction {
            Direction::Read => match self.read(register, there) {
                Some(value) => Outcome::Value(value),
                None => Outcome::Undefined,
            },
            Direction::Write => match self.write(register, value, there) {
                Some(()) => Outcome::Written,
                None => Outcome::Undefined,
            },
        }
    }

    fn read(&self, register: Register, there: Hardware) -> Option<u64> {
        Some(match self.place(register) {
            Place::Type(CYCLES) => self.cycle_filter,
            Place::Type(n) => self.hardware_counter(there_or(n, there)?).1,
            Place::Count(n) => self.hardware_counter(there_or(n, there)?).0,
            Place::Interrupts(_) => self.interrupts.into(),
            Place::Other(12, 0) => {
                there.identity | u64::from(there.counters) << pmcr::N_SHIFT | self.control
            }
            Place::Other(12, 1 | 2) => self.enabled.into(),
            Place::Other(12, 3) | Place::Other(14, 3) => self.overflow.into(),
            Place::Other(12, 5) => self.select,
            Place::Other(12, 6) => there.events[0],
            Place::Other(12, 7) => there.events[1],
            Place::Other(13, 0) => self.cycles,
            Place::Other(14, 0) => self.user,
            // PMSWINC_EL0 is write-only.
            Place::Other(..) | Place::None => return None,
        })
    }

    fn write(&mut self, register: Register, value: u64, there: Hardware) -> Option<()> {
        let bits = low(value) & there.mask();
        match self.place(register) {
            Place::Type(CYCLES) => self.cycle_filter = value & FILTERS,
            Place::Type(n) => {
                let n = there_or(n, there)?;
                if let Some(own) = usize::try_from(n).ok().and_then(|n| self.types.get_mut(n)) {
                    *own = value & (FILTERS | there.event_mask);
                }
            }
            Place::Count(n) => self.took(there_or(n, there)?, value),
            Place::Interrupts(true) => self.interrupts |= bits,
            Place::Interrupts(false) => self.interrupts &= !bits,
            Place::Other(12, 0) => self.control(value),
            Place::Other(12, 1) => self.enabled |= bits,
            Place::Other(12, 2) => self.enabled &= !bits,
            Place::Other(12, 3) => self.overflow &= !bits,
            Place::Other(12, 4) => self.increment(bits),
            Place::Other(12, 5) => self.select = value & SELECT,
            Place::Other(13, 0) => self.cycles = value,
            Place::Other(14, 0) => self.user = value & USER,
            Place::Other(14, 3) => self.overflow |= bits,
            // PMCEID0_EL0 and PMCEID1_EL0 are read-only.
            Place::Other(..) | Place::None => return None,
        }
        Some(())
    }

    fn control(&mut self, value: u64) {
        self.control = value & pmcr::KEPT | pmcr::LC;
        if value & pmcr::P != 0 {
            self.counts = [0; COUNTERS_MAX];
        }
        if value & pmcr::C != 0 {
            self.cycles = 0;
        }
    }

    /// PMSWINC_EL0: what counts SW_INCR and runs counts one.
    fn increment(&mut self, which: u32) {
        if self.control & pmcr::E == 0 {
            return;
        }
        let running = which & self.enabled;
        for n in (0..CYCLES).filter(|n| running >> n & 1 != 0) {
            if self.hardware_counter(n).1 & 0xffff != SW_INCR {
                continue;
            }
            if let Some(own) = self.count_mut(n) {
                *own = own.wrapping_add(1) & 0xffff_ffff;
                if *own == 0 {
                    self.overflow |= 1 << n;
                }
            }
        }
    }

    fn count_mut(&mut self, n: u32) -> Option<&mut u64> {
        self.counts.get_mut(usize::try_from(n).ok()?)
    }

    fn place(&self, register: Register) -> Place {
        let selected = low(self.select);
        match register.fields() {
            (3, 3, 9, 13, 1) => Place::Type(selected),
            // Selecting the cycle counter here is constrained unpredictable: no counter.
            (3, 3, 9, 13, 2) => Place::Count(selected),
            (3, 3, 9, crm, op2) => Place::Other(crm, op2),
            (3, 0, 9, 14, 1) => Place::Interrupts(true),
            (3, 0, 9, 14, 2) => Place::Interrupts(false),
            (3, 3, 14, crm @ 8..=11, op2) => Place::Count(number(crm, op2)),
            (3, 3, 14, crm @ 12..=15, op2) => Place::Type(number(crm, op2)),
            _ => Place::None,
        }
    }
}

/// PMEVCNTR<n>_EL0 and PMEVTYPER<n>_EL0: n is CRm bits 1:0 and op2.
fn number(crm: u16, op2: u16) -> u32 {
    u32::from(crm & 3) << 3 | u32::from(op2)
}

fn there_or(n: u32, there: Hardware) -> Option<u32> {
    (n < there.counters).then_some(n)
}

const fn low(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Whether `register` is one of PMUv3 (D24.5), those that MDCR_EL2.TPM and TPMCR trap.
pub(crate) const fn is_register(register: Register) -> bool {
    matches!(
        register.fields(),
        // PMCR, PMCNTENSET, PMCNTENCLR, PMOVSCLR, PMSWINC, PMSELR, PMCEID0, PMCEID1.
        (3, 3, 9, 12, 0..=7)
            // PMCCNTR, PMXEVTYPER, PMXEVCNTR.
            | (3, 3, 9, 13, 0..=2)
            // PMUSERENR, PMOVSSET.
            | (3, 3, 9, 14, 0 | 3)
            // PMINTENSET_EL1, PMINTENCLR_EL1, PMMIR_EL1.
            | (3, 0, 9, 14, 1 | 2 | 6)
            // PMEVCNTR<n>, PMEVTYPER<n>, PMCCFILTR (n = 31).
            | (3, 3, 14, 8..=15, _)
    )
}
