//! Syndromes against DDI 0487 D24.2.40, with literal bit positions. (RELIABILITY C11, host half.)
use arch::Width;
use vcpu::exit::{Access, DataAbort, Exit, Fault, InstructionAbort, Touch, Wait};
use vcpu::sysreg::Register;

/// HPFAR_EL2 for IPA 0x9_0909_a000 and FAR_EL2 for VA 0xffff_8000_1234_5678.
const HPFAR: u64 = 0x0909_09a0;
const FAR: u64 = 0xffff_8000_1234_5678;
const IPA: u64 = 0x9_0909_a678;

fn decode(esr: u64) -> Exit {
    Exit::decode(esr, FAR, HPFAR)
}

/// Table D24-… "Data Fault Status Code", row by row.
fn fault(code: u64) -> Fault {
    match code {
        0x00 | 0x01 | 0x02 | 0x03 | 0x29 => Fault::AddressSize,
        0x04 | 0x05 | 0x06 | 0x07 | 0x2b => Fault::Translation,
        0x08..=0x0b => Fault::AccessFlag,
        0x0c..=0x0f => Fault::Permission,
        0x10 => Fault::External,
        0x13..=0x17 => Fault::ExternalOnWalk,
        other => Fault::Other(u8::try_from(other).expect("six bits")),
    }
}

#[test]
fn every_data_abort_syndrome_is_what_the_manual_says() {
    // 2^25 syndromes; under Miri, a thousand of them.
    let step = if cfg!(miri) { 32749 } else { 1 };
    // Looked up rather than computed: in a debug build this loop is most of the crate's tests.
    let faults: [Fault; 64] = std::array::from_fn(|code| fault(code as u64));
    let widths = [Width::Byte, Width::Half, Width::Word, Width::Double];
    for iss in (0..1u64 << 25).step_by(step) {
        let on_walk = iss & 0x80 != 0;
        let cache = iss & 0x100 != 0;
        let fault = faults[(iss & 0x3f) as usize];
        let ipa = match fault {
            Fault::AddressSize | Fault::Translation | Fault::AccessFlag => true,
            Fault::Permission => on_walk,
            _ => false,
        };
        let expected = DataAbort {
            ipa: match (ipa, on_walk) {
                (false, _) => None,
                (true, false) => arch::Ipa::new(IPA),
                (true, true) => arch::Ipa::new(IPA & !0xfff),
            },
            far: (iss & 0x400 == 0).then_some(FAR),
            fault,
            write: iss & 0x40 != 0,
            access: (iss & 0x100_0180 == 0x100_0000).then(|| Access {
                width: widths[(iss >> 22 & 3) as usize],
                sign_extend: iss & 0x20_0000 != 0,
                sixty_four: iss & 0x8000 != 0,
                register: (iss >> 16 & 0x1f) as u8,
            }),
            on_walk,
            cache,
        };
        if decode(0x24 << 26 | 1 << 25 | iss) != Exit::DataAbort(expected) {
            panic!("{iss:#x}: not {expected:?}");
        }
        // ISV, and neither FnV, CM nor S1PTW; DFSC 0b0001xx. The 0b101011 of level -1 is rare.
        let esr = 0x24 << 26 | 1 << 25 | iss;
        let plain = iss & 0x100_0580 == 0x100_0000 && matches!(iss & 0x3f, 4..=7);
        assert_eq!(Touch::is_told_by(esr), plain, "{iss:#x}");
        if plain {
            let touch = Touch::decode(esr, FAR, HPFAR).expect("the address is one");
            assert_eq!(expected.ipa, Some(touch.ipa));
            assert_eq!(
                (expected.write, expected.access),
                (touch.write, Some(touch.access))
            );
        }
    }
}

#[test]
fn only_a_data_abort_from_the_guest_is_a_touch() {
    for class in (0..64).filter(|class| *class != 0x24) {
        assert!(!Touch::is_told_by(class << 26 | 0x0300_0004), "{class:#x}");
    }
    assert!(Touch::is_told_by(0x9200_0004 | 1 << 24));
    // ISS2, above bit 31, is no part of it.
    assert!(Touch::is_told_by(0x9200_0004 | 1 << 24 | 0xff << 32));
    assert_eq!(Touch::decode(0x9300_0004, 0, 1 << 40), None);
}

