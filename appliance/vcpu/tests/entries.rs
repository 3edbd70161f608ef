//! Where a guest goes on, and as what: a million random contexts, PSCI entry points and PSTATEs.
//! (RELIABILITY C8.) Whatever the guest was or asked for, the return from EL2 is to AArch64 EL1h
//! or to where the hardware itself had it.

use vcpu::inject::{self, Cause, PstateFields, Stopped};
use vcpu::paravirt::Paravirt;
use vcpu::power::{Busy, PowerState};
use vcpu::psci::Power;
use vcpu::reset;
use vcpu::smccc::{self, Reply};

/// splitmix64, as its paper has it.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

const ROUNDS: u64 = 1_000_000;

#[test]
fn a_million_injections_end_in_el1h_masked_whatever_the_guest_was() {
    let mut random = Random(8);
    let mut pstate = reset::PSTATE;
    for round in 0..ROUNDS {
        // One in four goes on from where the last ended.
        if !round.is_multiple_of(4) {
            pstate = random.next();
        }
        let fields = PstateFields {
            pan: random.next() & 1 == 0,
            ssbs: random.next() & 1 == 0,
        };
        let stopped = Stopped {
            pc: random.next(),
            pstate,
            vbar: random.next(),
            sctlr: random.next(),
            fields,
        };
        let (far, level) = (random.next(), Some((random.next() & 3) as u8));
        let cause = match random.next() % 3 {
            0 => Cause::Undefined,
            1 => Cause::DataAbort {
                far,
                write: far & 1 == 0,
                walk_level: level,
            },
            _ => Cause::InstructionAbort {
                far,
                walk_level: None,
            },
        };
        let entered = inject::take(cause, stopped);
        // EL1h, AArch64; D, A, I, F masked; of the rest NZCV, DIT, PAN and SSBS at the most.
        assert_eq!(entered.pstate & 0x3df, 0x3c5, "{stopped:x?}");
        let may = 0xf000_03df | 1 << 24 | 1 << 22 | 1 << 12;
        assert_eq!(entered.pstate & !may, 0, "{stopped:x?}");
        assert_eq!((entered.elr, entered.spsr), (stopped.pc, stopped.pstate));
        // One of the four synchronous vectors.
        let vector = entered.pc.wrapping_sub(stopped.vbar);
        assert!([0, 0x200, 0x400, 0x600].contains(&vector), "{stopped:x?}");
        // Class 0, 0x20, 0x21, 0x24 or 0x25, with IL.
        assert!([0, 0x20, 0x21, 0x24, 0x25].contains(&(entered.esr >> 26)));
        assert_eq!(entered.esr >> 25 & 1, 1);
        pstate = entered.pstate;
    }
}

const RAM: u64 = 0x4000_0000;
const RAM_BYTES: u64 = 0x400_0000;

/// A VM of four vCPUs, of which the first is on.
#[derive(Default)]
struct Vm {
    on: [bool; 4],
    started: Option<(usize, u64, u64)>,
}

impl Power for Vm {
    type Target = usize;

    fn target(&self, affinity: u64) -> Option<usize> {
        usize::try_from(affinity).ok().filter(|n| *n < 4)
    }
    fn is_entry(&self, ipa: u64) -> bool {
        (RAM..RAM + RAM_BYTES).contains(&ipa)
    }
    fn state(&self, target: usize) -> PowerState {
        match self.on.get(target) {
            Some(true) => PowerState::On,
            _ => PowerState::Off,
        }
    }
    fn start(&mut self, target: usize, entry: u64, context: u64) -> Result<(), Busy> {
        let on = self.on.get_mut(target).ok_or(Busy::AlreadyOn)?;
        if *on {
            return Err(Busy::AlreadyOn);
        }
        *on = true;
        self.started = Some((target, entry, context));
        Ok(())
    }
}

impl Paravirt for Vm {
    fn stolen_time(&self) -> Option<u64> {
        None
    }
    fn functions(&self) -> u128 {
        1
    }
    fn lines(&self) -> u64 {
        0
    }
    fn core(&self) -> u64 {
        0
    }
    fn yield_to(&mut self, _: u64) -> bool {
        false
    }
}

#[test]
fn a_million_entry_points_are_in_ram_and_aligned_or_refused() {
    const CPU_ON_32: u32 = 0x8400_0003;
    const CPU_ON_64: u32 = 0xc400_0003;
    let mut random = Random(9);
    let mut accepted = 0;
    for _ in 0..ROUNDS {
        let mut vm = Vm::default();
        let entry = match random.next() % 4 {
            0 => random.next(),
            1 => random.next() & 0x7fff_ffff,
            // About the ends of RAM, and in it.
            2 => (RAM + RAM_BYTES)
                .wrapping_add(random.next() % 64)
                .wrapping_sub(32),
            _ => RAM + random.next() % RAM_BYTES,
        };
        let target = random.next() % 6;
        let context = random.next();
        let wide = random.next() & 1 == 0;
        let call = if wide { CPU_ON_64 } else { CPU_ON_32 };
        let reply = smccc::handle(call, [target, entry, context], &mut vm);
        let (entry, context) = if wide {
            (entry, context)
        } else {
            (entry & 0xffff_ffff, context & 0xffff_ffff)
        };
        let legal = (RAM..RAM + RAM_BYTES).contains(&entry) && entry % 4 == 0;
        let expected = match (target < 4, legal) {
            (true, true) => 0,
            // INVALID_PARAMETERS, INVALID_ADDRESS.
            (false, _) => -2_i64,
            (true, false) => -9,
        };
        assert_eq!(reply, Reply::Return(expected.cast_unsigned()), "{entry:#x}");
        let started = (expected == 0).then_some((target as usize, entry, context));
        assert_eq!(vm.started, started);
        accepted += u64::from(expected == 0);
    }
    assert!(accepted > ROUNDS / 20, "{accepted}");
    assert!(reset::is_guest_pstate(reset::PSTATE));
}
