//! System registers, barriers and TLB maintenance: every privileged instruction of core.
//!
//! The functions are safe to call from core, which is the hypervisor's privileged rim:
//! what they change is the machine, not Rust's memory. What a value may be is the
//! caller's concern and is decided in the pure crates.
#![expect(unsafe_code, reason = "privileged instructions exist only in assembly")]

use core::arch::asm;

/// Defines readers for registers.
macro_rules! readers {
    ($($name:ident = $reg:literal;)*) => {$(
        #[doc = concat!("Reads ", $reg, ".")]
        #[inline(always)]
        pub(crate) fn $name() -> u64 {
            let value: u64;
            // SAFETY: reading this register at EL2 has no effect on memory.
            unsafe {
                asm!(concat!("mrs {}, ", $reg), out(reg) value,
                     options(nomem, nostack, preserves_flags));
            }
            value
        }
    )*};
}
pub(crate) use readers;

/// Defines writers for registers.
macro_rules! writers {
    ($($name:ident = $reg:literal;)*) => {$(
        #[doc = concat!("Writes ", $reg, ".")]
        #[inline(always)]
        pub(crate) fn $name(value: u64) {
            // SAFETY: the register steers a lower exception level or a device; memory
            // that Rust knows of is not changed by the write.
            unsafe {
                asm!(concat!("msr ", $reg, ", {}"), in(reg) value,
                     options(nostack, preserves_flags));
            }
        }
    )*};
}
pub(crate) use writers;

readers! {
    esr_el2 = "esr_el2";
    far_el2 = "far_el2";
    hpfar_el2 = "hpfar_el2";
    hcr_el2 = "hcr_el2";
    mpidr_el1 = "mpidr_el1";
    midr_el1 = "midr_el1";
    tpidr_el2 = "tpidr_el2";
    cntpct = "cntpct_el0";
    cntfrq = "cntfrq_el0";
    cntv_ctl = "cntv_ctl_el0";
    cntp_ctl = "cntp_ctl_el0";
    sctlr_el1 = "sctlr_el1";
    vbar_el1 = "vbar_el1";
    icc_iar1 = "s3_0_c12_c12_0";
    ich_hcr = "s3_4_c12_c11_0";
    ich_vtr = "s3_4_c12_c11_1";
    ich_vmcr = "s3_4_c12_c11_7";
    revidr_el1 = "revidr_el1";
    pmcr_el0 = "pmcr_el0";
    id_aa64pfr0 = "id_aa64pfr0_el1";
    id_aa64pfr1 = "id_aa64pfr1_el1";
    id_aa64zfr0 = "s3_0_c0_c4_4";
    id_aa64dfr0 = "id_aa64dfr0_el1";
    isr_el1 = "isr_el1";
    tcr_el1 = "tcr_el1";
    ttbr0_el1 = "ttbr0_el1";
    ttbr1_el1 = "ttbr1_el1";
    id_aa64isar0 = "id_aa64isar0_el1";
    id_aa64isar1 = "id_aa64isar1_el1";
    id_aa64isar2 = "s3_0_c0_c6_2";
    id_aa64mmfr0 = "id_aa64mmfr0_el1";
    id_aa64mmfr1 = "id_aa64mmfr1_el1";
    id_aa64mmfr2 = "s3_0_c0_c7_2";
}

writers! {
    set_tpidr_el2 = "tpidr_el2";
    set_vbar_el2 = "vbar_el2";
    set_hcr_el2 = "hcr_el2";
    set_vttbr_el2 = "vttbr_el2";
    set_vtcr_el2 = "vtcr_el2";
    set_cptr_el2 = "cptr_el2";
    set_mdcr_el2 = "mdcr_el2";
    set_hstr_el2 = "hstr_el2";
    set_cnthctl_el2 = "cnthctl_el2";
    set_cnthp_ctl = "cnthp_ctl_el2";
    set_cnthp_cval = "cnthp_cval_el2";
    set_cntv_ctl = "cntv_ctl_el0";
    set_cntp_ctl = "cntp_ctl_el0";
    set_vpidr_el2 = "vpidr_el2";
    set_vsesr_el2 = "s3_4_c5_c2_3";
    set_elr_el1 = "elr_el1";
    set_spsr_el1 = "spsr_el1";
    set_esr_el1 = "esr_el1";
    set_far_el1 = "far_el1";
    set_icc_sre_el2 = "s3_4_c12_c9_5";
    set_icc_pmr = "s3_0_c4_c6_0";
    set_icc_ctlr = "s3_0_c12_c12_4";
    set_icc_igrpen1 = "s3_0_c12_c12_7";
    set_icc_eoir1 = "s3_0_c12_c12_1";
    set_icc_dir = "s3_0_c12_c11_1";
    set_icc_sgi1r = "s3_0_c12_c11_5";
    set_ich_hcr = "s3_4_c12_c11_0";
    set_hcrx_el2 = "s3_4_c1_c2_2";
    set_hfgrtr_el2 = "s3_4_c1_c1_4";
    set_hfgwtr_el2 = "s3_4_c1_c1_5";
    set_hfgitr_el2 = "s3_4_c1_c1_6";
    set_hdfgrtr_el2 = "s3_4_c3_c1_4";
    set_hdfgwtr_el2 = "s3_4_c3_c1_5";
    set_hafgrtr_el2 = "s3_4_c3_c1_6";
    set_mpam2_el2 = "s3_4_c10_c5_0";
}

