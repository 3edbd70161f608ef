//! What the control server asks of the machine, done by core calls.

mod console;
mod device;
mod legacy;
mod memory;
mod run;
mod store;
mod vcpus;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use control::backend::{
    Backend, BackendError, CpuFeatures, CpuPlan, Device, DeviceError, DeviceRequest, HostFacts,
    ImageId, Memory, MemoryError, MemoryJob, MemoryPolicy, MemoryResult, PowerAction, RunCounters,
    RunId, RunPlan, RunState, VcpuCounters,
};
use guest_abi::core_call::{
    CoreCall, HostInfo, Status, VM_NO_PAUTH, VM_NO_PMU, VM_NO_SVE, VmEntry,
};
use rand_chacha::ChaCha20Rng;
use root_logic::legacy::Legacy;

use crate::frames::{Block, Scratch};
use crate::{boot, calls, clock};
use run::Run;
use store::Store;

/// The machine, as the control server sees it.
#[derive(Debug)]
pub(crate) struct Machine {
    store: Store,
    runs: BTreeMap<RunId, Run>,
    logs: memory::Logs,
    scratch: Scratch,
    rng: ChaCha20Rng,
    /// What goes to and comes from core's notes.
    note: Block,
    /// What was granted to the root before and is not taken over yet.
    legacy: Legacy,
    /// The VMs that it left, likewise.
    found: BTreeMap<u64, VmEntry>,
}

/// Finds all that was granted to the root before this one. To be called before anything else is
/// granted.
pub(crate) fn left() -> Legacy {
    legacy::granted()
}

impl Machine {
    /// Takes the machine over, with what was `left` by the root before. Needs some pages of
    /// core's.
    pub(crate) fn new(rng: ChaCha20Rng, left: Legacy) -> Result<Self, Status> {
        Ok(Self {
            store: Store::default(),
            runs: BTreeMap::new(),
            logs: memory::Logs::new(),
            scratch: Scratch::new()?,
            rng,
            note: legacy::note_block()?,
            legacy: left,
            found: BTreeMap::new(),
        })
    }

    /// Returns whether a guest is being loaded, so that there is work without any event.
    pub(crate) fn is_loading(&self) -> bool {
        self.runs.values().any(Run::is_loading)
    }

    /// Returns core's handle of a run that has one.
    fn vm_of(&self, id: RunId) -> Option<u64> {
        self.runs.get(&id)?.vm()
    }

    fn host_info(&self) -> HostInfo {
        self.scratch
            .ask(CoreCall::HostInfo, None)
            .unwrap_or_default()
    }

    /// Puts a refusal of core's into words.
    fn refusal(&self, status: Status, needed_bytes: u64) -> BackendError {
        let info = self.host_info();
        match status {
            Status::Exhausted if info.vms >= info.vms_max => BackendError::NoSlots,
            Status::Exhausted => BackendError::NoMemory {
                needed_bytes,
                free_bytes: info.free_bytes,
            },
            other => BackendError::Other(match device::refusal(other) {
                Some(why) => String::from(why),
                None => alloc::format!("core refused: {other:?}"),
            }),
        }
    }
}

impl Backend for Machine {
    fn now_ns(&self) -> u64 {
        clock::uptime_ns()
    }

    fn unix_ns(&self) -> Option<u64> {
        clock::unix_ns()
    }

    fn host(&self) -> HostFacts {
        let info = self.host_info();
        HostFacts {
            ram_bytes: info.ram_bytes,
            free_bytes: info.free_bytes,
            core_bytes: info.core_bytes,
            root_bytes: info.root_bytes,
            granted_bytes: info.granted_bytes,
            cores: boot::root_boot().cores,
            midr: boot::root_boot().midr,
            cpu_features: CpuFeatures {
                sve: Some(info.cpu_features & VM_NO_SVE != 0),
                pauth: Some(info.cpu_features & VM_NO_PAUTH != 0),
                pmu: Some(info.cpu_features & VM_NO_PMU != 0),
            },
            vms: info.vms,
            vms_max: info.vms_max,
        }
    }

    fn image_begin(&mut self, id: ImageId, bytes: u64) -> Result<(), BackendError> {
        self.store
            .begin(id, bytes)
            .map_err(|status| self.refusal(status, bytes))
    }

    fn image_append(&mut self, id: ImageId, chunk: &[u8]) -> Result<usize, BackendError> {
        self.store.append(id, chunk).ok_or(BackendError::Unknown)
    }

    fn image_commit(&mut self, id: ImageId, _: &[u8; 32]) -> Result<(), BackendError> {
        self.store.commit(id).ok_or(BackendError::Unknown)
    }

    fn image_delete(&mut self, id: ImageId) {
        self.store.delete(id);
    }

