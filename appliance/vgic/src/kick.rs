//! Which vCPUs an operation concerns.

use core::ops::{BitOr, BitOrAssign};

/// The vCPUs whose list registers no longer say what the model says.
///
/// Each of them has to leave its guest (or not enter it, or wake from WFI), fold and
/// fill. The vCPU whose exit is being handled may be among them; it notices by itself
/// on its way back, because [`crate::Vgic::wants_refill`] is set for every vCPU named.
#[must_use = "an interrupt waits for these vCPUs to fold and fill"]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Kick(u64);

impl Kick {
    /// Nobody.
    pub const NONE: Self = Self(0);

    /// Names the vCPUs in `mask`, bit n for vCPU n.
    pub(crate) const fn from_mask(mask: u8) -> Self {
        Self(mask as u64)
    }

    /// Returns the vCPUs as a mask, bit n for vCPU n.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Returns whether nobody is named.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns whether `vcpu` is named.
    pub fn contains(self, vcpu: usize) -> bool {
        u32::try_from(vcpu).is_ok_and(|n| self.0.checked_shr(n).is_some_and(|m| m & 1 != 0))
    }

    /// Returns the same vCPUs but `vcpu`, the one that is handling its own exit.
    pub fn without(self, vcpu: usize) -> Self {
        let own = u32::try_from(vcpu).ok().and_then(|n| 1u64.checked_shl(n));
        Self(self.0 & !own.unwrap_or(0))
    }
}

impl BitOr for Kick {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Kick {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}
