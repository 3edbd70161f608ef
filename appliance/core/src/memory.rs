//! All of RAM, seen once: at [`PHYSMAP`] + PA. The frame pool, and table memory for gmap.
#![expect(
    unsafe_code,
    reason = "the linear map turns physical addresses into memory"
)]

use core::sync::atomic::{AtomicU64, Ordering};

use arch::{Pa, Width};
use boot_entry::PHYSMAP;
use boot_info::{BootInfo, FreeRuns, Range};
use gmap::Pool;
use spin::Mutex;

use crate::{per_cpu, scrub};

/// The machine's free frames.
static POOL: Mutex<Option<Pool<'static>>> = Mutex::new(None);
/// Bytes of RAM in the machine, and of those the bytes core keeps for itself for good.
static RAM_BYTES: AtomicU64 = AtomicU64::new(0);
static CORE_BYTES: AtomicU64 = AtomicU64::new(0);
/// PA of an empty table: what VTTBR_EL2 points to while another VMID's TLB is maintained.
static POOL_FROM: AtomicU64 = AtomicU64::new(0);
static POOL_TO: AtomicU64 = AtomicU64::new(0);
static EMPTY_TABLE: AtomicU64 = AtomicU64::new(0);

/// Order of a block of 2 MiB.
pub(crate) const BLOCK_ORDER: u8 = 9;
/// Order of the block of zeroes that VMs may share.
pub(crate) const ZEROES_ORDER: u8 = BLOCK_ORDER;
/// Bytes of a frame of order 0.
pub(crate) const FRAME: u64 = 4096;

/// Returns where core sees physical address `pa`.
#[inline(always)]
pub(crate) const fn va(pa: Pa) -> u64 {
    PHYSMAP.wrapping_add(pa.raw())
}

/// Returns a pointer to the `T` that core keeps at `pa`.
#[inline(always)]
pub(crate) const fn ptr<T>(pa: Pa) -> *mut T {
    va(pa) as *mut T
}

/// Returns the table that is empty for ever.
pub(crate) fn empty_table() -> u64 {
    EMPTY_TABLE.load(Ordering::Relaxed)
}

/// Gives the frame pool all RAM that nothing else occupies.
///
/// `image` is core with its bundle, `taken` what else is in use besides what the firmware
/// reserved.
pub(crate) fn init(info: &BootInfo, image: Range, taken: &[Range]) {
    let mut first = u64::MAX;
    let mut end = 0;
    let mut ram = 0_u64;
    for range in info.ram.iter() {
        first = first.min(range.pa);
        end = end.max(range.end());
        ram = ram.saturating_add(range.bytes);
    }
    RAM_BYTES.store(ram, Ordering::Relaxed);
    POOL_FROM.store(first, Ordering::Relaxed);
    POOL_TO.store(end, Ordering::Relaxed);
    let base = Pa::new(first & !(FRAME - 1)).expect("boot_info accepts addresses below 2^48");
    let frames = end.saturating_sub(first) / FRAME;
    let meta_bytes = (Pool::metadata_words(frames) as u64 * 8).next_multiple_of(FRAME);

    // The records go behind the image, where the loader left RAM free.
    let meta_pa = image.end().next_multiple_of(FRAME);
    let meta_range = Range::new(meta_pa, meta_bytes).expect("frame records fit in RAM");
    assert!(
        info.ram
            .iter()
            .any(|r| r.pa <= meta_pa && meta_range.end() <= r.end()),
        "no room for the frame records behind the image"
    );
    // SAFETY: 1. the range is RAM behind the image, mapped in the linear map, and (by the
    // assertion) inside one bank; 2. it is taken out of what is donated below, so nothing
    // else refers to it; 3. the words are written before they are read.
    unsafe { core::ptr::write_bytes((PHYSMAP + meta_pa) as *mut u8, 0, meta_bytes as usize) };
    // SAFETY: as above.
    let meta = unsafe {
        core::slice::from_raw_parts_mut((PHYSMAP + meta_pa) as *mut u64, meta_bytes as usize / 8)
    };
    let mut pool = Pool::new(meta, base, frames).expect("records are as large as asked for");

    let mut free = 0_u64;
    for bank in info.ram.iter() {
        let occupied = info
            .reserved
            .iter()
            .chain(taken.iter().copied())
            .chain([image, meta_range]);
        for run in FreeRuns::new(bank, occupied) {
            let from = Pa::new(run.pa).expect("RAM lies below 2^48");
            let to = Pa::new(run.end()).expect("RAM lies below 2^48");
            pool.donate(from..to).expect("free runs are disjoint");
            free += run.bytes;
        }
    }
    CORE_BYTES.store(ram.saturating_sub(free), Ordering::Relaxed);
    let empty = pool.alloc(0).expect("there is RAM");
    scrub(empty, 0);
    EMPTY_TABLE.store(empty.raw(), Ordering::Relaxed);
    *POOL.lock() = Some(pool);
}

