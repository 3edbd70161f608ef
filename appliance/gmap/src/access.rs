//! What a guest tried, as the syndrome of an abort has it.

use crate::desc::Perm;

/// What the guest tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A store.
    pub write: bool,
    /// An instruction fetch.
    pub exec: bool,
}

impl Access {
    /// A load.
    pub const READ: Self = Self {
        write: false,
        exec: false,
    };
    /// A store.
    pub const WRITE: Self = Self {
        write: true,
        exec: false,
    };
    /// An instruction fetch.
    pub const EXEC: Self = Self {
        write: false,
        exec: true,
    };

    /// Reads the syndrome of an abort from a lower exception level (ESR_EL2, EC 0x20 or
    /// 0x24); `None` for any other.
    ///
    /// A stage-1 walk (S1PTW) counts as a store only when it lacked permission: then it was
    /// hardware updating the guest's own descriptor (DDI 0487, ISS encoding for a Data
    /// Abort). Cache maintenance (CM) counts as a load, though WnR is set, until it
    /// lacks permission.
    pub fn from_esr(esr: u64) -> Option<Self> {
        const INSTRUCTION: u64 = 0x20;
        const DATA: u64 = 0x24;
        let bit = |n: u32| esr >> n & 1 != 0;
        // DFSC and IFSC 0b0011xx are permission faults.
        let permission = esr & 0x3c == 0x0c;
        let walk = bit(7);
        match esr >> 26 & 0x3f {
            INSTRUCTION => Some(Self {
                write: walk && permission,
                exec: !walk,
            }),
            DATA if walk => Some(Self {
                write: permission,
                exec: false,
            }),
            // Invalidation of a line by address asks for the right to write.
            DATA => Some(Self {
                write: bit(6) && (!bit(8) || permission),
                exec: false,
            }),
            _ => None,
        }
    }

    pub(crate) const fn allowed(self, perm: Perm) -> bool {
        let plain_read = !self.write && !self.exec;
        (perm.write || !self.write) && (perm.exec || !self.exec) && (perm.read || !plain_read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Syndromes as literal numbers: EC in 31:26, WnR bit 6, S1PTW bit 7, CM bit 8.
    #[test]
    fn a_syndrome_says_what_the_guest_tried() {
        let cases = [
            (0x9200_0007, Some(Access::READ)),
            (0x9200_0047, Some(Access::WRITE)),
            (0x9200_004f, Some(Access::WRITE)),
            (0x8200_0007, Some(Access::EXEC)),
            // Cache maintenance.
            (0x9200_0147, Some(Access::READ)),
            (0x9200_014f, Some(Access::WRITE)),
            // A stage-1 walk that found no page, and one that may not write.
            (0x9200_00c7, Some(Access::READ)),
            (0x9200_008f, Some(Access::WRITE)),
            (0x8200_0087, Some(Access::READ)),
            (0x8200_008f, Some(Access::WRITE)),
            // HVC.
            (0x5a00_0000, None),
        ];
        for (esr, access) in cases {
            assert_eq!(Access::from_esr(esr), access, "{esr:#x}");
        }
    }
}
