//! What a guest may ask about its own memory: page states and storage keys
//! (`guest_abi::page_state`, `guest_abi::storage_key`), and which of it its devices reach
//! (`guest_abi::dma`).
//!
//! A call that cannot be finished at once is made again by the guest's own HVC, so that
//! interrupts are taken in between.
#![expect(
    unsafe_code,
    reason = "the list of released pages lies in frames of its own"
)]

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use arch::Ipa;
use gmap::{Key, KeyError, Mask, ReleaseRing, StateOp};
use guest_abi::core_call::{VM_NO_PAGE_STATES, VM_NO_STORAGE_KEYS};
use guest_abi::dma;
use guest_abi::guest_memory::GuestMemoryCall;
use guest_abi::page_state::{self, INVALID, NO_MEMORY, NOT_SUPPORTED, PAGES_MAX};
use guest_abi::storage_key;

use crate::guest::{Vcpu, Vm};
use crate::passthrough::dma::{Refused, declare, undeclare};
use crate::{hw, keyed, memory};

/// Order of the block that holds a ring.
const RING_ORDER: u8 = 1;
const _: () = assert!(size_of::<ReleaseRing>() <= 4096 << RING_ORDER);
/// Pages on the list from which on it is drained.
const DRAIN_AT: usize = 256;

/// The pages that a vCPU said are unused, once it has said so for the first time. Touched by
/// the vCPU's home core alone.
#[derive(Debug)]
pub(crate) struct Released(AtomicPtr<ReleaseRing>);

impl Released {
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Returns the list, if there is one.
    fn get(&self) -> Option<&'static mut ReleaseRing> {
        // SAFETY: null, or a list that was written whole; only the home core, which runs
        // one exit at a time, gets it, and it is freed when the vCPU is off for good.
        unsafe { self.0.load(Ordering::Relaxed).as_mut() }
    }

    /// Returns the list, and makes it first if need be.
    #[inline(never)]
    fn get_or_make(&self) -> Option<&'static mut ReleaseRing> {
        if self.0.load(Ordering::Relaxed).is_null() {
            let pa = memory::alloc_zeroed(RING_ORDER)?;
            let ring = memory::ptr::<ReleaseRing>(pa);
            // SAFETY: the block is ours, large enough (asserted above) and aligned.
            unsafe { ring.write(ReleaseRing::new()) };
            self.0.store(ring, Ordering::Relaxed);
        }
        self.get()
    }

    /// Frees the list. The vCPU is off, and its VM is going.
    pub(crate) fn free(&self) {
        let ring = self.0.swap(ptr::null_mut(), Ordering::Relaxed);
        if !ring.is_null() {
            memory::free(memory::pa_of(ring as u64), RING_ORDER);
        }
    }
}

/// Returns the bits of FEATURES for the calls that guests of `vm` may make.
pub(crate) fn functions(vm: &Vm) -> u128 {
    let mut there = 0;
    let states = page_state::FUNCTIONS.map(|n| (n, VM_NO_PAGE_STATES));
    let keys = storage_key::FUNCTIONS.map(|n| (n, VM_NO_STORAGE_KEYS));
    for (number, masked) in states.into_iter().chain(keys) {
        if !vm.is_root() && vm.flags & masked == 0 {
            there |= 1 << number;
        }
    }
    if vm.gmap.dma.is_declared() {
        there |= dma::FUNCTIONS.iter().fold(0, |bits, n| bits | 1 << n);
    }
    there
}

/// How a call ended.
enum Answer {
    /// x0 and x1.
    Done([u64; 2]),
    /// The guest makes the call again.
    Repeat,
}

/// Answers call `id`, if it is one of these.
#[inline(always)]
pub(crate) fn call(vcpu: &mut Vcpu, id: u32) -> bool {
    // Most calls are none: a short look before a long one.
    id & !0x1_003f == 0xc600_0000 && make(vcpu, id)
}

