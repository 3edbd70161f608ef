//! Calls by HVC and SMC against DEN 0022 and DEN 0028. (RELIABILITY C9, host half.)
#![expect(clippy::indexing_slicing, reason = "a fake machine of four vCPUs")]

use vcpu::paravirt::Paravirt;
use vcpu::power::{Busy, PowerState};
use vcpu::psci::Power;
use vcpu::smccc::{Reply, handle};

/// Four vCPUs, numbered as a cluster of two and another of two; RAM at 1 GiB.
struct Machine {
    states: [PowerState; 4],
    started: Option<(usize, u64, u64)>,
    /// Where the caller's line is, and the vendor functions there are.
    line: Option<u64>,
    functions: u128,
    yielded: Option<u64>,
}

impl Paravirt for Machine {
    fn stolen_time(&self) -> Option<u64> {
        self.line
    }
    fn functions(&self) -> u128 {
        self.functions
    }
    fn lines(&self) -> u64 {
        0x090a_0000
    }
    fn core(&self) -> u64 {
        5
    }
    fn yield_to(&mut self, affinity: u64) -> bool {
        self.yielded = Some(affinity);
        AFFINITIES.contains(&affinity)
    }
}

const AFFINITIES: [u64; 4] = [0x000, 0x001, 0x100, 0x1_0000_0001];

impl Power for Machine {
    type Target = usize;

    fn target(&self, affinity: u64) -> Option<usize> {
        AFFINITIES.iter().position(|known| *known == affinity)
    }
    fn is_entry(&self, ipa: u64) -> bool {
        (0x4000_0000..0x8000_0000).contains(&ipa)
    }
    fn state(&self, target: usize) -> PowerState {
        self.states[target]
    }
    fn start(&mut self, target: usize, entry: u64, context: u64) -> Result<(), Busy> {
        match self.states[target] {
            PowerState::Off => {
                self.states[target] = PowerState::Pending;
                self.started = Some((target, entry, context));
                Ok(())
            }
            PowerState::Pending => Err(Busy::OnPending),
            PowerState::On => Err(Busy::AlreadyOn),
        }
    }
}

/// vCPU 0 runs, the others are off.
fn machine() -> Machine {
    Machine {
        states: [
            PowerState::On,
            PowerState::Off,
            PowerState::Off,
            PowerState::Off,
        ],
        started: None,
        line: None,
        functions: 1,
        yielded: None,
    }
}

/// The same, told of stolen time as its second vCPU, with every function of the hint.
fn paravirtual() -> Machine {
    Machine {
        line: Some(0x090a_0040),
        functions: 1 | 1 << 0x10 | 1 << 0x11 | 1 << 0x12,
        ..machine()
    }
}

fn call(function: u32, args: [u64; 3]) -> Reply {
    handle(function, args, &mut machine())
}

/// An int32 in x0.
fn code(value: i64) -> Reply {
    Reply::Return(value.cast_unsigned())
}

const NOT_SUPPORTED: Reply = Reply::Return(0xffff_ffff_ffff_ffff);

#[test]
fn versions_are_psci_1_1_and_smccc_1_1() {
    assert_eq!(call(0x8400_0000, [0; 3]), Reply::Return(0x1_0001));
    assert_eq!(call(0x8000_0000, [0; 3]), Reply::Return(0x1_0001));
}

#[test]
fn the_vendor_service_names_itself_and_is_not_kvm() {
    let uid = [0x524c_1f6f, 0x6e4b_0a9d, 0x1e5a_378c, 0xc8b2_940d];
    assert_eq!(call(0x8600_ff01, [0; 3]), Reply::Return4(uid));
    assert_eq!(call(0x8600_ff03, [0; 3]), Reply::Return4([1, 0, 0, 0]));
    assert_eq!(call(0x8600_0000, [0; 3]), Reply::Return4([1, 0, 0, 0]));
}

