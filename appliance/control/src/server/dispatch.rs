//! From a request to an answer.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use api::{
    Action, ActionRequest, Code, CpuChange, DeviceRequest, EventType, ImageSpec, MemoryPolicy,
    MemoryRequest, OperationList, OperationStatus, PowerAction, PowerRequest, Problem, ServerInfo,
    VmSpec,
};
use sha2::{Digest, Sha256};

use super::console::End;
use super::idempotency::{Claim, Outcome};
use super::upload::Upload;
use super::vcpus::{check_plain, refused};
use super::vms::shown;
use super::{PendingPower, Server};
use crate::auth;
use crate::backend::Backend;
use crate::body;
use crate::clock::SECOND_NS;
use crate::cpu;
use crate::heritage::Restart;
use crate::http::head::{BodyLength, Head, Method};
use crate::http::reply::{JSON, Reply, TEXT};
use crate::operations::OperationId;
use crate::route::Route;

/// How long a request waits for its operation unless `Prefer: wait=` says otherwise.
const WAIT_DEFAULT_NS: u64 = SECOND_NS;
/// How long a request may wait for its operation.
const WAIT_MAX_S: u64 = 60;
/// How long the answer to a shutdown has to get out.
const POWER_DELAY_NS: u64 = SECOND_NS / 5;
/// How long the control plane may be told to live on, in milliseconds.
const AFTER_MAX_MS: u32 = 60_000;
/// How long virtual machines have to stop when the machine shuts down.
const POWER_LIMIT_NS: u64 = 10 * SECOND_NS;

/// What to do with a request's body.
#[derive(Debug)]
pub(crate) enum Plan {
    /// Collect it.
    Collect,
    /// Append it to an image.
    Upload(Upload),
    /// Type it at the console of the VM with this key.
    Console(u64),
}

/// A body that has arrived.
#[derive(Debug)]
pub(crate) enum Body {
    /// Collected.
    Bytes(Vec<u8>),
    /// Appended to an image.
    Upload(Upload),
    /// Typed at a console.
    Typed,
}

/// An answer.
#[derive(Debug)]
pub(crate) enum Answer {
    /// At once.
    Reply(Reply),
    /// When an operation has ended, or it is too late.
    Wait(Wait),
    /// A stream.
    Stream(StreamKind),
    /// The connection becomes the console of the VM with this key.
    Console(u64, End),
}

/// What is streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamKind {
    /// Console output of the VM with this key, from a position on.
    Log { key: u64, next: u64, end: End },
    /// Events after this number; endless, or until the last one there is now.
    Events { after: u64, until: Option<u64> },
}

impl StreamKind {
    pub(crate) const fn media_type(self) -> &'static str {
        match self {
            Self::Log { .. } => TEXT,
            Self::Events { .. } => "text/event-stream",
        }
    }
}

/// A request that waits for an operation.
#[derive(Debug)]
pub(crate) struct Wait {
    operation: OperationId,
    until_ns: u64,
    then: Then,
    claim: Option<Claim>,
}

impl Wait {
    /// When the request is answered at the latest.
    pub(crate) const fn until_ns(&self) -> u64 {
        self.until_ns
    }
}

/// What a request answers with, once its operation has ended.
#[derive(Clone, Debug)]
pub(super) enum Then {
    /// The VM.
    Vm(String),
    /// Nothing: the VM is gone.
    Gone,
    /// The operation.
    Operation,
}

