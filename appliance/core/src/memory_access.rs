//! Core calls on the bytes, keys and states of a VM's RAM.
//!
//! The one way to a guest's bytes: every access that core makes to them on somebody's behalf,
//! and so every access of root's, whose stage 2 never shows a guest's frame, goes through
//! [`read`], [`put`] or [`exchange`]. Each takes an access key, and is refused before its first
//! byte where the page's storage key does not allow it. The back-ends of devices in root are to
//! use the same calls, with the key of whom they act for.

use arch::{Ipa, Pa};
use gmap::{Access, Key, KeyError, Reset};
use guest_abi::core_call::Status;
use guest_abi::memory_call::{Exchange, KEYS_MAX, KeyOp, StatesOp};

use crate::calls::{find, granted};
use crate::guest::{Vcpu, Vm};
use crate::guest_fault::Missed;
use crate::memory::{self, FRAME};
use crate::memory_calls::{Answer, done, ram_range, refusal, with_keys};
use crate::{atomic, guest_fault, hw, keyed};

/// Bytes that one call copies at the most.
const COPY_BYTES_MAX: u64 = 64 << 10;
/// Pages whose keys or states one call reads or writes.
const PAGES_MAX: u64 = 256;

/// An access key: 0 to 15.
fn access_key(raw: u64) -> Result<u8, Status> {
    match u8::try_from(raw) {
        Ok(key @ 0..=15) => Ok(key),
        _ => Err(Status::Invalid),
    }
}

/// Checks that `bytes` from `ipa` are RAM of `vm`.
fn in_ram(vm: &Vm, ipa: u64, bytes: u64) -> Result<(), Status> {
    let base = guest_abi::map::RAM_BASE;
    match ipa.checked_add(bytes) {
        Some(end) if bytes != 0 && ipa >= base && end <= base + vm.ram_bytes => Ok(()),
        _ => Err(Status::OutsideRam),
    }
}

fn page_of(at: u64) -> Result<Ipa, Status> {
    Ipa::new(at & !(FRAME - 1)).ok_or(Status::OutsideRam)
}

/// Splits `bytes` from `ipa` at page boundaries and runs `f` with
/// address, offset from the start, and bytes of each part. Returns how many bytes were done.
///
/// A refusal after the first part ends it early: the next call meets it again. So does an
/// interrupt that waits.
fn by_page(
    ipa: u64,
    bytes: u64,
    mut f: impl FnMut(u64, u64, u64) -> Result<(), Status>,
) -> Result<u64, Status> {
    let mut so_far = 0;
    while so_far < bytes {
        let at = ipa + so_far;
        let n = (FRAME - at % FRAME).min(bytes - so_far);
        match f(at, so_far, n) {
            Ok(()) => so_far += n,
            Err(status) if so_far == 0 => return Err(status),
            Err(_) => break,
        }
        if hw::interrupt_pending() {
            break;
        }
    }
    Ok(so_far)
}

/// Reads RAM of a VM.
pub(crate) fn read(caller: &Vcpu, handle: u64, ipa: u64, bytes: u64, out: u64, key: u64) -> Answer {
    let vm = find(handle)?;
    in_ram(vm, ipa, bytes)?;
    let key = access_key(key)?;
    let bytes = bytes.min(COPY_BYTES_MAX);
    let to = granted(caller.vm(), out, bytes)?;
    let machine = vm.gmap.machine();
    let copied = by_page(ipa, bytes, |at, offset, n| {
        let to = to.checked_add(offset).ok_or(Status::NotGranted)?;
        let page = page_of(at)?;
        // The frame stays the VM's while the lock is held.
        let gmap = vm.gmap.shared();
        if !gmap.key_allows(&machine, page, key, Access::READ) {
            return Err(Status::Protected);
        }
        match gmap.translate(&machine, page) {
            Some((frame, _)) => {
                let from = frame.checked_add(at % FRAME).ok_or(Status::OutsideRam)?;
                memory::copy(to, from, n);
            }
            None => memory::zero(to, n),
        }
        Ok(())
    })?;
    done([copied, 0, 0])
}

/// Writes RAM of a VM.
pub(crate) fn write(
    caller: &mut Vcpu,
    handle: u64,
    ipa: u64,
    bytes: u64,
    source: u64,
    key: u64,
) -> Answer {
    let vm = find(handle)?;
    in_ram(vm, ipa, bytes)?;
    let key = access_key(key)?;
    let bytes = bytes.min(COPY_BYTES_MAX);
    let from = granted(caller.vm(), source, bytes)?;
    let copied = put(caller, vm, ipa, bytes, from, key)?;
    done([copied, 0, 0])
}