#[test]
fn features_and_dispatch_agree_on_what_there_is() {
    let there = [
        0x8400_0000,
        0x8400_0001,
        0xc400_0001,
        0x8400_0002,
        0x8400_0003,
        0xc400_0003,
        0x8400_0004,
        0xc400_0004,
        0x8400_0006,
        0x8400_0008,
        0x8400_0009,
        0x8400_000a,
        0x8400_0012,
        0xc400_0012,
    ];
    for number in (0x8400_0000..0x8400_0100).chain(0xc400_0000..0xc400_0100) {
        let offered = there.contains(&number);
        let asked = [u64::from(number), 0, 0];
        let expected = if offered { code(0) } else { code(-1) };
        assert_eq!(call(0x8400_000a, asked), expected, "{number:#x}");
        // u64::MAX is no valid argument of any of them.
        let refused = call(number, [u64::MAX; 3]) == NOT_SUPPORTED;
        let features = number == 0x8400_000a;
        assert_eq!(refused, !offered || features, "{number:#x}");
    }
    assert_eq!(call(0x8400_000a, [0x8000_0000, 0, 0]), code(0));
    assert_eq!(call(0x8400_000a, [0x8000_0001, 0, 0]), code(-1));
    // The argument is w1.
    assert_eq!(call(0x8400_000a, [0xdead_beef_8400_0003, 0, 0]), code(0));
}

#[test]
fn architecture_features_know_themselves_only() {
    for (asked, answer) in [
        (0x8000_0000, 0),
        (0x8000_0001, 0),
        (0xffff_ffff_8000_0001, 0),
        (0x8000_0002, -1),
        (0x8000_8000, -1),
        (0x8000_7fff, -1),
        (0xc500_0020, -1),
    ] {
        assert_eq!(call(0x8000_0001, [asked, 0, 0]), code(answer));
    }
}

#[test]
fn cpu_on_starts_a_vcpu_that_is_off() {
    let mut vm = machine();
    let args = [0x100, 0x4008_0000, 0xcafe_0000_0000_0001];
    assert_eq!(handle(0xc400_0003, args, &mut vm), code(0));
    assert_eq!(vm.started, Some((2, 0x4008_0000, 0xcafe_0000_0000_0001)));
    assert_eq!(handle(0xc400_0003, args, &mut vm), code(-5), "on pending");
    vm.states[2] = PowerState::On;
    assert_eq!(handle(0xc400_0003, args, &mut vm), code(-4), "already on");
    vm.states[2] = PowerState::Off;
    assert_eq!(handle(0xc400_0003, args, &mut vm), code(0), "off again");
}

#[test]
fn cpu_on_refuses_what_it_cannot_start() {
    let on = |target, entry| call(0xc400_0003, [target, entry, 0]);
    assert_eq!(on(0, 0x4000_0000), code(-4), "itself");
    assert_eq!(on(2, 0x4000_0000), code(-2), "no such vCPU");
    assert_eq!(
        on(0x8000_0001, 0x4000_0000),
        code(-2),
        "bit 31 of MPIDR_EL1"
    );
    assert_eq!(on(u64::MAX, 0x4000_0000), code(-2));
    assert_eq!(on(1, 0x0900_0000), code(-9), "a device");
    assert_eq!(on(1, 0x8000_0000), code(-9), "past RAM");
    assert_eq!(on(1, u64::MAX), code(-9));
    assert_eq!(on(1, 0x4000_0002), code(-9), "not an instruction's address");
}

#[test]
fn a_32_bit_call_has_32_bit_arguments() {
    let mut vm = machine();
    let junk = 0xffff_ffff_0000_0000;
    let args = [junk | 1, junk | 0x4000_0000, junk | 7];
    assert_eq!(handle(0x8400_0003, args, &mut vm), code(0));
    assert_eq!(vm.started, Some((1, 0x4000_0000, 7)));
    assert_eq!(call(0xc400_0003, args), code(-2));
    // Aff3 cannot be named by 32 bits.
    let aff3 = [0x1_0000_0001, 0x4000_0000, 0];
    let mut vm = machine();
    assert_eq!(handle(0xc400_0003, aff3, &mut vm), code(0));
    assert_eq!(vm.started.map(|(target, ..)| target), Some(3));
}

#[test]
fn affinity_info_tells_on_off_and_pending() {
    let mut vm = machine();
    let mut info = |function, target, level| handle(function, [target, level, 0], &mut vm);
    assert_eq!(info(0xc400_0004, 0, 0), code(0));
    assert_eq!(info(0xc400_0004, 1, 0), code(1));
    assert_eq!(info(0x8400_0004, 1, 0), code(1));
    assert_eq!(info(0xc400_0004, 1, 0xffff_ffff_0000_0000), code(1));
    for level in [1, 2, 3, 4, 0xffff_ffff] {
        assert_eq!(info(0xc400_0004, 0, level), code(-2));
    }
    assert_eq!(info(0xc400_0004, 9, 0), code(-2));
    vm.states[1] = PowerState::Pending;
    assert_eq!(handle(0xc400_0004, [1, 0, 0], &mut vm), code(2));
}

