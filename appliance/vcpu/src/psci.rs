//! PSCI 1.1 for guests (DEN 0022).
//!
//! Calls come through [`crate::smccc::handle`]. This checks arguments and chooses
//! the answer; who is on is for [`Power`] to know.

use crate::power::{Busy, PowerState};
use crate::smccc::Reply;
use arm_psci::{ErrorCode, FunctionId};

/// The vCPUs of a VM, as PSCI needs them.
pub trait Power {
    /// A vCPU of this VM.
    type Target: Copy;

    /// Returns the vCPU with this affinity (MPIDR_EL1 bits 39:32 and 23:0).
    fn target(&self, affinity: u64) -> Option<Self::Target>;
    /// Whether a vCPU may start at this address: it is in the VM's RAM.
    fn is_entry(&self, ipa: u64) -> bool;
    /// Returns the state of a vCPU.
    fn state(&self, target: Self::Target) -> PowerState;
    /// Starts a vCPU at `entry` with `context` in x0.
    ///
    /// # Errors
    /// [`Busy`] if it is not off; nothing has changed.
    fn start(&mut self, target: Self::Target, entry: u64, context: u64) -> Result<(), Busy>;
}

/// PSCI_VERSION: major 1, minor 1.
const VERSION_1_1: u64 = 0x1_0001;
/// MIGRATE_INFO_TYPE: there is no Trusted OS that would have to migrate.
const NO_TRUSTED_OS: u64 = 2;
const SUCCESS: Reply = Reply::Return(0);

/// Answers PSCI call `function`, whose SVE hint is cleared, with `args` (x1 to x3).
pub(crate) fn handle(function: u32, args: [u64; 3], vm: &mut impl Power) -> Reply {
    let Ok(call) = FunctionId::try_from(function) else {
        return Reply::NOT_SUPPORTED;
    };
    if !is_offered(call) {
        return Reply::NOT_SUPPORTED;
    }
    // A call of the 32-bit convention has 32-bit arguments, whatever the registers hold.
    const SMC64: u32 = 1 << 30;
    let [first, second, third] = match function & SMC64 {
        0 => args.map(|arg| arg & 0xffff_ffff),
        _ => args,
    };
    match call {
        FunctionId::PsciVersion => Reply::Return(VERSION_1_1),
        FunctionId::PsciFeatures => features(first),
        FunctionId::MigrateInfoType => Reply::Return(NO_TRUSTED_OS),
        FunctionId::CpuOff => Reply::CpuOff,
        FunctionId::SystemOff => Reply::SystemOff,
        FunctionId::SystemReset => Reply::SystemReset,
        FunctionId::SystemReset232 | FunctionId::SystemReset264 => system_reset2(first),
        FunctionId::CpuSuspend32 | FunctionId::CpuSuspend64 => cpu_suspend(first),
        FunctionId::CpuOn32 | FunctionId::CpuOn64 => cpu_on(first, second, third, vm),
        FunctionId::AffinityInfo32 | FunctionId::AffinityInfo64 => affinity_info(first, second, vm),
        // `is_offered` lets nothing else through.
        _ => Reply::NOT_SUPPORTED,
    }
}

/// The functions there are, for dispatch and for PSCI_FEATURES.
const fn is_offered(call: FunctionId) -> bool {
    matches!(
        call,
        FunctionId::PsciVersion
            | FunctionId::PsciFeatures
            | FunctionId::MigrateInfoType
            | FunctionId::CpuOff
            | FunctionId::SystemOff
            | FunctionId::SystemReset
            | FunctionId::SystemReset232
            | FunctionId::SystemReset264
            | FunctionId::CpuSuspend32
            | FunctionId::CpuSuspend64
            | FunctionId::CpuOn32
            | FunctionId::CpuOn64
            | FunctionId::AffinityInfo32
            | FunctionId::AffinityInfo64
    )
}

fn refuse(error: ErrorCode) -> Reply {
    Reply::Return(i64::from(i32::from(error)).cast_unsigned())
}

/// 5.15: zero for a function that exists. For CPU_SUSPEND that also says: original format
/// of power_state, platform-coordinated.
fn features(asked: u64) -> Reply {
    /// SMCCC_VERSION may be asked for here (5.15.2).
    const SMCCC_VERSION: u32 = 0x8000_0000;
    // A 32-bit function: the argument has been cut to w1.
    let asked = u32::try_from(asked).unwrap_or_default();
    match FunctionId::try_from(asked) {
        _ if asked == SMCCC_VERSION => SUCCESS,
        Ok(call) if is_offered(call) => SUCCESS,
        _ => refuse(ErrorCode::NotSupported),
    }
}

/// 5.4: every state is entered as standby, which is always allowed.
fn cpu_suspend(power_state: u64) -> Reply {
    /// Bits 31:26 and 23:17 of the original format are zero.
    const RESERVED: u64 = 0xfcfe_0000;
    if power_state & RESERVED != 0 {
        return refuse(ErrorCode::InvalidParameters);
    }
    Reply::Suspend
}

/// 5.6.
fn cpu_on(affinity: u64, entry: u64, context: u64, vm: &mut impl Power) -> Reply {
    let Some(target) = vm.target(affinity) else {
        return refuse(ErrorCode::InvalidParameters);
    };
    if !entry.is_multiple_of(4) || !vm.is_entry(entry) {
        return refuse(ErrorCode::InvalidAddress);
    }
    match vm.start(target, entry, context) {
        Ok(()) => SUCCESS,
        Err(Busy::AlreadyOn) => refuse(ErrorCode::AlreadyOn),
        Err(Busy::OnPending) => refuse(ErrorCode::OnPending),
    }
}

/// 5.7: levels above 0 need not exist since PSCI 1.0.
fn affinity_info(affinity: u64, lowest_level: u64, vm: &impl Power) -> Reply {
    // The level is a 32-bit argument in both conventions.
    match (vm.target(affinity), lowest_level & 0xffff_ffff) {
        (Some(target), 0) => Reply::Return(match vm.state(target) {
            PowerState::On => 0,
            PowerState::Off => 1,
            PowerState::Pending => 2,
        }),
        _ => refuse(ErrorCode::InvalidParameters),
    }
}

/// 5.12: the one architectural type, SYSTEM_WARM_RESET.
fn system_reset2(reset_type: u64) -> Reply {
    // A 32-bit argument in both conventions.
    match reset_type & 0xffff_ffff {
        0 => Reply::SystemReset,
        _ => refuse(ErrorCode::InvalidParameters),
    }
}
