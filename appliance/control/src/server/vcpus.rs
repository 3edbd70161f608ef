//! `/v1/vms/{name}/cpu`: a VM's share, where its vCPUs run, what its guest finds, and what
//! became of the vCPUs' time.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use api::limits::{CPU_LIMIT_PERCENT_MAX, WEIGHT_DEFAULT, WEIGHT_MAX, WEIGHT_MIN};
use api::{
    ActionRequest, Code, CpuChange, CpuSpec, EventType, Pin, Problem, Stolen, Vcpu, VcpuState,
    VmCpu, VmState,
};

use super::Server;
use super::vms::{Phase, VmRecord, backend_problem, check_match, not_found, path};
use crate::backend::{Backend, CpuPlan, VcpuCounters};
use crate::http::head::Head;
use crate::http::reply::Reply;

impl Server {
    pub(super) fn cpu_get(&self, backend: &dyn Backend, name: &str) -> Result<Reply, Problem> {
        let vm = self.vm(name)?;
        Ok(Reply::json(200, &view(backend, vm)).header("ETag", vm.etag()))
    }

    /// Changes how the vCPUs of a VM run, at once and in its definition.
    pub(super) fn cpu_set(
        &mut self,
        backend: &mut dyn Backend,
        name: &str,
        head: &Head,
        change: &CpuChange,
    ) -> Result<Reply, Problem> {
        let vm = self.vm(name)?;
        if head.count("if-match") != 0 {
            check_match(Some(vm), name, head)?;
        }
        let cores = backend.host().cores;
        let asked = CpuSpec {
            weight: change.weight,
            limit_percent: change.limit_percent,
            pins: change.pins.clone(),
            hide: change.hide.clone().unwrap_or_default(),
        };
        let problem = Problem::new(Code::Invalid, "the vCPUs cannot run as asked");
        refused(check_cpu(&asked, vm.spec.cpus, cores, "", problem))?;
        let cpu = merged(&vm.spec.cpu, change);
        if cpu == vm.spec.cpu {
            return self.cpu_get(backend, name);
        }
        if cpu.hide != vm.spec.cpu.hide && vm.state().is_active() {
            return Err(Problem::new(
                Code::VmRunning,
                format!(
                    "VM '{name}' is {}, and its guest has seen what it has",
                    vm.state().name()
                ),
            )
            .field("/hide", "cannot change while the VM runs")
            .hint("stop the VM, change what it finds, start it again"));
        }
        if let Some(run) = vm.run() {
            backend
                .vm_cpu_set(run, &plan(&cpu, vm.spec.cpus))
                .map_err(|why| backend_problem(&format!("the vCPUs of VM '{name}'"), &why))?;
        }
        let vm = self.vms.get_mut(name).ok_or_else(|| not_found(name))?;
        vm.spec.cpu = cpu;
        vm.generation = vm.generation.saturating_add(1);
        self.event(EventType::Lifecycle, "vm.cpu-changed", path(name), &[]);
        self.cpu_get(backend, name)
    }
}

impl Server {
    /// Makes an SError pending in a vCPU of a VM that runs.
    pub(super) fn vm_serror(
        &mut self,
        backend: &mut dyn Backend,
        name: &str,
        request: ActionRequest,
    ) -> Result<Reply, Problem> {
        let vm = self.vm(name)?;
        let Phase::Running(run) = vm.phase else {
            return Err(Problem::new(
                Code::VmNotRunning,
                format!(
                    "VM '{name}' is {}: no vCPU takes an SError",
                    vm.state().name()
                ),
            )
            .hint("start the VM"));
        };
        let (cpus, vcpu) = (vm.spec.cpus, request.vcpu.unwrap_or(0));
        let syndrome = request.syndrome.unwrap_or(0);
        let mut problem = Problem::new(Code::Invalid, "no such SError");
        if vcpu >= cpus {
            let why = format!("{vcpu} is not one of the VM's vCPUs, {}", upto(cpus));
            problem = problem.field("/vcpu", why);
        }
        if syndrome > SYNDROME_MAX {
            let why = format!("{syndrome} is not 0 to {SYNDROME_MAX}, the 25 bits of ESR_EL1.ISS");
            problem = problem.field("/syndrome", why);
        }
        refused(problem)?;
        backend
            .vm_serror(run, vcpu, syndrome)
            .map_err(|why| backend_problem(&format!("vCPU {vcpu} of VM '{name}'"), &why))?;
        self.event(EventType::Lifecycle, "vm.serror", path(name), &[]);
        Ok(self.vm_reply(backend, name, 200))
    }
}

/// `ESR_EL1.ISS` has 25 bits (DDI 0487, D24.2.40).
const SYNDROME_MAX: u32 = (1 << 25) - 1;

/// Finds what only an SError takes in a request for something else.
pub(super) fn check_plain(request: ActionRequest) -> Problem {
    let mut problem = Problem::new(Code::Invalid, "the action takes no more than its name");
    for (field, given) in [
        ("/vcpu", request.vcpu.is_some()),
        ("/syndrome", request.syndrome.is_some()),
    ] {
        if given {
            problem = problem.field(field, "is for the action serror alone; leave it out");
        }
    }
    problem
}

/// Makes a refusal of a problem that has found a field.
pub(super) fn refused(mut problem: Problem) -> Result<(), Problem> {
    match problem.errors.first() {
        None => Ok(()),
        Some(first) => {
            problem.detail = format!("{}: {}", first.pointer, first.detail);
            Err(problem)
        }
    }
}

