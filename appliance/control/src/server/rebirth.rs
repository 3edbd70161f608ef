//! One server ends and the next one goes on: what is noted, and what is made of the notes.
//!
//! The server may end between any two instructions. So every change is noted before anybody is
//! told of it, and before the hypervisor begins what cannot be found again in it. A note may be
//! older than what the hypervisor has done since; which of the two counts,
//! [`crate::notes::outlook`] says.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use api::{Boot, Code, EventType, LastError, VmSpec};

use super::images::{Content, ImageRecord};
use super::vms::{Idle, Phase, Then, VmRecord, path};
use super::{Config, Server, vcpus};
use crate::backend::{Backend, ImageId, ImageKind, RunCounters, RunId, RunPlan};
use crate::heritage::FoundVm;
use crate::notes::{
    self, About, ImageNote, NOTES, Outlook, PhaseNote, ServerNote, ThenNote, There, VmNote,
};
use crate::scrollback::Scrollback;

/// Numbers of events and operations that a server may use before those of the next begin.
const NUMBERS: u64 = 1_000_000;
/// Keys, likewise.
const KEYS: u64 = 1 << 32;
/// The note about the server itself.
const SELF: usize = 0;

/// The part of a VM's state that is noted, to see when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    phase: Phase,
    then: Then,
    generation: u64,
    starts: u64,
    reason: &'static str,
    handle: Option<u64>,
}

impl Mark {
    fn of(vm: &VmRecord, backend: &dyn Backend) -> Self {
        Self {
            phase: vm.phase,
            then: vm.then,
            generation: vm.generation,
            starts: vm.starts,
            reason: vm.reason,
            handle: vm.run().and_then(|run| backend.vm_handle(run)),
        }
    }
}

/// Returns the digest of the token that the last server took, if there was one.
pub fn kept_token(backend: &mut dyn Backend) -> Option<[u8; 32]> {
    match notes::read(&backend.note_read(SELF)?)? {
        About::Server(note) => Some(note.token_sha256),
        About::Image(_) | About::Vm(_) => None,
    }
}

impl Server {
    /// Creates a server that goes on where the one before it ended, if there was one.
    pub fn revive(config: Config, backend: &mut dyn Backend) -> Self {
        let lives = backend.generation().saturating_sub(1);
        let mut server = Self::new(config);
        server.next_key = lives.saturating_mul(KEYS);
        server.operations.begin_at(lives.saturating_mul(NUMBERS));
        server.events.begin_at(lives.saturating_mul(NUMBERS));
        server.tick(backend);
        let token_sha256 = server.config.token_sha256;
        if let Some(note) = notes::write(About::Server(ServerNote { token_sha256 })) {
            backend.note_write(SELF, &note);
        }
        if lives > 0 {
            server.adopt(backend, lives);
        }
        server.save(backend);
        server
    }

    /// Takes over what the server before left.
    fn adopt(&mut self, backend: &mut dyn Backend, lives: u64) {
        let mut found: BTreeMap<u64, FoundVm> = backend
            .vms_found()
            .into_iter()
            .map(|vm| (vm.handle, vm))
            .collect();
        let mut vms = Vec::new();
        let mut lost = 0_u64;
        for slot in 1..NOTES {
            let Some(bytes) = backend.note_read(slot) else {
                continue;
            };
            let good = match notes::read(&bytes) {
                Some(About::Image(note)) => self.image_adopt(backend, slot, note),
                Some(About::Vm(note)) => {
                    vms.push((slot, note));
                    true
                }
                Some(About::Server(_)) | None => false,
            };
            if !good {
                lost = lost.saturating_add(1);
                backend.note_write(slot, &[]);
            }
        }
        for (slot, note) in vms {
            if !self.vm_adopt(backend, slot, *note, &mut found) {
                lost = lost.saturating_add(1);
                backend.note_write(slot, &[]);
            }
        }
        for vm in found.into_values() {
            self.vm_recover(backend, &vm);
        }
        backend.adopted();
        let context = [
            ("reason", String::from(backend.end_of_last())),
            ("generation", format!("{}", lives.saturating_add(1))),
            ("vms", format!("{}", self.vms.len())),
            ("images", format!("{}", self.images.len())),
            ("notes_lost", format!("{lost}")),
        ];
        let about = "/v1/system".to_string();
        self.event(
            EventType::System,
            "system.control_restarted",
            about,
            &context,
        );
    }

