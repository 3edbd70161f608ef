//! A machine made of values, for tests of the control server and of its clients.
//!
//! Guests do nothing by themselves except echo what is typed at them; a test makes them
//! print, power off, reset and crash, by VM name.

mod heritage;

use alloc::collections::BTreeMap;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use crate::backend::{
    Backend, BackendError, CpuFeatures, CpuPlan, Device, DeviceAction, DeviceError, DeviceRequest,
    DeviceState, HostFacts, ImageId, Memory, MemoryAction, MemoryError, MemoryJob, MemoryPolicy,
    MemoryResult, PowerAction, RunCounters, RunId, RunPlan, RunState, VcpuCounters, VcpuState,
};
use crate::heritage::Restart;

/// Bytes that the ring of a guest's output holds.
pub const RING_BYTES: usize = 8;

/// An image in the fake store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FakeImage {
    /// Bytes announced.
    pub total: u64,
    /// Bytes that arrived.
    pub bytes: Vec<u8>,
    /// Digest, once committed.
    pub sha256: Option<[u8; 32]>,
    /// Where it lies.
    pub pa: u64,
}

/// A run of a VM.
#[derive(Clone, Debug)]
pub struct FakeRun {
    /// What it was started with.
    pub plan: RunPlan,
    /// Where it is.
    pub state: RunState,
    /// Printed, not yet read.
    pub out: VecDeque<u8>,
    /// Typed.
    pub typed: Vec<u8>,
    /// What its memory may be made of.
    pub policy: MemoryPolicy,
    /// Storage keys that were set, by page address.
    pub keys: BTreeMap<u64, u8>,
    /// SErrors that were made pending: vCPU and syndrome.
    pub serrors: Vec<(u32, u32)>,
    /// What the hypervisor calls it.
    pub handle: u64,
    /// How many bytes were taken of what it printed, and the last of them.
    pub taken: (u32, VecDeque<u8>),
}

/// The fake machine. Every field may be changed by a test at any time.
#[derive(Clone, Debug)]
pub struct FakeBackend {
    /// What [`Backend::now_ns`] says.
    pub now_ns: u64,
    /// What [`Backend::unix_ns`] says.
    pub unix_ns: Option<u64>,
    /// What [`Backend::host`] says; `free_bytes` is what images and guests may take.
    pub facts: HostFacts,
    /// The images there are.
    pub images: BTreeMap<ImageId, FakeImage>,
    /// The runs there are.
    pub runs: BTreeMap<RunId, FakeRun>,
    /// How many times [`Backend::vm_poll`] says "loading" before a guest runs.
    pub loading_polls: u64,
    /// How many times [`Backend::vm_release`] says "not yet".
    pub release_polls: u64,
    /// Most bytes that [`Backend::image_append`] takes at a time; 0 for "busy".
    pub append_max: usize,
    /// Most bytes of typed input that a guest leaves unread; it reads none then.
    pub input_max: usize,
    /// Whether guests print what is typed at them.
    pub echo: bool,
    /// What the next [`Backend::vm_start`] fails with.
    pub start_error: Option<BackendError>,
    /// What was asked of [`Backend::power`].
    pub powered: Option<PowerAction>,
    /// The devices there are.
    pub devices: Vec<Device>,
    /// What [`Backend::device_act`] says instead of doing it; what was asked is in `acted`.
    pub device_answer: Option<Result<Vec<u8>, DeviceError>>,
    /// Bytes that were written to devices: by device, BAR and offset.
    pub device_bytes: BTreeMap<(String, u32, u64), u8>,
    /// Every [`Backend::device_act`]: the device, what to do, the bytes to write.
    pub acted: Vec<(String, DeviceRequest, Vec<u8>)>,
    /// How often the control plane was started; see [`FakeBackend::end_of_server`].
    pub generation: u64,
    /// What was asked of [`Backend::restart`].
    pub restarted: Option<Restart>,
    /// What is kept beyond a server's life.
    pub notes: BTreeMap<usize, Vec<u8>>,
    /// Runs that nobody has taken over yet, by handle.
    pub left_runs: BTreeMap<u64, FakeRun>,
    /// Images likewise, by address.
    pub left_images: BTreeMap<u64, FakeImage>,
    /// The last handle, and the last address, that was given out.
    pub last: u64,
}

