//! What the devices of a VM reach by themselves: stage-2 tables of their own.
//!
//! They hold pages that the guest declared (`guest_abi::dma`), or all of its RAM if it is one
//! that does not know how. What is in them is not taken from the guest ([`View::holds`]); should
//! it be taken nevertheless, it leaves these tables first ([`View::lost`]). Only whole mappings
//! come and go here, so that no device ever meets a table that is being rebuilt: one that
//! misses is not asked to try again, as a vCPU is.
//!
//! # Locks
//!
//! A view's comes after its VM's `gmap`, and before the SMMU's and the frame pool's.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ::smmu::Stage2;
use arch::{Ipa, Pa};
use gmap::{Access, Attr, Error, Gmap, Look, Perm, Progress};
use guest_abi::core_call::Status;
use guest_abi::dma::PAGES_MAX;
use guest_abi::map::RAM_BASE;
use spin::Mutex;

use crate::guest::{Vcpu, Vm};
use crate::guest_fault::Missed;
use crate::{guest_fault, hw, stage2};

/// What the devices of one VM reach.
#[derive(Debug)]
pub(crate) struct View {
    /// There are tables. For a short look by those who take frames away.
    open: AtomicBool,
    /// The guest says which pages; else it is all RAM, for good.
    declared: AtomicBool,
    bytes: AtomicU64,
    tables: Mutex<Option<Gmap>>,
}

impl View {
    pub(crate) const fn new() -> Self {
        Self {
            open: AtomicBool::new(false),
            declared: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            tables: Mutex::new(None),
        }
    }

    /// Returns whether a device reaches anything of the VM's.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    /// Returns whether the guest says which pages its devices may reach.
    pub(crate) fn is_declared(&self) -> bool {
        self.declared.load(Ordering::Relaxed)
    }

    /// Bytes of RAM that devices reach.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Makes the tables, unless there are some; returns what the SMMU is to know of them.
    pub(super) fn open(&self, vm: &Vm) -> Result<Stage2, Status> {
        let mut tables = self.tables.lock();
        if tables.is_none() {
            *tables = Some(stage2::new_view().ok_or(Status::Exhausted)?);
            self.open.store(true, Ordering::SeqCst);
        }
        let vttbr = tables.as_ref().ok_or(Status::Exhausted)?.vttbr();
        Ok(Stage2 {
            vttbr,
            vtcr: vm.vtcr,
        })
    }

    /// Says that the guest declares its pages, or that devices see all of its RAM. One device
    /// that sees all is enough.
    pub(super) fn set_declared(&self, declared: bool, first: bool) {
        let both = first || self.is_declared();
        self.declared.store(declared && both, Ordering::Relaxed);
    }

