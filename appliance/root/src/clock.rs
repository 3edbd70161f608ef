//! Time: the counter, and the machine's real-time clock read once.

#![expect(unsafe_code, reason = "CNTPCT_EL0; one register of the PL031")]

use core::arch::asm;
use core::num::NonZeroU128;
use core::sync::atomic::{AtomicU64, Ordering};

use guest_abi::root_boot::DEVICE_PL031;

use crate::boot::root_boot;
use crate::physmap;

const NS_PER_SECOND: u128 = 1_000_000_000;

/// Nanoseconds from 1970 to core's start, or 0 if there is no clock.
static UNIX_AT_ZERO_NS: AtomicU64 = AtomicU64::new(0);

/// Returns CNTPCT_EL0.
pub(crate) fn ticks() -> u64 {
    let ticks: u64;
    // SAFETY: reads a counter. The ISB keeps it in program order (DDI 0487, D12.1).
    unsafe {
        asm!("isb", "mrs {}, cntpct_el0", out(reg) ticks, options(nomem, nostack, preserves_flags));
    }
    ticks
}

fn hz() -> NonZeroU128 {
    NonZeroU128::new(root_boot().counter_hz.into()).unwrap_or(NonZeroU128::MIN)
}

/// Returns nanoseconds since core was entered after reset.
pub(crate) fn uptime_ns() -> u64 {
    let ticks = ticks().saturating_sub(root_boot().reset_ticks);
    let ns = u128::from(ticks).saturating_mul(NS_PER_SECOND) / hz();
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// Returns the counter's value when [`uptime_ns`] is `ns`, rounded up.
pub(crate) fn ticks_at(ns: u64) -> u64 {
    let ticks = u128::from(ns)
        .saturating_mul(hz().get())
        .div_ceil(NS_PER_SECOND);
    let ticks = u64::try_from(ticks).unwrap_or(u64::MAX);
    ticks.saturating_add(root_boot().reset_ticks)
}

/// Reads the real-time clock, if the machine has one.
pub(crate) fn init() {
    let devices = root_boot().devices.iter();
    let count = usize::try_from(root_boot().device_count).unwrap_or(0);
    let Some(rtc) = devices
        .take(count)
        .find(|device| device.kind == DEVICE_PL031)
    else {
        return;
    };
    let Some(data_register) = physmap::at(rtc.pa) else {
        return;
    };
    // SAFETY: RTCDR, offset 0 of a PL031 (ARM DDI 0224, 3.3.1), which core says is there.
    let seconds = unsafe { data_register.cast::<u32>().read_volatile() };
    let unix = u64::from(seconds).saturating_mul(1_000_000_000);
    UNIX_AT_ZERO_NS.store(unix.saturating_sub(uptime_ns()), Ordering::Relaxed);
}

/// Returns nanoseconds since 1970, if the machine has a clock.
pub(crate) fn unix_ns() -> Option<u64> {
    match UNIX_AT_ZERO_NS.load(Ordering::Relaxed) {
        0 => None,
        zero => zero.checked_add(uptime_ns()),
    }
}
