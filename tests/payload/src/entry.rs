//! The first instructions of every vCPU.
//!
//! Before a register is changed it is stored in [`RESET`], for the tests of what a vCPU
//! finds when it is switched on. Two values are lost in doing so: TPIDRRO_EL0 and SP.
#![expect(unsafe_code, reason = "this is the entry point")]

use crate::{exception, machine};
use core::sync::atomic::{AtomicU64, Ordering};
use guest_abi::map::VCPUS_MAX;

/// What a vCPU found at its first instruction, as `asm` below lays it out.
#[derive(Debug)]
#[repr(C, align(512))]
pub struct ResetState {
    /// x0 to x30.
    pub x: [AtomicU64; 31],
    /// The registers of [`NAMES`], in that order.
    pub special: [AtomicU64; 33],
}
const _: () = assert!(size_of::<ResetState>() == 512);

/// Names of [`ResetState::special`]; those of the last, unused, are empty.
pub const NAMES: [&str; 33] = [
    "CurrentEL",
    "DAIF",
    "SPSel",
    "SCTLR_EL1",
    "TPIDR_EL0",
    "TPIDR_EL1",
    "CPACR_EL1",
    "TTBR0_EL1",
    "TTBR1_EL1",
    "TCR_EL1",
    "MAIR_EL1",
    "VBAR_EL1",
    "CONTEXTIDR_EL1",
    "CNTV_CTL_EL0",
    "CNTP_CTL_EL0",
    "CNTKCTL_EL1",
    "MDSCR_EL1",
    "PAR_EL1",
    "FAR_EL1",
    "ESR_EL1",
    "ELR_EL1",
    "SPSR_EL1",
    "AMAIR_EL1",
    "CSSELR_EL1",
    "CNTV_CVAL_EL0",
    "CNTP_CVAL_EL0",
    "AFSR0_EL1",
    "AFSR1_EL1",
    "MPIDR_EL1",
    "",
    "",
    "",
    "taken",
];

impl ResetState {
    /// Returns a register of [`NAMES`], or `None` if it is not there.
    pub fn special(&self, name: &str) -> Option<u64> {
        let at = NAMES.iter().position(|have| *have == name)?;
        self.special
            .get(at)
            .map(|value| value.load(Ordering::Relaxed))
    }
}

/// One for each vCPU. In `.data`, which entry does not clear.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.payload_reset")]
static payload_reset: [ResetState; VCPUS_MAX as usize] = [const {
    ResetState {
        x: [const { AtomicU64::new(0) }; 31],
        special: [const { AtomicU64::new(0) }; 33],
    }
}; VCPUS_MAX as usize];

/// Returns what vCPU `index` found when it was switched on last.
pub fn reset_state(index: usize) -> &'static ResetState {
    &payload_reset[index]
}

