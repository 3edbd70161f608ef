//! List registers: what the hardware's virtual CPU interface shows to the guest.

/// One `ICH_LR<n>_EL2` (IHI 0069H, 12.4.6), all zeroes when free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Lr(u64);

impl Lr {
    /// A free list register.
    pub const FREE: Self = Self(0);

    const VINTID: u64 = 0xffff_ffff;
    const PINTID_SHIFT: u32 = 32;
    const PINTID: u64 = 0x1fff << Self::PINTID_SHIFT;
    /// Same bits as pINTID, when HW is clear: ask for a maintenance interrupt.
    const EOI: u64 = 1 << 41;
    const PRIORITY_SHIFT: u32 = 48;
    const GROUP1: u64 = 1 << 60;
    const HW: u64 = 1 << 61;
    const PENDING: u64 = 1 << 62;
    const ACTIVE: u64 = 1 << 63;

    /// Describes interrupt `vintid` at `priority`, neither pending nor active yet.
    pub const fn new(vintid: u32, priority: u8) -> Self {
        Self(vintid as u64 | (priority as u64) << Self::PRIORITY_SHIFT)
    }

    /// Adds to group 1 (virtual IRQ) instead of group 0 (virtual FIQ).
    #[must_use]
    pub const fn group1(self) -> Self {
        Self(self.0 | Self::GROUP1)
    }

    /// Adds the pending state.
    #[must_use]
    pub const fn pend(self) -> Self {
        Self(self.0 | Self::PENDING)
    }

    /// Adds the active state.
    #[must_use]
    pub const fn activate(self) -> Self {
        Self(self.0 | Self::ACTIVE)
    }

    /// Ties it to physical interrupt `pintid`, which the guest's deactivation deactivates.
    #[must_use]
    pub const fn hardware(self, pintid: u32) -> Self {
        let field = (pintid as u64) << Self::PINTID_SHIFT & Self::PINTID;
        Self(self.0 | Self::HW | field)
    }

    /// Asks for a maintenance interrupt when the guest deactivates it; for software interrupts.
    #[must_use]
    pub const fn notify(self) -> Self {
        Self(self.0 | Self::EOI)
    }

    /// Takes the value read from hardware.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Returns the value to write to hardware.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Returns the virtual INTID.
    pub const fn vintid(self) -> u32 {
        let [a, b, c, d, ..] = (self.0 & Self::VINTID).to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// Returns the physical INTID, if this is a hardware interrupt.
    pub const fn pintid(self) -> Option<u32> {
        if !self.is_hardware() {
            return None;
        }
        let [a, b, ..] = ((self.0 & Self::PINTID) >> Self::PINTID_SHIFT).to_le_bytes();
        Some(u32::from_le_bytes([a, b, 0, 0]))
    }

    /// Returns the priority byte; lower is more urgent.
    pub const fn priority(self) -> u8 {
        let [.., priority, _] = self.0.to_le_bytes();
        priority
    }

    /// Returns whether it is in group 1.
    pub const fn is_group1(self) -> bool {
        self.0 & Self::GROUP1 != 0
    }

    /// Returns whether it is tied to a physical interrupt.
    pub const fn is_hardware(self) -> bool {
        self.0 & Self::HW != 0
    }

    /// Returns whether its deactivation raises a maintenance interrupt.
    pub const fn is_notified(self) -> bool {
        self.0 & (Self::HW | Self::EOI) == Self::EOI
    }

    /// Returns whether it is pending (it may be active too).
    pub const fn is_pending(self) -> bool {
        self.0 & Self::PENDING != 0
    }

    /// Returns whether it is active (it may be pending too).
    pub const fn is_active(self) -> bool {
        self.0 & Self::ACTIVE != 0
    }

    /// Returns whether it is neither pending nor active.
    pub const fn is_free(self) -> bool {
        self.0 & (Self::PENDING | Self::ACTIVE) == 0
    }
}

const _: () = assert!(size_of::<Lr>() == 8);

/// Bits of `ICH_HCR_EL2` (IHI 0069H, 12.4.5) that [`crate::Vgic::fill`] uses.
pub mod hcr {
    /// The virtual CPU interface is on.
    pub const EN: u64 = 1 << 0;
    /// Maintenance interrupt when the guest deactivates what is in no list register.
    pub const LRENPIE: u64 = 1 << 2;
    /// Maintenance interrupt while no list register is pending.
    pub const NPIE: u64 = 1 << 3;
    /// Maintenance interrupt while the guest has group 0 enabled.
    pub const VGRP0EIE: u64 = 1 << 4;
    /// Maintenance interrupt while the guest has group 0 disabled.
    pub const VGRP0DIE: u64 = 1 << 5;
    /// Maintenance interrupt while the guest has group 1 enabled.
    pub const VGRP1EIE: u64 = 1 << 6;
    /// Maintenance interrupt while the guest has group 1 disabled.
    pub const VGRP1DIE: u64 = 1 << 7;
    /// Writes of `ICC_DIR_EL1` trap.
    pub const TDIR: u64 = 1 << 14;
    /// Position of the count of deactivations that found no list register.
    pub const EOICOUNT_SHIFT: u32 = 27;
    /// Mask of that count after shifting.
    pub const EOICOUNT_MASK: u64 = 0x1f;
}

/// Bits of `ICH_VMCR_EL2` (IHI 0069H, 12.4.8) that the model looks at.
pub mod vmcr {
    /// The guest has group 0 enabled.
    pub const VENG0: u64 = 1 << 0;
    /// The guest has group 1 enabled.
    pub const VENG1: u64 = 1 << 1;
    /// Deactivation is apart from priority drop.
    pub const VEOIM: u64 = 1 << 9;
    /// Position of the priority mask, eight bits.
    pub const VPMR_SHIFT: u32 = 24;
}

/// Number of list registers an implementation may have.
pub const LRS_MAX: usize = 16;

/// One vCPU's list registers and the registers around them, as core saves and loads them.
///
/// Core owns it and gives it to [`crate::Vgic::fill`] and [`crate::Vgic::fold`].
#[derive(Clone, Debug)]
pub struct LrSet {
    /// The list registers; those from [`Self::count`] up stay free.
    pub lr: [Lr; LRS_MAX],
    /// List registers that hold an interrupt: read these back before [`crate::Vgic::fold`].
    pub used: u16,
    /// List registers that differ in kind from before: write these after [`crate::Vgic::fill`].
    /// When another vCPU ran on this CPU in between, write all of them.
    pub write: u16,
    /// Number of implemented list registers, 1..=16 (`ICH_VTR_EL2.ListRegs` + 1).
    pub count: u8,
    /// `ICH_HCR_EL2`: write it after fill. If [`hcr::LRENPIE`] is set in it, read it back
    /// before fold, for the count in its top bits.
    pub hcr: u64,
    /// `ICH_VMCR_EL2`, as the guest left it. Only looked at when the list registers
    /// overflow; keep it current at least when [`Self::hcr`] has maintenance bits.
    pub vmcr: u64,
}

impl LrSet {
    /// Creates an empty set for hardware with `count` list registers, brought to 1..=16.
    pub const fn new(count: u8) -> Self {
        let count = match count {
            0 => 1,
            1..=16 => count,
            17.. => 16,
        };
        Self {
            lr: [Lr::FREE; LRS_MAX],
            used: 0,
            write: 0,
            count,
            hcr: hcr::EN | hcr::TDIR,
            vmcr: 0,
        }
    }
}
