//! Stage-2 faults of guests: what is missing is looked for, made, and linked.
//!
//! Three steps, so that no frame is zeroed with the VM's lock held (`gmap`, module `fault`).

use arch::{Ipa, Pa};
use gmap::{Access, Cache, Fault, FaultError, LinkError, Look, Machine, Want};

use crate::guest::Vm;
use crate::memory;

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
    resolve(vm, cache, ipa, access)
}

/// As [`fault`], on core's own account.
pub(crate) fn resolve(
    vm: &Vm,
    cache: &mut Cache,
    ipa: Ipa,
    access: Access,
) -> Result<Fault, FaultError> {
    for _ in 0..LOOKS {
        let look = vm.gmap.shared().look(&vm.gmap.machine(), ipa, access)?;
        let mut want = match look {
            Look::Done => return Ok(Fault::AlreadyMapped),
            // Its frame is others' too: this VM gets a copy, with nobody else at its tables.
            Look::Shared(_) => {
                let machine = &mut vm.gmap.machine();
                return vm.gmap.exclusive().unshare(machine, cache, ipa, access);
            }
            Look::Missing(first) => Some(first),
        };
        while let Some(now) = want {
            match fill(vm, cache, now, access) {
                Ok(()) => return Ok(Fault::Mapped { order: now.order() }),
                Err(LinkError::Again) => break,
                Err(LinkError::NoMemory | LinkError::Limit) => want = now.smaller(),
            }
        }
        if want.is_none() {
            return Err(FaultError::OutOfMemory);
        }
    }
    Ok(Fault::AlreadyMapped)
}

fn fill(vm: &Vm, cache: &mut Cache, want: Want, access: Access) -> Result<(), LinkError> {
    let mut machine = vm.gmap.machine();
    let cost = vm.gmap.shared().link_cost(&machine, want)?;
    cache
        .topup(&mut machine, cost)
        .map_err(|_| LinkError::NoMemory)?;
    let frame = machine.alloc_zeroed(want.order());
    let frame = frame.ok_or(LinkError::NoMemory)?;
    let gmap = vm.gmap.shared();
    let result = gmap.link(&machine, cache, want, frame, access, |_, _| ());
    drop(gmap);
    if result.is_err() {
        memory::free_unscrubbed(frame, want.order());
    }
    result
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
