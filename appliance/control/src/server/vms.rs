//! The table of virtual machines: defining, showing, commanding them.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use api::limits::{CMDLINE_MAX, CPUS_MAX, CPUS_MIN, MEMORY_MIN_BYTES, MEMORY_STEP_BYTES, VMS_MAX};
use api::{
    Action, Code, CpuFeatures, EventType, ImageKind, LastError, Problem, Vm, VmList, VmSpec,
    VmState, VmStatus,
};

use super::Server;
use super::devices::check_devices;
use super::images::{Content, check_name};
use super::rebirth::Mark;
use super::vcpus::{self, check_cpu, refused};
use crate::backend::{Backend, BackendError, RunCounters, RunId, RunPlan};
use crate::http::head::Head;
use crate::http::reply::Reply;
use crate::operations::OperationId;
use crate::scrollback::Scrollback;

/// One VM.
#[derive(Debug)]
pub(super) struct VmRecord {
    /// Names the VM for streams: a later VM of the same name has another.
    pub(super) key: u64,
    pub(super) uuid: String,
    pub(super) spec: VmSpec,
    /// Counts changes of `spec`, from 1.
    pub(super) generation: u64,
    pub(super) created_at: Option<String>,
    pub(super) phase: Phase,
    /// What comes once the run is released.
    pub(super) then: Then,
    /// The operation that ends with this phase or a later one.
    pub(super) operation: Option<OperationId>,
    pub(super) reason: &'static str,
    pub(super) last_error: Option<LastError>,
    pub(super) starts: u64,
    pub(super) started_at: Option<String>,
    pub(super) started_ns: u64,
    pub(super) stopped_at: Option<String>,
    pub(super) counters: RunCounters,
    pub(super) scrollback: Scrollback,
    /// Where its console was when the run began that the last server left.
    pub(super) console_base: u64,
    /// What of it the next server will find.
    pub(super) noted: Option<Mark>,
}

/// What a VM is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing; there is no run.
    Idle(Idle),
    /// The run is being loaded.
    Starting(RunId),
    /// The guest runs.
    Running(RunId),
    /// The run was told to stop.
    Stopping(RunId),
    /// The run has ended and gives back what it holds.
    Releasing(RunId),
    /// The guest restarts too often: the next run begins then.
    Pausing {
        /// When the next run begins, in nanoseconds.
        until_ns: u64,
    },
}

/// Why a VM is doing nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Idle {
    Stopped,
    Crashed,
    Failed,
}

/// What comes after a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Nothing.
    Rest(Idle),
    /// Another run.
    Restart,
    /// The VM goes.
    Delete,
}

impl VmRecord {
    /// One that has just been defined, and has no UUID yet.
    pub(super) fn new(key: u64, spec: VmSpec, created_at: Option<String>) -> Self {
        Self {
            key,
            uuid: String::new(),
            spec,
            generation: 1,
            created_at,
            phase: Phase::Idle(Idle::Stopped),
            then: Then::Rest(Idle::Stopped),
            operation: None,
            reason: "created",
            last_error: None,
            starts: 0,
            started_at: None,
            started_ns: 0,
            stopped_at: None,
            counters: RunCounters::default(),
            scrollback: Scrollback::default(),
            console_base: 0,
            noted: None,
        }
    }

    pub(super) const fn state(&self) -> VmState {
        match self.phase {
            Phase::Idle(Idle::Stopped) => VmState::Stopped,
            Phase::Idle(Idle::Crashed) => VmState::Crashed,
            Phase::Idle(Idle::Failed) => VmState::Failed,
            Phase::Starting(_) | Phase::Pausing { .. } => VmState::Starting,
            Phase::Running(_) => VmState::Running,
            Phase::Stopping(_) | Phase::Releasing(_) => VmState::Stopping,
        }
    }

    /// Returns whether something moves on only if it is polled.
    pub(super) const fn wants_polling(&self) -> bool {
        !matches!(self.phase, Phase::Idle(_) | Phase::Running(_))
    }