    /// Notes what has changed. To be called before anybody is told of it.
    pub(super) fn save(&mut self, backend: &mut dyn Backend) {
        let stale = |vm: &VmRecord| vm.noted != Some(Mark::of(vm, backend));
        let vms: Vec<String> = self
            .vms
            .iter()
            .filter(|(_, vm)| stale(vm))
            .map(|(name, _)| name.clone())
            .collect();
        for name in vms {
            if let Some(vm) = self.vms.get_mut(&name) {
                let mark = Mark::of(vm, backend);
                vm.noted = Some(mark);
                let note = About::Vm(Box::new(note_of(&name, vm, mark.handle, backend)));
                let key = vm.key;
                self.note(backend, key, note);
            }
        }
        let fresh =
            |image: &ImageRecord| !image.noted && matches!(image.content, Content::Ready { .. });
        let images: Vec<String> = self
            .images
            .iter()
            .filter(|(_, image)| fresh(image))
            .map(|(name, _)| name.clone())
            .collect();
        for name in images {
            if let Some(image) = self.images.get_mut(&name)
                && let Content::Ready { bytes, sha256 } = image.content
            {
                image.noted = true;
                let key = image.id.0;
                let note = About::Image(ImageNote {
                    uuid: image.uuid.clone(),
                    spec: image.spec.clone(),
                    created_at: image.created_at.clone(),
                    bytes,
                    sha256,
                    extents: backend.image_extents(image.id),
                    name,
                });
                self.note(backend, key, note);
            }
        }
    }

    /// Writes the note of what has this key. Without room for it, or memory, there is none, and
    /// the next server finds of a VM what the hypervisor knows.
    fn note(&mut self, backend: &mut dyn Backend, key: u64, about: About) {
        let place = |wanted: Option<u64>| self.notes.iter().position(|owner| *owner == wanted);
        let Some(slot) = place(Some(key)).or_else(|| place(None)) else {
            return;
        };
        let written = notes::write(about).is_some_and(|note| backend.note_write(slot, &note));
        if !written {
            backend.note_write(slot, &[]);
        }
        if let Some(owner) = self.notes.get_mut(slot) {
            *owner = written.then_some(key);
        }
    }

    /// What had this key is gone.
    pub(super) fn forget(&mut self, backend: &mut dyn Backend, key: u64) {
        let slot = self.notes.iter().position(|owner| *owner == Some(key));
        if let Some(slot) = slot {
            backend.note_write(slot, &[]);
            if let Some(owner) = self.notes.get_mut(slot) {
                *owner = None;
            }
        }
    }

    fn own(&mut self, slot: usize) -> u64 {
        let key = self.new_key();
        if let Some(owner) = self.notes.get_mut(slot) {
            *owner = Some(key);
        }
        key
    }

    fn image_adopt(&mut self, backend: &mut dyn Backend, slot: usize, note: ImageNote) -> bool {
        if self.images.contains_key(&note.name) {
            return false;
        }
        let key = self.own(slot);
        let id = ImageId(key);
        if !backend.image_adopt(id, note.bytes, &note.extents) {
            self.disown(slot);
            return false;
        }
        let (bytes, sha256) = (note.bytes, note.sha256);
        let record = ImageRecord {
            id,
            uuid: note.uuid,
            spec: note.spec,
            content: Content::Ready { bytes, sha256 },
            created_at: note.created_at,
            noted: true,
        };
        self.images.insert(note.name, record);
        true
    }

    fn disown(&mut self, slot: usize) {
        if let Some(owner) = self.notes.get_mut(slot) {
            *owner = None;
        }
    }

