//! Calls by which a guest learns of its vCPUs' turns: stolen time (DEN 0057A) and the vendor
//! service's preempt hint, directed yield and core number.
//!
//! They come through [`crate::smccc::handle`]. A 64-bit call that a VM does not have is −1 in
//! all 64 bits, which a stock kernel compares; the 32-bit forms do not exist.

use crate::smccc::Reply;

/// The calling vCPU and its VM, as these calls need them.
pub trait Paravirt {
    /// Returns the IPA of the calling vCPU's line, if the VM is told of stolen time.
    fn stolen_time(&self) -> Option<u64>;
    /// Returns which functions of the vendor service the VM has, by number: FEATURES, bit 0,
    /// always, and [`PREEMPT_INFO`] only with [`Paravirt::stolen_time`].
    fn functions(&self) -> u128;
    /// Returns the IPA of the lines, the first vCPU's first.
    fn lines(&self) -> u64;
    /// Returns the physical core that this runs on.
    fn core(&self) -> u64;
    /// Gives the core up for the vCPU with this affinity; false if the VM has none such.
    fn yield_to(&mut self, affinity: u64) -> bool;
}

/// Number of PV_PREEMPT_INFO in the vendor service.
pub const PREEMPT_INFO: u32 = 0x10;
/// Number of YIELD_TO.
pub const YIELD_TO: u32 = 0x11;
/// Number of PCPU_INFO.
pub const PCPU_INFO: u32 = 0x12;

const PV_TIME_FEATURES: u32 = 0xc500_0020;
const PV_TIME_ST: u32 = 0xc500_0021;
/// Fast HVC64 calls of owner 6.
const VENDOR_64: u32 = 0xc600_0000;

/// Bytes from line to line.
const STRIDE: u64 = 64;
/// In a line: the byte at 16, of it bit 0.
const HINT: u64 = 16 | 1 << 32;
/// SMCCC INVALID_PARAMETER, −3.
const INVALID_PARAMETER: Reply = Reply::Return(u64::MAX - 2);

/// Returns whether SMCCC_ARCH_FEATURES knows this call.
pub(crate) fn is_architected(asked: u32, vm: &impl Paravirt) -> bool {
    asked == PV_TIME_FEATURES && vm.stolen_time().is_some()
}

/// Answers `function`, whose SVE hint is cleared, if it is one of these.
pub(crate) fn handle(function: u32, args: [u64; 3], vm: &mut impl Paravirt) -> Option<Reply> {
    let [first, ..] = args;
    if let PV_TIME_FEATURES | PV_TIME_ST = function {
        let line = vm.stolen_time();
        // The argument is a uint32.
        let known = matches!(
            u32::try_from(first & 0xffff_ffff),
            Ok(PV_TIME_FEATURES | PV_TIME_ST)
        );
        return Some(match (function, line) {
            (PV_TIME_ST, Some(line)) => Reply::Return(line),
            (PV_TIME_FEATURES, Some(_)) if known => Reply::Return(0),
            _ => Reply::NOT_SUPPORTED,
        });
    }
    let number = function.wrapping_sub(VENDOR_64);
    if !matches!(number, PREEMPT_INFO | YIELD_TO | PCPU_INFO) {
        return None;
    }
    if vm.functions() >> number & 1 == 0 {
        return Some(Reply::NOT_SUPPORTED);
    }
    Some(match number {
        PREEMPT_INFO => Reply::Return4([0, vm.lines(), STRIDE, HINT]),
        YIELD_TO if vm.yield_to(first) => Reply::Return(0),
        YIELD_TO => INVALID_PARAMETER,
        _ => Reply::Return(vm.core()),
    })
}

/// Returns FEATURES' answer in w0 to w3.
pub(crate) fn features(functions: u128) -> [u64; 4] {
    let word = |n: u32| u64::try_from(functions >> n & 0xffff_ffff).unwrap_or_default();
    [word(0), word(32), word(64), word(96)]
}
