//! How long an interrupt waits while something else is done.

use crate::timer::{self, Timer};
use crate::{cpu, gic};

/// Turns of the loop that waits for the interrupt before giving up.
const PATIENCE: u64 = 100_000_000;

/// Runs `f` with interrupts unmasked, lets the virtual timer come `ahead_ns` after it began, and
/// returns the ticks from then until its handler started; `None` if it never did.
///
/// The GIC is this vCPU's to use, and switched on.
pub fn interrupt(ahead_ns: u64, f: impl FnOnce()) -> Option<u64> {
    let timer = Timer::Virtual;
    let index = cpu::index();
    gic::set_bit(gic::ISENABLER, timer.intid());
    let before = gic::taken(index);
    let due = timer::now() + timer::ticks(ahead_ns);
    timer.set_compare(due);
    timer.set_control(timer::ENABLE);
    cpu::unmask_irq();
    f();
    let fired = (0..PATIENCE).any(|_| gic::taken(index) != before);
    cpu::mask_irq();
    timer.set_control(0);
    fired.then(|| gic::entered(index).saturating_sub(due))
}
