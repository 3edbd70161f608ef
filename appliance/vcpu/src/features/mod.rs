//! Features of the CPU that a guest may have: a file each, and one table of them all.
//!
//! [`Feature::description`] says of each where the ID registers tell of it and what opens its
//! trap. What a guest reads ([`crate::ids`]), what is trapped ([`Open::of`]) and what a trapped
//! register does ([`crate::sysreg`]) follow from it and from the VM's [`Set`], so that they
//! cannot differ. What is not here is hidden and trapped: that is where [`crate::trap`] begins.
//!
//! A trap opens at a vCPU's first use of the feature. Until then nothing of it has to be moved
//! when another vCPU takes the core.

pub mod debug;
pub mod pauth;
pub mod pmu;
pub mod sve;

use crate::ids::IdReg;

/// A feature that a VM may have or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Feature {
    /// The Scalable Vector Extension.
    Sve = 0,
    /// Pointer authentication.
    Pauth = 1,
    /// The performance monitors.
    Pmu = 2,
}

impl Feature {
    /// Every feature.
    pub const ALL: [Self; 3] = [Self::Sve, Self::Pauth, Self::Pmu];

    /// Returns its row of the table.
    pub const fn description(self) -> &'static Description {
        match self {
            Self::Sve => &sve::DESCRIPTION,
            Self::Pauth => &pauth::DESCRIPTION,
            Self::Pmu => &pmu::DESCRIPTION,
        }
    }
}

/// A field of an ID register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The register.
    pub register: IdReg,
    /// Lowest of its four bits.
    pub lsb: u32,
    /// The most that a guest is shown; more is lowered to this.
    pub most: u64,
    /// The value that means "not as the architecture has it", if the field has one.
    pub own: Option<u64>,
}

impl Field {
    /// A field with an upper bound.
    pub(crate) const fn new(register: IdReg, lsb: u32, most: u64) -> Self {
        Self {
            register,
            lsb,
            most,
            own: None,
        }
    }

    /// Returns what a guest with the feature reads, of a register with this value.
    pub const fn shown(self, hardware: u64) -> u64 {
        let value = hardware >> (self.lsb & 63) & 0xf;
        match self.own {
            Some(own) if own == value => 0,
            _ if value > self.most => self.most,
            _ => value,
        }
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// What operators call it.
    pub name: &'static str,
    /// Fields that are zero without it. A core has it if any of them is not.
    pub fields: &'static [Field],
    /// More fields that are zero without it.
    pub details: &'static [Field],
    /// What opens its trap; nothing, if it stays trapped and is answered by core.
    pub open: Open,
}

/// What an access to a register did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It reads as this.
    Value(u64),
    /// It is written.
    Written,
    /// The guest has no such register, or it does not go that way.
    Undefined,
}

/// What opens traps: bits to change in the trap registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Bits to set in HCR_EL2.
    pub hcr_set: u64,
    /// Bits to clear in CPTR_EL2.
    pub cptr_clear: u64,
}

impl Open {
    /// Returns what opens the traps of every feature of `live`.
    pub const fn of(live: Set) -> Self {
        let mut open = Self {
            hcr_set: 0,
            cptr_clear: 0,
        };
        let mut left: &[Feature] = &Feature::ALL;
        while let [feature, rest @ ..] = left {
            if live.has(*feature) {
                let own = feature.description().open;
                open.hcr_set |= own.hcr_set;
                open.cptr_clear |= own.cptr_clear;
            }
            left = rest;
        }
        open
    }
}

/// A set of features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set(u8);

impl Set {
    /// No feature.
    pub const NONE: Self = Self(0);
    /// Every feature.
    pub const ALL: Self = Self::NONE
        .with(Feature::Sve)
        .with(Feature::Pauth)
        .with(Feature::Pmu);

    /// Returns what a core with these ID registers has.
    pub fn detect(read: impl Fn(IdReg) -> u64) -> Self {
        let is_there = |feature: &Feature| {
            let mut fields = feature.description().fields.iter();
            fields.any(|field| field.shown(read(field.register)) != 0)
        };
        let there = Feature::ALL.into_iter().filter(is_there);
        there.fold(Self::NONE, Self::with)
    }

    /// Returns whether `feature` is in it.
    #[inline(always)]
    pub const fn has(self, feature: Feature) -> bool {
        self.0 >> feature as u8 & 1 != 0
    }

    /// Returns it with `feature`.
    pub const fn with(self, feature: Feature) -> Self {
        Self(self.0 | 1 << feature as u8)
    }

    /// Returns it without `feature`.
    pub const fn without(self, feature: Feature) -> Self {
        Self(self.0 & !(1 << feature as u8))
    }

    /// Returns what is in both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns whether nothing is in it.
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}
