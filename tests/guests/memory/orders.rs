//! What the root of the memory tests asks of its guest, through a page of the guest's RAM.
#![allow(dead_code, reason = "the guest uses one half of this, root the other")]

/// First byte of the page, from the first byte of RAM.
pub(crate) const MAILBOX: u64 = 8 << 20;
/// Number of the order: root writes it last.
pub(crate) const SEQUENCE: u64 = 0;
/// The order.
pub(crate) const ORDER: u64 = 8;
/// Six arguments.
pub(crate) const ARGUMENTS: u64 = 16;
/// Number of the order that was carried out last: the guest writes it last.
pub(crate) const DONE: u64 = 64;
/// Two results, and the ticks that the order took.
pub(crate) const RESULTS: u64 = 72;

/// `(address, count, stride) -> (sum)`: loads 64 bits at each of `count` addresses.
pub(crate) const READ: u64 = 1;
/// `(address, count, stride, value)`: stores `value + n` at each of `count` addresses.
pub(crate) const WRITE: u64 = 2;
/// `(function, x1, x2, x3) -> (x0, x1)`: makes a call.
pub(crate) const CALL: u64 = 3;
/// `(address, count, stride, value) -> (wrong)`: counts where `value + n` is not.
pub(crate) const CHECK: u64 = 4;
/// `(address, bytes, times)`: adds one to `bytes` bytes, atomically, `times` times.
pub(crate) const COUNT: u64 = 5;
/// `(address, pages, rounds, seed) -> (wrong)`: writes a pattern over pages, some of them
/// zeroes, and checks what was there before, again and again.
pub(crate) const LOAD: u64 = 6;
/// `(function, op, address, pages) -> (done)`: calls for pages until all are done.
pub(crate) const EACH: u64 = 7;
/// Switches the VM off.
pub(crate) const OFF: u64 = 8;
/// `(ns)`: sleeps, so that root has the core to itself.
pub(crate) const SLEEP: u64 = 9;

/// `(address, pages, tag)`: every other vCPU reads the first words of pages, until [`UNGUARD`],
/// and counts those whose upper half is neither `tag`'s nor zero.
pub(crate) const GUARD: u64 = 10;
/// `() -> (wrong, reads)`: ends that.
pub(crate) const UNGUARD: u64 = 11;
/// `(address, bytes, seed)`: fills memory with [`secret`] words.
pub(crate) const HIDE: u64 = 12;
/// `(address, ns) -> (ticks)`: stores 64 bits at the address, lets its timer come `ns` after that
/// began, and says how long that interrupt waited.
pub(crate) const LATE: u64 = 13;

/// `(function, x1, x2, x3) -> (ticks, x0)`: makes a call, lets the timer come [`AHEAD_NS`] after
/// that began, and says how long that interrupt waited.
pub(crate) const LATE_CALL: u64 = 14;
/// How far into what takes long the interrupt comes.
pub(crate) const AHEAD_NS: u64 = 10_000;

/// What all secret words end in: what looks for them looks at this first.
pub(crate) const SECRET_END: u64 = 0xa53c;

/// The `n`th word that [`HIDE`] writes: nobody but the guest ever computes one in the machine.
pub(crate) fn secret(seed: u64, n: u64) -> u64 {
    let mut x = (seed ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 31;
    x.wrapping_mul(0xd6e8_feb8_6659_fd93) & !0xffff | SECRET_END
}

/// The word that page `page` of [`LOAD`] holds in `round` at doubleword `n`: zero in one of
/// four pages.
pub(crate) fn pattern(seed: u64, page: u64, round: u64, n: u64) -> u64 {
    let mut x = seed ^ page.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round << 32;
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 32;
    if x & 3 == 0 { 0 } else { x ^ n }
}
