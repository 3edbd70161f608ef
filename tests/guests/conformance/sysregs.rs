//! C1: every system register encoding, from EL1.
#![expect(unsafe_code, reason = "it writes registers that must not be there")]

use payload::stats::{FNV_START, fnv1a};
use payload::sysreg::encoding;
use payload::{TestResult, expect, expect_eq, fail, machine, println, stub};

/// Every encoding with this op0 and op1.
fn class(op0: u32, op1: u32) -> impl Iterator<Item = u32> {
    let first = encoding(op0, op1, 0, 0, 0);
    first..first + (1 << 11)
}

/// op0_op1_Cn_Cm_op2, as in the manual.
fn show(code: u32) -> payload::text::Text<24> {
    payload::text::Text::from_args(format_args!(
        "{}_{}_c{}_c{}_{}",
        code >> 14,
        code >> 11 & 7,
        code >> 7 & 15,
        code >> 3 & 15,
        code & 7
    ))
}

/// Whether the encoding is in the block that reads as zero if not allotted (D23.3.1).
const fn identifies(code: u32) -> bool {
    let block = encoding(3, 0, 0, 0, 0);
    code >= block + 8 && code < block + 64
}

pub(crate) fn read_all() -> TestResult {
    let list = machine::argument("c1list") == Some(1);
    payload::fp::enable();
    for (op0, op1) in (2..=3).flat_map(|op0| (0..8).map(move |op1| (op0, op1))) {
        let (mut values, mut undefined) = (0, 0);
        // Which encodings read, and what the constants are: not what counts or changes.
        let mut hash = FNV_START;
        for code in class(op0, op1) {
            match stub::read_sysreg(code) {
                Ok(value) => {
                    expect!(op1 < 4, "{} reads {value:#x} at EL1", show(code));
                    values += 1;
                    hash = fnv1a(hash, u64::from(code));
                    if identifies(code) {
                        expect_eq!(stub::read_sysreg(code), Ok(value), "{}", show(code));
                        hash = fnv1a(hash, value);
                    }
                    if list {
                        println!("C1 {} {value:#x}", show(code));
                    }
                }
                Err(fault) => {
                    expect!(fault.is_undefined(), "{} {fault:x?}", show(code));
                    expect!(!identifies(code), "{} is undefined", show(code));
                    undefined += 1;
                }
            }
        }
        println!("C1 op0={op0} op1={op1} values={values} undefined={undefined} hash={hash:#018x}");
    }
    Ok(())
}

fn must_not_write(code: u32) -> TestResult {
    // SAFETY: Either the write is undefined, which this test is there to show, or it is to
    // a register of another level, which leaves this program's addresses alone.
    match unsafe { stub::write_sysreg(code, 0) } {
        Ok(()) => fail!("{} can be written at EL1", show(code)),
        Err(fault) => expect!(fault.is_undefined(), "{} {fault:x?}", show(code)),
    }
    Ok(())
}

pub(crate) fn write_el2() -> TestResult {
    for (op0, op1) in (2..=3).flat_map(|op0| (4..8).map(move |op1| (op0, op1))) {
        class(op0, op1).try_for_each(must_not_write)?;
    }
    Ok(())
}

pub(crate) fn write_ids() -> TestResult {
    let block = encoding(3, 0, 0, 0, 0);
    (block..block + 64).try_for_each(must_not_write)?;
    // CCSIDR, CLIDR, GMID, SMIDR; CTR, DCZID; CNTPCT, CNTVCT.
    [
        encoding(3, 1, 0, 0, 0),
        encoding(3, 1, 0, 0, 1),
        encoding(3, 1, 0, 0, 4),
        encoding(3, 1, 0, 0, 6),
        encoding(3, 3, 0, 0, 1),
        encoding(3, 3, 0, 0, 7),
        encoding(3, 3, 14, 0, 1),
        encoding(3, 3, 14, 0, 2),
    ]
    .into_iter()
    .try_for_each(must_not_write)
}