/// Adds to `problem` what in `cpu`, found at `at` in the body, a VM of `cpus` vCPUs on a
/// machine of `cores` cores cannot have.
pub(super) fn check_cpu(
    cpu: &CpuSpec,
    cpus: u32,
    cores: u32,
    at: &str,
    mut problem: Problem,
) -> Problem {
    if let Some(weight) = cpu.weight
        && !(WEIGHT_MIN..=WEIGHT_MAX).contains(&weight)
    {
        problem = problem.field(
            format!("{at}/weight"),
            format!(
                "{weight} is not {WEIGHT_MIN} to {WEIGHT_MAX} (a share: a VM that says nothing \
                 has {WEIGHT_DEFAULT})"
            ),
        );
    }
    if let Some(percent) = cpu.limit_percent
        && percent > CPU_LIMIT_PERCENT_MAX
    {
        problem = problem.field(
            format!("{at}/limit_percent"),
            format!(
                "{percent} is not 1 to {CPU_LIMIT_PERCENT_MAX} per cent of one core, or 0 for no \
                 limit"
            ),
        );
    }
    for (n, pin) in cpu.pins.iter().enumerate() {
        if pin.vcpu >= cpus {
            problem = problem.field(
                format!("{at}/pins/{n}/vcpu"),
                format!("{} is not one of the VM's vCPUs, {}", pin.vcpu, upto(cpus)),
            );
        }
        if cpu.pins.iter().take(n).any(|other| other.vcpu == pin.vcpu) {
            problem = problem.field(
                format!("{at}/pins/{n}/vcpu"),
                format!("vCPU {} is listed twice", pin.vcpu),
            );
        }
        if let Some(core) = pin.cores.iter().find(|core| **core >= cores) {
            problem = problem.field(
                format!("{at}/pins/{n}/cores"),
                format!("{core} is not one of the machine's cores, {}", upto(cores)),
            );
        }
        // A body can have very many of them.
        if problem.errors.len() >= 16 {
            break;
        }
    }
    problem
}

/// The numbers that there are below `count`.
fn upto(count: u32) -> String {
    match count {
        0 | 1 => "0".into(),
        count => format!("0 to {}", count.saturating_sub(1)),
    }
}

/// Says the same in one way only, so that two definitions can be compared.
pub(super) fn settled(mut cpu: CpuSpec) -> CpuSpec {
    cpu.weight = cpu.weight.filter(|weight| *weight != WEIGHT_DEFAULT);
    cpu.limit_percent = cpu.limit_percent.filter(|percent| *percent != 0);
    for pin in &mut cpu.pins {
        pin.cores.sort_unstable();
        pin.cores.dedup();
    }
    cpu.pins.retain(|pin| !pin.cores.is_empty());
    cpu.pins.sort_by_key(|pin| pin.vcpu);
    cpu.hide.sort_unstable();
    cpu.hide.dedup();
    cpu
}

/// A definition with a change made to it.
fn merged(old: &CpuSpec, change: &CpuChange) -> CpuSpec {
    let listed = |vcpu| change.pins.iter().any(|pin| pin.vcpu == vcpu);
    let kept = old.pins.iter().filter(|pin| !listed(pin.vcpu));
    let pins: Vec<Pin> = kept.chain(&change.pins).cloned().collect();
    settled(CpuSpec {
        weight: change.weight.or(old.weight),
        limit_percent: change.limit_percent.or(old.limit_percent),
        pins,
        hide: change.hide.clone().unwrap_or_else(|| old.hide.clone()),
    })
}

/// What the backend is to do for a definition.
pub(super) fn plan(cpu: &CpuSpec, cpus: u32) -> CpuPlan {
    let mask = |vcpu| {
        let pin = cpu.pins.iter().find(|pin| pin.vcpu == vcpu);
        pin.map_or(u32::MAX, |pin| {
            pin.cores
                .iter()
                .filter_map(|core| 1_u32.checked_shl(*core))
                .fold(0, |mask, bit| mask | bit)
        })
    };
    CpuPlan {
        weight: cpu.weight.unwrap_or(WEIGHT_DEFAULT),
        limit_percent: cpu.limit_percent.unwrap_or(0),
        affinity: (0..cpus).map(mask).collect(),
        hide: cpu.hide.clone(),
    }
}

fn view(backend: &dyn Backend, vm: &VmRecord) -> VmCpu {
    let spec = &vm.spec.cpu;
    let plan = plan(spec, vm.spec.cpus);
    let cores = backend.host().cores;
    let live = match (vm.state(), vm.run()) {
        (VmState::Running | VmState::Stopping, Some(run)) => backend.vm_vcpus(run),
        _ => Vec::new(),
    };
    let mut live = live.into_iter();
    let vcpus = (0..).zip(&plan.affinity).map(|(vcpu, mask)| {
        let may = |core: &u32| mask.checked_shr(*core).unwrap_or(0) & 1 == 1;
        let mut one = live.next().map_or_else(Vcpu::default, counted);
        one.vcpu = vcpu;
        one.cores = (0..cores).filter(may).collect();
        one
    });
    VmCpu {
        weight: plan.weight,
        limit_percent: spec.limit_percent,
        hide: spec.hide.clone(),
        vcpus: vcpus.collect(),
    }
}

fn counted(counters: VcpuCounters) -> Vcpu {
    Vcpu {
        state: counters.state,
        core: (counters.state != VcpuState::Off).then_some(counters.core),
        preempted: counters.preempted,
        run_ns: counters.run_ns,
        wait_ns: counters.wait_ns,
        stolen: Stolen {
            queue_ns: counters.queue_ns,
            fault_ns: counters.fault_ns,
            device_ns: counters.device_ns,
        },
        moves: counters.moves,
        switches: counters.switches,
        exits: counters
            .exits
            .iter()
            .map(|(reason, count)| (reason.to_string(), *count))
            .collect(),
        ..Vcpu::default()
    }
}