impl Default for FakeBackend {
    fn default() -> Self {
        Self {
            now_ns: 1_000_000_000,
            // 2026-11-22T20:00:00Z.
            unix_ns: Some(1_795_377_600_000_000_000),
            facts: HostFacts {
                ram_bytes: 4 << 30,
                free_bytes: 3 << 30,
                core_bytes: 8 << 20,
                root_bytes: 40 << 20,
                granted_bytes: 0,
                cores: 4,
                midr: 0x410f_d083,
                // A Cortex-A72.
                cpu_features: CpuFeatures {
                    sve: Some(false),
                    pauth: Some(false),
                    pmu: Some(true),
                },
                vms: 0,
                vms_max: 64,
            },
            images: BTreeMap::new(),
            runs: BTreeMap::new(),
            loading_polls: 0,
            release_polls: 0,
            append_max: usize::MAX,
            input_max: usize::MAX,
            echo: true,
            start_error: None,
            powered: None,
            devices: Vec::new(),
            device_answer: None,
            device_bytes: BTreeMap::new(),
            acted: Vec::new(),
            generation: 1,
            restarted: None,
            notes: BTreeMap::new(),
            left_runs: BTreeMap::new(),
            left_images: BTreeMap::new(),
            last: 0,
        }
    }
}

impl FakeBackend {
    /// Lets time pass.
    pub fn advance(&mut self, ns: u64) {
        self.now_ns = self.now_ns.saturating_add(ns);
        self.unix_ns = self.unix_ns.map(|unix_ns| unix_ns.saturating_add(ns));
    }

    /// Returns the latest run of the VM named `name`.
    pub fn run(&mut self, name: &str) -> Option<&mut FakeRun> {
        self.runs
            .values_mut()
            .rev()
            .find(|run| run.plan.name == name)
    }

    /// Makes a guest print.
    pub fn print(&mut self, name: &str, text: &[u8]) {
        if let Some(run) = self.run(name) {
            run.out.extend(text);
        }
    }

    /// Makes a run's state what a test wants it to be.
    pub fn set_state(&mut self, name: &str, state: RunState) {
        if let Some(run) = self.run(name) {
            run.state = state;
        }
    }

    /// The server has ended: what it had is there for the next one.
    pub fn end_of_server(&mut self) {
        self.generation = self.generation.saturating_add(1);
        let runs = core::mem::take(&mut self.runs);
        self.left_runs
            .extend(runs.into_values().map(|run| (run.handle, run)));
        let images = core::mem::take(&mut self.images);
        self.left_images
            .extend(images.into_values().map(|image| (image.pa, image)));
    }

    fn next(&mut self) -> u64 {
        self.last = self.last.saturating_add(1);
        self.last
    }

    /// Bytes that nobody has.
    fn free_bytes(&self) -> u64 {
        let images = self.images.values().map(|image| image.total).sum::<u64>();
        self.facts.free_bytes.saturating_sub(images)
    }
}

impl Backend for FakeBackend {
    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn unix_ns(&self) -> Option<u64> {
        self.unix_ns
    }

    fn host(&self) -> HostFacts {
        HostFacts {
            free_bytes: self.free_bytes(),
            vms: u32::try_from(self.runs.len()).unwrap_or(u32::MAX),
            ..self.facts
        }
    }

    fn image_begin(&mut self, id: ImageId, bytes: u64) -> Result<(), BackendError> {
        self.images.remove(&id);
        let free_bytes = self.free_bytes();
        if bytes > free_bytes {
            return Err(BackendError::NoMemory {
                needed_bytes: bytes,
                free_bytes,
            });
        }
        let image = FakeImage {
            total: bytes,
            pa: self.next() << 21,
            ..FakeImage::default()
        };
        self.images.insert(id, image);
        Ok(())
    }

