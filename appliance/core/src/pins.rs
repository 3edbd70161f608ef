//! Pages that must be there while a vCPU runs: one a vCPU.
//!
//! Whoever takes such a page away, or makes it read-only, raises `Event::PinLost`: the vCPU
//! is kicked out of the guest, and before it enters again the page is populated and pinned
//! anew. So neither core nor hardware meets a fault there.

use core::sync::atomic::{AtomicU64, Ordering};

use arch::Ipa;
use gmap::{Access, Level};
use guest_abi::map::VCPUS_MAX;

use crate::guest::{Vcpu, Vm};
use crate::{guest_fault, schedule};
use ::vcpu::wakes::Flag as _;

const NONE: u64 = u64::MAX;
const LOST: u64 = 1;
const VCPUS: usize = VCPUS_MAX as usize;

/// For each vCPU the page it needs: its address, with bit 0 set while it is not pinned.
#[derive(Debug)]
pub(crate) struct Pins([AtomicU64; VCPUS]);

impl Pins {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU64::new(NONE) }; VCPUS])
    }
}

/// Makes the page at `ipa` one that `vcpu` of `vm` needs from its next entry on; `None`
/// ends that.
pub(crate) fn set(vm: &Vm, vcpu: usize, page: Option<Ipa>) {
    let Some(pin) = vm.gmap.pins.0.get(vcpu) else {
        return;
    };
    let value = page.map_or(NONE, |ipa| ipa.align_down(4096).raw() | LOST);
    pin.store(value, Ordering::Release);
    if page.is_some()
        && let Some(vcpu) = vm.vcpu(vcpu)
    {
        vcpu.attention.raise();
        schedule::wake(vcpu);
    }
}

/// Returns the page that a vCPU of `vm` needs, if it is pinned now.
pub(crate) fn get(vm: &Vm, vcpu: usize) -> Option<Ipa> {
    let value = vm.gmap.pins.0.get(vcpu)?.load(Ordering::Acquire);
    if value & LOST != 0 {
        return None;
    }
    Ipa::new(value)
}

/// The leaf at `ipa` went or lost rights: whoever needs a page in it has to pin it again.
pub(crate) fn lost(vm: &Vm, ipa: Ipa, level: Level) {
    for (index, pin) in vm.gmap.pins.0.iter().enumerate() {
        let page = pin.load(Ordering::Acquire);
        if page == NONE || (page & !LOST).wrapping_sub(ipa.raw()) >= level.span() {
            continue;
        }
        pin.fetch_or(LOST, Ordering::AcqRel);
        if let Some(vcpu) = vm.vcpu(index) {
            vcpu.attention.raise();
            schedule::wake(vcpu);
        }
    }
}

/// Pins again what was lost, before `vcpu` enters. False if there is no memory for it.
pub(crate) fn renew(vcpu: &mut Vcpu) -> bool {
    /// Each try fails only if somebody took the page again in between.
    const TRIES: usize = 64;
    let vm = vcpu.vm();
    let index = vcpu.index;
    let Some(pin) = vm.gmap.pins.0.get(index) else {
        return true;
    };
    for _ in 0..TRIES {
        let page = pin.load(Ordering::Acquire);
        if page == NONE || page & LOST == 0 {
            return true;
        }
        let Some(ipa) = Ipa::new(page & !LOST) else {
            return true;
        };
        match guest_fault::resolve_for(vcpu, vm, ipa, Access::WRITE) {
            Ok((_, false)) => {}
            // Half made when an interrupt came, which goes first.
            Ok((_, true)) => break,
            Err(_) => return false,
        }
        // Cleared first: whoever takes the page from now on sets it again.
        pin.fetch_and(!LOST, Ordering::AcqRel);
        if !vm.gmap.shared().pin(&vm.gmap.machine(), ipa) {
            pin.fetch_or(LOST, Ordering::AcqRel);
        }
    }
    // Half made, or taken 64 times under its hands: it tries again at its next exit.
    vcpu.attention.raise();
    true
}
