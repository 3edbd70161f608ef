//! The registers that go with a vCPU from core to core.
//!
//! One list, of which core makes the block that it saves and loads, and the guest that checks
//! that nothing is lost its own (RELIABILITY C4).

/// Calls the macro `$list` with every EL1 and EL0 register of a vCPU beyond the general ones:
/// name, assembler's name, encoding. Timers' controls are last: what is armed fires only once all
/// else is in place.
#[macro_export]
macro_rules! el1_context {
    ($list:ident) => {
        $list! {
            sctlr = "sctlr_el1" (3, 0, 1, 0, 0),
            cpacr = "cpacr_el1" (3, 0, 1, 0, 2),
            ttbr0 = "ttbr0_el1" (3, 0, 2, 0, 0),
            ttbr1 = "ttbr1_el1" (3, 0, 2, 0, 1),
            tcr = "tcr_el1" (3, 0, 2, 0, 2),
            mair = "mair_el1" (3, 0, 10, 2, 0),
            amair = "amair_el1" (3, 0, 10, 3, 0),
            contextidr = "contextidr_el1" (3, 0, 13, 0, 1),
            vbar = "vbar_el1" (3, 0, 12, 0, 0),
            elr = "elr_el1" (3, 0, 4, 0, 1),
            spsr = "spsr_el1" (3, 0, 4, 0, 0),
            esr = "esr_el1" (3, 0, 5, 2, 0),
            far = "far_el1" (3, 0, 6, 0, 0),
            afsr0 = "afsr0_el1" (3, 0, 5, 1, 0),
            afsr1 = "afsr1_el1" (3, 0, 5, 1, 1),
            par = "par_el1" (3, 0, 7, 4, 0),
            sp_el0 = "sp_el0" (3, 0, 4, 1, 0),
            sp_el1 = "sp_el1" (3, 4, 4, 1, 0),
            tpidr_el0 = "tpidr_el0" (3, 3, 13, 0, 2),
            tpidrro_el0 = "tpidrro_el0" (3, 3, 13, 0, 3),
            tpidr_el1 = "tpidr_el1" (3, 0, 13, 0, 4),
            csselr = "csselr_el1" (3, 2, 0, 0, 0),
            cntkctl = "cntkctl_el1" (3, 0, 14, 1, 0),
            vmpidr = "vmpidr_el2" (3, 4, 0, 0, 5),
            cntvoff = "cntvoff_el2" (3, 4, 14, 0, 3),
            cntv_cval = "cntv_cval_el0" (3, 3, 14, 3, 2),
            cntp_cval = "cntp_cval_el0" (3, 3, 14, 2, 2),
            ich_vmcr = "s3_4_c12_c11_7" (3, 4, 12, 11, 7),
            ich_ap0r0 = "s3_4_c12_c8_0" (3, 4, 12, 8, 0),
            ich_ap1r0 = "s3_4_c12_c9_0" (3, 4, 12, 9, 0),
            cntv_ctl = "cntv_ctl_el0" (3, 3, 14, 3, 1),
            cntp_ctl = "cntp_ctl_el0" (3, 3, 14, 2, 1),
        }
    };
}
