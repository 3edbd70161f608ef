//! C11: accesses to devices that the syndrome does not describe (ISV = 0).
//!
//! Skete does not guess at the instruction: the guest gets an external abort and lives.
//! Plain QEMU performs them.
#![expect(unsafe_code, reason = "it runs instructions made here")]

use guest_abi::map::{GICD_BASE, UART_BASE};
use payload::{TestResult, expect, expect_eq, gic, machine, mem, stub};

/// Address in x0; x1 and x2 and V0, V1 are free to change.
const INSTRUCTIONS: &[(&str, u32)] = &[
    ("ldp x1, x2, [x0]", 0xa940_0801),
    ("ldp w1, w2, [x0]", 0x2940_0801),
    ("stp x1, x2, [x0]", 0xa900_0801),
    ("ldpsw x1, x2, [x0]", 0x6940_0801),
    ("ldnp x1, x2, [x0]", 0xa840_0801),
    ("ldxr x1, [x0]", 0xc85f_7c01),
    ("ldaxr w1, [x0]", 0x885f_fc01),
    ("ldr q0, [x0]", 0x3dc0_0000),
    ("ldr d0, [x0]", 0xfd40_0000),
    ("ldr s0, [x0]", 0xbd40_0000),
    ("str q0, [x0]", 0x3d80_0000),
    ("stp q0, q1, [x0]", 0xad00_0400),
    ("ld1 {v0.16b}, [x0]", 0x4c40_7000),
    ("ldr w1, [x0], #4", 0xb840_4401),
    ("ldr w1, [x0, #0]!", 0xb840_0c01),
    ("str w1, [x0], #4", 0xb800_4401),
];

/// Those that may also do nothing, or be undefined on an old core, or be refused by stage 1.
const TOLERATED: &[(&str, u32)] = &[
    ("dc zva, x0", 0xd50b_7420),
    ("dc civac, x0", 0xd50b_7e20),
    ("dc ivac, x0", 0xd508_7620),
    ("ic ivau, x0", 0xd50b_7520),
    ("ldadd w1, w2, [x0]", 0xb821_0002),
    ("casal w1, w2, [x0]", 0x88e1_fc02),
    ("casp x2, x3, x2, x3, [x0]", 0x4822_7c02),
    ("prfm pldl1keep, [x0]", 0xf980_0000),
    ("ldapr w1, [x0]", 0xb8bf_c001),
];

/// Where nothing happens even if the access is performed: GICD_IIDR, UARTRIS, no device.
const PLACES: [u64; 2] = [GICD_BASE + gic::GICD_IIDR, UART_BASE + 0x40];

pub(crate) fn run() -> TestResult {
    payload::fp::enable();
    let iidr = mem::read32(GICD_BASE + gic::GICD_IIDR);
    let unclaimed = machine::on_skete().then_some(0x0b00_0000);
    for at in PLACES.into_iter().chain(unclaimed) {
        for (name, insn) in INSTRUCTIONS {
            // SAFETY: The instruction accesses device registers that lose nothing by it,
            // and changes x0 to x2, V0 and V1, which a call may.
            let result = unsafe { stub::execute(&[*insn], at) };
            if machine::on_skete() {
                let aborted = matches!(&result, Err(fault) if fault.is_external_data_abort());
                expect!(aborted, "{name} at {at:#x}: {result:x?}");
                expect_eq!(result.err().map(|fault| fault.far), Some(at), "{name}");
            }
        }
        for (_, insn) in TOLERATED {
            // SAFETY: As above.
            let _ = unsafe { stub::execute(&[*insn], at) };
        }
    }
    // All still works.
    expect_eq!(mem::read32(GICD_BASE + gic::GICD_IIDR), iidr);
    Ok(())
}