impl Server {
    /// Says what to do with the body of a request whose head has arrived; or refuses it.
    pub(crate) fn begin(&mut self, backend: &mut dyn Backend, head: &Head) -> Result<Plan, Reply> {
        self.tick(backend);
        let route = Route::parse(&head.path);
        if !route.is_some_and(Route::is_open)
            && !auth::is_authorized(head, &self.config.token_sha256)
        {
            return Err(Reply::problem(
                &Problem::new(
                    Code::Unauthorized,
                    "the request carries no token that this appliance accepts",
                )
                .hint("send 'Authorization: Bearer TOKEN'; the token was set at start-up"),
            ));
        }
        let Some(route) = route else {
            return Err(Reply::problem(
                &Problem::new(
                    Code::NotFound,
                    format!("there is nothing at '{}'", shown(&head.path)),
                )
                .hint("GET /v1 tells what this server can do"),
            ));
        };
        let Some(method) = head.method else {
            return Err(Reply::problem(&Problem::new(
                Code::NotImplemented,
                "the method is not one that this server knows",
            )));
        };
        if method != Method::Options && !route.methods().contains(&method) {
            let problem = Problem::new(
                Code::MethodNotAllowed,
                format!("{} does not apply to {}", method.name(), route.pattern()),
            )
            .hint(format!("{} do", allow(route)));
            return Err(Reply::problem(&problem).header("Allow", allow(route)));
        }
        let plan = match (route, method) {
            (Route::ImageData(name), Method::Put | Method::Patch) => {
                self.upload_begin(backend, name, head).map(Plan::Upload)
            }
            (Route::ConsoleInput(name), Method::Post) => {
                self.console_target(name).map(Plan::Console)
            }
            _ if takes_json(route, method) => check_media_type(head).map(|()| Plan::Collect),
            _ => Ok(Plan::Collect),
        };
        plan.map_err(|problem| Reply::problem(&problem))
    }

    /// Answers a request whose body has arrived.
    pub(crate) fn finish(&mut self, backend: &mut dyn Backend, head: &Head, body: Body) -> Answer {
        self.tick(backend);
        let claim = match self.claim(head, &body) {
            Ok(None) => None,
            Ok(Some((claim, Outcome::Begun))) => Some(claim),
            Ok(Some((_, Outcome::Answered(reply)))) => return Answer::Reply(reply),
            Ok(Some((claim, Outcome::Waiting(operation, then)))) => {
                return Answer::Wait(Wait {
                    operation,
                    until_ns: self.now_ns.saturating_add(WAIT_DEFAULT_NS),
                    then,
                    claim: Some(claim),
                });
            }
            Err(problem) => return Answer::Reply(Reply::problem(&problem)),
        };
        let mut answer = self
            .route(backend, head, body)
            .unwrap_or_else(|problem| Answer::Reply(Reply::problem(&problem)));
        self.save(backend);
        if let Some(claim) = claim {
            match &mut answer {
                Answer::Reply(reply) => self.idempotency.settle(&claim, reply),
                Answer::Wait(wait) => {
                    self.idempotency.wait(&claim, wait.operation, &wait.then);
                    wait.claim = Some(claim);
                }
                Answer::Stream(_) | Answer::Console(..) => {}
            }
        }
        answer
    }

    /// Claims the request's `Idempotency-Key`, if it has one.
    fn claim(&mut self, head: &Head, body: &Body) -> Result<Option<(Claim, Outcome)>, Problem> {
        let (Some(Method::Post), Some(key), Body::Bytes(bytes)) =
            (head.method, head.header("idempotency-key"), body)
        else {
            return Ok(None);
        };
        let request = Sha256::new()
            .chain_update(head.path.as_bytes())
            .chain_update(b"?")
            .chain_update(head.query.as_bytes())
            .chain_update(b"\n")
            .chain_update(bytes)
            .finalize();
        self.idempotency
            .claim(key, request.into(), self.now_ns)
            .map(Some)
    }