#[inline(never)]
fn make(vcpu: &mut Vcpu, id: u32) -> bool {
    let [_, a, b, c, ..] = vcpu.gpr;
    let Some(call) = GuestMemoryCall::decode(id, [a, b, c]) else {
        return false;
    };
    let answer = if functions(vcpu.vm()) >> (id & 0x3f) & 1 == 0 {
        refused(NOT_SUPPORTED)
    } else {
        match call {
            Ok(call) => answer(vcpu, call),
            Err(guest_abi::guest_memory::Invalid) => refused(INVALID),
        }
    };
    match answer {
        Answer::Done([x0, x1]) => {
            vcpu.set_reg(0, x0);
            vcpu.set_reg(1, x1);
        }
        Answer::Repeat => vcpu.pc = vcpu.pc.wrapping_sub(4),
    }
    true
}

fn refused(code: i64) -> Answer {
    Answer::Done([code.cast_unsigned(), 0])
}

fn answer(vcpu: &mut Vcpu, call: GuestMemoryCall) -> Answer {
    let of_keys = !matches!(
        call,
        GuestMemoryCall::PageState { .. }
            | GuestMemoryCall::Drain
            | GuestMemoryCall::Declare { .. }
            | GuestMemoryCall::Undeclare { .. }
    );
    let result = match call {
        GuestMemoryCall::PageState { op, ipa, pages } => page_state(vcpu, op, ipa, pages),
        GuestMemoryCall::Drain => Ok([drain(vcpu), left(vcpu)]),
        GuestMemoryCall::Declare { ipa, pages } => reach(vcpu, declare, ipa, pages),
        GuestMemoryCall::Undeclare { ipa, pages } => {
            let undeclare: Reach = |_, vm, ipa, pages| undeclare(vm, ipa, pages);
            reach(vcpu, undeclare, ipa, pages)
        }
        GuestMemoryCall::KeyGet { ipa } => at(ipa).and_then(|ipa| {
            let key = keyed::attempt(vcpu.vm(), &mut vcpu.tables, |gmap, machine, _| {
                gmap.key(machine, ipa)
            })?;
            Ok([u64::from(key.byte()), 0])
        }),
        GuestMemoryCall::KeySet { ipa, pages, key } => key_set(vcpu, ipa, pages, key),
        GuestMemoryCall::KeyCondSet {
            ipa,
            key,
            mask_referenced: referenced,
            mask_changed: changed,
        } => at(ipa).and_then(|ipa| {
            let key = Key::from_byte(key).ok_or(KeyError::Invalid)?;
            let mask = Mask {
                referenced,
                changed,
            };
            let (vm, tables) = (vcpu.vm(), &mut vcpu.tables);
            let (old, set) = keyed::attempt(vm, tables, |gmap, machine, cache| {
                gmap.set_key_if(machine, cache, ipa, key, mask)
            })?;
            Ok([u64::from(set), u64::from(old.byte())])
        }),
        GuestMemoryCall::KeyReset { ipa } => at(ipa).and_then(|ipa| {
            let (vm, tables) = (vcpu.vm(), &mut vcpu.tables);
            let (referenced, changed) = keyed::attempt(vm, tables, |gmap, machine, cache| {
                gmap.reset_referenced(machine, cache, ipa)
            })?;
            Ok([u64::from(referenced) << 1 | u64::from(changed), 0])
        }),
    };
    match result {
        Ok(values) => Answer::Done(values),
        Err(KeyError::Off) if of_keys => match keyed::enable(vcpu.vm(), &mut vcpu.tables) {
            Ok(_) => Answer::Repeat,
            Err(error) => refusal(error),
        },
        Err(error) => refusal(error),
    }
}

fn refusal(error: KeyError) -> Answer {
    match error {
        KeyError::Again | KeyError::Shared => Answer::Repeat,
        KeyError::NoRam | KeyError::Invalid => refused(INVALID),
        KeyError::NoMemory | KeyError::Limit => refused(NO_MEMORY),
        KeyError::Off => refused(NOT_SUPPORTED),
    }
}

