//! Why the guest stopped: ESR_EL2, FAR_EL2 and HPFAR_EL2 as an [`Exit`].
//!
//! Field names and encodings are DDI 0487's, D24.2.40 (ESR_ELx). Nothing is guessed: an
//! access whose instruction the hardware did not describe has no [`Access`], and an
//! address that the hardware does not vouch for is `None`.

use crate::sysreg::Register;
use arch::{Ipa, Width};

/// Why the guest stopped, with everything needed to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// WFI, WFE, WFIT or WFET.
    Wait {
        /// Which of them.
        kind: Wait,
        /// The register that holds the deadline of WFIT and WFET; 31 is XZR.
        register: u8,
    },
    /// HVC from AArch64: ELR_EL2 is past it.
    Hvc {
        /// Its immediate.
        imm: u16,
    },
    /// SMC from AArch64, trapped by HCR_EL2.TSC: ELR_EL2 is on it.
    Smc {
        /// Its immediate.
        imm: u16,
    },
    /// A trapped MSR, MRS or SYS instruction.
    Sysreg {
        /// What it accesses.
        register: Register,
        /// General register read from or written to; 31 is XZR.
        rt: u8,
        /// Whether it writes the system register.
        write: bool,
    },
    /// A load, store or cache instruction that stage 2 refused.
    DataAbort(DataAbort),
    /// A fetch that stage 2 refused.
    InstructionAbort(InstructionAbort),
    /// FP or SIMD, trapped by CPTR_EL2.TFP.
    FpTrap,
    /// SVE, trapped by CPTR_EL2.TZ.
    SveTrap,
    /// SME, trapped by CPTR_EL2.TSM.
    SmeTrap,
    /// Pointer authentication, trapped by HCR_EL2.API.
    PauthTrap,
    /// Execution in a state that cannot be (PSTATE.IL).
    IllegalState,
    /// A jump to an address that is not a multiple of four.
    PcAlignment,
    /// A load or store by a stack pointer that is not a multiple of sixteen.
    SpAlignment,
    /// A breakpoint, watchpoint, step or BRK, routed here by MDCR_EL2.TDE.
    Debug {
        /// Exception class.
        class: u8,
    },
    /// An asynchronous external abort.
    SError,
    /// Anything else. The guest gets an undefined instruction.
    Unknown {
        /// The raw syndrome, for the log.
        esr: u64,
    },
}

/// A waiting instruction (ISS.TI).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Wait for interrupt.
    Wfi,
    /// Wait for event; waking at once is always allowed.
    Wfe,
    /// Wait for interrupt, with a deadline.
    Wfit,
    /// Wait for event, with a deadline; waking at once is always allowed.
    Wfet,
}

/// What the hardware says of a load or store (ISS.ISV = 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Width in memory.
    pub width: Width,
    /// A load that extends the sign.
    pub sign_extend: bool,
    /// The register is an X register, not a W register.
    pub sixty_four: bool,
    /// The register loaded or stored; 31 is XZR.
    pub register: u8,
}

impl Access {
    /// Returns what the register holds after a load found `value` on the bus.
    #[inline(always)]
    pub const fn extend(self, value: u64) -> u64 {
        let value = value & self.width.mask();
        if self.sign_extend {
            self.extend_sign(value)
        } else {
            value
        }
    }

    /// What [`Access::extend`] does for the few loads that ask for it.
    #[inline(never)]
    const fn extend_sign(self, value: u64) -> u64 {
        let unused = 64_u32.wrapping_sub(match self.width {
            Width::Byte => 8,
            Width::Half => 16,
            Width::Word => 32,
            Width::Double => 64,
        });
        let extended = (value << (unused & 63)).cast_signed() >> (unused & 63);
        let extended = extended.cast_unsigned();
        if self.sixty_four {
            extended
        } else {
            extended & 0xffff_ffff
        }
    }
}

/// A load or store where stage 2 has nothing, described in full: what nearly every abort of a
/// guest that uses a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// The address.
    pub ipa: Ipa,
    /// A store.
    pub write: bool,
    /// The instruction.
    pub access: Access,
}