/// What the machine's memory is used for, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// RAM in the machine.
    pub(crate) ram: u64,
    /// In no one's use.
    pub(crate) free: u64,
    /// Core's image, records and what the firmware reserved.
    pub(crate) core: u64,
}

/// Returns what the machine's memory is used for.
pub(crate) fn usage() -> Usage {
    let pool = POOL.lock();
    // Frames go to the stock and come back with the lock held.
    let free = pool.as_ref().map_or(0, Pool::free_bytes) + scrub::stock_bytes();
    drop(pool);
    Usage {
        ram: RAM_BYTES.load(Ordering::Relaxed),
        free,
        core: CORE_BYTES.load(Ordering::Relaxed),
    }
}

/// Returns the bytes that an allocation can have at once: not those that cores zero ahead.
pub(crate) fn pool_bytes() -> u64 {
    POOL.lock().as_ref().map_or(0, Pool::free_bytes)
}

/// Returns the order of the largest free block.
pub(crate) fn largest_order() -> Option<u8> {
    POOL.lock().as_ref()?.largest_order()
}

/// Allocates `4096 << order` bytes as they are.
pub(crate) fn alloc(order: u8) -> Option<Pa> {
    let mut pa = POOL.lock().as_mut()?.alloc(order);
    if pa.is_none() && scrub::release() {
        pa = POOL.lock().as_mut()?.alloc(order);
    }
    if pa.is_none() {
        per_cpu::this().short.fetch_add(1, Ordering::Relaxed);
    }
    pa
}

/// Allocates `4096 << order` zeroed bytes.
pub(crate) fn alloc_zeroed(order: u8) -> Option<Pa> {
    if let Some(pa) = scrub::take(order) {
        return Some(pa);
    }
    let pa = alloc(order)?;
    scrub(pa, order);
    scrub::waited(FRAME << order);
    Some(pa)
}

/// Scrubs a frame and gives it back.
pub(crate) fn free(pa: Pa, order: u8) {
    scrub(pa, order);
    free_unscrubbed(pa, order);
}

/// Gives a frame back as it is; whoever gets it next scrubs it first.
pub(crate) fn free_unscrubbed(pa: Pa, order: u8) {
    if let Some(pool) = POOL.lock().as_mut() {
        pool.free(pa, order)
            .expect("frames are freed once, by who allocated them");
    }
}

/// Takes a frame for the stock, if the pool has one of the order: it counts as free still.
pub(crate) fn alloc_for_stock(order: u8) -> Option<Pa> {
    let mut pool = POOL.lock();
    let pa = pool.as_mut()?.alloc(order)?;
    scrub::count(FRAME << order);
    Some(pa)
}

/// Gives a frame of the stock back to the pool.
pub(crate) fn free_from_stock(pa: Pa, order: u8) {
    if let Some(pool) = POOL.lock().as_mut() {
        pool.free(pa, order)
            .expect("frames are freed once, by who allocated them");
        scrub::uncount(FRAME << order);
    }
}

/// Keeps a block of zeroes of [`ZEROES_ORDER`] that nobody writes any more: it is never freed.
pub(crate) fn keep_zeroes(pa: Pa) {
    if let Some(pool) = POOL.lock().as_mut() {
        pool.keep(pa, ZEROES_ORDER)
            .expect("the block was just allocated");
        CORE_BYTES.fetch_add(FRAME << ZEROES_ORDER, Ordering::Relaxed);
    }
}

/// Counts another user of a frame that the caller holds; false if it cannot have one.
pub(crate) fn share(pa: Pa, order: u8) -> bool {
    let mut pool = POOL.lock();
    pool.as_mut()
        .is_some_and(|pool| pool.share(pa, order).is_ok())
}

/// Returns whether a frame has users besides the caller.
pub(crate) fn is_shared(pa: Pa, order: u8) -> bool {
    let pool = POOL.lock();
    pool.as_ref().is_none_or(|pool| pool.is_shared(pa, order))
}

