//! The page that core shares for a VM: its state and its console rings.

#![expect(unsafe_code, reason = "a page shared with core")]

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use guest_abi::core_call::{Status, VmState};
use guest_abi::vm_shared::VmShared;
use root_logic::Ring;

use crate::physmap;

/// The shared page of one VM, from `VmCreate` to `VmDestroy`.
#[derive(Debug)]
pub(super) struct Shared(&'static VmShared);

impl Shared {
    /// Takes the address that `VmCreate` returned.
    ///
    /// Whoever holds it must drop it before `VmDestroy`: see [`super::run`].
    pub(super) fn at(pa: u64) -> Result<Self, Status> {
        let memory = physmap::at(pa).ok_or(Status::NotGranted)?;
        // SAFETY: core shows a VmShared there, made of atomics only, until VmDestroy.
        Ok(Self(unsafe { memory.cast::<VmShared>().as_ref() }))
    }

    /// Returns where the VM is in its life.
    pub(super) fn state(&self) -> Option<VmState> {
        VmState::from_u32(self.0.state.load(Ordering::Acquire))
    }

    /// Returns how many bytes the guest sent that nobody took in time.
    pub(super) fn dropped(&self) -> u64 {
        self.0.out_dropped.load(Ordering::Relaxed)
    }

    /// Takes what the guest printed; returns how many bytes.
    pub(super) fn read(&self, out: &mut [u8]) -> usize {
        let ring = Ring {
            bytes: &self.0.out_ring,
            head: &self.0.out_head,
            tail: &self.0.out_tail,
        };
        ring.take(out)
    }

    /// Returns how many bytes were ever taken, modulo 2^32.
    pub(super) fn taken(&self) -> u32 {
        self.0.out_tail.load(Ordering::Relaxed)
    }

    /// Returns the same, and the last of those bytes, as far as they are still there.
    pub(super) fn backlog(&self) -> (u32, Vec<u8>) {
        let ring = Ring {
            bytes: &self.0.out_ring,
            head: &self.0.out_head,
            tail: &self.0.out_tail,
        };
        // Before that many bytes the ring was empty: a guest that has printed 2^32 bytes and
        // some is shown less than there is.
        let most = usize::try_from(self.taken()).unwrap_or(usize::MAX);
        ring.backlog(most)
    }

    /// Gives the guest what was typed; returns how many bytes fitted.
    pub(super) fn write(&self, input: &[u8]) -> usize {
        let ring = Ring {
            bytes: &self.0.in_ring,
            head: &self.0.in_head,
            tail: &self.0.in_tail,
        };
        ring.put(input)
    }
}
