//! One run of a VM: loaded in small steps, watched, stopped, released.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use control::backend::{BackendError, CpuPlan, ImageId, ImageKind, RunCounters, RunPlan, RunState};
use guest_abi::core_call::{
    CoreCall, EXIT_CLASSES, Status, VM_ITS, VM_NO_PAUTH, VM_NO_PMU, VM_NO_SVE, VmConfig, VmInfo,
    VmState,
};
use loader::{Gunzip, GunzipError, HEAD_BYTES, Kind, Plan, Tree};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::RngCore;

use super::console::Shared;
use super::device;
use super::store::Store;
use super::vcpus;
use crate::calls::{call, call_patiently};
use crate::frames::{Block, Frames, Scratch};

/// Bytes made or copied in one step, so that nobody waits long for anything else.
const STEP_BYTES: usize = 1 << 20;

/// Exit classes by number (guest-abi, `ExitClass`).
pub(super) const EXIT_NAMES: [&str; EXIT_CLASSES] = [
    "fault",
    "call",
    "gic",
    "uart",
    "unclaimed",
    "sysreg",
    "wait",
    "interrupt",
    "injected",
];

/// Why a run cannot go on.
#[derive(Debug)]
pub(super) enum RunError {
    /// Core refused.
    Core(Status),
    /// An image cannot be booted: why, in words that follow "the image".
    Image(ImageId, String),
    /// An image is not in the store.
    NoImage,
    /// The device tree cannot be written.
    Tree,
}

impl From<Status> for RunError {
    fn from(status: Status) -> Self {
        Self::Core(status)
    }
}

/// What a run is doing.
#[derive(Debug)]
enum Phase {
    /// A compressed kernel is unpacked.
    Unpacking {
        gunzip: Box<Gunzip>,
        unpacked: Frames,
        /// Bytes of the image read.
        read: u64,
    },
    /// Parts are copied into the guest, the last first.
    Copying {
        unpacked: Option<Frames>,
        left: Vec<Copy>,
        entry: u64,
        tree: u64,
        done: u64,
        total: u64,
    },
    /// Core runs the guest, or has.
    Started,
    /// It could not be started.
    Failed(BackendError),
    /// It was stopped before it was started.
    Stopped,
}

/// Bytes to copy into the guest.
#[derive(Clone, Copy, Debug)]
struct Copy {
    source: Source,
    from: u64,
    to: u64,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Image(ImageId),
    Unpacked,
    Tree,
}

/// A run, with everything it holds.
#[derive(Debug)]
pub(super) struct Run {
    plan: RunPlan,
    phase: Phase,
    /// Handle in core, until it is destroyed.
    vm: Option<u64>,
    /// Dropped before `VmDestroy`.
    shared: Option<Shared>,
    /// The device tree, until it is copied.
    tree: Option<Block>,
    seed: [u8; 40],
}

impl Run {
    /// Begins a run: builds the VM in core, and looks at the image as far as that is
    /// possible at once.
    pub(super) fn begin(
        plan: &RunPlan,
        store: &Store,
        scratch: &Scratch,
        rng: &mut ChaCha20Rng,
    ) -> Result<Self, RunError> {
        let image = store.get(plan.boot).ok_or(RunError::NoImage)?;
        let compressed = plan.kind == ImageKind::Kernel && loader::is_gzip(head(image));
        let phase = if compressed {
            Phase::Unpacking {
                gunzip: Box::new(Gunzip::new()),
                unpacked: Frames::default(),
                read: 0,
            }
        } else {
            copying(plan, store, image, None)?
        };
        let mut seed = [0; 40];
        rng.fill_bytes(&mut seed);
        let mut run = Self {
            plan: plan.clone(),
            phase,
            vm: None,
            shared: None,
            tree: None,
            seed,
        };
        let [vm, shared] = scratch.tell(CoreCall::VmCreate, config(plan))?;
        run.vm = Some(vm);
        run.shared = Some(Shared::at(shared)?);
        Ok(run)
    }

    /// Takes over a VM that an earlier root began.
    pub(super) fn adopt(vm: u64, shared_pa: u64, plan: &RunPlan) -> Result<Self, Status> {
        Ok(Self {
            plan: plan.clone(),
            phase: Phase::Started,
            vm: Some(vm),
            shared: Some(Shared::at(shared_pa)?),
            tree: None,
            seed: [0; 40],
        })
    }

    /// Returns its console, as long as it has one.
    pub(super) fn shared(&self) -> Option<&Shared> {
        self.shared.as_ref()
    }