    fn vm_adopt(
        &mut self,
        backend: &mut dyn Backend,
        slot: usize,
        note: VmNote,
        found: &mut BTreeMap<u64, FoundVm>,
    ) -> bool {
        if self.vms.contains_key(&note.name) {
            return false;
        }
        // Taken out: no two VMs are the same one. One of another size is another one.
        let wanted = note.handle.and_then(|handle| found.get(&handle));
        let claim = wanted
            .filter(|vm| vm.cpus == note.spec.cpus && vm.memory_bytes == note.spec.memory_bytes)
            .map(|vm| (vm.handle, vm.built));
        let key = self.own(slot);
        let run = RunId(self.new_key());
        let claim = claim.filter(|(handle, _)| {
            let plan = plan_of(&note.name, &note.spec);
            backend.vm_adopt(run, *handle, &plan)
        });
        if let Some((handle, _)) = claim {
            found.remove(&handle);
        }
        let there = match claim {
            None => There::Nothing,
            Some((_, true)) => There::Built,
            Some((_, false)) => There::Started,
        };
        let mut vm = record_of(key, note);
        let phase = vm.0;
        let vm_record = &mut vm.1;
        match notes::outlook(phase, there) {
            Outlook::Rest => vm_record.phase = Phase::Idle(idle_of(phase)),
            Outlook::Watch => {
                vm_record.phase = Phase::Running(run);
                if phase == PhaseNote::Starting {
                    vm_record.started_at = self.now();
                    vm_record.stopped_at = None;
                }
            }
            Outlook::End => {
                backend.vm_stop(run);
                vm_record.phase = Phase::Stopping(run);
            }
            Outlook::Begin => {
                backend.vm_stop(run);
                vm_record.then = Then::Restart;
                vm_record.phase = Phase::Releasing(run);
            }
            Outlook::Go => vm_record.phase = Phase::Releasing(run),
            Outlook::Lost => {
                vm_record.then = Then::Rest(Idle::Failed);
                vm_record.reason = "lost";
                vm_record.last_error = Some(LastError {
                    code: Code::Internal.name().into(),
                    detail: "the hypervisor has nothing of its run any more".into(),
                });
                vm_record.phase = Phase::Releasing(run);
            }
            Outlook::Pause => {
                vm_record.phase = Phase::Pausing {
                    until_ns: self.now_ns,
                };
            }
        }
        if claim.is_some() {
            resume_console(vm_record, backend, run);
        }
        let (_, record, name) = vm;
        self.vms.insert(name, record);
        true
    }

    /// Takes a VM that no note is about: one that was never started goes, any other runs on under
    /// a name that says so.
    fn vm_recover(&mut self, backend: &mut dyn Backend, found: &FoundVm) {
        let run = RunId(self.new_key());
        let mut names = (1_u64..).map(|n| format!("recovered-{n}"));
        let Some(name) = names.find(|name| !self.vms.contains_key(name)) else {
            return;
        };
        let spec = VmSpec {
            cpus: found.cpus,
            memory_bytes: found.memory_bytes,
            boot: Boot::default(),
            ..VmSpec::default()
        };
        if !backend.vm_adopt(run, found.handle, &plan_of(&name, &spec)) {
            return;
        }
        let key = self.new_key();
        let mut vm = VmRecord {
            uuid: self.uuid(key),
            ..VmRecord::new(key, spec, self.now())
        };
        vm.reason = "recovered";
        vm.starts = 1;
        if found.built {
            backend.vm_stop(run);
            vm.phase = Phase::Stopping(run);
            vm.then = Then::Delete;
        } else {
            vm.phase = Phase::Running(run);
            vm.started_ns = self.now_ns;
            resume_console(&mut vm, backend, run);
            let context = [("was", found.name.clone())];
            self.event(EventType::System, "vm.recovered", path(&name), &context);
        }
        self.vms.insert(name, vm);
    }
}

/// Puts back what of a guest's output is still in its ring.
fn resume_console(vm: &mut VmRecord, backend: &mut dyn Backend, run: RunId) {
    let (taken, backlog) = backend.console_backlog(run);
    let end = notes::printed(vm.console_base, vm.scrollback.end(), taken);
    vm.scrollback = Scrollback::resume(end, &backlog);
}

