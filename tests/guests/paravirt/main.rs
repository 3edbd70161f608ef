//! What a guest is told of its vCPUs' turns, and what it can do about them (rows C02 to C07):
//! `TEST` lines.
//!
//! For two vCPUs or more on one core, under `direct`. Boot argument `masked=hint`, `time`,
//! `yield` or `core`: the VM was made without the preempt hint, stolen time, YIELD_TO or its
//! core's number.
#![no_std]
#![no_main]

mod hints;
mod lines;

use core::sync::atomic::{AtomicU64, Ordering};
use guest_abi::map::VCPUS_MAX;
use guest_abi::pv::PREEMPTED;
use payload::psci::{self, Conduit};
use payload::{el1_test, gic, machine, mem, mmu, println, smp, test, timer};

payload::guest!(main);

const VCPUS: usize = VCPUS_MAX as usize;

/// Offsets in a line (`guest_abi::pv::PvLine`).
const STOLEN: u64 = 8;
const HINT: u64 = 16;
const CORE: u64 = 20;
const GENERATION: u64 = 24;
const QUEUED: u64 = 32;
const FAULT: u64 = 40;
const DEVICE: u64 = 48;

/// What the VM was made without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Masked {
    Nothing,
    Hint,
    Time,
    Yield,
    Core,
}

impl Masked {
    /// Whether the VM has the preempt hint.
    fn has_hint(self) -> bool {
        !matches!(self, Self::Hint | Self::Time)
    }
}

fn masked() -> Masked {
    match machine::argument_text("masked") {
        Some("hint") => Masked::Hint,
        Some("time") => Masked::Time,
        Some("yield") => Masked::Yield,
        Some("core") => Masked::Core,
        _ => Masked::Nothing,
    }
}

/// Makes a call of up to three arguments; returns x0 to x3.
fn call(id: u32, args: [u64; 3]) -> [u64; 4] {
    let mut registers = [0; 18];
    registers[0] = u64::from(id);
    registers[1..4].copy_from_slice(&args);
    let [x0, x1, x2, x3, ..] = psci::call(Conduit::Hvc, registers);
    [x0, x1, x2, x3]
}

/// Where vCPU `vcpu`'s line is.
fn line(vcpu: usize) -> u64 {
    guest_abi::map::PV_BASE + vcpu as u64 * guest_abi::pv::STRIDE
}

fn preempted(vcpu: usize) -> bool {
    mem::read8(line(vcpu) + HINT) as u8 & PREEMPTED != 0
}

/// What the other vCPUs are to do; each does it until told otherwise.
mod order {
    pub(crate) const SPIN: u64 = 0;
    pub(crate) const WAIT: u64 = 1;
    pub(crate) const YIELD: u64 = 2;
    pub(crate) const END: u64 = 3;
}

static ORDERS: [AtomicU64; VCPUS] = [const { AtomicU64::new(order::SPIN) }; VCPUS];
/// Turns of each one's loop.
static TURNS: [AtomicU64; VCPUS] = [const { AtomicU64::new(0) }; VCPUS];
/// When each one last went on after its core had been with somebody else.
static RESUMED: [AtomicU64; VCPUS] = [const { AtomicU64::new(0) }; VCPUS];
/// A loop's turn that takes longer than this was interrupted by another's.
const AWAY_NS: u64 = 400_000;
/// Wakes a vCPU that waits.
const SGI: u32 = 3;

/// Tells vCPU `vcpu` what to do from now on.
fn tell(vcpu: usize, what: u64) {
    ORDERS[vcpu].store(what, Ordering::Release);
    gic::send_sgi(SGI, 1 << vcpu);
}

extern "C" fn other() {
    mmu::enable();
    gic::init_cpu();
    let me = payload::cpu::index();
    let away = timer::ticks(AWAY_NS);
    let mut last = timer::now();
    loop {
        match ORDERS[me].load(Ordering::Acquire) {
            order::WAIT => payload::cpu::wfi(),
            order::YIELD => _ = psci::hvc(guest_abi::pv::Call::YieldTo as u32, 0, 0, 0),
            order::END => return,
            _ => {}
        }
        payload::cpu::unmask_irq();
        payload::cpu::isb();
        payload::cpu::mask_irq();
        let now = timer::now();
        if now - last > away {
            RESUMED[me].store(now, Ordering::Release);
        }
        last = now;
        TURNS[me].fetch_add(1, Ordering::AcqRel);
    }
}

fn main() -> ! {
    mmu::enable();
    gic::init_distributor();
    gic::init_cpu();
    println!("PARAVIRT cpus {} masked {:?}", machine::cpus(), masked());
    // Before any other vCPU has ever run.
    test::run_test(&el1_test!("c07_lines_are_new", lines::are_new));
    smp::start_all(other);
    let tests = [
        el1_test!("c02_lines_are_as_den_0057_says", lines::layout),
        el1_test!("c02_a_write_to_a_line_aborts", lines::read_only),
        el1_test!("c03_stolen_time_is_the_sum_of_its_causes", lines::causes),
        el1_test!("c04_stolen_time_is_found", lines::discovery),
        el1_test!("c05_the_vendor_service_is_found", hints::discovery),
        el1_test!(
            "c06_the_hint_is_set_for_who_was_switched_out",
            hints::spinner
        ),
        el1_test!("c06_who_waits_or_yields_is_not_preempted", hints::willing),
        el1_test!("c08_a_turn_goes_to_whom_it_is_yielded", hints::directed),
    ];
    tests.iter().for_each(test::run_test);
    for vcpu in 1..machine::cpus() {
        tell(vcpu, order::END);
    }
    test::summary();
    psci::system_off()
}
