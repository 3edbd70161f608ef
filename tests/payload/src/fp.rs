//! The FP and SIMD registers, which nothing else in a guest uses: it is soft-float.
#![expect(unsafe_code, reason = "it runs code made at run time")]

use crate::sysreg::CPACR_EL1;
use crate::{Fault, stub};

/// V0 to V31, the low doubleword of each first.
pub type Registers = [u64; 64];

/// Lets EL1 and EL0 use FP, SIMD, and SVE and SME if there are any (CPACR_EL1.FPEN, ZEN, SMEN).
pub fn enable() {
    CPACR_EL1.write(CPACR_EL1.read() | 0b11 << 20 | 0b11 << 16 | 0b11 << 24);
}

/// Returns `ldp` or `stp` of every pair of Q registers at x0.
fn transfer(opcode: u32) -> [u32; 16] {
    let mut code = [opcode; 16];
    for (n, insn) in (0..).zip(&mut code) {
        // imm7 counts 16 bytes; Rt2, Rn = x0, Rt.
        *insn |= (2 * n) << 15 | (2 * n + 1) << 10 | 2 * n;
    }
    code
}

/// Loads V0 to V31. [`enable`] first.
pub fn load(registers: &Registers) -> Result<(), Fault> {
    let at = registers.as_ptr().addr() as u64;
    let code = transfer(0xad40_0000);
    // SAFETY: `ldp q, q` from the array; nothing else holds values in V registers.
    unsafe { stub::execute(&code, at) }.map(|_| ())
}

/// Returns V0 to V31. [`enable`] first.
pub fn store() -> Result<Registers, Fault> {
    let mut registers = [0; 64];
    let at = registers.as_mut_ptr().expose_provenance() as u64;
    let code = transfer(0xad00_0000);
    // SAFETY: `stp q, q` into the array, all of it and no more.
    unsafe { stub::execute(&code, at) }?;
    Ok(core::hint::black_box(registers))
}
