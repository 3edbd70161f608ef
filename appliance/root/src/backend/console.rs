//! The page that core shares for a VM: its state and its console rings.

#![expect(unsafe_code, reason = "a page shared with core")]

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use guest_abi::core_call::{Status, VmState};
use guest_abi::vm_shared::VmShared;

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

/// One ring: indices run freely, byte `i` lies at `i` modulo the length, a power of two.
struct Ring<'a> {
    bytes: &'a [AtomicU8],
    head: &'a AtomicU32,
    tail: &'a AtomicU32,
}

impl Ring<'_> {
    fn take(&self, out: &mut [u8]) -> usize {
        let head = self.head.load(Ordering::Acquire);
        let mut tail = self.tail.load(Ordering::Relaxed);
        let mut taken = 0_usize;
        for to in out {
            if tail == head {
                break;
            }
            if let Some(byte) = self.at(tail) {
                *to = byte.load(Ordering::Relaxed);
            }
            tail = tail.wrapping_add(1);
            taken = taken.saturating_add(1);
        }
        self.tail.store(tail, Ordering::Release);
        taken
    }

    fn put(&self, input: &[u8]) -> usize {
        let mut head = self.head.load(Ordering::Relaxed);
        let tail = self.tail.load(Ordering::Acquire);
        let mut put = 0_usize;
        for from in input {
            if head.wrapping_sub(tail) as usize >= self.bytes.len() {
                break;
            }
            if let Some(byte) = self.at(head) {
                byte.store(*from, Ordering::Relaxed);
            }
            head = head.wrapping_add(1);
            put = put.saturating_add(1);
        }
        self.head.store(head, Ordering::Release);
        put
    }

    fn at(&self, index: u32) -> Option<&AtomicU8> {
        let mask = self.bytes.len().checked_sub(1)?;
        self.bytes.get(index as usize & mask)
    }
}