impl Touch {
    /// Returns whether a syndrome is that of a touch: one comparison, where reading all of it
    /// takes as long as answering it.
    #[inline(always)]
    pub const fn is_told_by(esr: u64) -> bool {
        // EC, ISV, FnV, CM, S1PTW, and DFSC less the level.
        const FIELDS: u64 = 0x3f << 26 | 1 << 24 | 1 << 10 | 1 << 8 | 1 << 7 | 0x3c;
        const TRANSLATION: u64 = 0b00_0100;
        esr & FIELDS == 0x24 << 26 | 1 << 24 | TRANSLATION
    }

    /// Reads the three registers, if [`Touch::is_told_by`] says yes; `None` for an address
    /// that no guest has.
    #[inline(always)]
    pub fn decode(esr: u64, far: u64, hpfar: u64) -> Option<Self> {
        let iss = Iss(esr);
        Some(Self {
            ipa: Ipa::new(fault_page(hpfar) | far & 0xfff)?,
            write: iss.bit(6),
            access: iss.described(),
        })
    }
}

/// HPFAR_EL2.FIPA, bits 47:4, is the address's bits 55:12.
#[inline(always)]
const fn fault_page(hpfar: u64) -> u64 {
    (hpfar >> 4 & 0xfff_ffff_ffff) << 12
}

/// What went wrong in an abort (ISS.DFSC and IFSC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An address beyond the size of the tables' input or output.
    AddressSize,
    /// No valid descriptor.
    Translation,
    /// A descriptor whose access flag is clear.
    AccessFlag,
    /// A descriptor that does not allow this.
    Permission,
    /// The bus or memory reported an error.
    External,
    /// The bus or memory reported an error during a table walk.
    ExternalOnWalk,
    /// Anything else, with its code: alignment, TLB conflict, exclusive to a device, …
    Other(u8),
}

/// A data abort from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataAbort {
    /// Where in guest-physical space, if the hardware says.
    ///
    /// A permission fault outside a table walk leaves HPFAR_EL2 unknown (D24.2.59); walk
    /// the guest's stage 1 from `far` then. Otherwise the page is from HPFAR_EL2 and the
    /// offset in it from FAR_EL2; during a table walk the offset is unknown and zero.
    pub ipa: Option<Ipa>,
    /// Virtual address, if ISS.FnV does not say that it is unknown.
    pub far: Option<u64>,
    /// What went wrong.
    pub fault: Fault,
    /// A store, or a cache instruction.
    pub write: bool,
    /// The instruction, if the hardware describes it.
    pub access: Option<Access>,
    /// On an access by the guest's own table walk.
    pub on_walk: bool,
    /// A cache maintenance instruction.
    pub cache: bool,
}

/// An instruction abort from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstructionAbort {
    /// Where in guest-physical space, if the hardware says; see [`DataAbort::ipa`].
    pub ipa: Option<Ipa>,
    /// Virtual address, if ISS.FnV does not say that it is unknown.
    pub far: Option<u64>,
    /// What went wrong.
    pub fault: Fault,
    /// On an access by the guest's own table walk.
    pub on_walk: bool,
}

impl Exit {
    /// Returns whether a syndrome is that of [`Exit::Hvc`]: a call is answered before the rest
    /// is looked at.
    #[inline(always)]
    pub const fn is_hvc(esr: u64) -> bool {
        esr >> 26 & 0x3f == 0x16
    }

    /// Reads the three registers as they are after an exception from a lower level.
    pub fn decode(esr: u64, far: u64, hpfar: u64) -> Self {
        let iss = Iss(esr);
        match iss.bits(26, 6) {
            0x01 => Self::Wait {
                kind: iss.wait(),
                register: if iss.bit(2) { iss.bits(5, 5) } else { 31 },
            },
            0x07 => Self::FpTrap,
            0x09 => Self::PauthTrap,
            0x0e => Self::IllegalState,
            0x16 => Self::Hvc { imm: iss.imm() },
            0x17 => Self::Smc { imm: iss.imm() },
            0x18 => Self::Sysreg {
                register: Register::from_iss(esr),
                rt: iss.bits(5, 5),
                write: !iss.bit(0),
            },
            0x19 => Self::SveTrap,
            0x1d => Self::SmeTrap,
            0x20 => Self::InstructionAbort(InstructionAbort {
                ipa: iss.ipa(far, hpfar),
                far: iss.far(far),
                fault: iss.fault(),
                on_walk: iss.bit(7),
            }),
            0x22 => Self::PcAlignment,
            0x24 => Self::DataAbort(DataAbort {
                ipa: iss.ipa(far, hpfar),
                far: iss.far(far),
                fault: iss.fault(),
                write: iss.bit(6),
                access: iss.access(),
                on_walk: iss.bit(7),
                cache: iss.bit(8),
            }),
            0x26 => Self::SpAlignment,
            0x2f => Self::SError,
            class @ (0x30 | 0x32 | 0x34 | 0x38 | 0x3c) => Self::Debug { class },
            _ => Self::Unknown { esr },
        }
    }
}

