//! Trapped system registers: what an access does.
//!
//! One function, [`action`], knows every register that the traps of [`crate::trap`] can
//! bring here. What it does not know is undefined in the guest: a register that a later
//! architecture adds is hidden until someone decides about it.

use crate::features::{Feature, Set, debug, pauth, pmu};
use crate::ids::IdReg;
use core::fmt;

/// An encoding: op0, op1, CRn, CRm, op2, packed into 16 bits from the top down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Register(u16);

impl Register {
    /// Returns the register with these fields; op0 is below 4, op1 and op2 below 8, CRn and
    /// CRm below 16. Higher bits are an error at compile time in a `const`.
    pub const fn new(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> Self {
        assert!(op0 < 4 && op1 < 8 && crn < 16 && crm < 16 && op2 < 8);
        Self(op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2)
    }

    /// Returns the register that the syndrome of exception class 0x18 names.
    pub(crate) const fn from_iss(iss: u64) -> Self {
        // Op0 21:20, Op2 19:17, Op1 16:14, CRn 13:10, CRm 4:1.
        let bits = (iss >> 20 & 3) << 14
            | (iss >> 14 & 7) << 11
            | (iss >> 10 & 15) << 7
            | (iss >> 1 & 15) << 3
            | iss >> 17 & 7;
        let [low, high, ..] = bits.to_le_bytes();
        Self(u16::from_le_bytes([low, high]))
    }

    /// Returns the fields: op0, op1, CRn, CRm, op2.
    pub const fn fields(self) -> (u16, u16, u16, u16, u16) {
        let Self(bits) = self;
        (
            bits >> 14,
            bits >> 11 & 7,
            bits >> 7 & 15,
            bits >> 3 & 15,
            bits & 7,
        )
    }

    /// Returns the packed bits, for a table of 65,536.
    pub const fn index(self) -> u16 {
        self.0
    }

    /// ICC_SGI0R_EL1: sends a group 0 SGI.
    pub const ICC_SGI0R_EL1: Self = Self::new(3, 0, 12, 11, 7);
    /// ICC_SGI1R_EL1: sends a group 1 SGI.
    pub const ICC_SGI1R_EL1: Self = Self::new(3, 0, 12, 11, 5);
    /// ICC_ASGI1R_EL1: sends an SGI to the other security state.
    pub const ICC_ASGI1R_EL1: Self = Self::new(3, 0, 12, 11, 6);
}

/// The name that assemblers take for any register: `s3_0_c12_c11_5`.
impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (op0, op1, crn, crm, op2) = self.fields();
        write!(f, "s{op0}_{op1}_c{crn}_c{crm}_{op2}")
    }
}

/// Which way an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// MRS.
    Read,
    /// MSR or SYS.
    Write,
}

/// What differs between VMs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    /// What the guest has.
    pub features: Set,
    /// PMU registers read as zero and ignore writes instead of being undefined: the Hermit
    /// that is root writes some at start without asking whether there is a PMU. Only without one.
    pub pmu_raz: bool,
}

/// What a trapped access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reads as this.
    Value(u64),
    /// Reads as the guest's value of an ID register.
    Id(IdReg),
    /// A write without effect.
    Ignore,
    /// Sends a group 1 SGI: the value written is ICC_SGI1R_EL1's.
    Sgi1,
    /// Sends a group 0 SGI: the value written is ICC_SGI0R_EL1's.
    Sgi0,
    /// [`debug::Debug::access`] answers.
    Debug,
    /// [`pmu::Pmu::access`] answers.
    Pmu,
    /// The trap of a feature opens, and the guest tries again.
    Open(Feature),
    /// The guest takes an undefined-instruction exception.
    Undefined,
}

/// What a register is to a guest.
enum Kind {
    /// Reads as zero, ignores writes.
    Zero,
    /// Reads as a value, ignores writes.
    Fixed(u64),
    /// Reads as a value, undefined to write.
    ReadOnly(u64),
    /// Undefined to read, ignores writes.
    WriteIgnored,
    /// An ID register.
    Id(IdReg),
    /// A register that sends SGIs, undefined to read.
    Sgi(Action),
    /// A register of a feature: this, whichever way it goes.
    Of(Action),
    /// Not there.
    Absent,
}

