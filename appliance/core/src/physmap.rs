//! EL2's final stage 1: core's image with its permissions, all RAM and the devices core
//! drives at [`PHYSMAP`] + PA, and the one page that other cores wake up in.
#![expect(unsafe_code, reason = "writes page tables and switches to them")]

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use boot_entry::tables::{self, Kind, MapError, Pages};
use boot_entry::{CORE_BASE, PHYSMAP};
use boot_info::{BootInfo, Range};
use spin::Mutex;

use crate::{hw, layout};

const POOL_PAGES: usize = 64;
/// Where [`window_entry`] shows a page: past what the linear map and the image use.
pub(crate) const WINDOW: u64 = 0x7000_0000_0000;
const STACK_BYTES: u64 = 0x1_0000;

#[repr(C, align(4096))]
struct Page([AtomicU64; 512]);
static POOL: [Page; POOL_PAGES] = [const { Page([const { AtomicU64::new(0) }; 512]) }; POOL_PAGES];

unsafe extern "C" {
    static final_ttbr: AtomicU64;
}

/// The builder: pages from a static pool, in core's image.
struct Builder {
    used: usize,
    /// PA of CORE_BASE.
    image_pa: u64,
    root: u64,
}

static BUILDER: Mutex<Option<Builder>> = Mutex::new(None);

impl Builder {
    fn table(&self, pa: u64) -> &'static [AtomicU64; 512] {
        let first = core::ptr::from_ref(&POOL) as u64;
        let va = pa - self.image_pa + CORE_BASE;
        let n = (va - first) / 4096;
        &POOL.get(n as usize).expect("tables come from the pool").0
    }
}

impl Builder {
    /// Returns the level 3 entry for `va`, to which all tables are there.
    fn entry(&self, root: u64, va: u64) -> Option<&'static AtomicU64> {
        const OUTPUT: u64 = 0x0000_ffff_ffff_f000;
        let index = |shift: u32| (va >> shift & 511) as usize;
        let mut table = root;
        for shift in [39, 30, 21] {
            table = self.read(table, index(shift)) & OUTPUT;
        }
        self.table(table).get(index(12))
    }
}

impl Pages for Builder {
    fn page(&mut self) -> Option<u64> {
        let page = POOL.get(self.used)?;
        self.used += 1;
        Some(core::ptr::from_ref(page) as u64 - CORE_BASE + self.image_pa)
    }

    fn read(&self, table: u64, index: usize) -> u64 {
        self.table(table)
            .get(index)
            .map_or(0, |entry| entry.load(Ordering::Relaxed))
    }

    fn write(&mut self, table: u64, index: usize, value: u64) {
        if let Some(entry) = self.table(table).get(index) {
            entry.store(value, Ordering::Relaxed);
        }
    }
}

static WINDOW_ENTRY: AtomicPtr<AtomicU64> = AtomicPtr::new(core::ptr::null_mut());

/// Returns the level 3 entry of [`WINDOW`], which its user fills and clears.
pub(crate) fn window_entry() -> Option<&'static AtomicU64> {
    // SAFETY: null, or an entry of a table in the static pool, which is never freed.
    unsafe { WINDOW_ENTRY.load(Ordering::Acquire).as_ref() }
}

/// Maps core itself, with its permissions, and switches to these tables.
pub(crate) fn init(image_pa: u64) -> Result<(), MapError> {
    let mut builder = Builder {
        used: 0,
        image_pa,
        root: 0,
    };
    new_tree(&mut builder)?;
    hw::set_ttbr0_el2(builder.root);
    *BUILDER.lock() = Some(builder);
    Ok(())
}

/// Adds a window onto RAM, for reading the device tree.
pub(crate) fn add_window(window: Range) -> Result<(), MapError> {
    let mut guard = BUILDER.lock();
    let builder = guard.as_mut().ok_or(MapError::NoPages)?;
    let (from, to) = (window.pa & !0xfff, window.end().next_multiple_of(4096));
    let root = builder.root;
    // 4 KiB at a time: a page that is mapped already stays.
    for at in (from..to).step_by(4096) {
        tables::map(builder, root, PHYSMAP + at, at, 4096, Kind::Rodata)?;
    }
    hw::dsb_ish();
    hw::isb();
    Ok(())
}

/// Adds a device to the tables in use, for a report before boot is far enough.
pub(crate) fn add_device(range: Range) -> Result<(), MapError> {
    let mut guard = BUILDER.lock();
    let builder = guard.as_mut().ok_or(MapError::NoPages)?;
    let (from, to) = (range.pa & !0xfff, range.end().next_multiple_of(4096));
    let root = builder.root;
    tables::map(builder, root, PHYSMAP + from, from, to - from, Kind::Device)?;
    hw::dsb_ish();
    hw::isb();
    Ok(())
}

/// Builds the tables that stay, now that RAM and devices are known, and switches to them.
pub(crate) fn finish(info: &BootInfo) -> Result<(), MapError> {
    let mut guard = BUILDER.lock();
    let builder = guard.as_mut().ok_or(MapError::NoPages)?;
    new_tree(builder)?;
    let root = builder.root;
    let mut physmap = |range: Range, kind| {
        let (from, to) = (range.pa & !0xfff, range.end().next_multiple_of(4096));
        tables::map(builder, root, PHYSMAP + from, from, to - from, kind)
    };
    for ram in info.ram.iter() {
        physmap(ram, Kind::Data)?;
    }
    physmap(info.gic.distributor, Kind::Device)?;
    for region in info.gic.redistributors.iter() {
        physmap(region, Kind::Device)?;
    }
    if let Some(uart) = info.uart {
        physmap(uart.registers, Kind::Device)?;
    }
    // The tables on the way to the window stay; what it shows meanwhile does not matter.
    let anything = info.gic.distributor.pa & !0xfff;
    tables::map(builder, root, WINDOW, anything, 4096, Kind::Device)?;
    if let Some(entry) = builder.entry(root, WINDOW) {
        entry.store(0, Ordering::Release);
        let entry = core::ptr::from_ref(entry).cast_mut();
        WINDOW_ENTRY.store(entry, Ordering::Release);
    }
    // SAFETY: the word is written here once, before any other core starts.
    unsafe { final_ttbr.store(root, Ordering::Release) };
    hw::set_ttbr0_el2(root);
    Ok(())
}

/// Starts a tree that maps core's image, each stack behind an unmapped guard page.
fn new_tree(builder: &mut Builder) -> Result<(), MapError> {
    let root = builder.page().ok_or(MapError::NoPages)?;
    builder.root = root;
    let image_pa = builder.image_pa;
    let mut image = |from: u64, to: u64, kind| {
        let pa = from - CORE_BASE + image_pa;
        tables::map(builder, root, from, pa, to - from, kind)
    };
    image(CORE_BASE, layout::text_end(), Kind::Text)?;
    image(layout::text_end(), layout::rodata_end(), Kind::Rodata)?;
    image(layout::rodata_end(), layout::stacks_start(), Kind::Data)?;
    let mut stack = layout::stacks_start();
    while stack < layout::image_end() {
        image(stack + 4096, stack + STACK_BYTES, Kind::Data)?;
        stack += STACK_BYTES;
    }
    // Other cores turn their MMU on in the first page of the image, at its PA.
    tables::map(builder, root, image_pa, image_pa, 4096, Kind::Text)
}