    fn route(
        &mut self,
        backend: &mut dyn Backend,
        head: &Head,
        body: Body,
    ) -> Result<Answer, Problem> {
        let (Some(route), Some(method)) = (Route::parse(&head.path), head.method) else {
            return Err(Problem::new(Code::NotFound, "there is nothing here"));
        };
        let body = match body {
            Body::Upload(upload) => return self.upload_end(backend, &upload).map(Answer::Reply),
            Body::Typed => return Ok(Answer::Reply(Reply::empty(204))),
            Body::Bytes(body) => body,
        };
        if method == Method::Options {
            return Ok(Answer::Reply(
                Reply::empty(204).header("Allow", allow(route)),
            ));
        }
        let reply = match route {
            Route::Healthz | Route::Readyz => Reply::text(TEXT, "ok\n"),
            Route::Metrics => self.metrics(backend),
            Route::OpenApi => Reply::text(JSON, api::OPENAPI_JSON),
            Route::Info => Reply::json(200, &self.info(backend)),
            Route::Images => self.image_list(),
            Route::Image(name) => match method {
                Method::Put => self.image_put(backend, name, body::parse::<ImageSpec>(&body)?)?,
                Method::Delete => self.image_delete(backend, name)?,
                _ => self.image_get(name)?,
            },
            Route::ImageData(name) => self.upload_offset(name)?,
            Route::Devices => Self::device_list(backend),
            Route::DeviceActions(pci) => {
                self.device_act(backend, pci, &body::parse::<DeviceRequest>(&body)?)?
            }
            Route::VmCpu(name) => match method {
                Method::Patch => {
                    self.cpu_set(backend, name, head, &body::parse::<CpuChange>(&body)?)?
                }
                _ => self.cpu_get(backend, name)?,
            },
            Route::VmMemory(name) => match method {
                Method::Patch => {
                    self.memory_set(backend, name, &body::parse::<MemoryPolicy>(&body)?)?
                }
                _ => self.memory_get(backend, name)?,
            },
            Route::VmMemoryActions(name) => {
                self.memory_act(backend, name, &body::parse::<MemoryRequest>(&body)?)?
            }
            Route::Vms => self.vm_list(backend),
            Route::Vm(name) => match method {
                Method::Put => self.vm_put(backend, name, head, body::parse::<VmSpec>(&body)?)?,
                Method::Delete => return self.delete_vm(backend, name, head),
                _ => {
                    self.vm(name)?;
                    self.vm_reply(backend, name, 200)
                }
            },
            Route::VmActions(name) => {
                let request: ActionRequest = body::parse(&body)?;
                if request.action == Action::Serror {
                    return Ok(Answer::Reply(self.vm_serror(backend, name, request)?));
                }
                refused(check_plain(request))?;
                return self.act(backend, name, head, request.action);
            }
            Route::Console(name) => return self.console(name, head),
            Route::ConsoleLog(name) => return self.console_log(name, head),
            Route::ConsoleInput(_) => Reply::empty(204),
            Route::Events => return self.event_stream(head),
            Route::Operations => {
                let operations = self.operations.iter().cloned().collect();
                Reply::json(200, &OperationList { operations })
            }
            Route::Operation(id) => return self.operation(id, head),
            Route::SystemActions => {
                let request = body::parse(&body)?;
                self.power(backend, request)?
            }
        };
        Ok(Answer::Reply(reply))
    }

    fn info(&self, backend: &dyn Backend) -> ServerInfo {
        let host = backend.host();
        ServerInfo {
            name: "skete".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            api_version: "v1".into(),
            api_extensions: Vec::new(),
            boot_id: self.uuid(0),
            uptime_ns: self.now_ns,
            time: self.now(),
            machine: api::Machine {
                ram_bytes: host.ram_bytes,
                free_bytes: host.free_bytes,
                core_bytes: host.core_bytes,
                root_bytes: host.root_bytes,
                granted_bytes: host.granted_bytes,
                cores: host.cores,
                cpu: cpu::describe(host.midr),
                cpu_features: host.cpu_features,
                vms: host.vms,
                vms_max: host.vms_max,
            },
        }
    }

    fn act(
        &mut self,
        backend: &mut dyn Backend,
        name: &str,
        head: &Head,
        action: Action,
    ) -> Result<Answer, Problem> {
        let until_ns = self.wait_until(head)?;
        let operation = self.vm_action(backend, name, action)?;
        Ok(match operation {
            None => Answer::Reply(self.vm_reply(backend, name, 200)),
            Some(operation) => Answer::Wait(Wait {
                operation,
                until_ns,
                then: Then::Vm(name.into()),
                claim: None,
            }),
        })
    }

