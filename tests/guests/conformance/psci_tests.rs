//! S6: PSCI from one vCPU, and from several at once.

use core::sync::atomic::{AtomicU64, Ordering};
use payload::psci::{
    AFFINITY_INFO, ALREADY_ON, CPU_OFF, CPU_ON, CPU_SUSPEND, FEATURES, INVALID_PARAMETERS,
    NOT_SUPPORTED, ON_PENDING, SUCCESS, SYSTEM_OFF, SYSTEM_RESET, SYSTEM_RESET2, VERSION,
};
use payload::timer::{self, Timer};
use payload::{TestResult, cpu, expect, expect_eq, gic, machine, mmu, println, psci, smp};

const ON: i64 = 0;
const OFF: i64 = 1;
/// Rounds of the tests that race.
fn rounds() -> u64 {
    machine::argument("psci").unwrap_or(50)
}

pub(crate) fn features() -> TestResult {
    let version = psci::result32(psci::hvc(VERSION, 0, 0, 0));
    expect!(version >= 0x1_0000, "version {version:#x}");
    for call in [
        VERSION,
        CPU_OFF,
        CPU_ON,
        AFFINITY_INFO,
        SYSTEM_OFF,
        SYSTEM_RESET,
        FEATURES,
    ] {
        let result = psci::result32(psci::hvc(FEATURES, call.into(), 0, 0));
        expect!(result >= 0, "FEATURES({call:#x}) {result}");
    }
    for call in [0x8400_00ff, 0xc400_00fe, 0, 0xffff_ffff] {
        let result = psci::result32(psci::hvc(FEATURES, call, 0, 0));
        expect_eq!(result, NOT_SUPPORTED, "FEATURES({call:#x})");
    }
    // 2: there is no trusted OS, or none that cares.
    let migrate = psci::result32(psci::hvc(psci::MIGRATE_INFO_TYPE, 0, 0, 0));
    expect!([2, NOT_SUPPORTED].contains(&migrate), "{migrate}");
    Ok(())
}

/// What PSCI 1.1 leaves open and a guest of Skete's does not have (`docs/guest-calls.md`): it is
/// told so by PSCI_FEATURES, and when it calls nevertheless.
pub(crate) fn optional() -> TestResult {
    if !machine::on_skete() {
        return Ok(());
    }
    for number in [0x5, 0x7, 0xb, 0xc, 0xd, 0xe, 0xf, 0x10, 0x11, 0x13, 0x14] {
        for call in [0x8400_0000 | number, 0xc400_0000 | number] {
            let told = psci::result32(psci::hvc(FEATURES, call.into(), 0, 0));
            expect_eq!(told, NOT_SUPPORTED, "FEATURES({call:#x})");
            let got = psci::hvc(call, 0, smp::entry(), 0);
            expect_eq!(got, NOT_SUPPORTED, "{call:#x}");
        }
    }
    for call in [CPU_SUSPEND, SYSTEM_RESET2] {
        let told = psci::result32(psci::hvc(FEATURES, call.into(), 0, 0));
        expect_eq!(told, SUCCESS, "FEATURES({call:#x})");
    }
    // A vendor's type, and one that is reserved: it does not restart.
    for kind in [1 << 31, 1] {
        let got = psci::result32(psci::hvc(SYSTEM_RESET2, kind, 0, 0));
        expect_eq!(got, INVALID_PARAMETERS, "SYSTEM_RESET2 {kind:#x}");
    }
    Ok(())
}

/// CPU_SUSPEND waits for an interrupt, masked or not, and returns 0 to where it was called.
pub(crate) fn suspend() -> TestResult {
    const NAP_NS: u64 = 2_000_000;
    /// State 5, power down, level 0: entered as standby.
    const POWER_DOWN: u64 = 1 << 16 | 5;
    cpu::mask_irq();
    gic::init_distributor();
    gic::init_cpu();
    let timer = Timer::Virtual;
    gic::set_bit(gic::ISENABLER, timer.intid());
    for state in [0, POWER_DOWN] {
        let before = gic::count(0, timer.intid());
        let due = timer.now() + timer::ticks(NAP_NS);
        timer.set_compare(due);
        timer.set_control(timer::ENABLE);
        let mut naps = 0;
        while timer.now() < due {
            let entry = smp::entry();
            expect_eq!(
                psci::hvc(CPU_SUSPEND, state, entry, 7),
                SUCCESS,
                "{state:#x}"
            );
            naps += 1;
            expect!(naps < 1000, "CPU_SUSPEND {state:#x} does not wait");
        }
        cpu::unmask_irq();
        let fired = smp::wait(|| gic::count(0, timer.intid()) == before + 1);
        cpu::mask_irq();
        expect!(fired, "the timer, after {state:#x}");
    }
    if machine::on_skete() {
        for state in [1 << 17, 1 << 23, 1 << 26, 1 << 31] {
            let got = psci::result32(psci::hvc(CPU_SUSPEND, state, 0, 0));
            expect_eq!(got, INVALID_PARAMETERS, "CPU_SUSPEND {state:#x}");
        }
    }
    Ok(())
}

