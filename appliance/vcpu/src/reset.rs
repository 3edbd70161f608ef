//! A vCPU's first state.
//!
//! Every register that is not named here is zero, including all general and FP registers,
//! timers, and what only some cores have. A guest's secrets cannot be in a zero.

/// PSTATE at entry: EL1h, with D, A, I and F masked (SPSR_EL2 form).
pub const PSTATE: u64 = 0x3c5;

/// SCTLR_EL1 at entry: MMU and caches off, little-endian; the bits that Armv8.0 has as one
/// are one (LSMAOE, nTLSMD, SPAN, EIS, TSCXT, EOS).
pub const SCTLR_EL1: u64 = 0x30d0_0800;

/// CPACR_EL1 at entry: FP trapped to EL1 until the guest enables it.
pub const CPACR_EL1: u64 = 0;

/// Returns the affinity of vCPU `index`, as in a device tree and in PSCI: sixteen to a
/// cluster, as GICv3's target lists have it.
pub const fn affinity(index: u32) -> u64 {
    let index = index as u64;
    (index >> 12 & 0xff) << 16 | (index >> 4 & 0xff) << 8 | index & 15
}

/// Returns VMPIDR_EL2 for vCPU `index`: its affinity, and bit 31, which is always one.
pub const fn mpidr(index: u32) -> u64 {
    1 << 31 | affinity(index)
}

/// Whether a guest may run with this PSTATE (SPSR_EL2 form): AArch64, at EL0 or EL1.
///
/// Anything else in a saved context would make the return from EL2 illegal, or stay there.
pub const fn is_guest_pstate(pstate: u64) -> bool {
    const EL0T: u64 = 0b0_0000;
    const EL1T: u64 = 0b0_0100;
    const EL1H: u64 = 0b0_0101;
    matches!(pstate & 0x1f, EL0T | EL1T | EL1H)
}
