//! Instructions made at run time.
#![expect(unsafe_code, reason = "it writes and runs code")]

use crate::{Fault, catch, cpu};
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};
use guest_abi::map::VCPUS_MAX;

/// `ret`.
const RET: u32 = 0xd65f_03c0;
/// `mrs x0, …` without its register; OR an [`crate::sysreg::encoding`] << 5.
const MRS_X0: u32 = 0xd520_0000;
/// `msr …, x0` without its register.
const MSR_X0: u32 = 0xd500_0000;

/// The code of one vCPU, two cache lines of 64 bytes.
#[repr(C, align(64))]
struct Stub([AtomicU32; 32]);

static STUBS: [Stub; VCPUS_MAX as usize] =
    [const { Stub([const { AtomicU32::new(0) }; 32]) }; VCPUS_MAX as usize];

/// Runs up to 31 instructions with `x0`, and returns x0 after them.
///
/// An instruction that faults is stepped over, and the first fault is returned.
///
/// # Safety
///
/// The instructions must keep the C ABI, leave memory of the program alone, and neither
/// change the stack pointer nor branch out of themselves.
pub unsafe fn execute(code: &[u32], x0: u64) -> Result<u64, Fault> {
    let stub = &STUBS[cpu::index()].0;
    assert!(code.len() < stub.len(), "too much code");
    for (to, insn) in stub.iter().zip(code.iter().chain([&RET])) {
        to.store(*insn, Ordering::Relaxed);
    }
    let at = (&raw const *stub).addr();
    catch(|| {
        let mut value = x0;
        // SAFETY: Makes the stores above visible to the fetch (DDI 0487, B2.7.4.2), then
        // calls them; what they do is the caller's promise.
        unsafe {
            asm!(
                "dc cvau, {at}", "dc cvau, {more}", "dsb ish",
                "ic ivau, {at}", "ic ivau, {more}", "dsb ish", "isb",
                "blr {at}",
                at = in(reg) at,
                more = in(reg) at + 64,
                inout("x0") value,
                clobber_abi("C")
            );
        }
        value
    })
}

/// Reads the system register with this [`crate::sysreg::encoding`].
pub fn read_sysreg(encoding: u32) -> Result<u64, Fault> {
    // SAFETY: Reading a register breaks no promise of `execute`. op0 0 and 1, which are
    // instructions and not registers, are refused.
    unsafe { execute(&[MRS_X0 | checked(encoding) << 5], 0) }
}

/// Writes the system register with this [`crate::sysreg::encoding`].
///
/// # Safety
///
/// As [`crate::sysreg::Reg::write_raw`].
pub unsafe fn write_sysreg(encoding: u32, value: u64) -> Result<(), Fault> {
    // SAFETY: The caller's promise.
    unsafe { execute(&[MSR_X0 | checked(encoding) << 5], value) }.map(|_| ())
}

fn checked(encoding: u32) -> u32 {
    assert!((2 << 14..4 << 14).contains(&encoding), "no register");
    encoding
}