    pub(super) fn boots(&self, image: &str) -> bool {
        boot_images(&self.spec).any(|(name, ..)| name == image)
    }

    pub(super) fn etag(&self) -> String {
        format!("\"{}-{}\"", self.uuid, self.generation)
    }

    /// The run whose console is live.
    pub(super) const fn run(&self) -> Option<RunId> {
        match self.phase {
            Phase::Starting(run)
            | Phase::Running(run)
            | Phase::Stopping(run)
            | Phase::Releasing(run) => Some(run),
            Phase::Idle(_) | Phase::Pausing { .. } => None,
        }
    }
}

/// Every image that a VM boots: its name, the kind it must have, where it is named.
fn boot_images(spec: &VmSpec) -> impl Iterator<Item = (&str, ImageKind, &'static str)> {
    let boot = &spec.boot;
    [
        (&boot.kernel, ImageKind::Kernel, "/boot/kernel"),
        (&boot.flat, ImageKind::Flat, "/boot/flat"),
        (&boot.elf, ImageKind::Elf, "/boot/elf"),
        (&boot.initrd, ImageKind::Initrd, "/boot/initrd"),
    ]
    .into_iter()
    .filter_map(|(name, kind, at)| name.as_deref().map(|name| (name, kind, at)))
}

/// Path of a VM.
pub(super) fn path(name: &str) -> String {
    format!("/v1/vms/{name}")
}

/// What a client called something, cut to a length that can be quoted.
pub(super) fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(80).collect()
}

pub(super) fn not_found(name: &str) -> Problem {
    Problem::new(
        Code::VmNotFound,
        format!("no VM is named '{}'", shown(name)),
    )
    .hint("GET /v1/vms lists the VMs there are")
}

/// Says why the backend could not do something.
pub(super) fn backend_problem(what: &str, why: &BackendError) -> Problem {
    let detail = format!("{what}: {why}");
    match why {
        BackendError::NoMemory { .. } => {
            Problem::new(Code::NoMemory, detail).hint("stop a VM, delete an image, or ask for less")
        }
        BackendError::NoSlots => {
            Problem::new(Code::TableFull, detail).hint("stop a VM that is not needed")
        }
        BackendError::BadImage { .. } => {
            Problem::new(Code::NotAnImage, detail).hint("delete the image and upload another file")
        }
        BackendError::Unknown | BackendError::Other(_) => Problem::new(Code::Internal, detail),
    }
}

impl Server {
    pub(super) fn vm(&self, name: &str) -> Result<&VmRecord, Problem> {
        self.vms.get(name).ok_or_else(|| not_found(name))
    }

    fn vm_view(backend: &dyn Backend, name: &str, vm: &VmRecord) -> Vm {
        let live = vm.run().map(|run| backend.vm_counters(run));
        let counters = live.as_ref().unwrap_or(&vm.counters);
        Vm {
            name: name.into(),
            id: vm.uuid.clone(),
            spec: vm.spec.clone(),
            status: VmStatus {
                state: vm.state(),
                reason: vm.reason.into(),
                last_error: vm.last_error.clone(),
                starts: vm.starts,
                started_at: vm.started_at.clone(),
                stopped_at: vm.stopped_at.clone(),
                resident_bytes: counters.resident_bytes,
                overhead_bytes: counters.overhead_bytes,
                run_ns: counters.run_ns,
                stolen_ns: counters.stolen_ns,
                exits: counters
                    .exits
                    .iter()
                    .map(|(reason, count)| (reason.to_string(), *count))
                    .collect::<BTreeMap<_, _>>(),
                console_bytes: vm.scrollback.end(),
                console_dropped_bytes: counters.console_dropped_bytes,
            },
            created_at: vm.created_at.clone(),
        }
    }

    pub(super) fn vm_list(&self, backend: &dyn Backend) -> Reply {
        let vms = self
            .vms
            .iter()
            .map(|(name, vm)| Self::vm_view(backend, name, vm))
            .collect();
        Reply::json(200, &VmList { vms })
    }