    fn image_append(&mut self, id: ImageId, chunk: &[u8]) -> Result<usize, BackendError> {
        let taken = chunk.get(..self.append_max).unwrap_or(chunk);
        let image = self.images.get_mut(&id).ok_or(BackendError::Unknown)?;
        image.bytes.extend_from_slice(taken);
        if u64::try_from(image.bytes.len()).is_ok_and(|len| len <= image.total) {
            Ok(taken.len())
        } else {
            Err(BackendError::Other("more bytes than announced".into()))
        }
    }

    fn image_commit(&mut self, id: ImageId, sha256: &[u8; 32]) -> Result<(), BackendError> {
        let image = self.images.get_mut(&id).ok_or(BackendError::Unknown)?;
        image.sha256 = Some(*sha256);
        Ok(())
    }

    fn image_delete(&mut self, id: ImageId) {
        self.images.remove(&id);
    }

    fn vm_start(&mut self, id: RunId, plan: &RunPlan) -> Result<(), BackendError> {
        if let Some(why) = self.start_error.take() {
            return Err(why);
        }
        for image in [Some(plan.boot), plan.initrd].into_iter().flatten() {
            if self.images.get(&image).is_none_or(|i| i.sha256.is_none()) {
                return Err(BackendError::Unknown);
            }
        }
        let run = FakeRun {
            plan: plan.clone(),
            state: RunState::Loading {
                done: 0,
                total: self.loading_polls,
            },
            out: VecDeque::new(),
            typed: Vec::new(),
            policy: MemoryPolicy::default(),
            keys: BTreeMap::new(),
            serrors: Vec::new(),
            handle: self.next(),
            taken: (0, VecDeque::new()),
        };
        self.runs.insert(id, run);
        for spec in &plan.devices {
            for device in self.devices.iter_mut().filter(|d| d.pci == spec.pci) {
                device.state = DeviceState::Assigned;
                device.vm = Some(plan.name.clone());
                device.profile = spec.profile;
                (device.generation, device.memory_on) = (1, true);
            }
        }
        Ok(())
    }

    fn vm_poll(&mut self, id: RunId) -> RunState {
        let Some(run) = self.runs.get_mut(&id) else {
            return RunState::Killed;
        };
        if let RunState::Loading { done, total } = run.state {
            run.state = if done >= total {
                RunState::Running
            } else {
                let done = done.saturating_add(1);
                RunState::Loading { done, total }
            };
        }
        run.state.clone()
    }

    fn vm_stop(&mut self, id: RunId) {
        if let Some(run) = self.runs.get_mut(&id) {
            run.state = RunState::Killed;
        }
    }

    fn vm_release(&mut self, id: RunId) -> bool {
        if let Some(left) = self.release_polls.checked_sub(1) {
            self.release_polls = left;
            return false;
        }
        if let Some(run) = self.runs.remove(&id) {
            for device in &mut self.devices {
                if device.vm.as_ref() == Some(&run.plan.name) {
                    (device.state, device.vm) = (DeviceState::Free, None);
                }
            }
        }
        true
    }

    fn vm_counters(&self, id: RunId) -> RunCounters {
        if !self.runs.contains_key(&id) {
            return RunCounters::default();
        }
        RunCounters {
            resident_bytes: 32 << 20,
            overhead_bytes: 128 << 10,
            run_ns: 1_500_000_000,
            stolen_ns: 250_000_000,
            console_dropped_bytes: 0,
            exits: Vec::from([("fault", 16), ("uart", 4)]),
        }
    }

    fn console_read(&mut self, id: RunId, out: &mut [u8]) -> usize {
        let Some(run) = self.runs.get_mut(&id) else {
            return 0;
        };
        let mut bytes = 0usize;
        for (to, from) in out
            .iter_mut()
            .zip(core::iter::from_fn(|| run.out.pop_front()))
        {
            *to = from;
            bytes = bytes.saturating_add(1);
            run.taken.0 = run.taken.0.wrapping_add(1);
            run.taken.1.push_back(from);
            if run.taken.1.len() > RING_BYTES {
                run.taken.1.pop_front();
            }
        }
        bytes
    }