// payload_secondary is where PSCI CPU_ON sends a vCPU; x0 is the function it is to run.
core::arch::global_asm!(
    r#"
    .macro RECORD
        msr     tpidrro_el0, x30
        mrs     x30, mpidr_el1
        and     x30, x30, #7
        lsl     x30, x30, #9
        mov     sp, x30
        adrp    x30, payload_reset
        add     x30, x30, :lo12:payload_reset
        add     sp, sp, x30
        stp     x0, x1, [sp, #0]
        stp     x2, x3, [sp, #16]
        stp     x4, x5, [sp, #32]
        stp     x6, x7, [sp, #48]
        stp     x8, x9, [sp, #64]
        stp     x10, x11, [sp, #80]
        stp     x12, x13, [sp, #96]
        stp     x14, x15, [sp, #112]
        stp     x16, x17, [sp, #128]
        stp     x18, x19, [sp, #144]
        stp     x20, x21, [sp, #160]
        stp     x22, x23, [sp, #176]
        stp     x24, x25, [sp, #192]
        stp     x26, x27, [sp, #208]
        stp     x28, x29, [sp, #224]
        mrs     x1, tpidrro_el0
        mrs     x2, currentel
        stp     x1, x2, [sp, #240]
        mrs     x1, daif
        mrs     x2, spsel
        stp     x1, x2, [sp, #256]
        mrs     x1, sctlr_el1
        mrs     x2, tpidr_el0
        stp     x1, x2, [sp, #272]
        mrs     x1, tpidr_el1
        mrs     x2, cpacr_el1
        stp     x1, x2, [sp, #288]
        mrs     x1, ttbr0_el1
        mrs     x2, ttbr1_el1
        stp     x1, x2, [sp, #304]
        mrs     x1, tcr_el1
        mrs     x2, mair_el1
        stp     x1, x2, [sp, #320]
        mrs     x1, vbar_el1
        mrs     x2, contextidr_el1
        stp     x1, x2, [sp, #336]
        mrs     x1, cntv_ctl_el0
        mrs     x2, cntp_ctl_el0
        stp     x1, x2, [sp, #352]
        mrs     x1, cntkctl_el1
        mrs     x2, mdscr_el1
        stp     x1, x2, [sp, #368]
        mrs     x1, par_el1
        mrs     x2, far_el1
        stp     x1, x2, [sp, #384]
        mrs     x1, esr_el1
        mrs     x2, elr_el1
        stp     x1, x2, [sp, #400]
        mrs     x1, spsr_el1
        mrs     x2, amair_el1
        stp     x1, x2, [sp, #416]
        mrs     x1, csselr_el1
        mrs     x2, cntv_cval_el0
        stp     x1, x2, [sp, #432]
        mrs     x1, cntp_cval_el0
        mrs     x2, afsr0_el1
        stp     x1, x2, [sp, #448]
        mrs     x1, afsr1_el1
        mrs     x2, mpidr_el1
        stp     x1, x2, [sp, #464]
        mov     x1, #1
        str     x1, [sp, #504]
        // The stack of this vCPU, and the vectors.
        and     x2, x2, #7
        add     x2, x2, #1
        adrp    x1, payload_stacks
        add     x1, x1, x2, lsl #16
        mov     sp, x1
        adrp    x1, payload_vectors
        add     x1, x1, :lo12:payload_vectors
        msr     vbar_el1, x1
        isb
    .endm

    .section .text.entry, "ax"
    .global _start
    _start:
        RECORD
        adrp    x1, payload_bss_start
        add     x1, x1, :lo12:payload_bss_start
        adrp    x2, payload_bss_end
        add     x2, x2, :lo12:payload_bss_end
    1:  cmp     x1, x2
        b.hs    2f
        stp     xzr, xzr, [x1], #16
        b       1b
    2:  mov     x29, xzr
        mov     x30, xzr
        bl      payload_primary
        b       .

    .global payload_secondary
    payload_secondary:
        RECORD
        mov     x29, xzr
        mov     x30, xzr
        bl      payload_secondary_main
        b       .
    "#
);

unsafe extern "Rust" {
    fn guest_main() -> !;
}

#[unsafe(no_mangle)]
extern "C" fn payload_primary(device_tree: u64) -> ! {
    machine::found_at(device_tree);
    // SAFETY: `guest!` defines it with this signature, and the linker refuses an image
    // without it or with two.
    unsafe { guest_main() }
}

#[unsafe(no_mangle)]
extern "C" fn payload_secondary_main(run: extern "C" fn()) -> ! {
    run();
    crate::psci::cpu_off()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    exception::die(format_args!("{info}"))
}

/// Names the function that vCPU 0 runs: `guest!(main)`, with `fn main() -> !`.
#[macro_export]
macro_rules! guest {
    ($main:ident) => {
        const _: () = {
            #[expect(unsafe_code, reason = "the payload's entry calls it by this name")]
            #[unsafe(no_mangle)]
            fn guest_main() -> ! {
                $main()
            }
        };
    };
}
