//! An SGI, from just before it is sent to the first instructions of its handler.
//!
//! `ipi` goes to another vCPU that waits in WFI; the sender yields, so that a QEMU with one
//! thread for all cores runs the receiver at once. `ipi_self` goes to the sender.

use crate::measure;
use core::sync::atomic::{AtomicBool, Ordering};
use payload::{cpu, gic, machine, mmu, println, psci, smp, timer};

const SGI: u32 = 5;
pub(crate) const SAMPLES: usize = 64;
/// Time for the receiver to be asleep again, in nanoseconds.
pub(crate) const SETTLE_NS: u64 = 50_000;

static READY: AtomicBool = AtomicBool::new(false);
static DONE: AtomicBool = AtomicBool::new(false);

extern "C" fn receiver() {
    mmu::enable();
    gic::init_cpu();
    READY.store(true, Ordering::Release);
    while !DONE.load(Ordering::Acquire) {
        // Masked, so that the interrupt cannot be taken between the test and the WFI.
        cpu::wfi();
        cpu::unmask_irq();
        cpu::isb();
        cpu::mask_irq();
    }
}

pub(crate) fn run() {
    to_self();
    if !start_receiver() {
        return;
    }
    let mut samples = [0; SAMPLES];
    for sample in &mut samples {
        timer::spin(SETTLE_NS);
        let before = gic::taken(1);
        let sent = timer::now();
        gic::send_sgi(SGI, 1 << 1);
        if !smp::wait(|| gic::taken(1) != before) {
            println!("# ipi: no answer");
            return;
        }
        *sample = gic::entered(1).saturating_sub(sent);
    }
    measure::report_median("ipi", &mut samples);
    stop_receiver();
}

/// Starts vCPU 1, which takes interrupts and waits for them; returns whether it does.
pub(crate) fn start_receiver() -> bool {
    if machine::cpus() < 2 {
        println!("# ipi: needs two vCPUs");
        return false;
    }
    let status = smp::start(1, receiver);
    if status != psci::SUCCESS || !smp::wait(|| READY.load(Ordering::Acquire)) {
        println!("# ipi: vCPU 1 does not start, CPU_ON {status}");
        return false;
    }
    true
}

/// Ends it.
pub(crate) fn stop_receiver() {
    DONE.store(true, Ordering::Release);
    gic::send_sgi(SGI, 1 << 1);
    smp::wait_off(1);
}

fn to_self() {
    let mut samples = [0; SAMPLES];
    cpu::unmask_irq();
    for sample in &mut samples {
        let before = gic::taken(0);
        let sent = timer::now();
        gic::send_sgi(SGI, 1 << 0);
        if !smp::wait(|| gic::taken(0) != before) {
            println!("# ipi_self: no answer");
            cpu::mask_irq();
            return;
        }
        *sample = gic::entered(0).saturating_sub(sent);
    }
    cpu::mask_irq();
    measure::report_median("ipi_self", &mut samples);
}
