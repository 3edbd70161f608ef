//! The ITS, as a guest uses it: one queue, tables in memory that the caller gives, LPIs from
//! [`FIRST`]. Works with QEMU's too, which wants memory for its tables.

use crate::gic::{GICD_TYPER, redistributor};
use crate::{machine, mem, smp};
use core::sync::atomic::{AtomicU64, Ordering};
use guest_abi::map::{GICD_BASE, ITS_BASE};

/// GITS_CTLR, offset.
pub const CTLR: u64 = 0x0;
/// GITS_TYPER, offset.
pub const TYPER: u64 = 0x8;
/// GITS_CBASER, offset.
pub const CBASER: u64 = 0x80;
/// GITS_CWRITER, offset.
pub const CWRITER: u64 = 0x88;
/// GITS_CREADR, offset.
pub const CREADR: u64 = 0x90;
/// GITS_BASER0, offset.
pub const BASER: u64 = 0x100;
/// GICR_CTLR, offset in RD_base.
pub const GICR_CTLR: u64 = 0x0;
/// GICR_PROPBASER, offset in RD_base.
pub const PROPBASER: u64 = 0x70;
/// GICR_PENDBASER, offset in RD_base.
pub const PENDBASER: u64 = 0x78;
/// INTID of the first LPI.
pub const FIRST: u32 = 8192;

/// Device ID that [`start`] maps, with 2^[`EVENT_BITS`] events.
pub const DEVICE: u64 = 0x10;
/// Bits of its event IDs.
pub const EVENT_BITS: u64 = 7;

/// Bytes of the queue.
const QUEUE_BYTES: u64 = 4096;
/// Where things are in the block.
const CONFIG: u64 = 0x1_0000;
const TABLES: u64 = 0x2_0000;
const ITT: u64 = 0x4_0000;
const PENDING: u64 = 0x8_0000;

static BLOCK: AtomicU64 = AtomicU64::new(0);

/// Returns whether the machine has LPIs, and so an ITS.
pub fn is_there() -> bool {
    mem::read32(GICD_BASE + GICD_TYPER) >> 17 & 1 == 1
}

fn read(offset: u64) -> u64 {
    mem::read64(ITS_BASE + offset)
}

/// Sets everything up from nothing in a block of 2 MiB: every redistributor's LPIs on, none
/// enabled; collection n leads to vCPU n; [`DEVICE`] is mapped. Returns whether the ITS answers.
pub fn start(block: u64) -> bool {
    BLOCK.store(block, Ordering::Relaxed);
    mem::write32(ITS_BASE + CTLR, 0);
    let cpus = machine::cpus();
    for n in 0..cpus {
        mem::write32(redistributor(n) + GICR_CTLR, 0);
    }
    for at in (block..block + 0x10_0000).step_by(8) {
        mem::write64(at, 0);
    }
    for n in 0..cpus {
        // 14 bits of INTID; inner shareable, write-back.
        mem::write64(redistributor(n) + PROPBASER, block + CONFIG | 0x78d);
        // The pending table is all zeroes (PTZ).
        let table = pending_table(n) | 0x780 | 1 << 62;
        mem::write64(redistributor(n) + PENDBASER, table);
        mem::write32(redistributor(n) + GICR_CTLR, 1);
    }
    for n in 0..8 {
        let at = ITS_BASE + BASER + n * 8;
        // Devices, collections: a page of 64 KiB each, flat.
        if matches!(mem::read64(at) >> 56 & 7, 1 | 4) {
            mem::write64(at, 1 << 63 | (block + TABLES + n % 2 * 0x1_0000) | 0x200);
        }
    }
    mem::write64(ITS_BASE + CBASER, 1 << 63 | block | 0x780);
    mem::write64(ITS_BASE + CWRITER, 0);
    mem::write32(ITS_BASE + CTLR, 1);
    for n in 0..cpus as u64 {
        command([0x09, 0, 1 << 63 | target(n) | n, 0]);
    }
    command([
        DEVICE << 32 | 0x08,
        EVENT_BITS - 1,
        1 << 63 | (block + ITT),
        0,
    ]);
    sync()
}

/// Returns the target field of a command for vCPU `n`: its processor number.
fn target(n: u64) -> u64 {
    n << 16
}

/// Returns where the pending table of vCPU `n` is.
pub fn pending_table(n: usize) -> u64 {
    BLOCK.load(Ordering::Relaxed) + PENDING + ((n as u64) << 16)
}

/// Sets the configuration byte of LPI `n` from [`FIRST`]; [`invalidate`] makes it known.
pub fn configure(n: u64, byte: u64) {
    mem::write8(BLOCK.load(Ordering::Relaxed) + CONFIG + n, byte);
}

/// Puts a command in the queue without telling the ITS; returns the offset behind it.
pub fn put(at: u64, words: [u64; 4]) -> u64 {
    for (n, word) in (0..).zip(words) {
        mem::write64(BLOCK.load(Ordering::Relaxed) + at + n * 8, word);
    }
    (at + 32) % QUEUE_BYTES
}

/// Issues a command.
#[inline(always)]
pub fn command(words: [u64; 4]) {
    let next = put(read(CWRITER), words);
    mem::write64(ITS_BASE + CWRITER, next);
}

/// Waits until all commands are done; returns whether they are.
pub fn sync() -> bool {
    command([0x05, 0, target(0), 0]);
    smp::wait(|| read(CREADR) == read(CWRITER))
}

/// Maps event `event` of [`DEVICE`] to LPI `n` from [`FIRST`] on vCPU `vcpu` (MAPTI).
pub fn map(event: u64, n: u64, vcpu: u64) {
    let intid = u64::from(FIRST) + n;
    command([DEVICE << 32 | 0x0a, intid << 32 | event, vcpu, 0]);
}

/// Has the configuration of an event's LPI looked at again (INV).
pub fn invalidate(event: u64) {
    command([DEVICE << 32 | 0x0c, event, 0, 0]);
}

/// Pends an event's LPI (INT).
#[inline(always)]
pub fn interrupt(event: u64) {
    command([DEVICE << 32 | 0x03, event, 0, 0]);
}

/// Clears the pending state of an event's LPI (CLEAR).
pub fn clear(event: u64) {
    command([DEVICE << 32 | 0x04, event, 0, 0]);
}

/// Unmaps an event, and clears its LPI (DISCARD).
pub fn discard(event: u64) {
    command([DEVICE << 32 | 0x0f, event, 0, 0]);
}

/// Moves an event to vCPU `vcpu` (MOVI).
pub fn move_to(event: u64, vcpu: u64) {
    command([DEVICE << 32 | 0x01, event, vcpu, 0]);
}

/// Moves all LPIs that pend on one vCPU to another (MOVALL).
pub fn move_all(from: u64, to: u64) {
    command([0x0e, 0, target(from), target(to)]);
}
