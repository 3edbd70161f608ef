//! What the root before this one left: VMs in core, images in granted frames, notes.

use alloc::string::String;
use alloc::vec::Vec;

use control::backend::{ImageId, RunId, RunPlan};
use control::heritage::{Drill, Extent, FoundVm, Heritage, Restart};
use control::notes::{NOTE_BYTES_MAX, NOTES};
use guest_abi::core_call::{CoreCall, Status, VmEntry, VmState};
use guest_abi::root_boot::{RootEnd, VMS_MAX};
use root_logic::legacy::Legacy;

use super::run::Run;
use super::{Machine, console};
use crate::calls::{call, call_long, call_patiently};
use crate::frames::{Block, Frames};
use crate::{boot, clock};

const _: () = assert!(NOTES <= guest_abi::notes::NOTES_MAX);
const _: () = assert!(NOTE_BYTES_MAX == guest_abi::notes::NOTE_BYTES_MAX);
/// After so many roots that were never ready notes are not looked at: one of them may be why. VMs
/// are found all the same.
const SUSPECT: u32 = 2;
/// Order of a block that holds any note.
const NOTE_ORDER: u32 = 2;

/// Finds all that was granted to the root before. To be called before anything is granted to
/// this one.
pub(super) fn granted() -> Legacy {
    let mut legacy = Legacy::new();
    let mut cursor = 0;
    loop {
        let (status, [block, next, _]) =
            call_long(CoreCall::FramesList, [cursor, 0, 0, 0, 0, 0, 0]);
        if status != Status::Ok || next <= cursor {
            return legacy;
        }
        if block != 0 {
            let order = u32::try_from(block & 0xfff).unwrap_or(0);
            legacy.add(block & !0xfff, order);
        }
        cursor = next;
    }
}

/// A page to write notes in and to read them from.
pub(super) fn note_block() -> Result<Block, Status> {
    Block::grant(NOTE_ORDER)
}

impl Heritage for Machine {
    fn restart(&mut self, how: Restart) {
        match how {
            Restart::After(ns) => {
                // It can only be refused for a time that the server does not let through.
                let refused = call(CoreCall::RootRestart, [ns, 0, 0, 0]);
                debug_assert!(refused.is_ok(), "core ends root");
            }
            Restart::Drill(Drill::Panic) => panic!("a drill"),
            Restart::Drill(Drill::Fault) => crate::physmap::touch_nothing(),
            Restart::Drill(Drill::Hang) => {
                let begun = clock::uptime_ns();
                // For ever, in a way that nobody can prove.
                while clock::uptime_ns() >= begun {
                    core::hint::spin_loop();
                }
            }
        }
    }

    fn generation(&self) -> u64 {
        boot::root_boot().generation
    }

    fn end_of_last(&self) -> &'static str {
        match RootEnd::from_u32(boot::root_boot().end) {
            Some(RootEnd::Itself) => "panic",
            Some(RootEnd::Crashed) => "fault",
            Some(RootEnd::Silent) => "silent",
            Some(RootEnd::Asked) => "asked",
            None => "unknown",
        }
    }

    fn note_write(&mut self, number: usize, bytes: &[u8]) -> bool {
        let Some(room) = self.note.as_mut_slice().get_mut(..bytes.len()) else {
            return false;
        };
        room.copy_from_slice(bytes);
        let arguments = [number as u64, self.note.pa(), bytes.len() as u64, 0];
        call_patiently(CoreCall::NoteWrite, arguments).is_ok()
    }

    fn note_read(&mut self, number: usize) -> Option<Vec<u8>> {
        if boot::root_boot().unready >= SUSPECT && number > 0 {
            // Nor is the next root to find it, beside what this one notes.
            let forgotten = call(CoreCall::NoteWrite, [number as u64, 0, 0, 0]);
            debug_assert!(forgotten.is_ok(), "core forgets any note");
            return None;
        }
        let arguments = [number as u64, self.note.pa(), NOTE_BYTES_MAX as u64, 0];
        let [bytes, _] = call(CoreCall::NoteRead, arguments).ok()?;
        let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes > 0)?;
        Some(self.note.as_slice().get(..bytes)?.to_vec())
    }

    fn image_extents(&self, id: ImageId) -> Vec<Extent> {
        self.store.extents(id)
    }

    fn image_adopt(&mut self, id: ImageId, bytes: u64, extents: &[Extent]) -> bool {
        let mut blocks = Vec::new();
        for extent in extents {
            // A block that is dropped goes back to core, as the rest does.
            for n in 0..extent.count {
                let step = 4096_u64.checked_shl(extent.order).unwrap_or(u64::MAX);
                let pa = extent.pa.saturating_add(n.saturating_mul(step));
                if !self.legacy.take(pa, extent.order) {
                    return false;
                }
                let Some(block) = Block::adopt(pa, extent.order) else {
                    return false;
                };
                blocks.push(block);
            }
        }
        let Some(frames) = Frames::adopt(blocks, bytes) else {
            return false;
        };
        self.store.adopt(id, frames);
        true
    }

    fn vm_handle(&self, id: RunId) -> Option<u64> {
        self.vm_of(id)
    }

    fn vms_found(&mut self) -> Vec<FoundVm> {
        self.found.clear();
        for slot in 0..VMS_MAX as u64 {
            if let Ok(entry) = self.scratch.ask_about::<VmEntry>(CoreCall::VmList, slot) {
                self.found.insert(entry.vm, entry);
            }
        }
        self.found.values().map(describe).collect()
    }

    fn vm_adopt(&mut self, id: RunId, handle: u64, plan: &RunPlan) -> bool {
        let Some(entry) = self.found.remove(&handle) else {
            return false;
        };
        let Ok(run) = Run::adopt(handle, entry.shared_pa, plan) else {
            return false;
        };
        self.runs.insert(id, run);
        true
    }

    fn console_taken(&self, id: RunId) -> u32 {
        let shared = self.runs.get(&id).and_then(Run::shared);
        shared.map_or(0, console::Shared::taken)
    }

    fn console_backlog(&mut self, id: RunId) -> (u32, Vec<u8>) {
        let shared = self.runs.get(&id).and_then(Run::shared);
        shared.map(console::Shared::backlog).unwrap_or_default()
    }

    fn adopted(&mut self) {
        for (pa, order) in self.legacy.rest(Block::LARGE) {
            drop(Block::adopt(pa, order));
        }
    }
}

fn describe(entry: &VmEntry) -> FoundVm {
    let name = &entry.config.name;
    let end = name.iter().position(|byte| *byte == 0);
    let name = name.get(..end.unwrap_or(name.len())).unwrap_or_default();
    FoundVm {
        handle: entry.vm,
        name: String::from_utf8_lossy(name).into_owned(),
        cpus: entry.config.vcpus,
        memory_bytes: entry.config.ram_bytes,
        built: entry.state == VmState::Built as u32,
    }
}
