//! C4 for pointer authentication: the keys are the guest's own, and so is what they sign.
#![expect(unsafe_code, reason = "it runs pointer-authentication instructions")]

use payload::stats::splitmix64;
use payload::sysreg::{ID_AA64ISAR1_EL1, ID_AA64ISAR2_EL1, encoding};
use payload::{TestResult, expect, expect_eq, fail, machine, println, stub};

use crate::state;

/// APIAKeyLo_EL1 to APGAKeyHi_EL1.
const KEYS: [u32; 10] = [
    encoding(3, 0, 2, 1, 0),
    encoding(3, 0, 2, 1, 1),
    encoding(3, 0, 2, 1, 2),
    encoding(3, 0, 2, 1, 3),
    encoding(3, 0, 2, 2, 0),
    encoding(3, 0, 2, 2, 1),
    encoding(3, 0, 2, 2, 2),
    encoding(3, 0, 2, 2, 3),
    encoding(3, 0, 2, 3, 0),
    encoding(3, 0, 2, 3, 1),
];
/// pacga x0, x0, x0: a signature, whether or not SCTLR_EL1 enables any other key.
const PACGA: u32 = 0x9ac0_3000;

fn is_there() -> bool {
    let isar1 = ID_AA64ISAR1_EL1.read() & 0xff00_0ff0;
    let there = isar1 != 0 || ID_AA64ISAR2_EL1.read() & 0xff00 != 0;
    if !there {
        println!("# no pointer authentication");
    }
    there
}

fn sign(value: u64) -> Result<u64, payload::test::Failure> {
    // SAFETY: PACGA reads and writes x0.
    match unsafe { stub::execute(&[PACGA], value) } {
        Ok(signed) => Ok(signed),
        Err(fault) => fail!("pacga: {fault:x?}"),
    }
}

pub(crate) fn first() -> TestResult {
    if !is_there() || !machine::on_skete() {
        return Ok(());
    }
    for key in KEYS {
        expect_eq!(stub::read_sysreg(key), Ok(0), "{key:#x}");
    }
    Ok(())
}

pub(crate) fn keys() -> TestResult {
    if !is_there() {
        return Ok(());
    }
    let mut seed = state::seed();
    for round in 0..state::rounds() {
        let mut held = [0; KEYS.len()];
        for (value, key) in held.iter_mut().zip(KEYS) {
            *value = splitmix64(&mut seed);
            // SAFETY: The program signs nothing but by `sign`.
            let written = unsafe { stub::write_sysreg(key, *value) };
            expect_eq!(written, Ok(()), "{key:#x}");
        }
        let signed = sign(round)?;
        expect_eq!(signed & 0xffff_ffff, 0);
        state::disturb(round, None);
        expect_eq!(sign(round)?, signed, "round {round}");
        for (value, key) in held.into_iter().zip(KEYS) {
            expect_eq!(stub::read_sysreg(key), Ok(value), "{key:#x} {round}");
        }
        // Another key signs otherwise (but once in four billion times).
        // SAFETY: As above.
        let written = unsafe { stub::write_sysreg(KEYS[8], !held[8]) };
        expect_eq!(written, Ok(()));
        expect!(sign(round)? != signed, "round {round}");
    }
    Ok(())
}