fn at(ipa: u64) -> Result<Ipa, KeyError> {
    Ipa::new(ipa).ok_or(KeyError::NoRam)
}

fn page(ipa: u64, n: u64) -> Result<Ipa, KeyError> {
    ipa.checked_add(n << 12)
        .and_then(Ipa::new)
        .ok_or(KeyError::NoRam)
}

fn page_state(vcpu: &mut Vcpu, op: u64, ipa: u64, pages: u64) -> Result<[u64; 2], KeyError> {
    let op = StateOp::from_code(op).ok_or(KeyError::Invalid)?;
    let vm = vcpu.vm();
    let ring = vcpu.released.get_or_make().ok_or(KeyError::NoMemory)?;
    let pages = pages.min(PAGES_MAX);
    let (mut done, mut states) = (0_u64, 0_u64);
    let tables = &mut vcpu.tables;
    let result = keyed::attempt(vm, tables, |gmap, machine, cache| {
        while done < pages && !ring.is_full() {
            let byte = gmap.page_state(machine, cache, ring, op, page(ipa, done)?)?;
            if done < 8 {
                states |= u64::from(byte) << (done * 8);
            }
            done += 1;
            if hw::interrupt_pending() {
                break;
            }
        }
        Ok(())
    });
    if ring.len() >= DRAIN_AT {
        drain(vcpu);
    }
    match result {
        Err(error) if done == 0 => Err(error),
        // What was done is done; the guest comes again for the rest and hears why then.
        _ => Ok([done, states]),
    }
}

/// [`declare`] or [`undeclare`].
type Reach = fn(&mut Vcpu, &Vm, Ipa, u64) -> Result<u64, Refused>;

/// Lets the VM's devices reach pages, or no longer.
fn reach(vcpu: &mut Vcpu, reach: Reach, ipa: u64, pages: u64) -> Result<[u64; 2], KeyError> {
    let vm = vcpu.vm();
    match reach(vcpu, vm, at(ipa)?, pages) {
        Ok(done) => Ok([done, 0]),
        Err(Refused::Later) => Err(KeyError::Again),
        Err(Refused::NoRam) => Err(KeyError::NoRam),
        Err(Refused::NoMemory) => Err(KeyError::NoMemory),
    }
}

fn key_set(vcpu: &mut Vcpu, ipa: u64, pages: u64, key: u8) -> Result<[u64; 2], KeyError> {
    let key = Key::from_byte(key).ok_or(KeyError::Invalid)?;
    let wanted = pages.min(PAGES_MAX);
    let mut done = 0_u64;
    let (vm, tables) = (vcpu.vm(), &mut vcpu.tables);
    let result = keyed::attempt(vm, tables, |gmap, machine, cache| {
        while done < wanted {
            gmap.set_key(machine, cache, page(ipa, done)?, key)?;
            done += 1;
            if hw::interrupt_pending() {
                break;
            }
        }
        Ok(())
    });
    match result {
        Err(error) if done == 0 => Err(error),
        _ => Ok([done, 0]),
    }
}

/// Returns how many pages that `vcpu` said are unused still wait.
fn left(vcpu: &Vcpu) -> u64 {
    vcpu.released.get().map_or(0, |ring| ring.len() as u64)
}

/// Gives the frames of the pages back that `vcpu` said are unused, until an interrupt waits.
/// Returns how many.
#[inline(never)]
pub(crate) fn drain(vcpu: &Vcpu) -> u64 {
    let Some(ring) = vcpu.released.get().filter(|ring| !ring.is_empty()) else {
        return 0;
    };
    let space = &vcpu.vm().gmap;
    let freed = space.exclusive().drain(&mut space.machine(), ring) as u64;
    space.reclaimed.fetch_add(freed << 12, Ordering::Relaxed);
    freed
}
