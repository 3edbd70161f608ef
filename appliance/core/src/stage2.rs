//! What the machine's stage 2 can do, and one VM's stage 2: its lock, its tables' machine,
//! its VMID.
//!
//! The lock is held shared by faults, age, dirty logs, keys and page states, exclusively by
//! whoever takes frames or tables away. It is taken after no other lock but the console's and
//! a device's, and before the frame pool's; no frame is scrubbed with it held, except where a VM asked for its
//! frames to be wiped.

use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use arch::{Ipa, Pa, tlbi};
use gmap::{Ask, Event, Features, Gmap, Held, Level, Machine, Rank, Scrubbing, Vmids, WorkingSet};
use guest_abi::core_call::Status;
use guest_abi::memory_call::{
    HARDWARE_BBM2, HARDWARE_FWB, HARDWARE_HAFDBS, HARDWARE_TLB_RANGE, HARDWARE_TTL,
};
use spin::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::guest::GUEST_IPA_BITS;
use crate::passthrough::{View, smmu};
use crate::{guest, guest_fault, hw, memory, per_cpu, pins, world};

/// Bits of [`guest_abi::memory_call::HostMemory::hardware`].
static HARDWARE: AtomicU64 = AtomicU64::new(0);
/// 8 or 16.
static VMID_BITS: AtomicU8 = AtomicU8::new(8);
static VMIDS: Mutex<Option<Vmids<'static>>> = Mutex::new(None);
static VMIDS_USED: AtomicU64 = AtomicU64::new(0);
/// The block of zeroes that VMs may share, once one was asked for; 0 before.
static ZEROES: AtomicU64 = AtomicU64::new(0);
static MAKE_ZEROES: Mutex<Option<Scrubbing>> = Mutex::new(None);

/// TLB maintenance on behalf of all VMs, as [`Space::tlbi`], and on this core alone.
pub(crate) static TLBI: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// VTCR_EL2.VS: VMIDs have 16 bits.
const VTCR_VS: u64 = 1 << 19;

/// Reads what the boot core can do. All cores are taken to be alike.
pub(crate) fn detect() {
    let field = |register: u64, lsb: u32| register >> lsb & 0xf;
    let (mmfr1, mmfr2) = (hw::id_aa64mmfr1(), hw::id_aa64mmfr2());
    let mut bits = 0;
    for (present, bit) in [
        (field(mmfr1, 0) >= 2, HARDWARE_HAFDBS),
        (field(mmfr2, 52) >= 2, HARDWARE_BBM2),
        (field(mmfr2, 40) != 0, HARDWARE_FWB),
        (field(mmfr2, 48) != 0, HARDWARE_TTL),
        (field(hw::id_aa64isar0(), 56) >= 2, HARDWARE_TLB_RANGE),
    ] {
        if present {
            bits |= bit;
        }
    }
    HARDWARE.store(bits, Ordering::Relaxed);
    let vmid_bits = if field(mmfr1, 4) >= 2 { 16 } else { 8 };
    VMID_BITS.store(vmid_bits, Ordering::Relaxed);
    let words = Vmids::words(vmid_bits);
    let memory = memory::words(words).expect("there is RAM for the VMIDs");
    *VMIDS.lock() = Vmids::new(memory, vmid_bits);
}

/// Returns whether the machine has the feature that `bit` stands for.
pub(crate) fn has(bit: u64) -> bool {
    HARDWARE.load(Ordering::Relaxed) & bit != 0
}

/// Returns all of them.
pub(crate) fn hardware() -> u64 {
    HARDWARE.load(Ordering::Relaxed)
}

/// Returns how many VMIDs there are for VMs, and how many are in use.
pub(crate) fn vmids() -> (u64, u64) {
    let all = 1_u64 << VMID_BITS.load(Ordering::Relaxed);
    (all - 1, VMIDS_USED.load(Ordering::Relaxed))
}

/// Returns VTCR_EL2 for an IPA space of `ipa_bits`.
pub(crate) fn vtcr(ipa_bits: u8) -> u64 {
    let value = gmap::vtcr(ipa_bits, world::pa_range(), has(HARDWARE_HAFDBS));
    if VMID_BITS.load(Ordering::Relaxed) == 16 {
        value | VTCR_VS
    } else {
        value
    }
}