/// A syndrome, by bit positions.
#[derive(Clone, Copy)]
struct Iss(u64);

impl Iss {
    const fn bit(self, n: u32) -> bool {
        self.0 >> n & 1 != 0
    }

    /// Bits `lsb + len - 1 : lsb`, at most seven.
    const fn bits(self, lsb: u32, len: u32) -> u8 {
        let [low, ..] = (self.0 >> lsb).to_le_bytes();
        low & !(u8::MAX << len)
    }

    const fn imm(self) -> u16 {
        let [low, high, ..] = self.0.to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    const fn wait(self) -> Wait {
        match self.bits(0, 2) {
            0b00 => Wait::Wfi,
            0b01 => Wait::Wfe,
            0b10 => Wait::Wfit,
            _ => Wait::Wfet,
        }
    }

    fn fault(self) -> Fault {
        match self.bits(0, 6) {
            0b00_0000..=0b00_0011 | 0b10_1001 => Fault::AddressSize,
            0b00_0100..=0b00_0111 | 0b10_1011 => Fault::Translation,
            0b00_1000..=0b00_1011 => Fault::AccessFlag,
            0b00_1100..=0b00_1111 => Fault::Permission,
            0b01_0000 => Fault::External,
            0b01_0011..=0b01_0111 => Fault::ExternalOnWalk,
            code => Fault::Other(code),
        }
    }

    /// ISV, SAS, SSE, SRT, SF. A table walk and a cache instruction have no register
    /// whatever ISV says.
    const fn access(self) -> Option<Access> {
        if !self.bit(24) || self.bit(7) || self.bit(8) {
            return None;
        }
        Some(self.described())
    }

    /// SAS, SSE, SRT, SF, which mean something if ISV is set.
    #[inline(always)]
    const fn described(self) -> Access {
        Access {
            width: match self.bits(22, 2) {
                0 => Width::Byte,
                1 => Width::Half,
                2 => Width::Word,
                _ => Width::Double,
            },
            sign_extend: self.bit(21),
            sixty_four: self.bit(15),
            register: self.bits(16, 5),
        }
    }

    /// FnV is set only for external aborts.
    const fn far(self, far: u64) -> Option<u64> {
        if self.bit(10) { None } else { Some(far) }
    }

    fn ipa(self, far: u64, hpfar: u64) -> Option<Ipa> {
        let on_walk = self.bit(7);
        let known = match self.fault() {
            Fault::AddressSize | Fault::Translation | Fault::AccessFlag => true,
            Fault::Permission => on_walk,
            Fault::External | Fault::ExternalOnWalk | Fault::Other(_) => false,
        };
        let offset = if on_walk { 0 } else { far & 0xfff };
        Ipa::new(fault_page(hpfar) | offset).filter(|_| known)
    }
}

/// Returns whether an exception that core itself took while it made an access for somebody (C10)
/// is the answer of what it accessed: a synchronous external abort, or an error of the memory
/// behind it, on a load or store of the same level, and not on the way there. All else is core's.
pub const fn is_unanswered(esr: u64) -> bool {
    /// Data abort without a change of level.
    const DATA_ABORT: u64 = 0x25;
    const EXTERNAL: u64 = 0x10;
    const PARITY: u64 = 0x18;
    esr >> 26 & 0x3f == DATA_ABORT && matches!(esr & 0x3f, EXTERNAL | PARITY)
}
