//! Pointer authentication: shown where the core has it, trapped until first used, then its keys
//! go with the vCPU. At reset and at the first use all keys are zero; core itself has none.

use super::{Description, Field, Open};
use crate::ids::IdReg;
use crate::sysreg::Register;

/// HCR_EL2.APK and API: keys and instructions are not trapped.
const APK_API: u64 = 0b11 << 40;

pub(super) const DESCRIPTION: Description = Description {
    name: "pauth",
    fields: &[
        // ISAR1: APA, API, GPA, GPI. ISAR2: GPA3, APA3.
        Field::new(IdReg::Isar1, 4, 0xf),
        Field::new(IdReg::Isar1, 8, 0xf),
        Field::new(IdReg::Isar1, 24, 0xf),
        Field::new(IdReg::Isar1, 28, 0xf),
        Field::new(IdReg::Isar2, 8, 0xf),
        Field::new(IdReg::Isar2, 12, 0xf),
    ],
    details: &[],
    open: Open {
        hcr_set: APK_API,
        cptr_clear: 0,
    },
};

/// Returns whether `register` holds half of a key: APIAKeyLo_EL1 to APGAKeyHi_EL1.
pub(crate) const fn is_key(register: Register) -> bool {
    matches!(
        register.fields(),
        (3, 0, 2, 1 | 2, 0..=3) | (3, 0, 2, 3, 0 | 1)
    )
}