/// Makes sure that there is a block of zeroes to share. [`Status::Again`] until it is zeroed.
pub(crate) fn make_zeroes() -> Result<(), Status> {
    let mut half = MAKE_ZEROES.lock();
    if ZEROES.load(Ordering::Acquire) != 0 {
        return Ok(());
    }
    let block = guest_fault::step(&mut half, memory::ZEROES_ORDER).map_err(guest_fault::unmade)?;
    memory::keep_zeroes(block);
    ZEROES.store(block.raw(), Ordering::Release);
    Ok(())
}

/// Takes a VMID that no live VM has.
pub(crate) fn take_vmid() -> Option<u16> {
    let vmid = VMIDS.lock().as_mut()?.alloc()?;
    VMIDS_USED.fetch_add(1, Ordering::Relaxed);
    Some(vmid)
}

/// Gives a VMID back, nothing of which is in any TLB any more.
pub(crate) fn free_vmid(vmid: u16) {
    let freed = VMIDS.lock().as_mut().is_some_and(|vmids| vmids.free(vmid));
    assert!(freed, "a VMID was freed that was not in use");
    VMIDS_USED.fetch_sub(1, Ordering::Relaxed);
}

/// Makes an IPA space with a VMID of its own.
pub(crate) fn new(ipa_bits: u8) -> Option<Gmap> {
    let vmid = take_vmid()?;
    let features = Features {
        fwb: has(HARDWARE_FWB),
        hafdbs: has(HARDWARE_HAFDBS),
    };
    match Gmap::new(&mut Stage2::unseen(), vmid, ipa_bits, features) {
        Ok(mut gmap) => {
            gmap.set_bbm2(has(HARDWARE_BBM2));
            Some(gmap)
        }
        Err(_) => {
            free_vmid(vmid);
            None
        }
    }
}

/// Makes tables for the devices of a VM: the SMMU walks them, and no core. They have neither
/// hardware's dirty state nor forced write-back, which stream table entries do not ask for.
pub(crate) fn new_view() -> Option<Gmap> {
    let vmid = take_vmid()?;
    let features = Features {
        fwb: false,
        hafdbs: false,
    };
    let gmap = Gmap::new(&mut Stage2::view(), vmid, GUEST_IPA_BITS, features).ok();
    if gmap.is_none() {
        free_vmid(vmid);
    }
    gmap
}

/// Counters of TLB maintenance: one address, a range, all of a VMID.
pub(crate) type Counts = [AtomicU64; 3];

/// A VM's IPA space, its lock and its counters.
#[derive(Debug)]
pub(crate) struct Space {
    lock: RwLock<Gmap>,
    /// The VM's slot.
    slot: usize,
    /// TLB maintenance on behalf of the VM: one address, a range, all of it.
    pub(crate) tlbi: Counts,
    /// Bytes of RAM given back since the VM was made.
    pub(crate) reclaimed: AtomicU64,
    /// What the VM's devices reach by themselves.
    pub(crate) dma: View,
    /// What whole scans of age found.
    pub(crate) working_set: Mutex<WorkingSet>,
    /// How far shared pages have been given frames of the VM's own. Changes under the lock.
    pub(crate) unshared: AtomicU64,
    /// A frame of 1 GiB that a fault waits for, as far as it is zeroed.
    pub(crate) huge: Mutex<Option<Scrubbing>>,
    /// Pages that vCPUs need while they run.
    pub(crate) pins: pins::Pins,
}

impl Space {
    /// Puts `gmap` behind its lock.
    pub(crate) fn new(slot: usize, gmap: Gmap) -> Self {
        Self {
            lock: RwLock::new(gmap),
            slot,
            tlbi: [const { AtomicU64::new(0) }; 3],
            reclaimed: AtomicU64::new(0),
            dma: View::new(),
            working_set: Mutex::new(WorkingSet::default()),
            unshared: AtomicU64::new(0),
            huge: Mutex::new(None),
            pins: pins::Pins::new(),
        }
    }