    /// Answers with a VM.
    pub(super) fn vm_reply(&self, backend: &dyn Backend, name: &str, status: u16) -> Reply {
        match self.vm(name) {
            Ok(vm) => {
                Reply::json(status, &Self::vm_view(backend, name, vm)).header("ETag", vm.etag())
            }
            Err(problem) => Reply::problem(&problem),
        }
    }

    pub(super) fn vm_put(
        &mut self,
        backend: &dyn Backend,
        name: &str,
        head: &Head,
        mut spec: VmSpec,
    ) -> Result<Reply, Problem> {
        check_name(name)?;
        check_match(self.vms.get(name), name, head)?;
        self.check_spec(backend, &spec)?;
        spec.cpu = vcpus::settled(spec.cpu);
        let count = self.vms.len();
        let Some(vm) = self.vms.get_mut(name) else {
            if count >= VMS_MAX {
                return Err(Problem::new(
                    Code::TableFull,
                    format!("{VMS_MAX} VMs are defined, which is as many as there can be"),
                )
                .hint("delete a VM that is not needed"));
            }
            self.vm_insert(name, spec);
            return Ok(self
                .vm_reply(backend, name, 201)
                .header("Location", path(name)));
        };
        if vm.spec == spec {
            return Ok(self.vm_reply(backend, name, 200));
        }
        if head.count("if-match") == 0 {
            return Err(Problem::new(
                Code::NameTaken,
                format!("a VM named '{name}' is defined already, and differently"),
            )
            .hint(
                "choose another name, delete that VM, or send its ETag in If-Match to change it",
            ));
        }
        if vm.state().is_active() {
            return Err(Problem::new(
                Code::VmRunning,
                format!("VM '{name}' is {} and cannot be changed", vm.state().name()),
            )
            .hint("stop the VM first"));
        }
        vm.spec = spec;
        vm.generation = vm.generation.saturating_add(1);
        self.event(EventType::Lifecycle, "vm.updated", path(name), &[]);
        Ok(self.vm_reply(backend, name, 200))
    }

    fn vm_insert(&mut self, name: &str, spec: VmSpec) {
        let key = self.new_key();
        let vm = VmRecord {
            uuid: self.uuid(key),
            ..VmRecord::new(key, spec, self.now())
        };
        self.vms.insert(name.into(), vm);
        self.event(EventType::Lifecycle, "vm.created", path(name), &[]);
    }

    /// Checks a specification against the rules, the images and the machine.
    fn check_spec(&self, backend: &dyn Backend, spec: &VmSpec) -> Result<(), Problem> {
        let mut problem = Problem::new(Code::Invalid, "the VM cannot be as specified");
        if !(CPUS_MIN..=CPUS_MAX).contains(&spec.cpus) {
            problem = problem.field(
                "/cpus",
                format!("{} is not {CPUS_MIN} to {CPUS_MAX}", spec.cpus),
            );
        }
        let bytes = spec.memory_bytes;
        if bytes < MEMORY_MIN_BYTES || !bytes.is_multiple_of(MEMORY_STEP_BYTES) {
            problem = problem.field(
                "/memory_bytes",
                format!(
                    "{bytes} is not a multiple of {MEMORY_STEP_BYTES} (2 MiB) of at least \
                     {MEMORY_MIN_BYTES} (16 MiB)"
                ),
            );
        }
        let boot = &spec.boot;
        let ways = [&boot.kernel, &boot.flat, &boot.elf];
        if ways.into_iter().flatten().count() != 1 {
            problem = problem.field("/boot", "exactly one of kernel, flat and elf is expected");
        }
        if boot.initrd.is_some() && boot.kernel.is_none() {
            problem = problem.field("/boot/initrd", "an initrd goes only with a kernel");
        }
        if boot.cmdline.len() > CMDLINE_MAX || boot.cmdline.contains('\0') {
            problem = problem.field(
                "/boot/cmdline",
                format!("a command line has at most {CMDLINE_MAX} bytes and no NUL"),
            );
        }
        problem = check_devices(&spec.devices, problem);
        problem = check_cpu_features(&spec.cpu_features, &backend.host().cpu_features, problem);
        for (image, kind, pointer) in boot_images(spec) {
            problem = self.image_for(image, kind, pointer, problem);
        }
        let cores = backend.host().cores;
        refused(check_cpu(&spec.cpu, spec.cpus, cores, "/cpu", problem))?;
        let ram_bytes = backend.host().ram_bytes;
        if bytes > ram_bytes {
            return Err(Problem::new(
                Code::NoMemory,
                format!("the VM asks for {bytes} bytes of memory and the machine has {ram_bytes}"),
            )
            .field("/memory_bytes", format!("{bytes} is more than {ram_bytes}"))
            .hint("ask for less memory"));
        }
        Ok(())
    }