#[test]
fn a_word_store_to_the_uart_is_read_in_full() {
    // What a Cortex-A72 gives for `str w1, [x0]` with x0 = UARTDR.
    let esr = 0x9381_0046;
    let exit = Exit::decode(esr, 0xffff_ff80_0900_0000, 0x9_0000);
    let expected = DataAbort {
        ipa: arch::Ipa::new(0x0900_0000),
        far: Some(0xffff_ff80_0900_0000),
        fault: Fault::Translation,
        write: true,
        access: Some(Access {
            width: Width::Word,
            sign_extend: false,
            sixty_four: false,
            register: 1,
        }),
        on_walk: false,
        cache: false,
    };
    assert_eq!(exit, Exit::DataAbort(expected));
}

#[test]
fn an_address_past_48_bits_is_no_address() {
    // FIPA has 44 bits since LPA: bits 55:12.
    let hpfar = 1 << 40;
    let Exit::DataAbort(abort) = Exit::decode(0x9200_0004, 0, hpfar) else {
        panic!("a data abort");
    };
    assert_eq!(abort.ipa, None);
    // NS, bit 63, is no part of it.
    let Exit::DataAbort(abort) = Exit::decode(0x9200_0004, 0, 1 << 63 | 0x10) else {
        panic!("a data abort");
    };
    assert_eq!(abort.ipa.map(|ipa| ipa.raw()), Some(0x1000));
}

#[test]
fn a_fetch_outside_ram_is_an_instruction_abort() {
    let expected = InstructionAbort {
        ipa: arch::Ipa::new(IPA),
        far: Some(FAR),
        fault: Fault::Translation,
        on_walk: false,
    };
    assert_eq!(decode(0x8200_0006), Exit::InstructionAbort(expected));
    let Exit::InstructionAbort(walk) = decode(0x8200_008f) else {
        panic!("an instruction abort");
    };
    assert_eq!((walk.fault, walk.on_walk), (Fault::Permission, true));
    assert_eq!(walk.ipa.map(|ipa| ipa.raw()), Some(0x9_0909_a000));
}

#[test]
fn waits_are_told_apart_and_carry_their_deadline() {
    let wait = |kind, register| Exit::Wait { kind, register };
    assert_eq!(decode(0x07e0_0000), wait(Wait::Wfi, 31));
    assert_eq!(decode(0x07e0_0001), wait(Wait::Wfe, 31));
    // RV (bit 2) says that RN (bits 9:5) is valid.
    assert_eq!(decode(0x07e0_00e6), wait(Wait::Wfit, 7));
    assert_eq!(decode(0x07e0_0007), wait(Wait::Wfet, 0));
    assert_eq!(decode(0x07e0_00e2), wait(Wait::Wfit, 31));
}

#[test]
fn calls_carry_their_immediate() {
    assert_eq!(decode(0x5a00_0000), Exit::Hvc { imm: 0 });
    assert_eq!(decode(0x5a00_ffff), Exit::Hvc { imm: 0xffff });
    assert_eq!(decode(0x5e00_1234), Exit::Smc { imm: 0x1234 });
}

#[test]
fn every_system_register_syndrome_names_its_encoding() {
    for index in 0..1u64 << 16 {
        let (op0, op1) = (index >> 14, index >> 11 & 7);
        let (crn, crm, op2) = (index >> 7 & 15, index >> 3 & 15, index & 7);
        for (rt, read) in [(0, 0), (31, 1), (17, 1)] {
            let iss = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | rt << 5 | crm << 1 | read;
            let expected = Exit::Sysreg {
                register: Register::new(
                    u16::try_from(op0).unwrap(),
                    u16::try_from(op1).unwrap(),
                    u16::try_from(crn).unwrap(),
                    u16::try_from(crm).unwrap(),
                    u16::try_from(op2).unwrap(),
                ),
                rt: u8::try_from(rt).unwrap(),
                write: read == 0,
            };
            assert_eq!(decode(0x18 << 26 | 1 << 25 | iss), expected);
        }
    }
}

#[test]
fn a_read_of_ctr_el0_by_linux_is_recognised() {
    // MRS x1, CTR_EL0 (op0 3, op1 3, CRn 0, CRm 0, op2 1).
    let expected = Exit::Sysreg {
        register: Register::new(3, 3, 0, 0, 1),
        rt: 1,
        write: false,
    };
    assert_eq!(decode(0x6232_c021), expected);
}