    fn console_write(&mut self, id: RunId, input: &[u8]) -> usize {
        let (input_max, echo) = (self.input_max, self.echo);
        let Some(run) = self.runs.get_mut(&id) else {
            return 0;
        };
        let room = input_max.saturating_sub(run.typed.len()).min(input.len());
        let taken = input.get(..room).unwrap_or_default();
        run.typed.extend_from_slice(taken);
        if echo {
            run.out.extend(taken);
        }
        room
    }

    /// The first vCPU runs on core 1, the others are off.
    fn vm_vcpus(&self, id: RunId) -> Vec<VcpuCounters> {
        let Some(run) = self.runs.get(&id) else {
            return Vec::new();
        };
        let busy = VcpuCounters {
            state: VcpuState::Running,
            core: 1,
            run_ns: 1_500_000_000,
            wait_ns: 2_000_000_000,
            queue_ns: 200_000_000,
            fault_ns: 50_000_000,
            moves: 3,
            exits: Vec::from([("fault", 16), ("uart", 4)]),
            ..VcpuCounters::default()
        };
        let mut all = Vec::from([busy]);
        all.resize(
            usize::try_from(run.plan.cpus).unwrap_or(1),
            VcpuCounters::default(),
        );
        all
    }

    fn vm_cpu_set(&mut self, id: RunId, plan: &CpuPlan) -> Result<(), BackendError> {
        let run = self.runs.get_mut(&id).ok_or(BackendError::Unknown)?;
        let hide = core::mem::take(&mut run.plan.cpu.hide);
        run.plan.cpu = CpuPlan {
            hide,
            ..plan.clone()
        };
        Ok(())
    }

    fn vm_serror(&mut self, id: RunId, vcpu: u32, syndrome: u32) -> Result<(), BackendError> {
        let run = self.runs.get_mut(&id).ok_or(BackendError::Unknown)?;
        run.serrors.push((vcpu, syndrome));
        Ok(())
    }

    fn vm_memory(&self, id: RunId) -> Option<Memory> {
        let run = self.runs.get(&id)?;
        Some(Memory {
            promised_bytes: run.plan.memory_bytes,
            resident_bytes: 32 << 20,
            policy: run.policy.clone(),
            leaves: Vec::from([512, 15, 0]),
            faults: 527,
            minor_faults: 7,
            keys: !run.keys.is_empty(),
            ..Memory::default()
        })
    }

    fn vm_memory_policy(&mut self, id: RunId, policy: &MemoryPolicy) -> Result<(), MemoryError> {
        let run = self.runs.get_mut(&id).ok_or(MemoryError::NotRunning)?;
        let old = core::mem::take(&mut run.policy);
        run.policy = MemoryPolicy {
            limit_bytes: policy.limit_bytes.or(old.limit_bytes),
            largest_leaf_bytes: policy.largest_leaf_bytes.or(old.largest_leaf_bytes),
            share_zeroes: policy.share_zeroes.or(old.share_zeroes),
            wipe: policy.wipe.or(old.wipe),
            exact_dirty: policy.exact_dirty.or(old.exact_dirty),
        };
        Ok(())
    }

    /// Keys are kept; every other page of a scan is found; a third is given back.
    fn vm_memory_act(&mut self, id: RunId, job: &MemoryJob) -> Result<MemoryResult, MemoryError> {
        let run = self.runs.get_mut(&id).ok_or(MemoryError::NotRunning)?;
        let pages = usize::try_from(job.bytes / 4096).map_err(|_| MemoryError::Invalid)?;
        let addresses = (job.start..).step_by(4096).take(pages);
        let mut result = MemoryResult {
            bytes: job.bytes,
            ..MemoryResult::default()
        };
        match job.action {
            MemoryAction::Scan => {
                result.bytes /= 2;
                if job.bitmap {
                    result.bitmap = alloc::vec![0x55; pages.div_ceil(8)];
                }
            }
            MemoryAction::Reclaim => result.bytes /= 3,
            MemoryAction::Move | MemoryAction::Split => {}
            MemoryAction::Share if job.from == Some(id) => return Err(MemoryError::Invalid),
            MemoryAction::Share => {}
            MemoryAction::GetKeys => {
                let key = |at| run.keys.get(&at).copied().unwrap_or(0);
                result.values = addresses.map(key).collect();
            }
            MemoryAction::SetKeys => run.keys.extend(addresses.zip(job.values.iter().copied())),
            MemoryAction::GetStates | MemoryAction::SetStates => return Err(MemoryError::Off),
        }
        Ok(result)
    }

