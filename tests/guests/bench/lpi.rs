//! An LPI, from just before the store that issues its INT command to the first instructions of
//! its handler: `lpi` on a vCPU that waits, `lpi_self` on the one that issues it.

use crate::ipi::{self, SAMPLES, SETTLE_NS};
use crate::measure;
use guest_abi::map::ITS_BASE;
use payload::{cpu, gic, its, machine, mem, println, smp, timer};

/// Puts the command into the queue, and measures from the store that issues it.
fn sample(event: u64, vcpu: usize) -> Option<u64> {
    let before = gic::taken(vcpu);
    let at = mem::read64(ITS_BASE + its::CWRITER);
    let next = its::put(at, [its::DEVICE << 32 | 0x03, event, 0, 0]);
    let sent = timer::now();
    mem::write64(ITS_BASE + its::CWRITER, next);
    smp::wait(|| gic::taken(vcpu) != before).then(|| gic::entered(vcpu).saturating_sub(sent))
}

pub(crate) fn run() {
    let Some(block) = machine::fresh_blocks()
        .next_back()
        .filter(|_| its::is_there())
    else {
        println!("# lpi: there is no ITS");
        return;
    };
    if !its::start(block) {
        println!("# lpi: the ITS does not answer");
        return;
    }
    for n in 0..2 {
        its::configure(n, 0xa1);
        its::map(n, n, n);
    }
    its::sync();
    measure("lpi_self", 0, 0);
    if ipi::start_receiver() {
        measure("lpi", 1, 1);
        ipi::stop_receiver();
    }
}

fn measure(key: &str, event: u64, vcpu: usize) {
    let mut samples = [0; SAMPLES];
    if vcpu == 0 {
        cpu::unmask_irq();
    }
    for place in &mut samples {
        timer::spin(SETTLE_NS);
        match sample(event, vcpu) {
            Some(ticks) => *place = ticks,
            None => {
                println!("# {key}: no answer");
                break;
            }
        }
    }
    cpu::mask_irq();
    measure::report_median(key, &mut samples);
}