    /// Resolves what a start needs.
    pub(super) fn vm_plan(&self, name: &str, machine: &CpuFeatures) -> Result<RunPlan, Problem> {
        let vm = self.vm(name)?;
        let mut found = Vec::new();
        for (image, kind, pointer) in boot_images(&vm.spec) {
            let record = self.images.get(image).ok_or_else(|| {
                Problem::new(
                    Code::ImageIncomplete,
                    format!("VM '{name}' boots image '{image}', and there is none"),
                )
                .field(pointer, "no such image")
                .hint("upload the image, then start the VM")
            })?;
            if record.spec.kind != kind || !matches!(record.content, Content::Ready { .. }) {
                return Err(Problem::new(
                    Code::ImageIncomplete,
                    format!(
                        "VM '{name}' boots image '{image}' as {}, and that is {} {}",
                        kind.name(),
                        record.spec.kind.name(),
                        match record.content {
                            Content::Ready { .. } => "and complete",
                            Content::Empty | Content::Partial(_) => "and incomplete",
                        }
                    ),
                )
                .field(pointer, "not a complete image of this kind")
                .hint("upload the image, then start the VM"));
            }
            found.push((record.id, kind));
        }
        let (boot, kind) = found
            .iter()
            .copied()
            .find(|(_, kind)| *kind != ImageKind::Initrd)
            .ok_or_else(|| Problem::new(Code::Internal, format!("VM '{name}' boots nothing")))?;
        Ok(RunPlan {
            name: name.into(),
            cpus: vm.spec.cpus,
            cpu: vcpus::plan(&vm.spec.cpu, vm.spec.cpus),
            memory_bytes: vm.spec.memory_bytes,
            boot,
            kind,
            initrd: found
                .iter()
                .find_map(|(id, kind)| (*kind == ImageKind::Initrd).then_some(*id)),
            cmdline: vm.spec.boot.cmdline.clone(),
            devices: vm.spec.devices.clone(),
            cpu_features: vm.spec.cpu_features.on(machine),
        })
    }

    /// Deletes a VM that does not run, or with `force` one that does. Returns the operation
    /// that ends when it is gone, if it is not gone at once.
    pub(super) fn vm_delete(
        &mut self,
        backend: &mut dyn Backend,
        name: &str,
        head: &Head,
        force: bool,
    ) -> Result<Option<OperationId>, Problem> {
        let vm = self.vm(name)?;
        if head.count("if-match") != 0 {
            check_match(Some(vm), name, head)?;
        }
        if !vm.state().is_active() {
            let key = vm.key;
            self.vms.remove(name);
            self.forget(backend, key);
            self.event(EventType::Lifecycle, "vm.deleted", path(name), &[]);
            return Ok(None);
        }
        if !force {
            return Err(Problem::new(
                Code::VmRunning,
                format!("VM '{name}' is {}", vm.state().name()),
            )
            .hint("stop the VM first, or delete it with ?force=true"));
        }
        Ok(Some(self.vm_end(backend, name, "vm.delete", Then::Delete)))
    }

