//! Random actions on every vCPU: all that a guest can do to a hypervisor, in any order.
//!
//! `seed=` repeats a run (with one vCPU and `-icount`, exactly), `n=` actions end it; it
//! prints how many actions there were and that it lives. What it never does is harm its own
//! code, stack, vectors or console.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "it runs random instructions from a list")]

use core::sync::atomic::{AtomicU64, Ordering};
use guest_abi::map::{GICD_BASE, RAM_BASE, UART_BASE, UART_BYTES};
use payload::psci::{self, Conduit};
use payload::stats::splitmix64;
use payload::sysreg::{MPIDR_EL1, encoding};
use payload::timer::{self, Timer};
use payload::{catch, cpu, gic, machine, mem, println, smp, stub};

payload::guest!(main);

const ACTIONS: u64 = 20_000;
/// Fast PSCI calls that end a vCPU or the machine, or wait: CPU_SUSPEND, CPU_OFF,
/// SYSTEM_OFF, SYSTEM_RESET, SYSTEM_SUSPEND, SYSTEM_RESET2 and what is around them.
const PSCI_NUMBERS: u64 = 0x20;

static DONE: AtomicU64 = AtomicU64::new(0);
static FAULTS: AtomicU64 = AtomicU64::new(0);

fn main() -> ! {
    let seed = machine::argument("seed").unwrap_or(1);
    println!("ADVERSARY chaos seed {seed} cpus {}", machine::cpus());
    gic::init_distributor();
    smp::start_all(secondary);
    gic::init_cpu();
    let mut dice = Dice(seed);
    let mut n = 0;
    let limit = machine::argument("n").unwrap_or(u64::MAX);
    while n < limit {
        act(&mut dice);
        n += 1;
        DONE.store(n, Ordering::Relaxed);
        if n.is_multiple_of(ACTIONS) {
            println!("actions {n} faults {}", FAULTS.load(Ordering::Relaxed));
        }
    }
    println!("DONE actions {n} faults {}", FAULTS.load(Ordering::Relaxed));
    psci::system_off()
}

