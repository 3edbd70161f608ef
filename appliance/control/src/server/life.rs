//! How virtual machines live: runs begun, watched, ended, released.
//!
//! ```text
//! Idle ─start→ Starting ─loaded→ Running ─ends by itself→ Releasing ─→ Idle, Starting
//!                 └──────stop──────┴──stop→ Stopping ─→──────┘         (restart), gone
//! ```

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use api::{Code, EventType, LastError, Problem};

use super::Server;
use super::vms::{Idle, Phase, Then, VmRecord, backend_problem, not_found, path};
use crate::backend::{Backend, RunCounters, RunId, RunState};
use crate::clock::SECOND_NS;
use crate::operations::OperationId;

/// Console bytes taken from one VM before the next one has its turn.
const CONSOLE_TURN_BYTES: usize = 16 << 10;
/// A guest that resets within this time of its start is made to wait as long, so that a
/// guest in a reset loop does not keep the appliance busy with loading it.
const RESET_PAUSE_NS: u64 = SECOND_NS;

impl Server {
    /// Begins a run. The VM is idle.
    pub(super) fn vm_start(
        &mut self,
        backend: &mut dyn Backend,
        name: &str,
    ) -> Result<OperationId, Problem> {
        if self.power.is_some() {
            return Err(Problem::new(
                Code::ShuttingDown,
                "nothing is started while the appliance shuts down",
            ));
        }
        self.vm_run(backend, name)?;
        let operation = self.operations.begin("vm.start", path(name), self.now());
        if let Some(vm) = self.vms.get_mut(name) {
            vm.operation = Some(operation);
            vm.reason = "requested";
        }
        Ok(operation)
    }

    fn vm_run(&mut self, backend: &mut dyn Backend, name: &str) -> Result<(), Problem> {
        let plan = self.vm_plan(name, &backend.host().cpu_features)?;
        let run = RunId(self.new_key());
        backend
            .vm_start(run, &plan)
            .map_err(|why| backend_problem(&format!("VM '{name}' cannot be started"), &why))?;
        let now_ns = self.now_ns;
        let vm = self.vms.get_mut(name).ok_or_else(|| not_found(name))?;
        vm.phase = Phase::Starting(run);
        vm.then = Then::Rest(Idle::Stopped);
        vm.last_error = None;
        vm.starts = vm.starts.saturating_add(1);
        vm.started_ns = now_ns;
        vm.counters = RunCounters::default();
        Ok(())
    }

    /// Ends the run there is; `then` comes after it.
    pub(super) fn vm_end(
        &mut self,
        backend: &mut dyn Backend,
        name: &str,
        kind: &str,
        then: Then,
    ) -> OperationId {
        let operation = self.operations.begin(kind, path(name), self.now());
        let Some(vm) = self.vms.get_mut(name) else {
            return operation;
        };
        let overtaken = vm.operation.replace(operation);
        vm.then = then;
        vm.reason = "requested";
        match vm.phase {
            Phase::Starting(run) | Phase::Running(run) => {
                backend.vm_stop(run);
                vm.phase = Phase::Stopping(run);
            }
            Phase::Pausing { .. } => self.vm_rest(backend, name),
            Phase::Stopping(_) | Phase::Releasing(_) | Phase::Idle(_) => {}
        }
        let cancelled = Problem::new(Code::Cancelled, format!("{kind} was asked for meanwhile"));
        self.end_operation(overtaken, Err(cancelled));
        operation
    }

