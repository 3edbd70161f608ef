//! Transactions that the SMMU aborted: taken out of its queue when it says so, and charged to
//! the function that began them.
//!
//! A guest may have its device begin as many as it likes. After [`Limit::MOST`] interrupts in a
//! tenth of a second the SMMU's is switched off until root asks about devices, which it does when it is
//! told; then the queue is emptied by asking, and what does not fit is lost.

use core::sync::atomic::Ordering;

use ::smmu::Limit;
use boot_info::Interrupt;
use spin::{Mutex, Once};

use super::{FUNCTIONS, now_ms, smmu};
use crate::console::println;
use crate::{gic, guest, per_cpu, root};

static LINE: Once<Interrupt> = Once::new();
/// Nothing else is locked with it held.
static LIMIT: Mutex<Limit> = Mutex::new(Limit::new());

/// Takes events by interrupt from now on, on this core.
pub(super) fn by_interrupt(line: Interrupt) {
    LINE.call_once(|| line);
    enable();
}

fn enable() {
    if let Some(line) = LINE.get() {
        let mpidr = per_cpu::cpu(0).mpidr.load(Ordering::Relaxed);
        gic::enable_spi(*line, mpidr);
    }
}

/// Answers the machine's SPI `intid`, if it is the SMMU's. A pulse that comes while it does is
/// pending then.
pub(crate) fn interrupt(intid: u32) -> bool {
    if LINE.get().is_none_or(|line| line.intid != intid) {
        return false;
    }
    let off = LIMIT.lock().take(now_ms());
    if off {
        gic::disable_spi(intid);
    }
    drain(true);
    true
}

/// Empties the queue because root asks, and listens to the SMMU again.
pub(super) fn ask() {
    drain(false);
    let on = LIMIT.lock().ask();
    if on {
        enable();
        // What came in between has interrupted nobody.
        drain(false);
    }
}

fn drain(tell: bool) {
    for event in (0..smmu::EVENTS_MAX).map_while(|_| smmu::next_event()) {
        if let Some((vm, first)) = blame(event)
            && tell
            && let Some(vm) = guest::by_handle(vm)
        {
            if first {
                println!(
                    "the SMMU kept a device of the VM in slot {} from {:#x}",
                    vm.slot, event.address
                );
            }
            root::ring(vm.slot);
        }
    }
}

/// Notes an aborted transaction with the function that began it; returns the VM that has it, and
/// whether it is the first.
fn blame(event: ::smmu::Event) -> Option<(u64, bool)> {
    FUNCTIONS.iter().find_map(|slot| {
        let mut slot = slot.lock();
        let slot = slot.as_mut()?;
        if u32::from(slot.address.raw()) != event.stream {
            return None;
        }
        let device = slot.assigned.as_mut()?;
        device.dma_faults += 1;
        device.dma_fault_at = event.address;
        Some((device.vm, device.dma_faults == 1))
    })
}
