//! An identity map, so that RAM is Normal memory: exclusives and unaligned accesses need it.
//!
//! One table of 1 GiB blocks: the first is Device-nGnRE and not executable, the other 511
//! are Normal Write-Back, Inner Shareable, whether or not there is RAM.
#![expect(unsafe_code, reason = "the MMU is switched on here")]

use crate::sysreg::{MAIR_EL1, SCTLR_EL1, TCR_EL1, TTBR0_EL1};
use core::arch::asm;

#[repr(C, align(4096))]
struct Table([u64; 512]);

/// Level 1, for 39-bit addresses (DDI 0487 D8.3: block, AF, SH, AttrIndx).
static IDENTITY: Table = {
    const BLOCK: u64 = 0b01;
    const ACCESSED: u64 = 1 << 10;
    const INNER_SHAREABLE: u64 = 0b11 << 8;
    const NORMAL: u64 = 1 << 2;
    const NEVER_EXECUTE: u64 = 0b11 << 53;
    let mut table = [0; 512];
    table[0] = BLOCK | ACCESSED | NEVER_EXECUTE;
    let mut n = 1;
    while n < 512 {
        table[n] = (n as u64) << 30 | BLOCK | ACCESSED | INNER_SHAREABLE | NORMAL;
        n += 1;
    }
    Table(table)
};

/// Attribute 0 Device-nGnRE, attribute 1 Normal Write-Back.
const MAIR: u64 = 0xff04;
/// T0SZ 25, Write-Back walks, Inner Shareable, 4 KiB, no TTBR1 walks, 40-bit output.
const TCR: u64 = 25 | 0b01 << 8 | 0b01 << 10 | 0b11 << 12 | 1 << 23 | 0b010 << 32;
/// SCTLR_EL1: M, C and I.
const MMU_AND_CACHES: u64 = 1 | 1 << 2 | 1 << 12;

/// Returns whether this vCPU's MMU is on.
pub fn is_on() -> bool {
    SCTLR_EL1.read() & 1 != 0
}

/// Switches this vCPU's MMU and caches on.
pub fn enable() {
    if is_on() {
        return;
    }
    MAIR_EL1.write(MAIR);
    TCR_EL1.write(TCR);
    TTBR0_EL1.write((&raw const IDENTITY).addr() as u64);
    // SAFETY: Invalidates stale translations of a map that is not used yet.
    unsafe {
        asm!(
            "dsb ishst",
            "tlbi vmalle1",
            "dsb nsh",
            "isb",
            options(nostack)
        )
    }
    let on = SCTLR_EL1.read() | MMU_AND_CACHES;
    // SAFETY: The map is the identity, so code, stack and data stay where they are, with
    // every permission EL1 had.
    unsafe { SCTLR_EL1.write_raw(on) }
}

/// Switches this vCPU's MMU and caches off again.
pub fn disable() {
    let off = SCTLR_EL1.read() & !MMU_AND_CACHES;
    // SAFETY: Addresses mean the same without the map. What is in a cache stays coherent
    // with the other vCPUs for as long as none of them reads past it; QEMU has no caches.
    unsafe { SCTLR_EL1.write_raw(off) }
}