    /// Returns its handle in core, if it has one.
    pub(super) fn vm(&self) -> Option<u64> {
        self.vm
    }

    /// Returns what is run.
    pub(super) fn plan(&self) -> &RunPlan {
        &self.plan
    }

    /// Changes how its vCPUs are to run.
    pub(super) fn set_cpu(&mut self, plan: &CpuPlan) -> Result<(), Status> {
        if let Some(vm) = self.vm {
            vcpus::apply(vm, plan)?;
        }
        self.plan.cpu = plan.clone();
        Ok(())
    }

    /// Returns whether there is loading to do.
    pub(super) fn is_loading(&self) -> bool {
        matches!(self.phase, Phase::Unpacking { .. } | Phase::Copying { .. })
    }

    /// Does the next bounded piece of the loading, if there is any.
    pub(super) fn advance(&mut self, store: &Store, scratch: &Scratch) -> Result<(), RunError> {
        match &mut self.phase {
            Phase::Unpacking {
                gunzip,
                unpacked,
                read,
            } => {
                let image = store.get(self.plan.boot).ok_or(RunError::NoImage)?;
                let most = self.plan.memory_bytes;
                unpack(gunzip, image, read, unpacked, most)
                    .map_err(|error| error.on(self.plan.boot))?;
                if gunzip.is_finished() {
                    let unpacked = core::mem::take(unpacked);
                    self.phase = copying(&self.plan, store, image, Some(unpacked))?;
                }
                Ok(())
            }
            Phase::Copying { .. } => self.copy(store, scratch),
            Phase::Started | Phase::Failed(_) | Phase::Stopped => Ok(()),
        }
    }

    /// Copies the next piece, and starts the guest when there is none left.
    fn copy(&mut self, store: &Store, scratch: &Scratch) -> Result<(), RunError> {
        let vm = self.vm.ok_or(Status::NoVm)?;
        let Phase::Copying {
            unpacked,
            left,
            entry,
            tree,
            done,
            ..
        } = &mut self.phase
        else {
            return Ok(());
        };
        if self.tree.is_none() {
            let block = write_tree(&self.plan, store, left, self.seed)?;
            left.insert(
                0,
                Copy {
                    source: Source::Tree,
                    from: 0,
                    to: *tree,
                    bytes: block.bytes() as u64,
                },
            );
            self.tree = Some(block);
        }
        let mut budget = STEP_BYTES as u64;
        while budget > 0
            && let Some(next) = left.last_mut()
        {
            let (pa, piece) = match next.source {
                Source::Tree => {
                    let block = self.tree.as_ref().ok_or(RunError::Tree)?;
                    (block.pa().saturating_add(next.from), next.bytes)
                }
                Source::Image(id) => locate(store.get(id).ok_or(RunError::NoImage)?, next.from)?,
                Source::Unpacked => locate(unpacked.as_ref().ok_or(RunError::NoImage)?, next.from)?,
            };
            let bytes = piece.min(next.bytes).min(budget);
            let arguments = [vm, next.to, pa, bytes];
            let [copied, _] = call_patiently(CoreCall::VmCopyIn, arguments)?;
            if copied == 0 || copied > bytes {
                return Err(Status::Again.into());
            }
            next.from = next.from.saturating_add(copied);
            next.to = next.to.saturating_add(copied);
            next.bytes = next.bytes.saturating_sub(copied);
            *done = done.saturating_add(copied);
            budget = budget.saturating_sub(copied);
            if next.bytes == 0 {
                left.pop();
            }
        }
        if left.is_empty() {
            vcpus::apply(vm, &self.plan.cpu)?;
            device::assign(scratch, vm, &self.plan.devices)?;
            call(CoreCall::VmEntry, [vm, *entry, *tree, 0])?;
            call(CoreCall::VmStart, [vm, 0, 0, 0])?;
            self.tree = None;
            self.phase = Phase::Started;
        }
        Ok(())
    }

    /// Returns where the run is.
    pub(super) fn state(&self, scratch: &Scratch) -> RunState {
        match &self.phase {
            Phase::Unpacking { read, .. } => RunState::Loading {
                done: *read,
                total: 0,
            },
            Phase::Copying { done, total, .. } => RunState::Loading {
                done: *done,
                total: *total,
            },
            Phase::Failed(error) => RunState::Failed(error.clone()),
            Phase::Stopped => RunState::Killed,
            Phase::Started => match self.shared.as_ref().and_then(Shared::state) {
                Some(VmState::Built | VmState::Running) => RunState::Running,
                Some(VmState::Off) => RunState::Off,
                Some(VmState::Reset) => RunState::Reset,
                Some(VmState::Crashed) => {
                    let info = self.info(scratch);
                    RunState::Crashed {
                        esr: u64::from(info.reason),
                        pc: info.reason_pc,
                    }
                }
                Some(VmState::Killed) | None => RunState::Killed,
            },
        }
    }

