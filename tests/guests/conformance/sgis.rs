//! Interrupts between vCPUs.

use core::sync::atomic::{AtomicU64, Ordering};
use guest_abi::map::VCPUS_MAX;
use payload::{TestResult, cpu, expect, expect_eq, gic, machine, mmu, psci, smp, timer};

const QUIET_NS: u64 = 200_000;
const SPI: u32 = 100;

static READY: AtomicU64 = AtomicU64::new(0);
/// What the vCPUs are to do: 0 sleep, 1 send to everybody once, 2 switch off.
static PHASE: AtomicU64 = AtomicU64::new(SLEEP);
const SLEEP: u64 = 0;
const SEND: u64 = 1;
const STOP: u64 = 2;
static SENT: AtomicU64 = AtomicU64::new(0);

extern "C" fn member() {
    mmu::enable();
    gic::init_cpu();
    READY.fetch_add(1, Ordering::AcqRel);
    let mut sent = false;
    loop {
        cpu::unmask_irq();
        cpu::isb();
        match PHASE.load(Ordering::Acquire) {
            STOP => return,
            SEND if !sent => {
                sent = true;
                send_to_all();
            }
            // Sleeping with nothing to wake it would be wrong if the phase has changed
            // since: the SGI that says so is then already pending or taken.
            _ => cpu::yield_now(),
        }
    }
}

/// SGI n from vCPU n to every vCPU, itself included.
fn send_to_all() {
    let targets = (1_u16 << machine::cpus()) - 1;
    gic::send_sgi(cpu::index() as u32, targets);
    SENT.fetch_add(1, Ordering::AcqRel);
}

fn start() -> TestResult {
    cpu::mask_irq();
    gic::init_distributor();
    gic::init_cpu();
    READY.store(1, Ordering::Release);
    SENT.store(0, Ordering::Release);
    PHASE.store(SLEEP, Ordering::Release);
    for index in 1..machine::cpus() {
        expect_eq!(smp::start(index, member), psci::SUCCESS, "vCPU {index}");
    }
    let all = machine::cpus() as u64;
    let ready = smp::wait(|| READY.load(Ordering::Acquire) == all);
    expect!(ready, "{} ready", READY.load(Ordering::Acquire));
    Ok(())
}

fn stop() -> TestResult {
    PHASE.store(STOP, Ordering::Release);
    for index in 1..machine::cpus() {
        expect!(smp::wait_off(index), "vCPU {index}");
    }
    Ok(())
}

type Counts = [[u32; 16]; VCPUS_MAX as usize];

/// SGIs taken, by receiver and number.
fn counts() -> Counts {
    let mut counts = [[0; 16]; VCPUS_MAX as usize];
    for (index, row) in counts.iter_mut().enumerate() {
        for (intid, count) in (0..).zip(row) {
            *count = gic::count(index, intid);
        }
    }
    counts
}

fn expected(mut counts: Counts, came: impl Fn(usize, usize) -> bool) -> Counts {
    for (receiver, row) in counts.iter_mut().enumerate() {
        for (intid, count) in row.iter_mut().enumerate() {
            *count += u32::from(receiver < machine::cpus() && came(receiver, intid));
        }
    }
    counts
}

/// Waits with interrupts let in for these counts, and a little longer for more.
fn arrive(wanted: &Counts) -> bool {
    cpu::unmask_irq();
    let arrived = smp::wait(|| counts() == *wanted);
    timer::spin(QUIET_NS);
    cpu::mask_irq();
    arrived && counts() == *wanted
}

pub(crate) fn all_to_all() -> TestResult {
    start()?;
    let cpus = machine::cpus();
    let wanted = expected(counts(), |_, intid| intid < cpus);
    PHASE.store(SEND, Ordering::Release);
    send_to_all();
    let arrived = arrive(&wanted);
    expect!(arrived, "{:?} wanted {wanted:?}", counts());
    // One by one: only the one that is named.
    for target in 0..cpus {
        let wanted = expected(counts(), |receiver, intid| (receiver, intid) == (target, 9));
        gic::send_sgi(9, 1 << target);
        expect!(arrive(&wanted), "to {target}: {:?}", counts());
    }
    // To nobody who exists.
    let wanted = counts();
    gic::send_sgi(10, 1 << 15);
    gic::send_sgi(10, 0);
    expect!(arrive(&wanted), "to nobody: {:?}", counts());
    stop()
}

pub(crate) fn all_but_self() -> TestResult {
    start()?;
    let wanted = expected(counts(), |receiver, intid| receiver != 0 && intid == 11);
    gic::send_sgi_to_others(11);
    expect!(arrive(&wanted), "{:?} wanted {wanted:?}", counts());
    stop()
}

pub(crate) fn spi_routes() -> TestResult {
    start()?;
    gic::set_bit(gic::ISENABLER, SPI);
    for target in 0..machine::cpus() {
        gic::route(SPI, target);
        let before = gic::count(target, SPI);
        gic::set_bit(gic::ISPENDR, SPI);
        cpu::unmask_irq();
        let came = smp::wait(|| gic::count(target, SPI) != before);
        // Level-sensitive at reset, yet set by ISPENDR: pending until acknowledged.
        timer::spin(QUIET_NS);
        cpu::mask_irq();
        expect!(came, "vCPU {target}");
        expect_eq!(gic::count(target, SPI), before + 1, "vCPU {target}");
    }
    stop()
}
