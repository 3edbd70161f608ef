//! The ITS of a VM that has one: where it lies, and what it sees of the machine.
//!
//! Model and LPIs lie in a block of their own, so that a VM without devices pays nothing. Its
//! lock comes before the VM's vGIC and `gmap`; no run queue is touched with it held.
#![expect(
    unsafe_code,
    reason = "an ITS lies in a block of its own, reached by pointer"
)]

use arch::{Ipa, Pa, Width};
use gmap::{Access, Cache};
use guest_abi::map::RAM_BASE;
use spin::Mutex;
use vgic::its::{self, Its, Progress};
use vgic::{Kick, Lpis, Vgic};

use crate::guest::{Vcpu, Vm};
use crate::memory::{self, FRAME};
use crate::{guest_fault, schedule, world};

/// Order of the block: 16 KiB.
pub(crate) const ORDER: u8 = 2;

/// What lies in the block.
struct Block {
    its: Mutex<Its>,
    lpis: Lpis,
}
const _: () = assert!(size_of::<Block>() <= 4096 << ORDER);

/// An ITS and LPIs at reset. They are copied from here: made where they are needed they would
/// take half of a core's stack.
static ITS_AT_RESET: Mutex<Its> = Mutex::new(Its::new(0));
static LPIS_AT_RESET: Lpis = Lpis::new();

/// Makes the ITS of a VM with `vcpus` vCPUs in the zeroed block at `pa`, which stays for as long
/// as the VM; the LPIs are for its vGIC.
pub(crate) fn build(pa: Pa, vcpus: u32) -> (&'static Mutex<Its>, &'static mut Lpis) {
    let block = memory::ptr::<Block>(pa);
    // SAFETY: the block is the caller's, large enough (asserted above); only the place of a
    // field is computed.
    let its = unsafe { &raw mut (*block).its };
    // SAFETY: as above.
    let lpis = unsafe { &raw mut (*block).lpis };
    // SAFETY: the place is inside the block, aligned, and nobody knows of it yet. What is copied
    // is never locked nor changed, and holds numbers alone: a copy of it is as good as another.
    unsafe { its.copy_from_nonoverlapping(&raw const ITS_AT_RESET, 1) };
    // SAFETY: as above.
    unsafe { lpis.copy_from_nonoverlapping(&raw const LPIS_AT_RESET, 1) };
    // SAFETY: just written; freed only with the VM, when nobody reaches it any more.
    let its = unsafe { &*its };
    its.lock().set_vcpus(vcpus);
    // SAFETY: as above, and this is the only reference to this field that is ever made.
    let lpis = unsafe { &mut *lpis };
    (its, lpis)
}

/// Returns where an ITS's block is.
pub(crate) fn block_of(its: &'static Mutex<Its>) -> Pa {
    const { assert!(size_of::<Block>() <= 4096 << ORDER) };
    let at = core::ptr::from_ref(its) as u64;
    memory::pa_of(at).align_down(FRAME << ORDER)
}

/// What the ITS of a VM sees of the machine, and who is to be told afterwards.
struct Port<'a> {
    vm: &'a Vm,
    /// Tables for pages that have to be populated; without them nothing is written.
    tables: Option<&'a mut Cache>,
    kick: Kick,
}

impl Port<'_> {
    /// Returns the page that `bytes` from `at` are in, if they are RAM and in one.
    fn page(&self, at: u64, bytes: usize) -> Option<Ipa> {
        let last = at.checked_add(bytes as u64)?.checked_sub(1)?;
        let end = RAM_BASE + self.vm.ram_bytes;
        if at < RAM_BASE || last >= end || at / FRAME != last / FRAME {
            return None;
        }
        Ipa::new(at & !(FRAME - 1))
    }
}

impl its::Machine for Port<'_> {
    fn read(&mut self, at: u64, bytes: &mut [u8]) -> bool {
        let Some(page) = self.page(at, bytes.len()) else {
            return false;
        };
        // The frame stays the VM's while the lock is held.
        let gmap = self.vm.gmap.shared();
        match gmap.translate(&self.vm.gmap.machine(), page) {
            Some((frame, _)) => match frame.checked_add(at % FRAME) {
                Some(from) => memory::copy_out(from, bytes),
                None => return false,
            },
            // Nobody has written there.
            None => bytes.fill(0),
        }
        true
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> bool {
        let Some((page, tables)) = self.page(at, bytes.len()).zip(self.tables.as_mut()) else {
            return false;
        };
        let written = guest_fault::with_page(self.vm, tables, page, Access::WRITE, |frame| {
            if let Some(to) = frame.checked_add(at % FRAME) {
                memory::copy_in(to, bytes);
            }
        });
        written.is_ok()
    }

    fn gic(&mut self, step: impl FnOnce(&mut Vgic) -> Kick) {
        self.kick |= step(&mut self.vm.vgic.lock());
    }
}

/// A guest's load from the ITS's frames.
#[inline(never)]
pub(crate) fn load(vm: &Vm, offset: u64, width: Width) -> u64 {
    vm.its
        .map_or(0, |its| its.lock().read(offset, width) & width.mask())
}

/// A guest's store to the ITS's frames. If there is more to do the vCPU makes it again.
#[inline(never)]
pub(crate) fn store(vcpu: &mut Vcpu, offset: u64, width: Width, value: u64) -> Progress {
    let vm = vcpu.vm();
    let Some(its) = vm.its else {
        return Progress::Done;
    };
    let mut port = Port {
        vm,
        tables: Some(&mut vcpu.tables),
        kick: Kick::NONE,
    };
    let progress = its.lock().write(&mut port, offset, width, value);
    schedule::deliver(vm, port.kick);
    progress
}

/// A guest's load from an LPI register of the redistributor of vCPU `n`.
#[inline(never)]
pub(crate) fn redist_load(vm: &Vm, n: usize, offset: u64, width: Width) -> u64 {
    let mut port = Port {
        vm,
        tables: None,
        kick: Kick::NONE,
    };
    vm.its
        .map_or(0, |its| its.lock().redist_read(&mut port, n, offset, width))
}

/// A guest's store to an LPI register of the redistributor of vCPU `n`.
#[inline(never)]
pub(crate) fn redist_store(vcpu: &mut Vcpu, n: usize, offset: u64, width: Width, value: u64) {
    // What it has taken does not pend any more. That of another vCPU may be counted once too
    // often, if the guest switches that one's LPIs off while it takes them.
    world::sync(vcpu);
    let vm = vcpu.vm();
    let Some(its) = vm.its else { return };
    let mut port = Port {
        vm,
        tables: Some(&mut vcpu.tables),
        kick: Kick::NONE,
    };
    its.lock().redist_write(&mut port, n, offset, width, value);
    schedule::deliver(vm, port.kick);
}

/// A message of `device` for `vm`: event `event`, written to GITS_TRANSLATER.
pub(crate) fn message(vm: &Vm, device: u32, event: u32) {
    let Some(its) = vm.its else { return };
    // The translation and what comes of it are one step: a command comes before or after both.
    let kick = {
        let its = its.lock();
        let mut vgic = vm.vgic.lock();
        its.signal(&mut vgic, device, event)
    };
    schedule::deliver(vm, kick);
}