    fn devices(&self) -> Vec<Device> {
        self.devices.clone()
    }

    fn device_act(
        &mut self,
        pci: &str,
        request: &DeviceRequest,
        data: &[u8],
    ) -> Result<Vec<u8>, DeviceError> {
        let acted = (pci.into(), request.clone(), data.to_vec());
        self.acted.push(acted);
        if let Some(answer) = &self.device_answer {
            return answer.clone();
        }
        self.device_do(pci, request, data)
    }

    fn power(&mut self, action: PowerAction) {
        self.powered = Some(action);
    }
}

impl FakeBackend {
    /// A device of nobody's, with a BAR 0 of 16 KiB and a BAR 2 of 4 MiB.
    pub fn device(pci: &str) -> Device {
        Device {
            pci: pci.into(),
            id: "1b36:0010".into(),
            class: "010802".into(),
            bar_bytes: Vec::from([0x4000, 0, 4 << 20, 0, 0, 0]),
            bar_sizes: Vec::new(),
            state: DeviceState::Free,
            vm: None,
            guest_slot: 1,
            profile: api::DeviceProfile::Generic,
            memory_on: false,
            reset_pending: false,
            dma: true,
            dma_bounded: true,
            dma_declared: false,
            dma_bytes: 0,
            resettable: true,
            generation: 0,
            zaps: 0,
            mapped_bytes: 0,
            faults: api::DeviceFaults::default(),
            dma_faults: 0,
            dma_fault_at: 0,
            touch_bytes: 4 << 20 >> 6,
            touches: alloc::vec![0; 64],
        }
    }

    /// Does something to a device that a VM has. Its memory is what was written there, and
    /// zeroes.
    fn device_do(
        &mut self,
        pci: &str,
        request: &DeviceRequest,
        data: &[u8],
    ) -> Result<Vec<u8>, DeviceError> {
        let device = self.devices.iter_mut().find(|device| device.pci == pci);
        let device = device.ok_or(DeviceError::Unknown)?;
        if device.state != DeviceState::Assigned {
            return Err(DeviceError::Free);
        }
        if request.action == DeviceAction::Reset {
            device.generation = device.generation.saturating_add(1);
            device.zaps = device.zaps.saturating_add(1);
            device.mapped_bytes = 0;
            return Ok(Vec::new());
        }
        let bar = usize::try_from(request.bar).map_err(|_| DeviceError::Range)?;
        let size = device.bar_bytes.get(bar).copied().unwrap_or(0);
        let room = size.checked_sub(request.offset).filter(|room| *room > 0);
        let room = room.ok_or(DeviceError::Range)?;
        let key = |offset| (String::from(pci), request.bar, offset);
        match request.action {
            DeviceAction::Read => Ok((request.offset..)
                .take(usize::try_from(request.bytes.min(room)).unwrap_or(0))
                .map(|at| self.device_bytes.get(&key(at)).copied().unwrap_or(0))
                .collect()),
            DeviceAction::Write => {
                let bytes = (request.offset..)
                    .zip(data)
                    .map(|(at, byte)| (key(at), *byte));
                self.device_bytes.extend(bytes);
                Ok(Vec::new())
            }
            DeviceAction::Reset | DeviceAction::Revoke => {
                let pages = (request.offset | request.bytes).is_multiple_of(4096);
                let fits = pages && (1..=room.min(2 << 20)).contains(&request.bytes);
                fits.then(Vec::new).ok_or(DeviceError::Range)
            }
        }
    }
}

/// Names of the images and runs there are, for messages of tests that look for leaks.
impl FakeBackend {
    /// Returns the names of the VMs that hold resources.
    pub fn running(&self) -> Vec<String> {
        self.runs
            .values()
            .map(|run| run.plan.name.clone())
            .collect()
    }
}