    /// Moves every VM on.
    pub(super) fn poll_vms(&mut self, backend: &mut dyn Backend) {
        if self.power.is_some() {
            self.stop_all(backend);
        }
        let busy = |vm: &VmRecord| !matches!(vm.phase, Phase::Idle(_));
        let names: Vec<String> = self
            .vms
            .iter()
            .filter(|(_, vm)| busy(vm))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            self.poll_vm(backend, &name);
        }
    }

    fn stop_all(&mut self, backend: &mut dyn Backend) {
        let running: Vec<String> = self
            .vms
            .iter()
            .filter(|(_, vm)| {
                matches!(
                    vm.phase,
                    Phase::Starting(_) | Phase::Running(_) | Phase::Pausing { .. }
                ) || vm.then == Then::Restart && vm.state().is_active()
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in running {
            self.vm_end(backend, &name, "vm.stop", Then::Rest(Idle::Stopped));
        }
    }

    fn poll_vm(&mut self, backend: &mut dyn Backend, name: &str) {
        let Some(vm) = self.vms.get_mut(name) else {
            return;
        };
        if let Some(run) = vm.run() {
            drain_console(backend, run, vm);
        }
        match vm.phase {
            Phase::Idle(_) => {}
            Phase::Starting(run) => match backend.vm_poll(run) {
                RunState::Loading { done, total } => {
                    if let Some(operation) = vm.operation {
                        self.operations.progress(operation, done, total);
                    }
                }
                state => {
                    if !matches!(state, RunState::Failed(_) | RunState::Killed) {
                        self.vm_started(name, run);
                    }
                    self.vm_observe(backend, name, run, state);
                }
            },
            Phase::Running(run) => {
                let state = backend.vm_poll(run);
                self.vm_observe(backend, name, run, state);
            }
            Phase::Stopping(run) => match backend.vm_poll(run) {
                RunState::Loading { .. } | RunState::Running => {}
                RunState::Failed(_)
                | RunState::Off
                | RunState::Reset
                | RunState::Crashed { .. }
                | RunState::Killed => self.vm_ended(backend, name, run),
            },
            Phase::Releasing(run) => self.vm_releasing(backend, name, run),
            Phase::Pausing { until_ns } if self.now_ns >= until_ns => {
                self.vm_restart(backend, name);
            }
            Phase::Pausing { .. } => {}
        }
    }

    fn vm_started(&mut self, name: &str, run: RunId) {
        let (now, now_ns) = (self.now(), self.now_ns);
        let Some(vm) = self.vms.get_mut(name) else {
            return;
        };
        vm.phase = Phase::Running(run);
        vm.started_at = now;
        vm.started_ns = now_ns;
        vm.stopped_at = None;
        let operation = vm.operation.take();
        self.event(EventType::Lifecycle, "vm.started", path(name), &[]);
        self.end_operation(operation, Ok(()));
    }

    /// Acts on what became of a run that was not told to stop.
    fn vm_observe(&mut self, backend: &mut dyn Backend, name: &str, run: RunId, state: RunState) {
        let Some(vm) = self.vms.get_mut(name) else {
            return;
        };
        let by_guest = |action| (EventType::Guest, action);
        let (event, detail) = match state {
            RunState::Loading { .. } | RunState::Running => return,
            RunState::Off => {
                vm.then = Then::Rest(Idle::Stopped);
                vm.reason = "guest_poweroff";
                (by_guest("vm.poweroff"), None)
            }
            RunState::Reset => {
                vm.then = Then::Restart;
                vm.reason = "guest_reset";
                (by_guest("vm.reset"), None)
            }
            RunState::Crashed { esr, pc } => {
                vm.then = Then::Rest(Idle::Crashed);
                vm.reason = "guest_crashed";
                let detail =
                    format!("the guest crashed at pc {pc:#x} with exception syndrome {esr:#x}");
                vm.last_error = Some(LastError {
                    code: Code::GuestCrashed.name().into(),
                    detail: detail.clone(),
                });
                (by_guest("vm.crashed"), Some(detail))
            }
            RunState::Failed(why) => {
                vm.then = Then::Rest(Idle::Failed);
                vm.reason = "start_failed";
                let problem = backend_problem(&format!("VM '{name}' cannot be started"), &why);
                let detail = problem.detail.clone();
                vm.last_error = Some(LastError {
                    code: problem.code.clone(),
                    detail: detail.clone(),
                });
                let operation = vm.operation.take();
                self.end_operation(operation, Err(problem));
                ((EventType::Lifecycle, "vm.failed"), Some(detail))
            }
            RunState::Killed => {
                vm.then = Then::Rest(Idle::Stopped);
                vm.reason = "killed";
                let operation = vm.operation.take();
                let why = Problem::new(Code::Internal, "the run was stopped from below");
                self.end_operation(operation, Err(why));
                ((EventType::Lifecycle, "vm.killed"), None)
            }
        };
        let context: Vec<_> = detail.into_iter().map(|text| ("detail", text)).collect();
        self.event(event.0, event.1, path(name), &context);
        self.vm_ended(backend, name, run);
    }

    /// Begins to give back what a run holds that has ended.
    fn vm_ended(&mut self, backend: &mut dyn Backend, name: &str, run: RunId) {
        let now = self.now();
        if let Some(vm) = self.vms.get_mut(name) {
            vm.counters = backend.vm_counters(run);
            vm.stopped_at = now;
            vm.phase = Phase::Releasing(run);
        }
        self.vm_releasing(backend, name, run);
    }

    fn vm_releasing(&mut self, backend: &mut dyn Backend, name: &str, run: RunId) {
        let Some(vm) = self.vms.get_mut(name) else {
            return;
        };
        // The guest's last words come before its memory goes.
        if !drain_console(backend, run, vm) || !backend.vm_release(run) {
            return;
        }
        vm.counters.resident_bytes = 0;
        vm.counters.overhead_bytes = 0;
        let early = self.now_ns.saturating_sub(vm.started_ns) < RESET_PAUSE_NS;
        if vm.then == Then::Restart && vm.reason == "guest_reset" && early {
            vm.phase = Phase::Pausing {
                until_ns: self.now_ns.saturating_add(RESET_PAUSE_NS),
            };
            return;
        }
        self.vm_rest(backend, name);
    }

    /// Does what comes after a run.
    fn vm_rest(&mut self, backend: &mut dyn Backend, name: &str) {
        let Some(vm) = self.vms.get_mut(name) else {
            return;
        };
        match vm.then {
            Then::Restart => self.vm_restart(backend, name),
            Then::Rest(idle) => {
                vm.phase = Phase::Idle(idle);
                let operation = vm.operation.take();
                if idle == Idle::Stopped {
                    let why = [("reason", String::from(vm.reason))];
                    self.event(EventType::Lifecycle, "vm.stopped", path(name), &why);
                }
                self.end_operation(operation, Ok(()));
            }
            Then::Delete => {
                let (operation, key) = (vm.operation.take(), vm.key);
                self.vms.remove(name);
                self.forget(backend, key);
                self.event(EventType::Lifecycle, "vm.deleted", path(name), &[]);
                self.end_operation(operation, Ok(()));
            }
        }
    }

    fn vm_restart(&mut self, backend: &mut dyn Backend, name: &str) {
        let Some(vm) = self.vms.get_mut(name) else {
            return;
        };
        vm.phase = Phase::Idle(Idle::Stopped);
        let operation = vm.operation;
        let Err(problem) = self.vm_run(backend, name) else {
            return;
        };
        if let Some(vm) = self.vms.get_mut(name) {
            vm.phase = Phase::Idle(Idle::Failed);
            vm.reason = "start_failed";
            vm.operation = None;
            vm.last_error = Some(LastError {
                code: problem.code.clone(),
                detail: problem.detail.clone(),
            });
        }
        let context = [("detail", problem.detail.clone())];
        self.event(EventType::Lifecycle, "vm.failed", path(name), &context);
        self.end_operation(operation, Err(problem));
    }
}

/// Takes console output, a bounded amount. Returns whether that was all there is.
fn drain_console(backend: &mut dyn Backend, run: RunId, vm: &mut VmRecord) -> bool {
    let mut piece = [0u8; 1024];
    let mut taken = 0usize;
    while taken < CONSOLE_TURN_BYTES {
        let bytes = backend.console_read(run, &mut piece);
        let Some(data) = piece.get(..bytes).filter(|data| !data.is_empty()) else {
            return true;
        };
        vm.scrollback.push(data);
        taken = taken.saturating_add(bytes);
    }
    false
}