    fn delete_vm(
        &mut self,
        backend: &mut dyn Backend,
        name: &str,
        head: &Head,
    ) -> Result<Answer, Problem> {
        let until_ns = self.wait_until(head)?;
        let force = flag(head, "force")?;
        Ok(match self.vm_delete(backend, name, head, force)? {
            None => Answer::Reply(Reply::empty(204)),
            Some(operation) => Answer::Wait(Wait {
                operation,
                until_ns,
                then: Then::Gone,
                claim: None,
            }),
        })
    }

    fn operation(&self, id: &str, head: &Head) -> Result<Answer, Problem> {
        let (operation, view) = self.operations.find(id).ok_or_else(|| {
            Problem::new(
                Code::OperationNotFound,
                format!("there is no operation '{}'", shown(id)),
            )
            .hint("only the last 256 operations are remembered")
        })?;
        match head.query_value("wait") {
            None => Ok(Answer::Reply(Reply::json(200, view))),
            Some(wait) => Ok(Answer::Wait(Wait {
                operation,
                until_ns: self.now_ns.saturating_add(seconds(wait)?),
                then: Then::Operation,
                claim: None,
            })),
        }
    }

    /// Returns the answer to a waiting request, if there is one by now.
    pub(crate) fn settle(&mut self, backend: &mut dyn Backend, wait: &Wait) -> Option<Reply> {
        self.tick(backend);
        let operation = self.operations.get(wait.operation)?;
        let running = operation.status == OperationStatus::Running;
        if running && self.now_ns < wait.until_ns {
            return None;
        }
        let reply = match (&wait.then, &operation.error) {
            (Then::Operation, _) => Reply::json(200, operation),
            _ if running => Reply::json(202, operation)
                .header("Location", format!("/v1/operations/{}", operation.id)),
            (_, Some(problem)) => Reply::problem(problem),
            (Then::Vm(name), None) => self.vm_reply(backend, name, 200),
            (Then::Gone, None) => Reply::empty(204),
        };
        if let Some(claim) = &wait.claim {
            self.idempotency.settle(claim, &reply);
        }
        Some(reply)
    }

    fn wait_until(&self, head: &Head) -> Result<u64, Problem> {
        let wait = head
            .header("prefer")
            .into_iter()
            .flat_map(|value| value.split(','))
            .find_map(|item| item.trim().strip_prefix("wait="));
        let wait_ns = match wait {
            Some(wait) => seconds(wait)?,
            None => WAIT_DEFAULT_NS,
        };
        Ok(self.now_ns.saturating_add(wait_ns))
    }

    fn event_stream(&self, head: &Head) -> Result<Answer, Problem> {
        let since = head
            .header("last-event-id")
            .or_else(|| head.query_value("since"));
        let after = match since {
            Some(since) => since.parse().map_err(|_| {
                Problem::new(
                    Code::BadQuery,
                    "since= and Last-Event-ID want the number of an event",
                )
            })?,
            None => self.events.last(),
        };
        let follow = head.query_value("follow").is_none() || flag(head, "follow")?;
        Ok(Answer::Stream(StreamKind::Events {
            after,
            until: (!follow).then_some(self.events.last()),
        }))
    }

    fn power(
        &mut self,
        backend: &mut dyn Backend,
        request: PowerRequest,
    ) -> Result<Reply, Problem> {
        let PowerRequest {
            action,
            after_ms,
            drill,
        } = request;
        let asked = match action {
            PowerAction::Shutdown => "system.shutdown",
            PowerAction::Reset => "system.reset",
            PowerAction::RestartControl => "system.restart_control",
        };
        if action == PowerAction::RestartControl {
            return self.restart(backend, request);
        }
        let mut problem = Problem::new(Code::Invalid, "the request says too much");
        for (pointer, there) in [
            ("/after_ms", after_ms.is_some()),
            ("/drill", drill.is_some()),
        ] {
            if there {
                problem = problem.field(pointer, "it goes only with restart_control");
            }
        }
        refused(problem)?;
        if self.power.is_none() {
            self.event(EventType::System, asked, "/v1/system".into(), &[]);
        }
        self.power = Some(PendingPower {
            action,
            earliest_ns: self.now_ns.saturating_add(POWER_DELAY_NS),
            latest_ns: self.now_ns.saturating_add(POWER_LIMIT_NS),
        });
        Ok(Reply::json(202, &request))
    }

