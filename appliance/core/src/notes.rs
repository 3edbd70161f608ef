//! Notes: bytes that root has core keep, for the root that comes after it (guest-abi's `notes`).
//!
//! Core never looks at them. They lie in frames of core's, which root cannot reach: what a root
//! that runs wild overwrites, these are not. Root is never ended within a call, so a note is
//! always whole.

use arch::Pa;
use guest_abi::core_call::Status;
use guest_abi::notes::{NOTE_BYTES_MAX, NOTES_MAX};
use spin::Mutex;

use crate::calls::granted;
use crate::guest::Vm;
use crate::memory::{self, FRAME};

/// One note: where it is, the order of its block, its length.
type Note = (Pa, u8, u64);

static NOTES: Mutex<[Option<Note>; NOTES_MAX]> = Mutex::new([None; NOTES_MAX]);

const _: () = assert!(NOTE_BYTES_MAX == 4 * FRAME as usize);

/// Returns the order of the block for a note of `bytes` bytes.
fn order_of(bytes: u64) -> u8 {
    let pages = bytes.div_ceil(FRAME).next_power_of_two();
    pages.trailing_zeros() as u8
}

/// Keeps `bytes` bytes from `source` as note `n`; none forgets it.
pub(crate) fn write(root: &Vm, n: u64, source: u64, bytes: u64) -> Result<(), Status> {
    let n = usize::try_from(n).map_err(|_| Status::Invalid)?;
    if bytes > NOTE_BYTES_MAX as u64 {
        return Err(Status::Invalid);
    }
    let mut notes = NOTES.lock();
    let note = notes.get_mut(n).ok_or(Status::Invalid)?;
    let old = *note;
    if bytes == 0 {
        *note = None;
    } else {
        let source = granted(root, source, bytes)?;
        let order = order_of(bytes);
        let to = match old {
            Some((pa, there, _)) if there == order => pa,
            _ => memory::alloc_zeroed(order).ok_or(Status::Exhausted)?,
        };
        memory::copy(to, source, bytes);
        *note = Some((to, order, bytes));
    }
    let new = *note;
    drop(notes);
    if let Some((pa, order, _)) = old.filter(|(pa, ..)| new.is_none_or(|(to, ..)| to != *pa)) {
        memory::free(pa, order);
    }
    Ok(())
}

/// Copies note `n` to where `room` bytes are free, as far as it fits; returns its length.
pub(crate) fn read(root: &Vm, n: u64, out: u64, room: u64) -> Result<u64, Status> {
    let n = usize::try_from(n).map_err(|_| Status::Invalid)?;
    let notes = NOTES.lock();
    let Some((pa, _, bytes)) = *notes.get(n).ok_or(Status::Invalid)? else {
        return Ok(0);
    };
    let out = granted(root, out, bytes.min(room))?;
    memory::copy(out, pa, bytes.min(room));
    Ok(bytes)
}
