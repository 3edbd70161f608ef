//! Interrupts as events, and sleeping until there is one.

#![expect(unsafe_code, reason = "DAIF, WFI and the EL1 physical timer")]

use core::arch::asm;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use guest_abi::root_boot::{DOORBELL_INTID, Doorbell, RootDevice};

use crate::boot::root_boot;
use crate::{clock, physmap};

/// The network card has something to say.
pub(crate) const NIC: u32 = 1 << 0;
/// Core rang: something about a VM changed.
pub(crate) const DOORBELL: u32 = 1 << 1;

/// What happened since [`take`] was last called.
static EVENTS: AtomicU32 = AtomicU32::new(0);
/// Registers of the card, for its interrupt handler.
static NIC_REGISTERS: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());

/// Returns what happened since the last call, and forgets it.
pub(crate) fn take() -> u32 {
    EVENTS.swap(0, Ordering::Acquire)
}

/// Has the card's interrupt handled.
///
/// Returns `None` for a card without an interrupt that can be attached.
pub(crate) fn attach_nic(device: &RootDevice) -> Option<()> {
    NIC_REGISTERS.store(physmap::at(device.pa)?.as_ptr(), Ordering::Release);
    let intid = u8::try_from(device.intid)
        .ok()
        .filter(|&intid| intid >= 32)?;
    hermit::attach_interrupt(intid, device.edge != 0, |_| {
        if let Some(registers) = NonNull::new(NIC_REGISTERS.load(Ordering::Acquire)) {
            // SAFETY: the registers of the card, mapped for good.
            unsafe { virtio_host::acknowledge(registers) };
        }
        EVENTS.fetch_or(NIC, Ordering::Release);
    });
    Some(())
}

/// Tells core that root lives.
pub(crate) fn beat(doorbell: &Doorbell) {
    doorbell.beat.fetch_add(1, Ordering::Relaxed);
}

/// Has core's doorbell handled, and returns it, if there is one.
pub(crate) fn attach_doorbell() -> Option<&'static Doorbell> {
    let intid = u8::try_from(DOORBELL_INTID).expect("below 256");
    hermit::attach_interrupt(intid, true, |_| {
        EVENTS.fetch_or(DOORBELL, Ordering::Release);
    });
    let memory = physmap::at(root_boot().doorbell_pa)?;
    // SAFETY: core shows a Doorbell there, an atomic, for as long as root runs.
    Some(unsafe { memory.cast::<Doorbell>().as_ref() })
}

/// Sleeps until there is an event or [`clock::uptime_ns`] has reached `deadline_ns`. May
/// return early.
///
/// Root has one task, so it sleeps right here: interrupts are masked between the look at
/// the events and WFI, which ends for a masked interrupt too, so that none is missed.
pub(crate) fn sleep_until(deadline_ns: u64) {
    let deadline = clock::ticks_at(deadline_ns);
    // SAFETY: masks interrupts; unmasked below, whatever happens.
    unsafe { asm!("msr daifset, #0b0010", options(nostack, preserves_flags)) };
    if EVENTS.load(Ordering::Acquire) == 0 {
        // SAFETY: the EL1 physical timer is used for nothing else: Hermit arms it for
        // sleeping tasks, and root has none. Its handler in Hermit disarms it.
        unsafe {
            asm!(
                "msr cntp_cval_el0, {deadline}",
                "msr cntp_ctl_el0, {enable}",
                "isb",
                "wfi",
                deadline = in(reg) deadline,
                enable = in(reg) 1_u64,
                options(nostack, preserves_flags),
            )
        };
    }
    // SAFETY: interrupts were unmasked before; the pending one is taken at the ISB at the latest.
    unsafe {
        asm!(
            "msr daifclr, #0b0010",
            "isb",
            options(nostack, preserves_flags)
        )
    };
}