#[test]
fn power_off_reset_and_suspend_are_told_to_the_caller() {
    assert_eq!(call(0x8400_0002, [0; 3]), Reply::CpuOff);
    assert_eq!(call(0x8400_0008, [0; 3]), Reply::SystemOff);
    assert_eq!(call(0x8400_0009, [0; 3]), Reply::SystemReset);
    for reset2 in [0x8400_0012, 0xc400_0012] {
        assert_eq!(call(reset2, [0, 5, 5]), Reply::SystemReset);
        assert_eq!(call(reset2, [0x8000_0000, 0, 0]), code(-2));
        assert_eq!(call(reset2, [1, 0, 0]), code(-2));
    }
    for suspend in [0x8400_0001, 0xc400_0001] {
        assert_eq!(call(suspend, [0, 0, 0]), Reply::Suspend);
        assert_eq!(call(suspend, [0x0301_ffff, 0, 0]), Reply::Suspend);
        assert_eq!(call(suspend, [0x0002_0000, 0, 0]), code(-2));
        assert_eq!(call(suspend, [0x0400_0000, 0, 0]), code(-2));
    }
    assert_eq!(call(0x8400_0006, [0; 3]), Reply::Return(2));
}

/// What PSCI 1.1 leaves open and is not offered, by name: `docs/guest-calls.md`.
#[test]
fn optional_functions_are_refused_by_features_and_when_called() {
    for (name, number) in [
        ("MIGRATE", 5),
        ("MIGRATE_INFO_UP_CPU", 7),
        ("CPU_FREEZE", 0xb),
        ("CPU_DEFAULT_SUSPEND", 0xc),
        ("NODE_HW_STATE", 0xd),
        ("SYSTEM_SUSPEND", 0xe),
        ("PSCI_SET_SUSPEND_MODE", 0xf),
        ("PSCI_STAT_RESIDENCY", 0x10),
        ("PSCI_STAT_COUNT", 0x11),
        ("MEM_PROTECT", 0x13),
        ("MEM_PROTECT_CHECK_RANGE", 0x14),
    ] {
        for function in [0x8400_0000, 0xc400_0000].map(|width| width | number) {
            assert_eq!(call(function, [0; 3]), NOT_SUPPORTED, "{name}");
            let asked = [u64::from(function), 0, 0];
            assert_eq!(call(0x8400_000a, asked), code(-1), "FEATURES of {name}");
        }
    }
}

#[test]
fn the_sve_hint_is_no_part_of_the_number() {
    assert_eq!(call(0x8401_0000, [0; 3]), Reply::Return(0x1_0001));
    assert_eq!(call(0x8001_0000, [0; 3]), Reply::Return(0x1_0001));
    assert_eq!(call(0x8401_0008, [0; 3]), Reply::SystemOff);
    // Bit 17 is.
    assert_eq!(call(0x8402_0000, [0; 3]), NOT_SUPPORTED);
}

#[test]
fn every_other_number_of_every_owner_is_minus_one_in_64_bits() {
    let known = |number: u32| {
        matches!(
            number & !0x1_0000,
            0x8000_0000 | 0x8000_0001 | 0x8600_0000 | 0x8600_ff01 | 0x8600_ff03
        ) || matches!(
            number & 0xbffe_ffff,
            0x8400_0001 | 0x8400_0003 | 0x8400_0004 | 0x8400_0012
        ) || matches!(
            number & !0x1_0000,
            0x8400_0000 | 0x8400_0002 | 0x8400_0006 | 0x8400_0008 | 0x8400_0009 | 0x8400_000a
        )
    };
    let mut refused = 0;
    // Type (fast or yielding), width and owner: the top byte.
    for top in 0..=255u32 {
        let strided = (0..1u32 << 24).step_by(1021);
        let low = (0..0x200).chain(0xff00..0x1_0020);
        for number in strided.chain(low).map(|low| top << 24 | low) {
            if !known(number) {
                assert_eq!(call(number, [0; 3]), NOT_SUPPORTED, "{number:#x}");
                refused += 1;
            }
        }
    }
    assert!(refused > 4_000_000);
}