/// Returns what access `direction` to `register` does.
pub fn action(register: Register, direction: Direction, quirks: Quirks) -> Action {
    match (kind(register, quirks), direction) {
        (Kind::Zero, Direction::Read) => Action::Value(0),
        (Kind::Fixed(value) | Kind::ReadOnly(value), Direction::Read) => Action::Value(value),
        (Kind::Id(id), Direction::Read) => Action::Id(id),
        (Kind::Zero | Kind::Fixed(_) | Kind::WriteIgnored, Direction::Write) => Action::Ignore,
        (Kind::Sgi(action), Direction::Write) | (Kind::Of(action), _) => action,
        (Kind::ReadOnly(_) | Kind::Id(_) | Kind::Absent, Direction::Write)
        | (Kind::WriteIgnored | Kind::Sgi(_) | Kind::Absent, Direction::Read) => Action::Undefined,
    }
}

fn kind(register: Register, quirks: Quirks) -> Kind {
    let has = |feature| quirks.features.has(feature);
    match register.fields() {
        // First, since it is the way of every IPI.
        (3, 0, 12, 11, op2) => sgi(op2),
        _ if debug::is_kept(register) => Kind::Of(Action::Debug),
        (1, op1, crn, crm, op2) => instruction(op1, crn, crm, op2),
        (2, op1, crn, crm, op2) => debug_registers(op1, crn, crm, op2),
        (3, 0, 0, crm @ 1..=7, op2) => match IdReg::at(crm, op2) {
            Some(id) => Kind::Id(id),
            // The group that HCR_EL2.TID3 traps: all known, reserved ones are zero.
            None => Kind::ReadOnly(0),
        },
        // REVIDR_EL1 and AIDR_EL1 (HCR_EL2.TID1).
        (3, 0, 0, 0, 6) => Kind::Id(IdReg::Revidr),
        (3, 1, 0, 0, 7) => Kind::ReadOnly(0),
        // ACTLR_EL1 (HCR_EL2.TACR): implementation-defined, and nothing here.
        (3, 0, 1, 0, 1) => Kind::Zero,
        // ICC_SRE_EL1, trapped if ICC_SRE_EL2.Enable is clear: system registers only.
        (3, 0, 12, 12, 5) => Kind::Fixed(0b111),
        _ if pmu::is_register(register) && has(Feature::Pmu) => Kind::Of(Action::Pmu),
        _ if pmu::is_register(register) && quirks.pmu_raz => Kind::Zero,
        _ if pauth::is_key(register) && has(Feature::Pauth) => {
            Kind::Of(Action::Open(Feature::Pauth))
        }
        _ => Kind::Absent,
    }
}

/// System instructions. HCR_EL2.TSW brings the set/way cache operations, which do nothing.
///
/// They cannot do what they say: they reach one core's caches, and other VMs' lines. Linux
/// uses none. Firmware that cleans its caches so before it turns them off (U-Boot) finds
/// its RAM as it left it where stage 2 forces write-back (FEAT_S2FWB), and in QEMU; on
/// other cores it would need its RAM cleaned by address here.
fn instruction(op1: u16, crn: u16, crm: u16, op2: u16) -> Kind {
    match (op1, crn, crm, op2) {
        // DC ISW, DC CSW, DC CISW.
        (0, 7, 6 | 10 | 14, 2) => Kind::WriteIgnored,
        _ => Kind::Absent,
    }
}

/// Debug registers (MDCR_EL2.TDA, TDOSA, TDRA) that [`debug`] does not keep: present, and
/// without effect.
fn debug_registers(op1: u16, crn: u16, crm: u16, op2: u16) -> Kind {
    match (op1, crn, crm, op2) {
        // MDCCINT, OSDTRRX, OSDTRTX, OSECCR.
        (0, 0, 2, 0) | (0, 0, 0 | 3 | 6, 2) => Kind::Zero,
        // MDRAR, OSDLR, DBGPRCR.
        (0, 1, 0, 0) => Kind::ReadOnly(0),
        (0, 1, 3 | 4, 4) => Kind::Zero,
        // DBGCLAIMSET, DBGCLAIMCLR, DBGAUTHSTATUS.
        (0, 7, 8 | 9, 6) => Kind::Zero,
        (0, 7, 14, 6) => Kind::ReadOnly(0),
        // MDCCSR_EL0, DBGDTR_EL0, DBGDTRRX_EL0 and DBGDTRTX_EL0: empty both ways.
        (3, 0, 1, 0) => Kind::ReadOnly(0),
        (3, 0, 4 | 5, 0) => Kind::Zero,
        _ => Kind::Absent,
    }
}

fn sgi(op2: u16) -> Kind {
    match op2 {
        5 => Kind::Sgi(Action::Sgi1),
        // There is one security state: ICC_ASGI1R_EL1 reaches nobody.
        6 => Kind::WriteIgnored,
        7 => Kind::Sgi(Action::Sgi0),
        _ => Kind::Absent,
    }
}