    /// Takes the lock shared.
    #[inline]
    pub(crate) fn shared(&self) -> Shared<'_> {
        let order = InOrder::begin();
        Shared {
            gmap: self.lock.read(),
            _order: order,
        }
    }

    /// Takes the lock exclusively. While it waits no new reader gets in.
    pub(crate) fn exclusive(&self) -> Exclusive<'_> {
        let order = InOrder::begin();
        Exclusive {
            gmap: self.lock.upgradeable_read().upgrade(),
            _order: Some(order),
        }
    }

    /// Takes the locks of two spaces exclusively, always in the order of their slots.
    pub(crate) fn both<'a>(&'a self, other: &'a Self) -> (Exclusive<'a>, Exclusive<'a>) {
        let order = InOrder::begin();
        let take = |space: &'a Self| space.lock.upgradeable_read().upgrade();
        let (own, others) = if self.slot < other.slot {
            let own = take(self);
            (own, take(other))
        } else {
            let others = take(other);
            (take(self), others)
        };
        let (own, others) = ((own, Some(order)), (others, None));
        let guard = |(gmap, _order)| Exclusive { gmap, _order };
        (guard(own), guard(others))
    }

    /// Returns what its tables live on.
    pub(crate) fn machine(&self) -> Stage2<'_> {
        Stage2 {
            space: Some(self),
            stock: false,
            view: false,
        }
    }
}

/// This core holds a VM's lock, or two that it took at once: it must not ask for another.
#[derive(Debug)]
struct InOrder;

impl InOrder {
    #[inline]
    fn begin() -> Self {
        let locks = &per_cpu::this().locks;
        let mut held = Held::from_bits(locks.load(Ordering::Relaxed));
        held.take(Rank::Vm, Ask::Wait)
            .expect("a core that holds a VM's lock does not ask for one");
        locks.store(held.bits(), Ordering::Relaxed);
        Self
    }
}

impl Drop for InOrder {
    #[inline]
    fn drop(&mut self) {
        let locks = &per_cpu::this().locks;
        let mut held = Held::from_bits(locks.load(Ordering::Relaxed));
        held.release(Rank::Vm);
        locks.store(held.bits(), Ordering::Relaxed);
    }
}

/// A VM's lock, held shared.
#[derive(Debug)]
pub(crate) struct Shared<'a> {
    gmap: RwLockReadGuard<'a, Gmap>,
    _order: InOrder,
}

impl Deref for Shared<'_> {
    type Target = Gmap;

    #[inline]
    fn deref(&self) -> &Gmap {
        &self.gmap
    }
}

/// A VM's lock, held exclusively.
#[derive(Debug)]
pub(crate) struct Exclusive<'a> {
    gmap: RwLockWriteGuard<'a, Gmap>,
    _order: Option<InOrder>,
}

impl Deref for Exclusive<'_> {
    type Target = Gmap;

    fn deref(&self) -> &Gmap {
        &self.gmap
    }
}

impl DerefMut for Exclusive<'_> {
    fn deref_mut(&mut self) -> &mut Gmap {
        &mut self.gmap
    }
}

/// Table memory, frames and TLB maintenance, for one VM.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stage2<'a> {
    space: Option<&'a Space>,
    /// Frames are taken for, and come from, the stock: they count as free all the time.
    stock: bool,
    /// The tables are devices': the SMMU has copies of them, and no core.
    view: bool,
}