/// Waits for an interrupt that is pending, masked or not.
pub(crate) fn wfi() {
    // SAFETY: WFI only waits. The barrier orders what other cores must see first.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) }
}

/// Signals an event to every core: what waits by WFE looks again.
pub(crate) fn sev() {
    // SAFETY: an event wakes, and changes nothing else. The barrier lets the woken see what
    // was stored before.
    unsafe { asm!("dsb ishst", "sev", options(nostack, preserves_flags)) }
}

/// Returns whether an interrupt waits to be taken (ISR_EL1.I and F).
#[inline(always)]
pub(crate) fn interrupt_pending() -> bool {
    isr_el1() & (1 << 7 | 1 << 6) != 0
}

/// Completes earlier register writes.
#[inline(always)]
pub(crate) fn isb() {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack, preserves_flags)) }
}

/// Completes earlier memory accesses, for all observers of the inner domain.
#[inline(always)]
pub(crate) fn dsb_ish() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) }
}

/// Makes table writes visible to the walkers of all cores.
#[inline(always)]
pub(crate) fn dsb_ishst() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) }
}

/// Ends any exclusive access a vCPU had open when it lost the core.
pub(crate) fn clrex() {
    // SAFETY: clears the local monitor; touches no memory.
    unsafe { asm!("clrex", options(nostack, preserves_flags)) }
}

/// Switches core's own stage 1 to the tables at `root`.
///
/// The tables must map all that core uses now exactly as the old ones do.
pub(crate) fn set_ttbr0_el2(root: u64) {
    // SAFETY: the caller's tables map code, stack and data unchanged, so execution goes
    // on; the TLBI drops what the old tables left.
    unsafe {
        asm!("dsb ishst", "msr ttbr0_el2, {}", "isb", "tlbi alle2", "dsb nsh", "isb",
             in(reg) root, options(nostack, preserves_flags));
    }
}

/// Runs `f` with `vmid` as the current VMID, then puts the old VTTBR_EL2 back.
fn with_vmid(vmid: u16, empty_table: u64, f: impl FnOnce()) {
    let old = vttbr_el2();
    let other = old >> 48 != u64::from(vmid);
    if other {
        // The table is empty, so that nothing walked by speculation can be cached.
        set_vttbr_el2(u64::from(vmid) << 48 | empty_table);
        isb();
    }
    f();
    if other {
        set_vttbr_el2(old);
        isb();
    }
}

readers! { vttbr_el2 = "vttbr_el2"; }

/// Drops every cached stage-2 translation that `operand` ([`arch::tlbi::page_operand`]) names
/// under `vmid`, on every core.
pub(crate) fn tlbi_ipa(vmid: u16, operand: u64, empty_table: u64) {
    with_vmid(vmid, empty_table, || {
        // SAFETY: TLB maintenance only makes walkers read the tables again. The order is
        // the architecture's: IPA entries, DSB, then what was combined from them, DSB, ISB
        // (DDI 0487, D8.17).
        unsafe {
            asm!("dsb ishst", "tlbi ipas2e1is, {}", "dsb ish", "tlbi vmalle1is", "dsb ish", "isb",
                 in(reg) operand, options(nostack, preserves_flags));
        }
    });
}

/// As [`tlbi_ipa`], for a range ([`arch::tlbi::range_operand`]). Takes FEAT_TLBIRANGE.
pub(crate) fn tlbi_range(vmid: u16, operand: u64, empty_table: u64) {
    with_vmid(vmid, empty_table, || {
        // SAFETY: as above. `sys #4, c8, c0, #2` is TLBI RIPAS2E1IS, which the assembler
        // knows only for a target that has it.
        unsafe {
            asm!("dsb ishst", "sys #4, c8, c0, #2, {}", "dsb ish", "tlbi vmalle1is", "dsb ish",
                 "isb", in(reg) operand, options(nostack, preserves_flags));
        }
    });
}