    /// Does what `POST /v1/vms/{name}/actions` asks. Returns the operation to wait for, if
    /// there is anything to do.
    pub(super) fn vm_action(
        &mut self,
        backend: &mut dyn Backend,
        name: &str,
        action: Action,
    ) -> Result<Option<OperationId>, Problem> {
        let vm = self.vm(name)?;
        let (phase, operation) = (vm.phase, vm.operation);
        let busy = |what: &str| {
            Err(Problem::new(
                Code::VmBusy,
                format!(
                    "VM '{name}' is {}, so it cannot be {what}",
                    vm.state().name()
                ),
            )
            .hint("wait until it is stopped or running, then ask again"))
        };
        match (action, phase) {
            (Action::Start, Phase::Idle(_)) => self.vm_start(backend, name).map(Some),
            (Action::Start, Phase::Running(_)) => Ok(None),
            (Action::Start, Phase::Starting(_) | Phase::Pausing { .. }) => Ok(operation),
            (Action::Start, Phase::Stopping(_) | Phase::Releasing(_)) => busy("started"),
            (Action::Stop | Action::Poweroff, Phase::Idle(_)) => Ok(None),
            (Action::Stop | Action::Poweroff, _) if vm.then == Then::Delete => Ok(operation),
            (Action::Stop | Action::Poweroff, Phase::Stopping(_))
                if vm.then == Then::Rest(Idle::Stopped) =>
            {
                Ok(operation)
            }
            (Action::Stop | Action::Poweroff, _) => Ok(Some(self.vm_end(
                backend,
                name,
                "vm.stop",
                Then::Rest(Idle::Stopped),
            ))),
            (Action::Reset, Phase::Running(_)) => {
                Ok(Some(self.vm_end(backend, name, "vm.reset", Then::Restart)))
            }
            (Action::Reset, Phase::Idle(_)) => Err(Problem::new(
                Code::VmNotRunning,
                format!(
                    "VM '{name}' is {}, so it cannot be reset",
                    vm.state().name()
                ),
            )
            .hint("start the VM")),
            (Action::Reset, _) => busy("reset"),
            // It is done at once, and nothing to wait for: `Server::vm_serror`.
            (Action::Serror, _) => Ok(None),
        }
    }
}

/// What is asked for has to be there.
fn check_cpu_features(
    wanted: &CpuFeatures,
    machine: &CpuFeatures,
    mut problem: Problem,
) -> Problem {
    for ((name, wanted), (_, there)) in wanted.named().into_iter().zip(machine.named()) {
        if wanted == Some(true) && there != Some(true) {
            problem = problem.field(
                format!("/cpu_features/{name}"),
                format!("the machine's cores have no {name}; leave it out, or say false"),
            );
        }
    }
    problem
}

/// Checks `If-Match` and `If-None-Match` (RFC 9110, 13.1).
pub(super) fn check_match(vm: Option<&VmRecord>, name: &str, head: &Head) -> Result<(), Problem> {
    let listed = |field: &str, etag: &str| {
        head.header(field)
            .is_some_and(|value| value == "*" || value.split(',').any(|item| item.trim() == etag))
    };
    let etag = vm.map(VmRecord::etag);
    let here = |field| etag.as_deref().is_some_and(|etag| listed(field, etag));
    if head.count("if-match") != 0 && !here("if-match") {
        return Err(Problem::new(
            Code::PreconditionFailed,
            match etag.as_deref() {
                Some(etag) => format!("VM '{name}' has the ETag {etag}"),
                None => format!("no VM is named '{name}'"),
            },
        )
        .hint("get the VM again and decide anew"));
    }
    if head.count("if-none-match") != 0 && here("if-none-match") {
        return Err(Problem::new(
            Code::PreconditionFailed,
            format!("a VM named '{name}' is defined already"),
        ));
    }
    Ok(())
}