/// Ends one use of a frame that is or was shared.
pub(crate) fn release(pa: Pa, order: u8) {
    if let Some(pool) = POOL.lock().as_mut() {
        pool.release(pa, order)
            .expect("a use of a frame ends once, by who began it");
    }
}

/// Returns `count` zeroed words, for good.
pub(crate) fn words(count: usize) -> Option<&'static mut [u64]> {
    let bytes = (count as u64 * 8).next_power_of_two().max(FRAME);
    let pa = alloc_zeroed((bytes / FRAME).trailing_zeros() as u8)?;
    CORE_BYTES.fetch_add(bytes, Ordering::Relaxed);
    // SAFETY: the block was just allocated zeroed, is large enough, and is never freed.
    Some(unsafe { core::slice::from_raw_parts_mut(ptr::<u64>(pa), count) })
}

/// Returns entry `index` of the table, or word of the page, at `table`.
pub(crate) fn entry(table: Pa, index: usize) -> &'static AtomicU64 {
    assert!(index < 512, "a table has 512 entries");
    let va = va(table) + index as u64 * 8;
    // SAFETY: gmap passes only frames it allocated here as tables; they stay mapped in
    // the linear map for ever, and entries are accessed atomically by everyone.
    unsafe { AtomicU64::from_ptr(va as *mut u64) }
}

/// Zeroes `4096 << order` bytes and cleans them to the point of coherency.
pub(crate) fn scrub(pa: Pa, order: u8) {
    let bytes = FRAME << order;
    let start = va(pa);
    let end = start + bytes;
    // DC ZVA zeroes 64 bytes on every core built so far (DCZID_EL0.BS = 4); core
    // checks that at start. Zero and clean a line at a time.
    // SAFETY: the frame is core's to overwrite: it was just allocated or is being
    // freed, and no Rust object lives in it.
    unsafe {
        core::arch::asm!(
            "2: dc zva, {at}",
            "dc civac, {at}",
            "add {at}, {at}, #64",
            "cmp {at}, {end}",
            "b.lo 2b",
            "dsb ish",
            "ic ialluis",
            "dsb ish",
            at = inout(reg) start => _,
            end = in(reg) end,
            options(nostack)
        );
    }
}

/// Returns whether `4096 << order` bytes are zero at the time they are read.
pub(crate) fn is_zero(pa: Pa, order: u8) -> bool {
    let start = va(pa);
    let found: u64;
    // A line in fifteen instructions: a block of 2 MiB is looked at in one go.
    // SAFETY: the caller holds the frame, and it is only read. A guest may write it meanwhile,
    // which is why this is not done through a reference.
    unsafe {
        core::arch::asm!(
            "2: ldp {a}, {b}, [{at}]",
            "ldp {c}, {d}, [{at}, #16]",
            "ldp {e}, {f}, [{at}, #32]",
            "ldp {g}, {h}, [{at}, #48]",
            "orr {a}, {a}, {b}",
            "orr {c}, {c}, {d}",
            "orr {e}, {e}, {f}",
            "orr {g}, {g}, {h}",
            "orr {a}, {a}, {c}",
            "orr {e}, {e}, {g}",
            "orr {a}, {a}, {e}",
            "add {at}, {at}, #64",
            "cbnz {a}, 3f",
            "cmp {at}, {end}",
            "b.lo 2b",
            "3:",
            at = inout(reg) start => _,
            end = in(reg) start + (FRAME << order),
            a = out(reg) found, b = out(reg) _, c = out(reg) _, d = out(reg) _,
            e = out(reg) _, f = out(reg) _, g = out(reg) _, h = out(reg) _,
            options(nostack, readonly)
        );
    }
    found == 0
}

/// Copies a frame of `4096 << order` bytes and cleans the copy to the point of coherency.
pub(crate) fn copy_frame(to: Pa, from: Pa, order: u8) {
    let start = va(from);
    // SAFETY: the caller has the right to read one frame and to write the other, which no Rust
    // object lives in; they are RAM in the linear map, and do not overlap.
    unsafe {
        core::arch::asm!(
            "2: ldp {a}, {b}, [{from}]",
            "ldp {c}, {d}, [{from}, #16]",
            "ldp {e}, {f}, [{from}, #32]",
            "ldp {g}, {h}, [{from}, #48]",
            "stp {a}, {b}, [{to}]",
            "stp {c}, {d}, [{to}, #16]",
            "stp {e}, {f}, [{to}, #32]",
            "stp {g}, {h}, [{to}, #48]",
            "dc civac, {to}",
            "add {from}, {from}, #64",
            "add {to}, {to}, #64",
            "cmp {from}, {end}",
            "b.lo 2b",
            "dsb ish",
            "ic ialluis",
            "dsb ish",
            "isb",
            from = inout(reg) start => _,
            to = inout(reg) va(to) => _,
            end = in(reg) start + (FRAME << order),
            a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
            e = out(reg) _, f = out(reg) _, g = out(reg) _, h = out(reg) _,
            options(nostack)
        );
    }
}