/// Drops every cached translation of `vmid`, both stages, on every core.
pub(crate) fn tlbi_vmid(vmid: u16, empty_table: u64) {
    with_vmid(vmid, empty_table, || {
        // SAFETY: as above.
        unsafe {
            asm!(
                "dsb ishst",
                "tlbi vmalls12e1is",
                "dsb ish",
                "isb",
                options(nostack, preserves_flags)
            );
        }
    });
}

/// Drops this core's cached translations of the current VMID: two vCPUs of one VM may use
/// the same ASID for different tables (RELIABILITY M3).
pub(crate) fn tlbi_local() {
    // SAFETY: as above, for this core alone.
    unsafe {
        asm!(
            "tlbi vmalle1",
            "dsb nsh",
            "isb",
            options(nostack, preserves_flags)
        );
    }
}

/// Drops what any core has cached of core's own translation of `va`.
pub(crate) fn tlbi_own(va: u64) {
    // SAFETY: as above; the operand is VA[55:12] (D8.14).
    unsafe {
        asm!("dsb ishst", "tlbi vae2is, {}", "dsb ish", "isb", in(reg) va >> 12,
             options(nostack, preserves_flags));
    }
}

/// Drops all guests' translations on all cores. For boot.
pub(crate) fn tlbi_all_guests() {
    // SAFETY: as above.
    unsafe {
        asm!(
            "tlbi alle1is",
            "dsb ish",
            "isb",
            options(nostack, preserves_flags)
        );
    }
}

/// Makes stores to `[va, va + bytes)` coherent for an observer with caches off, and
/// instructions fetched from there new.
pub(crate) fn clean_to_poc(va: u64, bytes: u64) {
    let mut at = va & !63;
    let end = va.saturating_add(bytes);
    while at < end {
        // SAFETY: cleaning and invalidating a line changes no contents; the range is
        // mapped RAM.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) }
        at = at.saturating_add(64);
    }
    // SAFETY: instruction-cache invalidation and barriers.
    unsafe {
        asm!(
            "dsb ish",
            "ic ialluis",
            "dsb ish",
            "isb",
            options(nostack, preserves_flags)
        );
    }
}

/// Writes list register `n` (0 to 15).
pub(crate) fn set_ich_lr(n: u32, value: u64) {
    macro_rules! write_lr {
        ($($n:literal = $reg:literal),*) => {
            match n {
                // SAFETY: a list register holds one virtual interrupt of the guest that
                // runs next; no memory is changed.
                $($n => unsafe { asm!(concat!("msr ", $reg, ", {}"), in(reg) value,
                                      options(nostack, preserves_flags)) },)*
                _ => {}
            }
        };
    }
    write_lr!(
        0 = "s3_4_c12_c12_0",
        1 = "s3_4_c12_c12_1",
        2 = "s3_4_c12_c12_2",
        3 = "s3_4_c12_c12_3",
        4 = "s3_4_c12_c12_4",
        5 = "s3_4_c12_c12_5",
        6 = "s3_4_c12_c12_6",
        7 = "s3_4_c12_c12_7",
        8 = "s3_4_c12_c13_0",
        9 = "s3_4_c12_c13_1",
        10 = "s3_4_c12_c13_2",
        11 = "s3_4_c12_c13_3",
        12 = "s3_4_c12_c13_4",
        13 = "s3_4_c12_c13_5",
        14 = "s3_4_c12_c13_6",
        15 = "s3_4_c12_c13_7"
    );
}

/// Reads list register `n` (0 to 15).
pub(crate) fn ich_lr(n: u32) -> u64 {
    let value: u64;
    macro_rules! read_lr {
        ($($n:literal = $reg:literal),*) => {
            match n {
                // SAFETY: reading a list register changes nothing.
                $($n => unsafe { asm!(concat!("mrs {}, ", $reg), out(reg) value,
                                      options(nomem, nostack, preserves_flags)) },)*
                _ => value = 0,
            }
        };
    }
    read_lr!(
        0 = "s3_4_c12_c12_0",
        1 = "s3_4_c12_c12_1",
        2 = "s3_4_c12_c12_2",
        3 = "s3_4_c12_c12_3",
        4 = "s3_4_c12_c12_4",
        5 = "s3_4_c12_c12_5",
        6 = "s3_4_c12_c12_6",
        7 = "s3_4_c12_c12_7",
        8 = "s3_4_c12_c13_0",
        9 = "s3_4_c12_c13_1",
        10 = "s3_4_c12_c13_2",
        11 = "s3_4_c12_c13_3",
        12 = "s3_4_c12_c13_4",
        13 = "s3_4_c12_c13_5",
        14 = "s3_4_c12_c13_6",
        15 = "s3_4_c12_c13_7"
    );
    value
}