/// What the backend has to know of a run that it did not begin.
fn plan_of(name: &str, spec: &VmSpec) -> RunPlan {
    RunPlan {
        name: name.into(),
        cpus: spec.cpus,
        cpu: vcpus::plan(&spec.cpu, spec.cpus),
        memory_bytes: spec.memory_bytes,
        boot: ImageId(0),
        kind: ImageKind::Flat,
        initrd: None,
        cmdline: String::new(),
        devices: spec.devices.clone(),
        cpu_features: spec.cpu_features,
    }
}

fn note_of(name: &str, vm: &VmRecord, handle: Option<u64>, backend: &dyn Backend) -> VmNote {
    let end = vm.scrollback.end();
    VmNote {
        name: name.into(),
        uuid: vm.uuid.clone(),
        spec: vm.spec.clone(),
        generation: vm.generation,
        created_at: vm.created_at.clone(),
        phase: match vm.phase {
            Phase::Idle(Idle::Stopped) => PhaseNote::Stopped,
            Phase::Idle(Idle::Crashed) => PhaseNote::Crashed,
            Phase::Idle(Idle::Failed) => PhaseNote::Failed,
            Phase::Starting(_) => PhaseNote::Starting,
            Phase::Running(_) => PhaseNote::Running,
            Phase::Stopping(_) => PhaseNote::Stopping,
            Phase::Releasing(_) => PhaseNote::Releasing,
            Phase::Pausing { .. } => PhaseNote::Pausing,
        },
        then: match vm.then {
            Then::Rest(Idle::Stopped) => ThenNote::Stopped,
            Then::Rest(Idle::Crashed) => ThenNote::Crashed,
            Then::Rest(Idle::Failed) => ThenNote::Failed,
            Then::Restart => ThenNote::Restart,
            Then::Delete => ThenNote::Delete,
        },
        handle,
        reason: vm.reason.into(),
        last_error: vm.last_error.clone(),
        starts: vm.starts,
        started_at: vm.started_at.clone(),
        started_ns: vm.started_ns,
        stopped_at: vm.stopped_at.clone(),
        console_base: match vm.run() {
            Some(run) => end.saturating_sub(u64::from(backend.console_taken(run))),
            None => end,
        },
        console_end: end,
    }
}

const fn idle_of(phase: PhaseNote) -> Idle {
    match phase {
        PhaseNote::Crashed => Idle::Crashed,
        PhaseNote::Failed => Idle::Failed,
        PhaseNote::Stopped
        | PhaseNote::Starting
        | PhaseNote::Running
        | PhaseNote::Stopping
        | PhaseNote::Releasing
        | PhaseNote::Pausing => Idle::Stopped,
    }
}

/// Why a VM is where it is, as the server says it.
fn reason_of(reason: &str) -> &'static str {
    const REASONS: [&str; 9] = [
        "created",
        "requested",
        "guest_poweroff",
        "guest_reset",
        "guest_crashed",
        "start_failed",
        "killed",
        "recovered",
        "lost",
    ];
    let known = REASONS.into_iter().find(|known| *known == reason);
    known.unwrap_or("requested")
}

fn record_of(key: u64, note: VmNote) -> (PhaseNote, VmRecord, String) {
    let then = match note.then {
        ThenNote::Stopped => Then::Rest(Idle::Stopped),
        ThenNote::Crashed => Then::Rest(Idle::Crashed),
        ThenNote::Failed => Then::Rest(Idle::Failed),
        ThenNote::Restart => Then::Restart,
        ThenNote::Delete => Then::Delete,
    };
    let record = VmRecord {
        uuid: note.uuid,
        generation: note.generation,
        then,
        reason: reason_of(&note.reason),
        last_error: note.last_error,
        starts: note.starts,
        started_at: note.started_at,
        started_ns: note.started_ns,
        stopped_at: note.stopped_at,
        counters: RunCounters::default(),
        scrollback: Scrollback::resume(note.console_end, &[]),
        console_base: note.console_base,
        ..VmRecord::new(key, note.spec, note.created_at)
    };
    (note.phase, record, note.name)
}