/// Reads the 64 bits at `pa`, a multiple of 8 in RAM.
pub(crate) fn word(pa: Pa) -> u64 {
    entry(pa.align_down(FRAME), (pa.raw() % FRAME / 8) as usize).load(Ordering::Relaxed)
}

/// Zeroes `bytes` from `pa`, which the caller has the right to write.
pub(crate) fn zero(pa: Pa, bytes: u64) {
    // SAFETY: the caller vouches that the range is RAM in the linear map.
    unsafe { core::ptr::write_bytes(ptr::<u8>(pa), 0, bytes as usize) }
}

/// Copies `bytes` from one physical address to another.
///
/// Both ranges must be RAM that the caller has the right to read or write.
pub(crate) fn copy(to: Pa, from: Pa, bytes: u64) {
    copy_from(to, ptr::<u8>(from), bytes);
}

/// Copies `bytes` from core's own memory to a physical address.
pub(crate) fn copy_in(to: Pa, from: &[u8]) {
    copy_from(to, from.as_ptr(), from.len() as u64);
}

/// Copies bytes at a physical address to core's own memory, once.
pub(crate) fn copy_out(from: Pa, to: &mut [u8]) {
    // SAFETY: the caller vouches that the range is RAM in the linear map; it may change
    // meanwhile, so nothing here depends on what the bytes are.
    unsafe { core::ptr::copy(ptr::<u8>(from), to.as_mut_ptr(), to.len()) }
}

/// Reads a record of plain bytes from granted RAM, once.
pub(crate) fn read_record<T: Record>(from: Pa) -> T {
    assert!(
        from.is_aligned(align_of::<T>() as u64),
        "a record is not aligned"
    );
    // SAFETY: the caller checked that the range is granted RAM; any bytes are a valid T.
    unsafe { core::ptr::read_volatile(ptr::<T>(from)) }
}

/// Writes a record of plain bytes to granted RAM.
pub(crate) fn write_record<T: Record>(to: Pa, record: &T) {
    assert!(
        to.is_aligned(align_of::<T>() as u64),
        "a record is not aligned"
    );
    // SAFETY: as above; no Rust object of core's lives there.
    unsafe { core::ptr::write_volatile(ptr::<T>(to), *record) }
}

/// What root and core exchange: any bytes are a value of it.
pub(crate) trait Record: Copy {}
impl Record for guest_abi::memory_call::Exchange {}
impl Record for guest_abi::memory_call::MemoryPolicy {}

fn copy_from(to: Pa, from: *const u8, bytes: u64) {
    // SAFETY: the caller vouches that both ranges are RAM in the linear map; guests may
    // change them meanwhile, so nothing here depends on what the bytes are.
    unsafe {
        core::ptr::copy(from, ptr::<u8>(to), bytes as usize);
    }
}

/// Reads a byte or a word from RAM that the caller has the right to read.
pub(crate) fn load(from: Pa, width: Width) -> u64 {
    let bytes = if width == Width::Byte { 1 } else { 4 };
    let mut value = 0;
    for n in (0..bytes).rev() {
        let at = va(from).wrapping_add(n) as *const u8;
        // SAFETY: the caller vouches for RAM in the linear map; others may change it meanwhile.
        value = value << 8 | u64::from(unsafe { core::ptr::read_volatile(at) });
    }
    value
}

/// Returns whether the frame is one that the pool deals in: RAM that is not core's own.
pub(crate) fn is_pool(pa: Pa) -> bool {
    let (from, to) = (
        POOL_FROM.load(Ordering::Relaxed),
        POOL_TO.load(Ordering::Relaxed),
    );
    pa.raw() >= from && pa.raw() < to
}

/// Returns the physical address of something in the linear map.
pub(crate) fn pa_of(va: u64) -> Pa {
    Pa::new(va.wrapping_sub(PHYSMAP)).expect("the address lies in the linear map")
}
