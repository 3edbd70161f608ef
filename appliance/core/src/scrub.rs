//! Frames zeroed ahead of time, while a core has nothing else to do.
//!
//! A stock for all cores; a fault that finds it empty zeroes its own frame. A core zeroes 64
//! KiB at a time and looks for interrupts in between. What lies here counts as free, and goes
//! back to the pool when that runs dry.

use core::sync::atomic::{AtomicU64, Ordering};

use arch::Pa;
use gmap::{Scrubbing, Stock, Unscrubbed};
use spin::Mutex;

use crate::hw;
use crate::per_cpu::{self, PerCpu};
use crate::stage2::Stage2;

static STOCK: Mutex<Stock> = Mutex::new(Stock::new());
/// Bytes in the stock, and in the hands of idle cores.
static BYTES: AtomicU64 = AtomicU64::new(0);
/// A frame that was given back and is to be zeroed first. It counts as free.
static LEAVING: Mutex<Option<Scrubbing>> = Mutex::new(None);
static WAITED: AtomicU64 = AtomicU64::new(0);
static IDLE: AtomicU64 = AtomicU64::new(0);

/// Returns the bytes zeroed, or about to be, that nobody uses.
pub(crate) fn stock_bytes() -> u64 {
    BYTES.load(Ordering::Relaxed)
}

/// Returns the bytes zeroed since core started: while somebody waited, and in idle time.
pub(crate) fn scrubbed() -> (u64, u64) {
    (WAITED.load(Ordering::Relaxed), IDLE.load(Ordering::Relaxed))
}

/// Counts bytes that went to the stock from the pool, whose lock is held.
pub(crate) fn count(bytes: u64) {
    BYTES.fetch_add(bytes, Ordering::Relaxed);
}

/// Counts bytes that went from the stock to the pool, whose lock is held.
pub(crate) fn uncount(bytes: u64) {
    BYTES.fetch_sub(bytes, Ordering::Relaxed);
}

/// Counts bytes that were zeroed while somebody waited.
pub(crate) fn waited(bytes: u64) {
    WAITED.fetch_add(bytes, Ordering::Relaxed);
}

/// Takes a zeroed frame of `order` out of the stock, if it has one.
pub(crate) fn take(order: u8) -> Option<Pa> {
    // Nobody waits for whoever is here: to zero a page is as quick.
    let frame = STOCK.try_lock()?.take(order)?;
    BYTES.fetch_sub(4096 << order, Ordering::Relaxed);
    Some(frame.into_pa())
}

/// Gives all frames back to the pool. Returns whether there were any.
pub(crate) fn release() -> bool {
    let machine = &mut Stage2::stock();
    let mut stock = core::mem::take(&mut *STOCK.lock());
    let mut freed = stock.bytes();
    stock.release(machine);
    if let Some(frame) = LEAVING.lock().take() {
        freed += frame.bytes();
        frame.free(machine);
    }
    for cpu in per_cpu::online() {
        if let Some(frame) = cpu.scrubbing.try_lock().and_then(|mut half| half.take()) {
            freed += frame.bytes();
            frame.free(machine);
        }
    }
    freed > 0
}

/// Gives back a frame that is to hold nothing any more: zeroed now, or as much of it as an
/// interrupt leaves time for, and the rest when the next comes or a core is idle.
pub(crate) fn leave(pa: Pa, order: u8) {
    BYTES.fetch_add(4096 << order, Ordering::Relaxed);
    *LEAVING.lock() = Some(Unscrubbed::from_frame(pa, order).begin());
    gone();
}

/// Goes on with the frame that was given back last, until an interrupt comes. Returns whether it
/// is in the pool: then there may be another.
pub(crate) fn gone() -> bool {
    while let Some(more) = leaving_step() {
        if more && hw::interrupt_pending() {
            return false;
        }
    }
    true
}

/// Zeroes a part of the frame that was given back; returns whether there is more to zero, `None` if
/// there is no such frame.
fn leaving_step() -> Option<bool> {
    let machine = &mut Stage2::stock();
    let mut leaving = LEAVING.lock();
    match leaving.take()?.step(machine) {
        Err(frame) => {
            *leaving = Some(frame);
            Some(true)
        }
        Ok(zeroed) => {
            zeroed.free(machine);
            Some(false)
        }
    }
}

/// Zeroes a little of what the stock lacks. Returns whether there may be more to do.
pub(crate) fn work(cpu: &PerCpu) -> bool {
    if leaving_step().is_some() {
        return true;
    }
    let machine = &mut Stage2::stock();
    // No lock is held meanwhile: an allocation may empty the stock.
    let half = cpu.scrubbing.lock().take();
    let frame = match half {
        Some(frame) => frame,
        None => match begin(machine) {
            Some(frame) => frame,
            None => return false,
        },
    };
    IDLE.fetch_add(frame.bytes().min(64 << 10), Ordering::Relaxed);
    match frame.step(machine) {
        Err(frame) => *cpu.scrubbing.lock() = Some(frame),
        Ok(zeroed) => {
            let put = STOCK.lock().put(zeroed);
            if let Err(frame) = put {
                // Another core was quicker.
                frame.free(machine);
            }
        }
    }
    true
}

fn begin(machine: &mut Stage2<'_>) -> Option<Scrubbing> {
    let order = STOCK.lock().wants()?;
    Some(Unscrubbed::alloc(machine, order)?.begin())
}