pub(crate) fn states() -> TestResult {
    let cpus = machine::cpus() as u64;
    expect_eq!(psci::affinity_info(0, 0), ON);
    for index in 1..cpus {
        expect_eq!(psci::affinity_info(index, 0), OFF, "vCPU {index}");
    }
    for nobody in [cpus, 15, 0x100, 1 << 16, 1 << 24, 1 << 32] {
        let result = psci::affinity_info(nobody, 0);
        expect_eq!(result, INVALID_PARAMETERS, "AFFINITY_INFO {nobody:#x}");
        let result = psci::cpu_on(nobody, smp::entry(), 0);
        expect_eq!(result, INVALID_PARAMETERS, "CPU_ON {nobody:#x}");
    }
    expect_eq!(psci::cpu_on(0, smp::entry(), 0), ALREADY_ON);
    Ok(())
}

static RUNS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count() {
    mmu::enable();
    RUNS.fetch_add(1, Ordering::AcqRel);
}

pub(crate) fn cycles() -> TestResult {
    RUNS.store(0, Ordering::Release);
    let mut runs = 0;
    for round in 0..rounds() {
        for index in 1..machine::cpus() {
            expect_eq!(smp::start(index, count), SUCCESS, "vCPU {index} {round}");
            expect!(smp::wait_off(index), "vCPU {index} {round}");
            runs += 1;
            expect_eq!(RUNS.load(Ordering::Acquire), runs);
        }
        if round % 2_000 == 1_999 {
            println!("# psci_cycles: round {}", round + 1);
        }
    }
    Ok(())
}

/// Round that racers may start; 0 before the first, `STOP` after the last.
static ROUND: AtomicU64 = AtomicU64::new(0);
const STOP: u64 = u64::MAX;
/// Racers that have had their answer in this round.
static ANSWERED: AtomicU64 = AtomicU64::new(0);
static WINNERS: AtomicU64 = AtomicU64::new(0);
static STRANGE: AtomicU64 = AtomicU64::new(0);

fn target() -> usize {
    machine::cpus() - 1
}

fn race() {
    match smp::start(target(), count) {
        SUCCESS => {
            WINNERS.fetch_add(1, Ordering::AcqRel);
        }
        ALREADY_ON | ON_PENDING => {}
        other => STRANGE.store(other.cast_unsigned(), Ordering::Release),
    }
    ANSWERED.fetch_add(1, Ordering::AcqRel);
}

extern "C" fn racer() {
    mmu::enable();
    let mut last = 0;
    loop {
        match ROUND.load(Ordering::Acquire) {
            STOP => return,
            round if round == last => cpu::yield_now(),
            round => {
                last = round;
                race();
            }
        }
    }
}

/// All but the target switch the target on at once: a vCPU that is off is switched on by
/// one of them, or by another again after it has switched itself off.
pub(crate) fn one_winner() -> TestResult {
    if machine::cpus() < 3 {
        println!("# psci_one_winner: fewer than three vCPUs");
        return Ok(());
    }
    ROUND.store(0, Ordering::Release);
    for index in 1..target() {
        expect_eq!(smp::start(index, racer), SUCCESS);
    }
    let racers = machine::cpus() as u64 - 1;
    RUNS.store(0, Ordering::Release);
    WINNERS.store(0, Ordering::Release);
    for round in 1..=rounds() {
        ANSWERED.store(0, Ordering::Release);
        ROUND.store(round, Ordering::Release);
        race();
        let answered = || ANSWERED.load(Ordering::Acquire) == racers;
        expect!(smp::wait(answered), "round {round}");
        expect!(smp::wait_off(target()), "round {round}");
        let (runs, winners) = (
            RUNS.load(Ordering::Acquire),
            WINNERS.load(Ordering::Acquire),
        );
        expect_eq!(runs, winners, "in round {round}");
        expect!(winners >= round, "no winner in round {round}");
        if round % 2_000 == 0 {
            println!("# psci_one_winner: round {round}");
        }
    }
    expect_eq!(STRANGE.load(Ordering::Acquire), 0);
    ROUND.store(STOP, Ordering::Release);
    for index in 1..target() {
        expect!(smp::wait_off(index), "vCPU {index}");
    }
    Ok(())
}

/// vCPUs that are about to end the VM.
static ENDING: AtomicU64 = AtomicU64::new(0);

/// Ends the VM from every vCPU at once: half of them switch it off, half reset it. Nobody's call returns.
pub(crate) fn end_from_all() -> ! {
    smp::start_all(second_end);
    end()
}

extern "C" fn second_end() {
    mmu::enable();
    end()
}

fn end() -> ! {
    ENDING.fetch_add(1, Ordering::AcqRel);
    while ENDING.load(Ordering::Acquire) < machine::cpus() as u64 {
        cpu::yield_now();
    }
    let how = if cpu::index().is_multiple_of(2) {
        SYSTEM_OFF
    } else {
        SYSTEM_RESET
    };
    psci::hvc(how, 0, 0, 0);
    println!("FAIL: vCPU {} goes on after its VM's end", cpu::index());
    psci::cpu_off()
}
