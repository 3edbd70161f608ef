//! Stage-2 faults of guests: what is missing is looked for, made, and linked.
//!
//! Three steps, so that no frame is zeroed with the VM's lock held (`gmap`, module `fault`).

use ::vcpu::stage1::{self, Regime};
use arch::{Ipa, Pa};
use gmap::{Access, Cache, Fault, FaultError, LinkError, Look, Machine, Unscrubbed, Want, settle};

use crate::guest::Vm;
use crate::{hw, memory, pressure};

/// Looks before it is left to the guest to try again.
const LOOKS: usize = 8;

/// Answers a stage-2 fault of a guest, with tables from `cache`.
pub(crate) fn fault(
    vm: &Vm,
    cache: &mut Cache,
    ipa: Ipa,
    access: Access,
) -> Result<Fault, FaultError> {
    vm.gmap.shared().count_fault();
    for _ in 0..LOOKS {
        match resolve(vm, cache, ipa, access) {
            // Somebody may have what it can do without: the guest tries again.
            Err(FaultError::OutOfMemory) if pressure::relieve(vm) => {
                return Ok(Fault::AlreadyMapped);
            }
            // Another core may have given some back just now, and yet another taken it.
            Err(FaultError::OutOfMemory) => {}
            other => {
                vm.asking.satisfied();
                return other;
            }
        }
    }
    Err(FaultError::OutOfMemory)
}

/// As [`fault`], on core's own account.
pub(crate) fn resolve(
    vm: &Vm,
    cache: &mut Cache,
    ipa: Ipa,
    access: Access,
) -> Result<Fault, FaultError> {
    settle(
        cache,
        LOOKS,
        |_| vm.gmap.shared().look(&vm.gmap.machine(), ipa, access),
        |cache, look| supply(vm, cache, look, access),
    )
}

/// Makes what is missing, with no lock held, and links it.
fn supply(vm: &Vm, cache: &mut Cache, look: Look, access: Access) -> Result<(), LinkError> {
    let Some(want) = look.want() else {
        return Err(LinkError::Again);
    };
    let mut machine = vm.gmap.machine();
    let cost = vm.gmap.shared().link_cost(&machine, want)?;
    cache
        .topup(&mut machine, cost)
        .map_err(|_| LinkError::NoMemory)?;
    match look {
        Look::Done => Err(LinkError::Again),
        Look::Missing(want) => fill(vm, cache, want, access),
        Look::Shared(want) => copy(vm, cache, want),
        Look::Zeroes(want) => vm.gmap.shared().link_zeroes(&machine, cache, want),
    }
}

/// A frame of zeroes, where there was none.
fn fill(vm: &Vm, cache: &mut Cache, want: Want, access: Access) -> Result<(), LinkError> {
    let mut machine = vm.gmap.machine();
    let frame = if want.order() == gmap::ORDER_MAX {
        huge(vm)?
    } else {
        machine
            .alloc_zeroed(want.order())
            .ok_or(LinkError::NoMemory)?
    };
    let gmap = vm.gmap.shared();
    let result = gmap.link(&machine, cache, want, frame, access, |_, _| ());
    drop(gmap);
    if result.is_err() {
        memory::free_unscrubbed(frame, want.order());
    }
    result
}

/// Makes a frame of 1 GiB, or as much of it as can be zeroed before an interrupt comes:
/// [`LinkError::Again`] until it is whole.
fn huge(vm: &Vm) -> Result<Pa, LinkError> {
    let mut machine = vm.gmap.machine();
    // Another vCPU that works on it is as good.
    let mut half = vm.gmap.huge.try_lock().ok_or(LinkError::Again)?;
    let mut frame = match half.take() {
        Some(frame) => frame,
        None => Unscrubbed::alloc(&mut machine, gmap::ORDER_MAX)
            .ok_or(LinkError::NoMemory)?
            .begin(),
    };
    loop {
        match frame.step(&machine) {
            Ok(whole) => return Ok(whole.into_pa()),
            Err(more) if hw::interrupt_pending() => {
                *half = Some(more);
                return Err(LinkError::Again);
            }
            Err(more) => frame = more,
        }
    }
}

/// A copy of a frame that others use too, in its place.
fn copy(vm: &Vm, cache: &mut Cache, want: Want) -> Result<(), LinkError> {
    let mut machine = vm.gmap.machine();
    let frame = want.prepare(&mut machine).ok_or(LinkError::NoMemory)?;
    let mut gmap = vm.gmap.exclusive();
    let result = gmap.link_copy(&mut machine, cache, want, frame);
    drop(gmap);
    if result.is_err() {
        memory::free_unscrubbed(frame, want.order());
    }
    result
}

/// Returns where the tables of the loaded guest say that `va` is, if they do.
pub(crate) fn translate(vm: &Vm, va: u64) -> Option<Ipa> {
    let regime = Regime {
        sctlr: hw::sctlr_el1(),
        tcr: hw::tcr_el1(),
        ttbr0: hw::ttbr0_el1(),
        ttbr1: hw::ttbr1_el1(),
    };
    let gmap = vm.gmap.shared();
    let machine = vm.gmap.machine();
    stage1::translate(&regime, va, |ipa| {
        // Its tables lie in RAM; what they say elsewhere is nothing.
        let (pa, _) = gmap.translate(&machine, ipa)?;
        memory::is_pool(pa).then(|| memory::word(pa))
    })
}

/// Runs `f` with the frame of the page at `ipa`, populated and, if `access` is a store,
/// dirty. The frame stays the VM's while `f` runs: the lock is held shared.
pub(crate) fn with_page<T>(
    vm: &Vm,
    cache: &mut Cache,
    ipa: Ipa,
    access: Access,
    f: impl FnOnce(Pa) -> T,
) -> Result<T, FaultError> {
    let machine = vm.gmap.machine();
    for _ in 0..LOOKS {
        resolve(vm, cache, ipa, access)?;
        let gmap = vm.gmap.shared();
        // Somebody may have taken it since.
        if gmap.look(&machine, ipa, access)? == Look::Done
            && let Some((pa, _)) = gmap.translate(&machine, ipa)
        {
            return Ok(f(pa.align_down(4096)));
        }
    }
    Err(FaultError::OutOfMemory)
}
