//! Exceptions into the guest against AArch64.TakeException, and the reset state.

use vcpu::inject::{Cause, Entered, PstateFields, Stopped, take};
use vcpu::reset;

const ALL: PstateFields = PstateFields {
    pan: true,
    ssbs: true,
};

/// Linux at EL1h with NZCV = 0b0110, interrupts on, PAN set.
const LINUX: Stopped = Stopped {
    pc: 0xffff_8000_0801_0040,
    pstate: 0x6040_0005,
    vbar: 0xffff_8000_0801_0800,
    // SPAN is clear: an exception sets PAN.
    sctlr: 0x3455_d91d,
    fields: ALL,
};

#[test]
fn an_undefined_instruction_at_el1_enters_the_vector_of_its_own_stack_pointer() {
    let expected = Entered {
        pc: 0xffff_8000_0801_0a00,
        // NZCV and PAN; D, A, I, F; EL1h.
        pstate: 0x6040_03c5,
        elr: 0xffff_8000_0801_0040,
        spsr: 0x6040_0005,
        esr: 0x0200_0000,
        far: None,
    };
    assert_eq!(take(Cause::Undefined, LINUX), expected);
}

#[test]
fn the_vector_depends_on_where_the_exception_comes_from() {
    let vector = |pstate| {
        let stopped = Stopped { pstate, ..LINUX };
        take(Cause::Undefined, stopped).pc.wrapping_sub(LINUX.vbar)
    };
    assert_eq!(vector(0b0100), 0x000, "EL1t");
    assert_eq!(vector(0b0101), 0x200, "EL1h");
    assert_eq!(vector(0b0000), 0x400, "EL0");
    for mode in [0b1_0000, 0b1_0111, 0b1_1011] {
        assert_eq!(vector(mode), 0x600, "AArch32");
    }
}

#[test]
fn aborts_carry_class_address_and_direction() {
    let data = |write, walk_level, pstate| {
        let cause = Cause::DataAbort {
            far: 0x1234,
            write,
            walk_level,
        };
        let entered = take(cause, Stopped { pstate, ..LINUX });
        assert_eq!(entered.far, Some(0x1234));
        entered.esr
    };
    assert_eq!(data(false, None, 0x5), 0x9600_0010);
    assert_eq!(data(true, None, 0x5), 0x9600_0050);
    assert_eq!(data(false, None, 0x0), 0x9200_0010);
    assert_eq!(data(false, None, 0x10), 0x9200_0010);
    assert_eq!(data(false, None, 0x4), 0x9600_0010);
    assert_eq!(data(false, Some(2), 0x5), 0x9600_0016);
    let fetch = |walk_level, pstate| {
        let cause = Cause::InstructionAbort {
            far: 0x5678,
            walk_level,
        };
        let entered = take(cause, Stopped { pstate, ..LINUX });
        assert_eq!(entered.far, Some(0x5678));
        entered.esr
    };
    assert_eq!(fetch(None, 0x5), 0x8600_0010);
    assert_eq!(fetch(None, 0x0), 0x8200_0010);
    assert_eq!(fetch(Some(0), 0x0), 0x8200_0014);
}

#[test]
fn single_bits_of_pstate_follow_the_pseudocode() {
    const SPAN: u64 = 1 << 23;
    const DSSBS: u64 = 1 << 44;
    let enter = |pstate, sctlr, fields| {
        let stopped = Stopped {
            pstate,
            sctlr,
            fields,
            ..LINUX
        };
        take(Cause::Undefined, stopped).pstate
    };
    let without = PstateFields::default();
    // SPAN = 1 keeps PAN, SPAN = 0 sets it, and a core without PAN has none.
    assert_eq!(enter(0x05, SPAN, ALL), 0x0000_03c5);
    assert_eq!(enter(0x40_0005, SPAN, ALL), 0x0040_03c5);
    assert_eq!(enter(0x05, 0, ALL), 0x0040_03c5);
    assert_eq!(enter(0x40_0005, 0, without), 0x0000_03c5);
    assert_eq!(enter(0x05, !(SPAN | DSSBS), ALL), 0x0040_03c5);
    assert_eq!(enter(0x05, !DSSBS, ALL), 0x0000_03c5);
    // SSBS is SCTLR_EL1.DSSBS, whatever it was.
    assert_eq!(enter(0x1005, SPAN, ALL), 0x0000_03c5);
    assert_eq!(enter(0x05, SPAN | DSSBS, ALL), 0x0000_13c5);
    assert_eq!(enter(0x1005, SPAN | DSSBS, without), 0x0000_03c5);
    // Zero: TCO (without MTE), UAO, SS, IL, ALLINT, BTYPE. Kept: NZCV, DIT.
    assert_eq!(enter(0xff3f_2c05, SPAN, ALL), 0xf100_03c5);
}

#[test]
fn from_aarch32_the_flags_are_moved_to_where_aarch64_has_them() {
    let enter = |pstate| {
        let stopped = Stopped {
            pstate,
            sctlr: 1 << 23,
            ..LINUX
        };
        take(Cause::Undefined, stopped)
    };
    // AArch32: NZCV 31:28, SSBS 23, PAN 22, DIT 21, GE 19:16, T 5.
    let entered = enter(0xa02f_0030);
    assert_eq!(entered.pstate, 0xa100_03c5);
    assert_eq!(entered.spsr, 0xa02f_0030);
}

#[test]
fn whatever_is_injected_the_guest_goes_on_in_el1h_masked() {
    for low in 0..0x20_u64 {
        for high in [0, u64::MAX << 5] {
            let stopped = Stopped {
                pstate: high | low,
                ..LINUX
            };
            let entered = take(Cause::Undefined, stopped);
            assert_eq!(entered.pstate & 0x1f, 0x5);
            assert_eq!(entered.pstate >> 6 & 0xf, 0xf);
            assert!(entered.pstate >> 32 == 0);
            assert!(reset::is_guest_pstate(entered.pstate));
        }
    }
}

#[test]
fn a_vector_base_at_the_end_of_the_address_space_wraps() {
    let stopped = Stopped {
        vbar: 0xffff_ffff_ffff_ffff,
        ..LINUX
    };
    assert_eq!(take(Cause::Undefined, stopped).pc, 0x1ff);
}

#[test]
fn a_vcpu_begins_as_the_manual_and_the_boot_protocol_say() {
    assert_eq!(reset::PSTATE, 0x3c5);
    // SCTLR_EL1: M, A, C, I, WXN, EE and E0E are zero.
    assert_eq!(reset::SCTLR_EL1, 0x30d0_0800);
    assert_eq!(reset::CPACR_EL1, 0);
}

#[test]
fn affinities_count_sixteen_to_a_cluster() {
    for (index, affinity) in [
        (0, 0),
        (7, 7),
        (15, 15),
        (16, 0x100),
        (4095, 0xff0f),
        (4096, 0x1_0000),
    ] {
        assert_eq!(reset::affinity(index), affinity);
        assert_eq!(reset::mpidr(index), 0x8000_0000 | affinity);
    }
}

#[test]
fn only_aarch64_at_el0_and_el1_is_a_guests_pstate() {
    for mode in 0..32 {
        let allowed = [0b00000, 0b00100, 0b00101].contains(&mode);
        assert_eq!(reset::is_guest_pstate(mode | 0x6000_03c0), allowed);
    }
}
