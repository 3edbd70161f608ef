//! C10: an SError that the operator asks for is pending until the guest takes it, once.
#![expect(unsafe_code, reason = "it lets SErrors in")]

use core::arch::asm;
use payload::sysreg::ISR_EL1;
use payload::{TestResult, catch, cpu, expect, expect_eq, machine, println, psci, timer};

/// ISR_EL1.A: an SError is pending.
const PENDING: u64 = 1 << 8;
/// Exception class of an SError.
const SERROR: u64 = 0x2f;

fn is_pending() -> bool {
    ISR_EL1.read() & PENDING != 0
}

/// Waits until one is pending. It is masked: WFI ends all the same.
fn wait() -> bool {
    for _ in 0..100_000 {
        if is_pending() {
            return true;
        }
        cpu::wfi();
        timer::spin(1_000);
    }
    false
}

/// With boot argument `serror=N` whoever runs this makes N of them pending.
pub(crate) fn taken_once() -> TestResult {
    if machine::argument("serror").is_none() {
        println!("# no SErrors asked for");
        return Ok(());
    }
    expect!(wait(), "none came");
    // Masked it waits, over exits and in the other VM's time.
    for _ in 0..100 {
        psci::hvc(psci::VERSION, 0, 0, 0);
        cpu::wfe();
        expect!(is_pending());
    }
    timer::spin(50_000_000);
    let taken = catch(|| {
        // SAFETY: The SError that is pending is caught, and the next is masked.
        unsafe {
            asm!(
                "msr daifclr, #4",
                "isb",
                "nop",
                "msr daifset, #4",
                options(nostack)
            )
        }
    });
    let class = taken.err().map(|fault| fault.class());
    expect_eq!(class, Some(SERROR), "{taken:x?}");
    // All that were asked for before it was taken were one.
    timer::spin(50_000_000);
    expect!(!is_pending(), "there is another");
    Ok(())
}