    fn vm_start(&mut self, id: RunId, plan: &RunPlan) -> Result<(), BackendError> {
        let run = Run::begin(plan, &self.store, &self.scratch, &mut self.rng)
            .map_err(|error| self.run_refusal(error, plan))?;
        self.runs.insert(id, run);
        Ok(())
    }

    fn vm_poll(&mut self, id: RunId) -> RunState {
        let Some(run) = self.runs.get_mut(&id) else {
            return RunState::Failed(BackendError::Unknown);
        };
        match run.advance(&self.store, &self.scratch) {
            Ok(()) => run.state(&self.scratch),
            Err(error) => {
                let plan = run.plan().clone();
                let error = self.run_refusal(error, &plan);
                if let Some(run) = self.runs.get_mut(&id) {
                    run.fail(error.clone());
                }
                RunState::Failed(error)
            }
        }
    }

    fn vm_stop(&mut self, id: RunId) {
        if let Some(run) = self.runs.get_mut(&id) {
            run.stop();
        }
    }

    fn vm_release(&mut self, id: RunId) -> bool {
        if let Some(vm) = self.vm_of(id) {
            self.logs.remove(&vm);
        }
        let released = self.runs.get_mut(&id).is_none_or(Run::release);
        if released {
            self.runs.remove(&id);
        }
        released
    }

    fn vm_counters(&self, id: RunId) -> RunCounters {
        self.runs
            .get(&id)
            .map(|run| run.counters(&self.scratch))
            .unwrap_or_default()
    }

    fn console_read(&mut self, id: RunId, out: &mut [u8]) -> usize {
        self.runs.get(&id).map_or(0, |run| run.console_read(out))
    }

    fn console_write(&mut self, id: RunId, input: &[u8]) -> usize {
        self.runs.get(&id).map_or(0, |run| run.console_write(input))
    }

    fn vm_vcpus(&self, id: RunId) -> Vec<VcpuCounters> {
        let run = self.runs.get(&id);
        let found = run.and_then(|run| Some((run.vm()?, run.plan().cpus)));
        found.map_or(Vec::new(), |(vm, count)| {
            vcpus::counters(&self.scratch, vm, count)
        })
    }

    fn vm_cpu_set(&mut self, id: RunId, plan: &CpuPlan) -> Result<(), BackendError> {
        let run = self.runs.get_mut(&id).ok_or(BackendError::Unknown)?;
        run.set_cpu(plan).map_err(|status| self.refusal(status, 0))
    }

    fn vm_serror(&mut self, id: RunId, vcpu: u32, syndrome: u32) -> Result<(), BackendError> {
        let vm = self.vm_of(id).ok_or(BackendError::Unknown)?;
        let args = [vm, u64::from(vcpu), u64::from(syndrome), 0];
        calls::call(CoreCall::VcpuSerror, args)
            .map(drop)
            .map_err(|status| self.refusal(status, 0))
    }

    fn vm_memory(&self, id: RunId) -> Option<Memory> {
        memory::view(&self.scratch, self.vm_of(id)?)
    }

    fn vm_memory_policy(&mut self, id: RunId, policy: &MemoryPolicy) -> Result<(), MemoryError> {
        let vm = self.vm_of(id).ok_or(MemoryError::NotRunning)?;
        memory::set_policy(&self.scratch, vm, policy)
    }

    fn vm_memory_act(&mut self, id: RunId, job: &MemoryJob) -> Result<MemoryResult, MemoryError> {
        let vm = self.vm_of(id).ok_or(MemoryError::NotRunning)?;
        let from = job.from.and_then(|from| self.vm_of(from));
        memory::act(&mut self.logs, vm, from, job)
    }

    fn devices(&self) -> Vec<Device> {
        let name_of = |vm| {
            let mut runs = self.runs.values();
            let run = runs.find(|run| run.vm() == Some(vm))?;
            Some(run.plan().name.clone())
        };
        device::list(&self.scratch, name_of)
    }

    fn device_act(
        &mut self,
        pci: &str,
        request: &DeviceRequest,
        data: &[u8],
    ) -> Result<Vec<u8>, DeviceError> {
        device::act(&self.scratch, pci, request, data)
    }

    fn power(&mut self, action: PowerAction) {
        calls::system_power(matches!(action, PowerAction::Shutdown));
    }
}

impl Machine {
    fn run_refusal(&self, error: run::RunError, plan: &RunPlan) -> BackendError {
        match error {
            run::RunError::Core(status) => self.refusal(status, plan.memory_bytes),
            run::RunError::Image(image, why) => BackendError::BadImage { image, why },
            run::RunError::NoImage => BackendError::Unknown,
            run::RunError::Tree => {
                BackendError::Other(String::from("the device tree cannot be written"))
            }
        }
    }
}