/// C04: discovery as DEN 0057A has it, and what a stock kernel compares.
#[test]
fn c04_stolen_time_is_discovered_and_found_by_64_bit_calls_only() {
    // (function, w1, with a line, without)
    let table = [
        (0x8000_0001, 0xc500_0020, 0, u64::MAX),
        (0x8000_0001, 0xffff_ffff_c500_0020, 0, u64::MAX),
        (0x8000_0001, 0xc500_0021, u64::MAX, u64::MAX),
        (0x8000_0001, 0x8500_0020, u64::MAX, u64::MAX),
        (0xc500_0020, 0xc500_0020, 0, u64::MAX),
        (0xc500_0020, 0xc500_0021, 0, u64::MAX),
        (0xc500_0020, 0xdead_0000_c500_0021, 0, u64::MAX),
        (0xc500_0020, 0xc500_0022, u64::MAX, u64::MAX),
        (0xc500_0020, 0x8500_0021, u64::MAX, u64::MAX),
        (0xc500_0020, 0, u64::MAX, u64::MAX),
        (0xc500_0021, 0, 0x090a_0040, u64::MAX),
        (0xc500_0021, 7, 0x090a_0040, u64::MAX),
        // With the SVE hint.
        (0xc501_0021, 0, 0x090a_0040, u64::MAX),
        // The 32-bit forms, and their neighbours.
        (0x8500_0020, 0xc500_0020, u64::MAX, u64::MAX),
        (0x8500_0021, 0, u64::MAX, u64::MAX),
        (0xc500_0022, 0, u64::MAX, u64::MAX),
        (0x4500_0021, 0, u64::MAX, u64::MAX),
        // Linux asks PSCI for SMCCC first, and goes on only if the answer is not negative.
        (0x8400_000a, 0x8000_0000, 0, 0),
        (0x8400_000a, 0xc500_0020, u64::MAX, u64::MAX),
    ];
    for (function, asked, with, without) in table {
        let answer = handle(function, [asked, 0, 0], &mut paravirtual());
        assert_eq!(answer, Reply::Return(with), "{function:#x} {asked:#x}");
        let answer = handle(function, [asked, 0, 0], &mut machine());
        assert_eq!(answer, Reply::Return(without), "{function:#x} {asked:#x}");
    }
}

/// C05: a function that is masked is −1, and its bit is clear.
#[test]
fn c05_features_and_dispatch_of_the_vendor_service_agree_on_each_function() {
    for number in [0x10_u32, 0x11, 0x12] {
        for there in [false, true] {
            let mut vm = paravirtual();
            if !there {
                vm.functions &= !(1 << number);
            }
            let Reply::Return4([w0, ..]) = handle(0x8600_0000, [0; 3], &mut vm) else {
                panic!("FEATURES has four words");
            };
            assert_eq!(w0 >> number & 1 == 1, there);
            let answer = handle(0xc600_0000 | number, [0; 3], &mut vm);
            assert_eq!(answer != NOT_SUPPORTED, there, "{number:#x}");
            // The 32-bit form does not exist.
            let answer = handle(0x8600_0000 | number, [0; 3], &mut vm);
            assert_eq!(answer, NOT_SUPPORTED, "{number:#x}");
        }
    }
    // Words of the bitmap are 32 functions each, whoever answers them.
    let mut vm = machine();
    vm.functions = 1 | 1 << 0x21 | 1 << 0x34 | 1 << 127;
    assert_eq!(
        handle(0x8600_0000, [0; 3], &mut vm),
        Reply::Return4([1, 0x0010_0002, 0, 0x8000_0000])
    );
}

#[test]
fn c05_the_vendor_service_says_where_the_hint_is_and_which_core_this_is() {
    let mut vm = paravirtual();
    assert_eq!(
        handle(0xc600_0010, [0; 3], &mut vm),
        Reply::Return4([0, 0x090a_0000, 64, 0x1_0000_0010])
    );
    assert_eq!(handle(0xc600_0012, [9; 3], &mut vm), code(5));
    assert_eq!(handle(0xc600_0011, [0x100, 0, 0], &mut vm), code(0));
    assert_eq!(vm.yielded, Some(0x100));
    assert_eq!(handle(0xc600_0011, [7, 0, 0], &mut vm), code(-3));
}