/// Copies `bytes` from `from`, which the caller may read, to RAM of a VM. Returns how many.
pub(crate) fn put(
    caller: &mut Vcpu,
    vm: &Vm,
    ipa: u64,
    bytes: u64,
    from: Pa,
    key: u8,
) -> Result<u64, Status> {
    by_page(ipa, bytes, |at, offset, n| {
        let from = from.checked_add(offset).ok_or(Status::NotGranted)?;
        change(caller, vm, at, key, |to| {
            memory::copy(to, from, n);
            // It may be code, and the guest may have its caches off.
            hw::clean_to_poc(memory::va(to), n);
        })
    })
}

/// Runs `f` with where byte `at` of a VM's RAM is, populated and dirty, if `key` may store
/// there.
fn change(caller: &mut Vcpu, vm: &Vm, at: u64, key: u8, f: impl FnOnce(Pa)) -> Result<(), Status> {
    let page = page_of(at)?;
    let allowed = {
        let gmap = vm.gmap.shared();
        gmap.key_allows(&vm.gmap.machine(), page, key, Access::WRITE)
    };
    if !allowed {
        return Err(Status::Protected);
    }
    guest_fault::with_page_for(caller, vm, page, Access::WRITE, |frame| {
        if let Some(pa) = frame.checked_add(at % FRAME) {
            f(pa);
        }
    })
    .map_err(|missed| match missed {
        Missed::NoRam | Missed::NoMemory => Status::Exhausted,
        Missed::Later => Status::Again,
    })
}

/// Compares and exchanges 1, 2, 4, 8 or 16 bytes of a VM's RAM.
pub(crate) fn exchange(
    caller: &mut Vcpu,
    handle: u64,
    ipa: u64,
    bytes: u64,
    operand: u64,
    key: u64,
) -> Answer {
    let vm = find(handle)?;
    if !matches!(bytes, 1 | 2 | 4 | 8 | 16) || !ipa.is_multiple_of(bytes) {
        return Err(Status::Invalid);
    }
    in_ram(vm, ipa, bytes)?;
    let key = access_key(key)?;
    let operand = granted(caller.vm(), operand, size_of::<Exchange>() as u64)?;
    if !operand.is_aligned(align_of::<Exchange>() as u64) {
        return Err(Status::Invalid);
    }
    let Exchange { old, new } = memory::read_record::<Exchange>(operand);
    let (old, new) = (u128::from_le_bytes(old), u128::from_le_bytes(new));
    let mut found = None;
    change(caller, vm, ipa, key, |pa| {
        found = atomic::compare_exchange(pa, bytes, old, new);
    })?;
    // The guest keeps writing there: root tries again.
    let found = found.ok_or(Status::Again)?;
    let (swapped, was) = match found {
        Ok(()) => (1, old),
        Err(was) => (0, was),
    };
    let record = Exchange {
        old: was.to_le_bytes(),
        new: new.to_le_bytes(),
    };
    memory::write_record(operand, &record);
    done([swapped, 0, 0])
}

/// One operation on the key of a page.
pub(crate) fn key(caller: &mut Vcpu, handle: u64, op: u64, ipa: u64, key: u64) -> Answer {
    let vm = find(handle)?;
    ram_range(vm, ipa, FRAME)?;
    let ipa = Ipa::new(ipa).ok_or(Status::OutsideRam)?;
    let op = u8::try_from(op).map_err(|_| Status::Invalid)?;
    let key = u8::try_from(key).map_err(|_| Status::Invalid)?;
    // What it would refuse anyway does not put keys into use.
    let sets = u64::from(op) == KeyOp::Set as u64;
    if op == 0 || u64::from(op) > KeyOp::Set as u64 || (sets && Key::from_byte(key).is_none()) {
        return Err(Status::Invalid);
    }
    if u64::from(op) != KeyOp::Get as u64 && !vm.gmap.shared().keys_in_use() {
        with_keys(caller, vm)?;
    }
    let tables = &mut caller.tables;
    let old = keyed::attempt(vm, tables, |gmap, machine, cache| {
        gmap.key_operation(machine, cache, op, ipa, key)
    });
    done([u64::from(old.map_err(refusal)?), 0, 0])
}

/// Checks a run of pages and the bytes that belong to them.
fn run_of_pages(
    caller: &Vcpu,
    vm: &Vm,
    ipa: u64,
    pages: u64,
    pa: u64,
) -> Result<(u64, Pa), Status> {
    if pages == 0 || pages > KEYS_MAX {
        return Err(Status::Invalid);
    }
    ram_range(vm, ipa, pages << 12)?;
    let pages = pages.min(PAGES_MAX);
    Ok((pages, granted(caller.vm(), pa, pages)?))
}

fn nth(ipa: u64, n: usize) -> Result<Ipa, KeyError> {
    Ipa::new(ipa + ((n as u64) << 12)).ok_or(KeyError::NoRam)
}

