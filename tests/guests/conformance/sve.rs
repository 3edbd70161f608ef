//! C3 for vectors: Z, P and FFR keep what is put there, over exits and beside other VMs, and
//! hold nothing of anybody's at first.
#![expect(unsafe_code, reason = "it runs vector instructions")]

use payload::stats::splitmix64;
use payload::sysreg::{ID_AA64PFR0_EL1, ZCR_EL1};
use payload::{TestResult, expect, expect_eq, fail, fp, println, stub};

use crate::state;

/// Longest vector that anybody has, in bytes, and what 32 of them take with 17 predicates.
const VECTOR_MAX: usize = 256;
const BYTES: usize = 32 * VECTOR_MAX + 17 * VECTOR_MAX / 8;

#[repr(align(256))]
struct Block([u8; BYTES]);

/// LDR and STR of a Z and of a P register at [x0, #n, mul vl].
const LDR_Z: u32 = 0x8580_4000;
const STR_Z: u32 = 0xe580_4000;
const LDR_P: u32 = 0x8580_0000;
const STR_P: u32 = 0xe580_0000;
/// rdffr p0.b; wrffr p0.b; rdvl x0, #1.
const RDFFR: u32 = 0x2519_f000;
const WRFFR: u32 = 0x2528_9000;
const RDVL: u32 = 0x04bf_5020;

fn is_there() -> bool {
    let there = ID_AA64PFR0_EL1.read() >> 32 & 15 != 0;
    if !there {
        println!("# no SVE");
    }
    there
}

/// `opcode` with register `n` and offset `imm9`.
fn at(opcode: u32, n: u32, imm9: u32) -> u32 {
    opcode | (imm9 >> 3 & 0x3f) << 16 | (imm9 & 7) << 10 | n
}

fn run(code: &[u32], x0: u64) -> Result<u64, payload::test::Failure> {
    // SAFETY: The instructions touch vectors, predicates and the block at x0.
    match unsafe { stub::execute(code, x0) } {
        Ok(x0) => Ok(x0),
        Err(fault) => fail!("{code:x?}: {fault:x?}"),
    }
}

/// Moves Z0 to Z31, then P0 to P15 and FFR, which comes first when loading and last when storing.
fn transfer(block: &mut Block, z: u32, p: u32) -> TestResult {
    let x0 = block.0.as_mut_ptr().expose_provenance() as u64;
    let bytes = length()?;
    let predicates = x0 + 32 * bytes;
    let mut code = [0; 18];
    if p == LDR_P {
        run(&[at(p, 0, 16), WRFFR], predicates)?;
    }
    for half in 0..2 {
        for n in 0..16 {
            code[n as usize] = at(z, half * 16 + n, half * 16 + n);
        }
        run(&code[..16], x0)?;
    }
    for n in 0..16 {
        code[n as usize] = at(p, n, n);
    }
    run(&code[..16], predicates)?;
    if p == STR_P {
        run(&[RDFFR, at(p, 0, 16)], predicates)?;
        // P0 was lent to FFR.
        run(&[at(LDR_P, 0, 0)], predicates)?;
    }
    Ok(())
}

fn load(block: &mut Block) -> TestResult {
    transfer(block, LDR_Z, LDR_P)
}

fn store(block: &mut Block) -> TestResult {
    transfer(block, STR_Z, STR_P)
}

/// Bytes of a vector.
fn length() -> Result<u64, payload::test::Failure> {
    run(&[RDVL], 0)
}

/// Bytes of all that is moved.
fn used() -> Result<usize, payload::test::Failure> {
    let bytes = length()? as usize;
    Ok(32 * bytes + 17 * bytes / 8)
}

fn longest() -> Result<u64, payload::test::Failure> {
    fp::enable();
    ZCR_EL1.write(0xf);
    length()
}

pub(crate) fn first() -> TestResult {
    if !is_there() {
        return Ok(());
    }
    let bytes = longest()?;
    println!("# vectors of {} bits", bytes * 8);
    expect!(bytes >= 16 && bytes as usize <= VECTOR_MAX);
    let mut block = Block([0x5a; BYTES]);
    store(&mut block)?;
    let used = used()?;
    // On the machine itself firmware and earlier tests may have left something.
    if payload::machine::on_skete() {
        let first = block.0[..used].iter().position(|b| *b != 0);
        expect_eq!(first, None, "something was there");
    }
    Ok(())
}

pub(crate) fn survives_exits() -> TestResult {
    if !is_there() {
        return Ok(());
    }
    longest()?;
    let used = used()?;
    let mut seed = state::seed();
    let mut held = Block([0; BYTES]);
    let mut now = Block([0; BYTES]);
    for round in 0..state::rounds() {
        for word in held.0.chunks_exact_mut(8) {
            word.copy_from_slice(&splitmix64(&mut seed).to_le_bytes());
        }
        load(&mut held)?;
        // FFR keeps only what it keeps.
        store(&mut held)?;
        state::disturb(round, None);
        now.0.fill(0);
        store(&mut now)?;
        let wrong = held.0[..used].iter().zip(&now.0).position(|(a, b)| a != b);
        expect_eq!(wrong, None, "round {round}");
    }
    Ok(())
}

/// A write to a V register clears the rest of its Z register, whoever has the core between.
pub(crate) fn v_clears_the_rest() -> TestResult {
    if !is_there() || longest()? == 16 {
        return Ok(());
    }
    let mut block = Block([0xff; BYTES]);
    load(&mut block)?;
    let v = [0x1111_1111_1111_1111; 64];
    if let Err(fault) = fp::load(&v) {
        fail!("{fault:x?}");
    }
    state::disturb(0, None);
    store(&mut block)?;
    let bytes = length()? as usize;
    for (n, z) in block.0.chunks_exact(bytes).take(32).enumerate() {
        expect!(z[..16].iter().all(|b| *b == 0x11), "V{n}");
        expect!(z[16..].iter().all(|b| *b == 0), "beyond V{n}");
    }
    Ok(())
}

/// Every length that EL1 chooses is one, and shorter ones cut.
pub(crate) fn lengths() -> TestResult {
    if !is_there() {
        return Ok(());
    }
    let longest = longest()?;
    let mut last = 0;
    for len in 0..16 {
        ZCR_EL1.write(len);
        state::disturb(len, None);
        expect_eq!(ZCR_EL1.read(), len);
        let bytes = length()?;
        expect!(bytes <= (len + 1) * 16 && bytes >= last, "{len}: {bytes}");
        last = bytes;
    }
    expect_eq!(last, longest);
    Ok(())
}
