//! What a core says of itself and does not do right.

/// MIDR_EL1.Implementer of software that plays a core: QEMU's `max`.
const SOFTWARE: u64 = 0;
/// ISAR2.WFxT.
const WFXT: u64 = 0xf;

/// Returns ID_AA64ISAR2_EL1 without what cannot be used on the core with this MIDR_EL1.
///
/// QEMU (10 at least) tells of a trapped WFIT as of a WFI: core would wait for an interrupt
/// without the deadline, and a guest that masked its interrupts for ever. So no guest is told
/// that there is one.
pub const fn isar2(midr: u64, isar2: u64) -> u64 {
    if midr >> 24 & 0xff == SOFTWARE {
        isar2 & !WFXT
    } else {
        isar2
    }
}