    /// Remembers why the run did not start.
    pub(super) fn fail(&mut self, error: BackendError) {
        self.phase = Phase::Failed(error);
        self.tree = None;
    }

    /// Stops the guest, or its loading.
    pub(super) fn stop(&mut self) {
        if self.is_loading() {
            self.phase = Phase::Stopped;
            self.tree = None;
        }
        if let Some(vm) = self.vm {
            // A guest that has ended by itself is no longer there to be stopped.
            let _ended = call(CoreCall::VmStop, [vm, 0, 0, 0]);
        }
    }

    /// Gives back what the run holds; returns false if core needs to be asked again.
    pub(super) fn release(&mut self) -> bool {
        self.tree = None;
        self.shared = None;
        let Some(vm) = self.vm else { return true };
        match call(CoreCall::VmDestroy, [vm, 0, 0, 0]) {
            Err(Status::Again | Status::BadState) => false,
            Ok(_) | Err(_) => {
                self.vm = None;
                true
            }
        }
    }

    /// Returns what the run has used.
    pub(super) fn counters(&self, scratch: &Scratch) -> RunCounters {
        let info = self.info(scratch);
        RunCounters {
            resident_bytes: info.resident_bytes,
            overhead_bytes: info.overhead_bytes,
            run_ns: info.run_ns,
            stolen_ns: info.stolen_ns,
            console_dropped_bytes: self.shared.as_ref().map_or(0, Shared::dropped),
            exits: EXIT_NAMES.into_iter().zip(info.exits).collect(),
        }
    }

    fn info(&self, scratch: &Scratch) -> VmInfo {
        self.vm
            .and_then(|vm| scratch.ask(CoreCall::VmInfo, Some(vm)).ok())
            .unwrap_or_default()
    }

    /// Takes what the guest printed.
    pub(super) fn console_read(&self, out: &mut [u8]) -> usize {
        let taken = self.shared.as_ref().map_or(0, |shared| shared.read(out));
        self.ring(taken);
        taken
    }

    /// Types at the guest.
    pub(super) fn console_write(&self, input: &[u8]) -> usize {
        let put = self.shared.as_ref().map_or(0, |shared| shared.write(input));
        self.ring(put);
        put
    }

    /// Tells core that the rings have moved.
    fn ring(&self, bytes: usize) {
        if let Some(vm) = self.vm.filter(|_| bytes > 0) {
            // It can only fail for a VM that has ended, which has no use for its console.
            let _ended = call(CoreCall::VmConsole, [vm, 0, 0, 0]);
        }
    }
}

/// Why a kernel could not be unpacked.
enum UnpackError {
    Core(Status),
    Gzip(GunzipError),
    /// Unpacked, it is larger than the guest.
    TooLarge,
}

impl UnpackError {
    fn on(self, image: ImageId) -> RunError {
        match self {
            Self::Core(status) => RunError::Core(status),
            Self::Gzip(error) => RunError::Image(image, error.to_string()),
            Self::TooLarge => {
                let why = "is larger, when unpacked, than the memory of the VM";
                RunError::Image(image, String::from(why))
            }
        }
    }
}

/// Unpacks the next piece.
fn unpack(
    gunzip: &mut Gunzip,
    image: &Frames,
    read: &mut u64,
    unpacked: &mut Frames,
    most: u64,
) -> Result<(), UnpackError> {
    let mut made = 0_usize;
    while made < STEP_BYTES && !gunzip.is_finished() {
        let input = image.piece(*read);
        if unpacked.room().is_none_or(|room| room.is_empty()) {
            if unpacked.len() >= most {
                return Err(UnpackError::TooLarge);
            }
            unpacked.grow().map_err(UnpackError::Core)?;
        }
        let room = unpacked.room().unwrap_or_default();
        let end = room.len().min(STEP_BYTES);
        let progress = gunzip
            .step(input, room.get_mut(..end).unwrap_or_default())
            .map_err(UnpackError::Gzip)?;
        if progress.taken == 0 && progress.made == 0 && !gunzip.is_finished() {
            return Err(UnpackError::Gzip(GunzipError::Truncated));
        }
        *read = read.saturating_add(progress.taken as u64);
        unpacked.written(progress.made);
        made = made.saturating_add(progress.made);
    }
    Ok(())
}