    /// Begins the control plane anew: once the answer is out, or with `after_ms` wherever it is
    /// then.
    fn restart(
        &mut self,
        backend: &mut dyn Backend,
        request: PowerRequest,
    ) -> Result<Reply, Problem> {
        if self.power.is_some() {
            return Err(Problem::new(
                Code::ShuttingDown,
                "the control plane does not restart while the appliance shuts down",
            ));
        }
        let mut problem = Problem::new(Code::Invalid, "the control plane cannot restart so");
        if request.drill.is_some() && !self.config.drills {
            problem = problem
                .field(
                    "/drill",
                    "the appliance was not started with the boot argument 'drills'",
                )
                .hint("leave it out");
        }
        if request.after_ms.is_some_and(|ms| ms > AFTER_MAX_MS) {
            problem = problem.field("/after_ms", format!("more than {AFTER_MAX_MS}"));
        }
        if request.after_ms.is_some() && request.drill.is_some() {
            problem = problem.field("/after_ms", "it does not go with a drill");
        }
        refused(problem)?;
        let about = "/v1/system".into();
        self.event(EventType::System, "system.restart_control", about, &[]);
        match request.after_ms {
            Some(ms) => backend.restart(Restart::After(u64::from(ms).saturating_mul(1_000_000))),
            None => {
                let how = request.drill.map_or(Restart::After(0), Restart::Drill);
                self.restart = Some((self.now_ns.saturating_add(POWER_DELAY_NS), how));
            }
        }
        Ok(Reply::json(202, &request))
    }
}

fn allow(route: Route<'_>) -> String {
    let methods: Vec<&str> = route
        .methods()
        .iter()
        .chain(&[Method::Options])
        .map(|method| method.name())
        .collect();
    methods.join(", ")
}

const fn takes_json(route: Route<'_>, method: Method) -> bool {
    matches!(
        (route, method),
        (Route::Image(_) | Route::Vm(_), Method::Put)
            | (
                Route::VmActions(_)
                    | Route::VmMemoryActions(_)
                    | Route::DeviceActions(_)
                    | Route::SystemActions,
                Method::Post
            )
            | (Route::VmCpu(_) | Route::VmMemory(_), Method::Patch)
    )
}

fn check_media_type(head: &Head) -> Result<(), Problem> {
    if head.body == BodyLength::None || head.count("content-type") == 0 {
        return Ok(());
    }
    let media_type = head.header("content-type").unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err(Problem::new(
            Code::UnsupportedMediaType,
            format!(
                "the body is '{}', and JSON is expected here",
                shown(essence)
            ),
        )
        .hint("send 'Content-Type: application/json'"))
    }
}

/// Reads a query parameter that is true or false; absent means false.
pub(super) fn flag(head: &Head, name: &str) -> Result<bool, Problem> {
    match head.query_value(name) {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1" | "") => Ok(true),
        Some(other) => Err(Problem::new(
            Code::BadQuery,
            format!("{name}={} is neither true nor false", shown(other)),
        )),
    }
}

/// Reads a time to wait, `30` or `30s`, at most [`WAIT_MAX_S`], in nanoseconds.
fn seconds(text: &str) -> Result<u64, Problem> {
    let digits = text.strip_suffix('s').unwrap_or(text);
    let seconds: u64 = digits.parse().map_err(|_| {
        Problem::new(
            Code::BadQuery,
            "a time to wait is a number of seconds, such as 30",
        )
    })?;
    Ok(seconds.min(WAIT_MAX_S).saturating_mul(SECOND_NS))
}
