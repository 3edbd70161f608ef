//! Pages that are core's alone: root tries to reach them, whoever has the device that they are of.

use crate::calls;
use guest_abi::core_call::{CoreCall, Status};
use payload::{catch, mem, println};

/// Most pages that are tried.
const PAGES: usize = 8;

/// Reads `probe=`: physical addresses in hexadecimal, with commas.
pub(crate) fn read(text: &str) -> [Option<u64>; PAGES] {
    let mut pages = [None; PAGES];
    let words = text.split(',').filter(|word| !word.is_empty());
    for (page, word) in pages.iter_mut().zip(words) {
        *page = u64::from_str_radix(word, 16).ok();
    }
    pages
}

/// Loads from each page, stores to it, and has core write there; says what came of it.
pub(crate) fn all(pages: &[Option<u64>; PAGES], when: &str) {
    for pa in pages.iter().flatten() {
        let at = calls::window(*pa);
        let load = catch(|| mem::read32(at))
            .err()
            .map(|fault| fault.esr & 0x3f);
        let store = catch(|| mem::write32(at, 0xffff_ffff));
        let store = store.err().map(|fault| fault.esr & 0x3f);
        let named = calls::call(CoreCall::HostInfo, [*pa, 0, 0, 0]);
        let taken = named != Err(Status::NotGranted);
        // External aborts, not on a walk: nothing is there for root.
        let aborts = load == Some(0x10) && store == Some(0x10);
        let told = if aborts && !taken {
            "is out of reach"
        } else {
            "IS REACHED"
        };
        println!("DIRECT probe {when} {pa:#x} {told} ({load:x?} {store:x?} {named:?})");
    }
}
