//! How late the virtual timer's handler starts: `timer_latency` while the guest computes,
//! `timer_latency_wfi` while it sleeps.

use crate::measure;
use payload::timer::{self, Timer};
use payload::{cpu, gic, println};

const SAMPLES: usize = 64;
/// How far ahead the timer is set, in nanoseconds: longer than any answer takes.
const AHEAD_NS: u64 = 40_000;
/// Turns of the waiting loop before giving up.
const PATIENCE: u64 = 100_000_000;

/// What the guest does until the timer fires.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Compute,
    Sleep,
}

pub(crate) fn run() {
    gic::set_bit(gic::ISENABLER, Timer::Virtual.intid());
    samples("timer_latency", Meanwhile::Compute);
    samples("timer_latency_wfi", Meanwhile::Sleep);
}

fn samples(key: &str, meanwhile: Meanwhile) {
    let mut samples = [0; SAMPLES];
    for sample in &mut samples {
        let Some(late) = sample_once(meanwhile) else {
            println!("# {key}: the timer does not fire");
            return;
        };
        *sample = late;
    }
    measure::report_median(key, &mut samples);
}

fn sample_once(meanwhile: Meanwhile) -> Option<u64> {
    let timer = Timer::Virtual;
    let before = gic::taken(0);
    let due = timer::now() + timer::ticks(AHEAD_NS);
    timer.set_compare(due);
    timer.set_control(timer::ENABLE);
    match meanwhile {
        Meanwhile::Sleep => cpu::wfi(),
        Meanwhile::Compute => {}
    }
    cpu::unmask_irq();
    let fired = (0..PATIENCE).any(|_| gic::taken(0) != before);
    cpu::mask_irq();
    fired.then(|| gic::entered(0).saturating_sub(due))
}