    /// Takes the tables down, a slice at a time: no stream leads to them any more.
    pub(super) fn close(&self) -> Result<(), Status> {
        let mut tables = self.tables.lock();
        if let Some(gmap) = tables.as_mut() {
            if gmap.destroy(&mut stage2::Stage2::view(), 256) == Progress::More {
                return Err(Status::Again);
            }
            stage2::free_vmid(gmap.vmid());
        }
        *tables = None;
        self.open.store(false, Ordering::SeqCst);
        self.bytes.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Lets devices reach `bytes` bytes of RAM at `ipa`, which are at `pa` and stay there as
    /// long as the caller holds the VM's lock.
    fn add(&self, ipa: Ipa, pa: Pa, bytes: u64) -> Result<(), Error> {
        let mut tables = self.tables.lock();
        let Some(gmap) = tables.as_mut() else {
            return Err(Error::OutOfSpace);
        };
        match gmap.map(
            &mut stage2::Stage2::view(),
            ipa,
            pa,
            bytes,
            Attr::Normal,
            Perm::RW,
        ) {
            Ok(()) => {
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
                Ok(())
            }
            // Said before, and so it is there already: what is there is never another frame.
            Err(Error::Occupied { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Lets devices reach a page of registers of the machine at `ipa`, as the doorbell of
    /// message-signalled interrupts is one.
    pub(crate) fn add_registers(&self, ipa: Ipa, pa: Pa) -> Result<(), Error> {
        let mut tables = self.tables.lock();
        let gmap = tables.as_mut().ok_or(Error::OutOfSpace)?;
        let machine = &mut stage2::Stage2::view();
        gmap.map(machine, ipa, pa, 4096, Attr::Device, Perm::RW)
    }

    /// Takes what is in `bytes` bytes from `ipa` away from devices; complete on return.
    fn remove(&self, ipa: Ipa, bytes: u64) -> Result<(), Error> {
        let mut tables = self.tables.lock();
        let Some(gmap) = tables.as_mut() else {
            return Ok(());
        };
        let machine = &mut stage2::Stage2::view();
        let pages = (0..bytes).step_by(4096);
        let there = pages.filter_map(|at| gmap.translate(machine, ipa.checked_add(at)?));
        let there = there.count() as u64 * 4096;
        gmap.unmap(machine, ipa, bytes)?;
        self.bytes.fetch_sub(there, Ordering::Relaxed);
        Ok(())
    }

    /// Returns whether a device may reach any of `bytes` bytes from `ipa`: then their frames
    /// stay where they are. Asked with the VM's lock held.
    pub(crate) fn holds(&self, ipa: Ipa, bytes: u64) -> bool {
        if !self.open.load(Ordering::SeqCst) {
            return false;
        }
        let tables = self.tables.lock();
        let gmap = tables.as_ref();
        gmap.is_some_and(|gmap| gmap.maps_any(&stage2::Stage2::view(), ipa, bytes))
    }

    /// The VM loses frames although a device may reach them.
    pub(crate) fn lost(&self, ipa: Ipa, bytes: u64) {
        // Whole mappings are taken out, which needs no memory, or pages of one that is larger.
        let removed = self.remove(ipa, bytes);
        assert!(removed.is_ok(), "a device keeps a frame that its VM lost");
    }
}

/// Leaves of RAM populated by one call.
const POPULATED_MAX: usize = 8;
/// Tries before it is left to the caller to come again.
const TRIES: usize = 4;

/// Populates all RAM of a VM whose guest declares nothing, and lets its devices reach it, if
/// there is something to bound them: a device cannot wait for a fault to be answered.
/// [`Status::Again`] until it is done.
pub(super) fn populate(caller: &mut Vcpu, vm: &Vm) -> Result<(), Status> {
    let end = RAM_BASE + vm.ram_bytes;
    for _ in 0..POPULATED_MAX {
        let at = RAM_BASE.max(vm.populated.load(Ordering::Relaxed));
        if at >= end {
            return Ok(());
        }
        let ipa = Ipa::new(at).ok_or(Status::Invalid)?;
        let next = show_leaf(caller, vm, ipa)?;
        vm.populated.store(next, Ordering::Relaxed);
        if hw::interrupt_pending() {
            break;
        }
    }
    Err(Status::Again)
}

/// Populates the leaf at `ipa` and shows all of it; returns the address behind it.
/// [`Status::Again`] while it is half made.
fn show_leaf(caller: &mut Vcpu, vm: &Vm, ipa: Ipa) -> Result<u64, Status> {
    let machine = vm.gmap.machine();
    for _ in 0..TRIES {
        match guest_fault::resolve_for(caller, vm, ipa, Access::WRITE) {
            Ok((_, false)) => {}
            Ok((_, true)) => return Err(Status::Again),
            Err(_) => return Err(Status::Exhausted),
        }
        let gmap = vm.gmap.shared();
        if gmap.look(&machine, ipa, Access::WRITE) != Ok(Look::Done) {
            continue;
        }
        let Some((leaf, level)) = gmap.leaf(&machine, ipa) else {
            continue;
        };
        let base = ipa.align_down(level.span());
        if vm.gmap.dma.open.load(Ordering::SeqCst) {
            let added = vm.gmap.dma.add(base, leaf.base(), level.span());
            added.map_err(|_| Status::Exhausted)?;
        }
        return Ok(base.raw() + level.span());
    }
    Err(Status::Exhausted)
}

/// Why a guest's declaration was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is no RAM at the first page.
    NoRam,
    /// There is no memory for a frame or a table.
    NoMemory,
    /// A block is half made, and an interrupt waits: the same again goes on with it.
    Later,
}

/// Populates pages and lets the VM's devices reach them; returns how many, at least one.
pub(crate) fn declare(caller: &mut Vcpu, vm: &Vm, ipa: Ipa, pages: u64) -> Result<u64, Refused> {
    let mut done = 0;
    while done < pages.min(PAGES_MAX) {
        let shown = ipa
            .checked_add(done * 4096)
            .filter(|at| is_ram(vm, *at))
            .ok_or(Refused::NoRam)
            .and_then(|at| {
                let add = |pa| vm.gmap.dma.add(at, pa, 4096);
                match guest_fault::with_page_for(caller, vm, at, Access::WRITE, add) {
                    Ok(Ok(())) => Ok(()),
                    Err(Missed::NoRam) => Err(Refused::NoRam),
                    Err(Missed::Later) => Err(Refused::Later),
                    Ok(Err(_)) | Err(_) => Err(Refused::NoMemory),
                }
            });
        match shown {
            Ok(()) => done += 1,
            Err(refused) if done == 0 => return Err(refused),
            Err(_) => break,
        }
        if hw::interrupt_pending() {
            break;
        }
    }
    Ok(done)
}

/// Takes pages away from the VM's devices; returns how many, at least one. A device may have
/// written to them since they were last asked for, so they count as written.
pub(crate) fn undeclare(vm: &Vm, ipa: Ipa, pages: u64) -> Result<u64, Refused> {
    let pages = pages.min(PAGES_MAX);
    let last = ipa.checked_add((pages - 1) * 4096);
    if !is_ram(vm, ipa) || !last.is_some_and(|last| is_ram(vm, last)) {
        return Err(Refused::NoRam);
    }
    let written: u64 = (0..pages)
        .filter_map(|n| ipa.checked_add(n * 4096))
        .filter(|at| vm.gmap.dma.holds(*at, 4096))
        .fold(0, |mask, at| mask | 1 << ((at.raw() - ipa.raw()) >> 12));
    vm.gmap
        .dma
        .remove(ipa, pages * 4096)
        .map_err(|_| Refused::NoMemory)?;
    let machine = vm.gmap.machine();
    for n in (0..pages).filter(|n| written >> n & 1 == 1) {
        if let Some(at) = ipa.checked_add(n * 4096) {
            // It is the guest's own and writable as long as a device may reach it; if it was
            // taken since, what the device wrote is gone with it. Neither takes memory.
            vm.gmap.shared().mark_written(&machine, at);
        }
    }
    Ok(pages)
}

fn is_ram(vm: &Vm, ipa: Ipa) -> bool {
    ipa.raw()
        .checked_sub(RAM_BASE)
        .is_some_and(|offset| offset < vm.ram_bytes)
}
