//! The vCPU that runs this code: who it is, what it waits for.
#![expect(unsafe_code, reason = "hints, barriers and DAIF")]

use crate::sysreg::MPIDR_EL1;
use core::arch::asm;

/// Returns the index of this vCPU: MPIDR_EL1.Aff0, as QEMU's map numbers up to 8 of them.
#[inline]
pub fn index() -> usize {
    (MPIDR_EL1.read() & 7) as usize
}

macro_rules! instruction {
    ($name:ident, $insn:literal, $doc:literal) => {
        #[doc = $doc]
        #[inline(always)]
        pub fn $name() {
            // SAFETY: It changes no register or memory of the program. Interrupts that it
            // lets in return with every register restored.
            unsafe { asm!($insn, options(nostack, preserves_flags)) }
        }
    };
}

instruction!(wfi, "wfi", "Waits for an interrupt.");
instruction!(wfe, "wfe", "Waits for an event.");
instruction!(sev, "sev", "Sends an event to every vCPU.");
instruction!(
    yield_now,
    "yield",
    "Says that this is a spin loop; single-threaded QEMU then runs another core."
);
instruction!(isb, "isb", "Synchronises the instruction stream.");
instruction!(dsb, "dsb sy", "Completes every access before it.");
instruction!(mask_irq, "msr daifset, #2", "Masks IRQ.");
instruction!(unmask_irq, "msr daifclr, #2", "Unmasks IRQ.");
instruction!(
    mask_all,
    "msr daifset, #15",
    "Masks debug exceptions, SError, IRQ and FIQ."
);