/// Acts until the dice say that it is time to switch off; vCPU 0 switches it on again.
extern "C" fn secondary() {
    gic::init_cpu();
    let seed = machine::argument("seed").unwrap_or(1);
    let lives = DONE.load(Ordering::Relaxed);
    let mut dice = Dice(seed ^ MPIDR_EL1.read() << 32 ^ lives << 8);
    while dice.below(500) != 0 {
        act(&mut dice);
    }
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        splitmix64(&mut self.0)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

fn act(dice: &mut Dice) {
    let result = catch(|| match dice.below(16) {
        0 => ram(dice),
        1 => outside(dice),
        2..=4 => device(dice),
        5 => call(dice),
        6 => read_register(dice),
        7 => write_register(dice),
        8 => time(dice),
        9 => gic::send_sgi(dice.below(16) as u32, dice.roll() as u16),
        10 => wait(dice),
        11 | 12 => {
            cpu::unmask_irq();
            cpu::isb();
            cpu::mask_irq();
        }
        13 => switch_on(dice),
        14 => instruction(dice),
        _ => interrupt_state(dice),
    });
    if result.is_err() {
        // vCPUs race here, and lose some: it is a number to look at.
        FAULTS.store(FAULTS.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// An address in RAM that is neither the program's nor the device tree's.
fn ram_address(dice: &mut Dice) -> u64 {
    let blocks = machine::ram_bytes() >> 21;
    let n = dice.below(blocks.max(1));
    let block = machine::fresh_blocks().nth(n as usize);
    let block = block.or_else(|| machine::fresh_blocks().next());
    block.unwrap_or(0x0b00_0000) + (dice.below(2 << 20) & !7)
}

fn ram(dice: &mut Dice) {
    let at = ram_address(dice);
    mem::write64(at, at);
    mem::read64(at);
}

/// An address above RAM: near its end, far, or not even an address.
fn outside_address(dice: &mut Dice) -> u64 {
    let end = RAM_BASE + machine::ram_bytes();
    match dice.below(3) {
        0 => end + (dice.below(1 << 24) & !7),
        1 => end.max(1 << (32 + dice.below(16))) + (dice.below(1 << 16) & !7),
        _ => end.max(dice.roll() & 0xffff_ffff_fff8),
    }
}

fn outside(dice: &mut Dice) {
    let at = outside_address(dice);
    match dice.below(3) {
        0 => {
            mem::read64(at);
        }
        1 => mem::write32(at, 1),
        _ => mem::call_nowhere(at & !3),
    }
}

/// An address below RAM, most often in the GIC. Never the console's.
fn device_address(dice: &mut Dice) -> u64 {
    let at = match dice.below(4) {
        0 => dice.below(RAM_BASE),
        1 => GICD_BASE + dice.below(0x1_0000),
        2 => GICD_BASE + dice.below(0x1000),
        _ => gic::redistributor(0) + dice.below(machine::cpus() as u64 * 0x2_0000),
    };
    if at & !(UART_BYTES - 1) == UART_BASE {
        at + UART_BYTES
    } else {
        at
    }
}

fn device(dice: &mut Dice) {
    let (at, value) = (device_address(dice), dice.roll());
    match dice.below(8) {
        0 => mem::write8(at, value),
        1 => mem::write16(at & !1, value),
        2 | 3 => mem::write32(at & !3, value),
        4 => mem::write64(at & !7, value),
        5 => drop_value(mem::read8(at)),
        6 => drop_value(mem::read32(at & !3)),
        _ => drop_value(mem::read64(at & !7)),
    }
}

fn drop_value(_: u64) {}

fn call(dice: &mut Dice) {
    let mut registers = [0; 18];
    registers.fill_with(|| dice.roll());
    // Mostly what could mean something: a known owner, a small number or a core call.
    if dice.below(4) != 0 {
        let number = dice.pick(&[0, 0x8000, 0xff00, 0x3ff0]) + dice.below(0x40);
        registers[0] = dice.below(4) << 30 | dice.below(8) << 24 | number;
    }
    let id = registers[0] & 0xfffe_ffff;
    if id >> 24 & 0x3f == 4 && id & 0xffff < PSCI_NUMBERS {
        registers[0] |= 0x1000;
    }
    let conduit = dice.pick(&[Conduit::Hvc, Conduit::Smc]);
    psci::call(conduit, registers);
}

fn read_register(dice: &mut Dice) {
    let code = 2 << 14 | dice.below(1 << 15) as u32;
    // Reading IAR takes an interrupt, which then is never ended: that is the guest's affair,
    // but it would soon have none left.
    if code != encoding(3, 0, 12, 12, 0) && code != encoding(3, 0, 12, 8, 0) {
        read(code);
    }
}

fn read(code: u32) {
    // `catch` does not nest, and `read_sysreg` has its own.
    let _ = stub::read_sysreg(code);
}

/// A register that is not the program's: GIC, timers, debug, PMU, AMU, implementation-defined.
fn write_register(dice: &mut Dice) {
    let (op0, op1) = dice.pick(&[(2, 0), (2, 3), (3, 0), (3, 3), (3, 4), (3, 6)]);
    let crn = match op0 {
        2 => dice.below(16),
        // Of 12, VBAR_EL1 and its row are left out below.
        _ => dice.pick(&[0, 9, 11, 12, 14, 15]),
    };
    let crm = dice.below(16);
    let (crn, crm, op2) = (crn as u32, crm as u32, dice.below(8) as u32);
    if (op0, crn, crm) == (3, 12, 0) {
        return;
    }
    let value = dice.roll() & dice.roll();
    // MDSCR_EL1: breakpoints and single step would take exceptions for ever.
    if (op0, op1, crn, crm, op2) == (2, 0, 0, 2, 2) {
        return;
    }
    // SAFETY: No register of the classes above has to do with the program's addresses; the
    // GIC's and the timers' cause interrupts, which are handled.
    let _ = unsafe { stub::write_sysreg(encoding(op0, op1, crn, crm, op2), value) };
    gic::init_interface();
}

fn time(dice: &mut Dice) {
    let timer = dice.pick(&Timer::BOTH);
    let compare = match dice.below(4) {
        0 => dice.roll(),
        1 => 0,
        2 => u64::MAX,
        _ => timer.now() + dice.below(timer::ticks(1_000_000)),
    };
    timer.set_compare(compare);
    timer.set_control(dice.below(8));
}

/// Waits for less than a millisecond, if at all.
fn wait(dice: &mut Dice) {
    let timer = Timer::Virtual;
    gic::set_bit(gic::ISENABLER, timer.intid());
    gic::set_priority(timer.intid(), 0x80);
    gic::set_bit(gic::IGROUPR, timer.intid());
    timer.set_compare(timer.now() + dice.below(timer::ticks(300_000)));
    timer.set_control(timer::ENABLE);
    match dice.below(4) {
        // Only while nothing can keep the timer from ending it: it is not active.
        0 if gic::is_ready(timer.intid()) => cpu::wfi(),
        1 => cpu::wfe(),
        2 => cpu::sev(),
        _ => cpu::yield_now(),
    }
}

fn switch_on(dice: &mut Dice) {
    match dice.below(4) {
        0 => drop_status(psci::cpu_on(dice.roll(), dice.roll(), dice.roll())),
        1 => drop_status(psci::cpu_on(dice.below(16), dice.roll(), 0)),
        2 => drop_status(psci::affinity_info(dice.below(16), dice.below(4))),
        _ => drop_status(smp::start(dice.below(8) as usize, secondary)),
    }
}

fn drop_status(_: i64) {}

/// Instructions with the address in x0.
const INSTRUCTIONS: [u32; 21] = [
    0xa940_0801, // ldp x1, x2, [x0]
    0xa900_0801, // stp x1, x2, [x0]
    0xc85f_7c01, // ldxr x1, [x0]
    0xc802_7c01, // stxr w2, x1, [x0]
    0x3dc0_0000, // ldr q0, [x0]
    0xb840_4401, // ldr w1, [x0], #4
    0xb821_0002, // ldadd w1, w2, [x0]
    0x88e1_fc02, // casal w1, w2, [x0]
    0xd50b_7420, // dc zva, x0
    0xd50b_7e20, // dc civac, x0
    0xd508_7620, // dc ivac, x0
    0xd50b_7520, // ic ivau, x0
    0xd508_7640, // dc isw, x0
    0xd508_7e40, // dc cisw, x0
    0xd508_7800, // at s1e1r, x0
    0xd508_7820, // at s1e1w, x0
    0xd508_871f, // tlbi vmalle1
    0xd508_831f, // tlbi vmalle1is
    0xd508_8320, // tlbi vae1is, x0
    0xd503_4c1f, // the hint space and what looks like it: msr tco, #12
    0xf980_0000, // prfm pldl1keep, [x0]
];

fn instruction(dice: &mut Dice) {
    let at = match dice.below(3) {
        0 => ram_address(dice),
        1 => outside_address(dice),
        _ => device_address(dice) & !15,
    };
    let insn = dice.pick(&INSTRUCTIONS);
    // SAFETY: Each changes x1 and x2 at most, V0, memory at an address that is not the
    // program's, or cached copies of what stays as it is.
    let _ = unsafe { stub::execute(&[insn], at) };
}

/// Makes some interrupt pending, active, enabled, or not.
fn interrupt_state(dice: &mut Dice) {
    let array = dice.pick(&[
        gic::ISENABLER,
        gic::ISENABLER,
        gic::ISPENDR,
        gic::ISPENDR,
        gic::ICPENDR,
        gic::ISACTIVER,
        gic::ICACTIVER,
        gic::ICACTIVER,
    ]);
    let intid = dice.below(256) as u32;
    gic::set_bit(array, intid);
    gic::set_bit(gic::IGROUPR, intid);
    gic::route(intid.max(32), dice.below(9) as usize);
}
