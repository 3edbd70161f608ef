//! C9: hypercalls and secure calls of every kind.
#![expect(unsafe_code, reason = "calls with another immediate")]

use payload::psci::{self, Conduit, NOT_SUPPORTED};
use payload::{TestResult, expect, expect_eq, machine, println, stub};

/// Distance between tried numbers: prime to 2^16, so that no bit is left out.
const STRIDE: usize = 257;
const SVE_HINT: u64 = 1 << 16;

/// Whether SMCCC, PSCI or Skete's own documents give the call a meaning.
fn documented(id: u64) -> bool {
    let id = id & !SVE_HINT;
    let number = id & 0xffff;
    let fast = id >> 31 & 1 == 1;
    let owner = id >> 24 & 0x3f;
    fast && match owner {
        // SMCCC_VERSION, ARCH_FEATURES, SOC_ID; the workarounds.
        0 => number <= 3 || [0x3fff, 0x7fff, 0x8000].contains(&number),
        // PSCI; TRNG; FF-A and SDEI are not here. Call count, UID, revision.
        4 => number <= 0x1f || (0x50..=0x53).contains(&number) || number >= 0xff00,
        // PV time; identification.
        5 => [0x20, 0x21].contains(&number) || number >= 0xff00,
        // What guest-abi gives every guest: below the core calls.
        6 => !(0x8000..0xff00).contains(&number),
        _ => false,
    }
}

/// Whether trying the call would end the vCPU or the machine, or start another vCPU.
fn has_effects(id: u64) -> bool {
    id >> 31 & 1 == 1 && id >> 24 & 0x3f == 4 && id & 0xffff & !SVE_HINT <= 0x1f
}

fn one(conduit: Conduit, id: u64, secure_calls_exist: bool) -> TestResult {
    let mut sent = [0; 18];
    for (n, register) in (1..).zip(&mut sent) {
        *register = 0xa5a5_0000_0000_0000 | n;
    }
    sent[0] = id;
    let mut got = [0; 18];
    let faulted = payload::catch(|| got = psci::call(conduit, sent));
    if !secure_calls_exist {
        let undefined = matches!(&faulted, Err(fault) if fault.is_undefined());
        expect!(undefined, "{conduit:?} {id:#x} {faulted:x?}");
        return Ok(());
    }
    expect!(faulted.is_ok(), "{conduit:?} {id:#x} {faulted:x?}");
    if !documented(id) {
        expect_eq!(got[0].cast_signed(), NOT_SUPPORTED, "{conduit:?} {id:#x}");
        expect_eq!(got[1..4], sent[1..4], "{conduit:?} {id:#x}");
    }
    expect_eq!(got[4..], sent[4..], "{conduit:?} {id:#x}");
    Ok(())
}

fn all(conduit: Conduit, secure_calls_exist: bool) -> TestResult {
    for owner in 0..64 {
        for kind in 0..4 {
            let block = kind << 30 | owner << 24;
            let ids = (0..0x1_0000)
                .step_by(STRIDE)
                .chain(0..0x60)
                .chain([
                    0x3fff, 0x7fff, 0x8000, 0x8001, 0x8010, 0x8020, 0xff00, 0xff01, 0xff03,
                ])
                .chain([0xffff])
                .map(|number| block | number);
            for id in ids.filter(|id| !has_effects(*id)) {
                one(conduit, id, secure_calls_exist)?;
            }
            let odd = block | 0x77;
            one(conduit, odd | SVE_HINT, secure_calls_exist)?;
            one(conduit, odd | 0x7ff << 17 & 0xff_ffff, secure_calls_exist)?;
            one(conduit, odd | 0xdead_beef << 32, secure_calls_exist)?;
        }
    }
    Ok(())
}

pub(crate) fn hvc() -> TestResult {
    all(Conduit::Hvc, true)
}

/// Plain QEMU without EL3 and EL2 has no SMC; on Skete it never goes further than core.
pub(crate) fn smc() -> TestResult {
    if !machine::on_skete() {
        println!("# c9_smc: undefined here");
    }
    all(Conduit::Smc, machine::on_skete())
}

/// `hvc #n` and `smc #n`: calls have #0 only (SMCCC 2.9); nothing may happen at the others.
pub(crate) fn immediates() -> TestResult {
    let hvc = |n: u32| 0xd400_0002 | n << 5;
    let smc = |n: u32| 0xd400_0003 | n << 5;
    // Plain QEMU takes every HVC for PSCI, so the call is one that no one has.
    let unknown = 0x8000_4321;
    for insn in [1, 2, 0x4a48, 0xffff]
        .into_iter()
        .flat_map(|n| [hvc(n), smc(n)])
    {
        // SAFETY: The call exists nowhere, so that it changes x0 to x3 at most.
        match unsafe { stub::execute(&[insn], unknown) } {
            Ok(x0) => expect_eq!(x0.cast_signed(), NOT_SUPPORTED, "{insn:#x}"),
            Err(fault) => expect!(fault.is_undefined(), "{insn:#x} {fault:x?}"),
        }
    }
    Ok(())
}