impl Stage2<'_> {
    /// For a space that no vCPU can have used yet.
    pub(crate) const fn unseen() -> Self {
        Self {
            space: None,
            stock: false,
            view: false,
        }
    }

    /// For frames that are zeroed ahead of time.
    pub(crate) const fn stock() -> Self {
        Self {
            space: None,
            stock: true,
            view: false,
        }
    }

    /// For tables that the SMMU walks.
    pub(crate) const fn view() -> Self {
        Self {
            space: None,
            stock: false,
            view: true,
        }
    }

    fn count(self, kind: usize) {
        if let Some(n) = TLBI.get(kind) {
            n.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(n) = self.space.and_then(|space| space.tlbi.get(kind)) {
            n.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn level(level: u8) -> u8 {
        if has(HARDWARE_TTL) { level } else { 0 }
    }
}

/// Addresses that are invalidated singly where there is no operation by range.
const SINGLY_MAX: u64 = 16;

impl Machine for Stage2<'_> {
    fn load(&self, table: Pa, index: usize) -> u64 {
        memory::entry(table, index).load(Ordering::Acquire)
    }

    fn store(&self, table: Pa, index: usize, value: u64) {
        memory::entry(table, index).store(value, Ordering::Release);
        hw::dsb_ishst();
    }

    fn prepare(&self, table: Pa, index: usize, value: u64) {
        // The release of the store that links the table orders this before it.
        memory::entry(table, index).store(value, Ordering::Relaxed);
    }

    fn compare_exchange(&self, table: Pa, index: usize, old: u64, new: u64) -> Result<(), u64> {
        let result = memory::entry(table, index)
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ());
        hw::dsb_ishst();
        result
    }

    fn scrub(&self, pa: Pa, order: u8) {
        memory::scrub(pa, order);
    }

    fn copy(&self, to: Pa, from: Pa, order: u8) {
        memory::copy_frame(to, from, order);
    }

    fn is_zero(&self, pa: Pa, order: u8) -> bool {
        memory::is_zero(pa, order)
    }

    fn share(&self, pa: Pa, order: u8) -> bool {
        memory::share(pa, order)
    }

    fn shared(&self, pa: Pa, order: u8) -> bool {
        memory::is_shared(pa, order)
    }

    fn release(&mut self, pa: Pa, order: u8) {
        memory::release(pa, order);
    }

    fn zeroes(&self) -> Option<(Pa, u8)> {
        let pa = Some(ZEROES.load(Ordering::Acquire)).filter(|pa| *pa != 0)?;
        Some((Pa::new(pa)?, memory::ZEROES_ORDER))
    }

    fn alloc(&mut self, order: u8) -> Option<Pa> {
        if self.stock {
            return memory::alloc_for_stock(order);
        }
        memory::alloc(order)
    }

    fn alloc_zeroed(&mut self, order: u8) -> Option<Pa> {
        memory::alloc_zeroed(order)
    }

    fn free(&mut self, pa: Pa, order: u8) {
        if self.stock {
            return memory::free_from_stock(pa, order);
        }
        memory::free_unscrubbed(pa, order);
    }

    fn invalidate_ipa(&self, vmid: u16, ipa: Ipa, level: u8) {
        if self.view {
            return smmu::invalidate(vmid);
        }
        self.count(0);
        let operand = tlbi::page_operand(ipa, Self::level(level));
        hw::tlbi_ipa(vmid, operand, memory::empty_table());
    }

    fn invalidate_range(&self, vmid: u16, ipa: Ipa, bytes: u64, level: u8) {
        if self.view {
            return smmu::invalidate(vmid);
        }
        let span = match level {
            1..=3 => 1_u64 << (39 - 9 * u32::from(level)),
            // A table was unlinked: one address reaches every level.
            _ => bytes.max(1),
        };
        if bytes <= span {
            return self.invalidate_ipa(vmid, ipa, level);
        }
        let pages = bytes >> 12;
        if has(HARDWARE_TLB_RANGE) && pages <= tlbi::RANGE_PAGES_MAX {
            self.count(1);
            let operand = tlbi::range_operand(ipa, pages, Self::level(level));
            hw::tlbi_range(vmid, operand, memory::empty_table());
            return;
        }
        if bytes > span * SINGLY_MAX {
            return self.invalidate_vmid(vmid);
        }
        let mut offset = 0;
        while offset < bytes {
            if let Some(at) = ipa.checked_add(offset) {
                self.invalidate_ipa(vmid, at, level);
            }
            offset += span;
        }
    }

    fn holds(&self, ipa: Ipa, level: Level) -> bool {
        self.space
            .is_some_and(|space| space.dma.holds(ipa, level.span()))
    }

    fn event(&self, event: Event) {
        let Some(space) = self.space else { return };
        match event {
            Event::PinLost { ipa, level } => {
                if let Some(vm) = guest::by_slot(space.slot) {
                    pins::lost(vm, ipa, level);
                }
            }
            Event::HeldLost { ipa, level } => space.dma.lost(ipa, level.span()),
            Event::NestedChanged { .. } => {}
        }
    }

    #[inline(always)]
    fn interrupted(&self) -> bool {
        hw::interrupt_pending()
    }

    fn invalidate_vmid(&self, vmid: u16) {
        if self.view {
            return smmu::invalidate(vmid);
        }
        self.count(2);
        hw::tlbi_vmid(vmid, memory::empty_table());
    }
}