/// Plans the copying of a guest whose image lies in `image`, or unpacked in `unpacked`.
fn copying(
    plan: &RunPlan,
    store: &Store,
    image: &Frames,
    unpacked: Option<Frames>,
) -> Result<Phase, RunError> {
    let kind = match plan.kind {
        ImageKind::Kernel => Kind::Image,
        ImageKind::Flat => Kind::Flat,
        ImageKind::Elf => Kind::Elf,
        ImageKind::Initrd => {
            let why = String::from("is an initial RAM disk, which cannot be booted");
            return Err(RunError::Image(plan.boot, why));
        }
    };
    let initrd = match plan.initrd {
        Some(id) => Some((id, store.get(id).ok_or(RunError::NoImage)?.len())),
        None => None,
    };
    let file = unpacked.as_ref().unwrap_or(image);
    let Plan {
        parts,
        entry,
        tree,
        initrd: initrd_at,
    } = loader::plan(
        kind,
        head(file),
        file.len(),
        plan.memory_bytes,
        initrd.map(|(_, bytes)| bytes),
    )
    .map_err(|error| RunError::Image(plan.boot, error.to_string()))?;

    let source = match unpacked {
        Some(_) => Source::Unpacked,
        None => Source::Image(plan.boot),
    };
    let mut left: Vec<Copy> = parts
        .iter()
        .map(|part| Copy {
            source,
            from: part.from,
            to: part.to,
            bytes: part.bytes,
        })
        .collect();
    if let (Some((id, bytes)), Some(to)) = (initrd, initrd_at) {
        left.push(Copy {
            source: Source::Image(id),
            from: 0,
            to,
            bytes,
        });
    }
    left.retain(|copy| copy.bytes > 0);
    let total = left.iter().map(|copy| copy.bytes).sum();
    Ok(Phase::Copying {
        unpacked,
        left,
        entry,
        tree,
        done: 0,
        total,
    })
}

/// Writes the guest's device tree into a block of its own.
fn write_tree(
    plan: &RunPlan,
    store: &Store,
    left: &[Copy],
    seed: [u8; 40],
) -> Result<Block, RunError> {
    let initrd = plan.initrd.and_then(|id| {
        let bytes = store.get(id)?.len();
        let copy = left
            .iter()
            .find(|copy| matches!(copy.source, Source::Image(image) if image == id))?;
        Some((copy.to, bytes))
    });
    let bytes = Tree {
        ram_bytes: plan.memory_bytes,
        cpus: plan.cpus,
        cmdline: &plan.cmdline,
        initrd,
        pci: !plan.devices.is_empty(),
        pmu: plan.cpu_features.pmu == Some(true),
        seed,
    }
    .write()
    .map_err(|_| RunError::Tree)?;
    let order = bytes
        .len()
        .div_ceil(4096)
        .next_power_of_two()
        .trailing_zeros();
    let mut block = Block::grant(order)?;
    let room = block.as_mut_slice().get_mut(..bytes.len());
    room.ok_or(RunError::Tree)?.copy_from_slice(&bytes);
    Ok(block)
}

/// Returns where byte `from` of an image lies, and how many follow it there.
fn locate(frames: &Frames, from: u64) -> Result<(u64, u64), RunError> {
    let pa = frames.pa(from).ok_or(RunError::NoImage)?;
    Ok((pa, frames.piece(from).len() as u64))
}

/// Returns the bytes by which an image is recognised.
fn head(frames: &Frames) -> &[u8] {
    let piece = frames.piece(0);
    piece.get(..HEAD_BYTES).unwrap_or(piece)
}

fn config(plan: &RunPlan) -> VmConfig {
    let mut name = [0; 64];
    // The last byte stays zero.
    for (to, from) in name.iter_mut().take(63).zip(plan.name.bytes()) {
        *to = from;
    }
    let features = &plan.cpu_features;
    let flags = [
        (features.sve, VM_NO_SVE),
        (features.pauth, VM_NO_PAUTH),
        (features.pmu, VM_NO_PMU),
    ]
    .into_iter()
    .filter(|(has, _)| *has == Some(false))
    .fold(vcpus::flags(&plan.cpu), |flags, (_, flag)| flags | flag);
    // The messages of devices.
    let flags = flags | if plan.devices.is_empty() { 0 } else { VM_ITS };
    VmConfig {
        ram_bytes: plan.memory_bytes,
        vcpus: plan.cpus,
        flags,
        name,
    }
}
