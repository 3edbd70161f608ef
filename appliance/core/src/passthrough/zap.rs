//! Taking every mapping of a device away, a slice at a time.

use arch::Ipa;
use devmem::Why;
use gmap::Budget;
use pci::BARS;

use super::{Assigned, Zap};
use crate::guest::{self, Vm};

/// How a slice ended.
#[derive(Debug)]
pub(super) enum Slice {
    /// All mappings are gone, and none can come: now do what they went for.
    Done(devmem::Taken),
    /// There is more to do, or another zap had to be finished first: try again.
    More,
}

/// Does a slice of the zap for `why`, which begins if none is going on.
///
/// The caller does what the zap was for and ends the duty ([`devmem::Device::taken`]) before it
/// lets go of the lock, or drops nothing and comes again.
pub(super) fn slice(device: &mut Assigned, why: Why) -> Slice {
    if device.zap.is_none() {
        device.zap = device.state.begin(why).map(|duty| Zap {
            duty,
            bar: 0,
            offset: 0,
        });
    }
    let Some(mut zap) = device.zap.take() else {
        return Slice::More;
    };
    let more = guest::by_handle(device.vm).is_some_and(|vm| unmap(device, vm, &mut zap));
    if more {
        device.zap = Some(zap);
        return Slice::More;
    }
    device.mapped_bytes = 0;
    device.trace.zapped();
    if zap.duty.why() == why {
        return Slice::Done(zap.duty);
    }
    // Somebody else's, who does not come back before this one is through: its mappings are
    // gone, and it will find nothing to do.
    let quiet = device.quiet_until_ms;
    device.state.taken(zap.duty, quiet);
    Slice::More
}

/// Unmaps up to a slice; returns whether there is more.
fn unmap(device: &Assigned, vm: &Vm, zap: &mut Zap) -> bool {
    while zap.bar < BARS {
        if let Some((_, region)) = device.region(zap.bar) {
            let bytes = region.bar_size().max(4096);
            let at = region.ipa().align_down(4096).checked_add(zap.offset);
            if let (Some(at), Some(left)) = (at, bytes.checked_sub(zap.offset))
                && left > 0
            {
                let reached = unmap_slice(vm, at, left);
                if let Some(reached) = reached {
                    zap.offset += reached.raw() - at.raw();
                    return true;
                }
            }
        }
        zap.bar += 1;
        zap.offset = 0;
    }
    false
}

fn unmap_slice(vm: &Vm, at: Ipa, bytes: u64) -> Option<Ipa> {
    let machine = &mut vm.gmap.machine();
    let mut gmap = vm.gmap.exclusive();
    gmap.unmap_slice(machine, at, bytes, Budget::SLICE)
        .expect("a BAR's window holds whole leaves and no RAM")
}