/// Reads the keys of pages.
pub(crate) fn keys_read(caller: &Vcpu, handle: u64, ipa: u64, pages: u64, out: u64) -> Answer {
    let vm = find(handle)?;
    let (pages, out) = run_of_pages(caller, vm, ipa, pages, out)?;
    let mut keys = [0; PAGES_MAX as usize];
    let wanted = keys.get_mut(..pages as usize).ok_or(Status::Invalid)?;
    let from = Ipa::new(ipa).ok_or(Status::OutsideRam)?;
    vm.gmap
        .shared()
        .read_keys(&vm.gmap.machine(), from, wanted)
        .map_err(refusal)?;
    memory::copy_in(out, wanted);
    done([pages, 0, 0])
}

/// Writes the keys of pages.
pub(crate) fn keys_write(
    caller: &mut Vcpu,
    handle: u64,
    ipa: u64,
    pages: u64,
    source: u64,
) -> Answer {
    let vm = find(handle)?;
    let (pages, source) = run_of_pages(caller, vm, ipa, pages, source)?;
    let mut bytes = [0; PAGES_MAX as usize];
    memory::copy_out(source, bytes.get_mut(..pages as usize).unwrap_or(&mut []));
    let keys = bytes.get(..pages as usize).unwrap_or(&[]);
    if keys.iter().any(|byte| Key::from_byte(*byte).is_none()) {
        return Err(Status::Invalid);
    }
    if !vm.gmap.shared().keys_in_use() {
        with_keys(caller, vm)?;
    }
    let mut n = 0;
    let result = keyed::attempt(vm, &mut caller.tables, |gmap, machine, cache| {
        while let Some(key) = keys.get(n).and_then(|byte| Key::from_byte(*byte)) {
            gmap.set_key(machine, cache, nth(ipa, n)?, key)?;
            n += 1;
            if hw::interrupt_pending() {
                break;
            }
        }
        Ok(())
    });
    match result {
        Err(error) if n == 0 => Err(refusal(error)),
        _ => done([n as u64, 0, 0]),
    }
}

/// One operation on the states of pages.
pub(crate) fn states(
    caller: &mut Vcpu,
    handle: u64,
    op: u64,
    ipa: u64,
    pages: u64,
    pa: u64,
) -> Answer {
    let vm = find(handle)?;
    let op = StatesOp::from_u64(op).ok_or(Status::Invalid)?;
    if !vm.gmap.shared().states_in_use() {
        return Err(Status::KeysOff);
    }
    let machine = vm.gmap.machine();
    let from = Ipa::new(ipa).ok_or(Status::OutsideRam)?;
    if let StatesOp::Reset | StatesOp::Unread = op {
        ram_range(vm, ipa, FRAME)?;
        let reset = if op == StatesOp::Reset {
            Reset::Stable
        } else {
            Reset::Unread
        };
        let slice = gmap::Budget::SLICE;
        let mut gmap = vm.gmap.exclusive();
        let next = gmap.reset_states(&machine, from, reset, slice);
        return done([0, ipa, next.map_or(0, Ipa::raw)]);
    }
    let (pages, pa) = run_of_pages(caller, vm, ipa, pages, pa)?;
    let mut bytes = [0; PAGES_MAX as usize];
    let values = bytes.get_mut(..pages as usize).ok_or(Status::Invalid)?;
    match op {
        StatesOp::Peek => {
            let count = vm.gmap.shared().peek_states(&machine, from, values);
            let count = count.map_err(refusal)?;
            memory::copy_in(pa, values.get(..count).unwrap_or(&[]));
            done([count as u64, ipa, 0])
        }
        StatesOp::Take => {
            let slice = gmap::Budget::SLICE;
            let gmap = vm.gmap.shared();
            let (taken, next) = gmap.take_states(&machine, from, values, slice);
            drop(gmap);
            let (first, count) = taken.map_or((ipa, 0), |t| (t.first.raw(), t.count));
            memory::copy_in(pa, values.get(..count).unwrap_or(&[]));
            done([count as u64, first, next.map_or(0, Ipa::raw)])
        }
        StatesOp::Set | StatesOp::Reset | StatesOp::Unread => {
            memory::copy_out(pa, values);
            let mut n = 0;
            let result = keyed::attempt(vm, &mut caller.tables, |gmap, machine, cache| {
                while let Some(value) = values.get(n) {
                    gmap.write_state(machine, cache, nth(ipa, n)?, *value)?;
                    n += 1;
                    if hw::interrupt_pending() {
                        break;
                    }
                }
                Ok(())
            });
            match result {
                Err(error) if n == 0 => Err(refusal(error)),
                _ => done([n as u64, ipa, 0]),
            }
        }
    }
}