#[test]
fn every_exception_class_has_its_exit() {
    for class in 0..64u64 {
        let exit = decode(class << 26 | 1 << 25);
        let esr = class << 26 | 1 << 25;
        let known = match class {
            0x01 => matches!(exit, Exit::Wait { .. }),
            0x07 => exit == Exit::FpTrap,
            0x09 => exit == Exit::PauthTrap,
            0x0e => exit == Exit::IllegalState,
            0x16 => matches!(exit, Exit::Hvc { .. }),
            0x17 => matches!(exit, Exit::Smc { .. }),
            0x18 => matches!(exit, Exit::Sysreg { .. }),
            0x19 => exit == Exit::SveTrap,
            0x1d => exit == Exit::SmeTrap,
            0x20 => matches!(exit, Exit::InstructionAbort(_)),
            0x22 => exit == Exit::PcAlignment,
            0x24 => matches!(exit, Exit::DataAbort(_)),
            0x26 => exit == Exit::SpAlignment,
            0x2f => exit == Exit::SError,
            0x30 | 0x32 | 0x34 | 0x38 | 0x3c => matches!(exit, Exit::Debug { .. }),
            _ => exit == Exit::Unknown { esr },
        };
        assert!(known, "{class:#x}: {exit:?}");
    }
}

#[test]
fn bits_above_the_iss_change_nothing() {
    // ISS2 (bits 55:32) is not zero for every exit since Armv8.7.
    for class in 0..64u64 {
        let esr = class << 26 | 1 << 25 | 0x93_8041;
        let above = 0x00ff_ffff_0000_0000;
        match decode(esr | above) {
            Exit::Unknown { esr: raw } => assert_eq!(raw, esr | above),
            exit => assert_eq!(exit, decode(esr)),
        }
    }
}

#[test]
fn loads_extend_as_ldr_and_ldrs_do() {
    let access = |width, sign_extend, sixty_four| Access {
        width,
        sign_extend,
        sixty_four,
        register: 0,
    };
    let value = 0x8877_6655_c4b3_a281;
    for (width, sign, sixty_four, expected) in [
        (Width::Byte, false, false, 0x81),
        (Width::Byte, true, false, 0xffff_ff81),
        (Width::Byte, true, true, 0xffff_ffff_ffff_ff81),
        (Width::Half, false, false, 0xa281),
        (Width::Half, true, false, 0xffff_a281),
        (Width::Half, true, true, 0xffff_ffff_ffff_a281),
        (Width::Word, false, false, 0xc4b3_a281),
        (Width::Word, false, true, 0xc4b3_a281),
        (Width::Word, true, true, 0xffff_ffff_c4b3_a281),
        (Width::Double, false, true, 0x8877_6655_c4b3_a281),
        (Width::Double, true, true, 0x8877_6655_c4b3_a281),
    ] {
        assert_eq!(access(width, sign, sixty_four).extend(value), expected);
    }
    assert_eq!(access(Width::Half, true, true).extend(0x7fff), 0x7fff);
}

proptest::proptest! {
    #[test]
    fn no_register_contents_make_decoding_panic(esr: u64, far: u64, hpfar: u64) {
        let _ = Exit::decode(esr, far, hpfar);
    }
}

/// C10: of all classes and status codes (DDI 0487, ESR_EL2 and ISS of a data abort), whatever the
/// other bits are.
#[test]
fn only_an_abort_from_outside_is_the_device_s() {
    let mut answers = 0;
    for class in 0..64_u64 {
        for status in 0..64_u64 {
            for rest in [
                0,
                1 << 6,
                1 << 9,
                1 << 10,
                1 << 24,
                1 << 25,
                0x3ff_ffc0,
                0xff << 32,
            ] {
                let is = vcpu::exit::is_unanswered(class << 26 | rest | status);
                let outside = class == 0b10_0101 && [0b01_0000, 0b01_1000].contains(&status);
                assert_eq!(is, outside, "class {class:#x} status {status:#x} {rest:#x}");
                answers += u32::from(is);
            }
        }
    }
    assert_eq!(answers, 16);
}
