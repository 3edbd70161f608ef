//! A read of an ID register that a hypervisor has to trap: ID_AA64PFR0_EL1.

use crate::measure;
use payload::sysreg::ID_AA64PFR0_EL1;

pub(crate) fn run() {
    measure::run("sysreg_id_read", || {
        core::hint::black_box(ID_AA64PFR0_EL1.read());
    });
}
