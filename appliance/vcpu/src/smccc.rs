//! Calls by HVC or SMC: who answers which.
//!
//! SMCCC 1.4 (DEN 0028). A guest is offered its architecture calls, PSCI 1.1, stolen time and
//! a vendor-specific hypervisor service; every other number is NOT_SUPPORTED, which is −1
//! in all 64 bits of x0.

use crate::paravirt::{self, Paravirt};
use crate::psci::{self, Power};

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Returns this in x0.
    Return(u64),
    /// Returns these in x0 to x3.
    Return4([u64; 4]),
    /// This vCPU stops; it has been marked off.
    CpuOff,
    /// The VM stops.
    SystemOff,
    /// The VM asks to be started again.
    SystemReset,
    /// This vCPU waits as if by WFI; x0 is 0 when it goes on.
    Suspend,
}

impl Reply {
    /// The call does not exist.
    pub const NOT_SUPPORTED: Self = Self::Return(u64::MAX);
}

const SMCCC_VERSION: u32 = 0x8000_0000;
const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
const VENDOR_FEATURES: u32 = 0x8600_0000;
const VENDOR_UID: u32 = 0x8600_ff01;
const VENDOR_REVISION: u32 = 0x8600_ff03;

/// SMCCC 1.1: what a guest needs to know to call by HVC with four arguments.
const VERSION_1_1: u64 = 0x1_0001;
/// 6f1f4c52-9d0a-4b6e-8c37-5a1e0d94b2c8, each word little-endian. Not KVM's: a guest
/// that saw that one would use KVM's services.
const UID: [u64; 4] = [0x524c_1f6f, 0x6e4b_0a9d, 0x1e5a_378c, 0xc8b2_940d];
/// Major and minor revision of the vendor service.
const REVISION: [u64; 4] = [1, 0, 0, 0];

/// The hint in bit 16 that no SVE state is live (SMCCC 1.3, 2.2); it is no part of the number.
const SVE_HINT: u32 = 1 << 16;

/// Answers call `function` (w0) with `args` (x1 to x3) of the vCPU behind `vm`.
pub fn handle(function: u32, args: [u64; 3], vm: &mut (impl Power + Paravirt)) -> Reply {
    let function = function & !SVE_HINT;
    match function {
        SMCCC_VERSION => Reply::Return(VERSION_1_1),
        SMCCC_ARCH_FEATURES => {
            let [asked, ..] = args;
            match u32::try_from(asked & 0xffff_ffff).unwrap_or_default() {
                SMCCC_VERSION | SMCCC_ARCH_FEATURES => Reply::Return(0),
                asked if paravirt::is_architected(asked, vm) => Reply::Return(0),
                _ => Reply::NOT_SUPPORTED,
            }
        }
        VENDOR_UID => Reply::Return4(UID),
        VENDOR_REVISION => Reply::Return4(REVISION),
        VENDOR_FEATURES => Reply::Return4(paravirt::features(vm.functions())),
        _ => match paravirt::handle(function, args, vm) {
            Some(reply) => reply,
            None => psci::handle(function, args, vm),
        },
    }
}
