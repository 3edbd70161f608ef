//! Storage-key and page-state operations on a VM, as far as its guest and root share them:
//! tables are taken while no lock is held, and keys are put into use a slice at a time.

use gmap::{Budget, CACHE_PAGES, Cache, Gmap, KeyError};

use crate::guest::Vm;
use crate::memory_sharing;
use crate::stage2::Stage2;

/// Tries before the caller is asked to come again.
const TRIES: usize = 16;

/// Runs `f` under the VM's lock held shared, as often as it takes to give it tables.
///
/// Never returns [`KeyError::NoMemory`] but when the machine has no frame left.
pub(crate) fn attempt<T>(
    vm: &Vm,
    cache: &mut Cache,
    mut f: impl FnMut(&Gmap, &Stage2<'_>, &mut Cache) -> Result<T, KeyError>,
) -> Result<T, KeyError> {
    let mut machine = vm.gmap.machine();
    for _ in 0..TRIES {
        let result = f(&vm.gmap.shared(), &machine, cache);
        match result {
            Err(KeyError::NoMemory) => cache
                .topup(&mut machine, CACHE_PAGES)
                .map_err(|_| KeyError::NoMemory)?,
            Err(KeyError::Again) => {}
            other => return other,
        }
    }
    Err(KeyError::Again)
}

/// Puts storage keys into use, one slice. Returns whether they are in use now.
pub(crate) fn enable(vm: &Vm, cache: &mut Cache) -> Result<bool, KeyError> {
    let mut machine = vm.gmap.machine();
    cache
        .topup(&mut machine, CACHE_PAGES)
        .map_err(|_| KeyError::NoMemory)?;
    // The lock is let go before the answer is looked at: to end sharing takes it again.
    let result = vm
        .gmap
        .exclusive()
        .enable_keys(&machine, cache, Budget::SLICE);
    match result {
        Ok(more) => Ok(more.is_none()),
        // What was done stays done; the next slice brings new tables.
        Err(KeyError::NoMemory | KeyError::Again) => Ok(false),
        // Keys say who may touch a frame's content: it must be the VM's alone.
        Err(KeyError::Shared) => match memory_sharing::end(vm) {
            Ok(_) => Ok(false),
            Err(_) => Err(KeyError::NoMemory),
        },
        Err(error) => Err(error),
    }
}
