//! Requests, one at a time.

use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use api::{
    Action, ActionRequest, CpuChange, Image, ImageKind, ImageList, ImageSpec, Memory, MemoryDone,
    MemoryPolicy, MemoryRequest, Operation, OperationStatus, PowerAction, PowerRequest, Problem,
    ServerInfo, Vm, VmCpu, VmList, VmSpec,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::{self, Method, Response, Uri};
use ureq::{Agent, AsSendBody, Body};

use crate::console::Console;
use crate::error::Error;
use crate::events::Events;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a request may take in all, streams and uploads aside.
const REQUEST: Duration = Duration::from_secs(90);
/// How long the appliance may take to say that it wants a body.
const CONTINUE: Duration = Duration::from_secs(10);
/// How long one request waits for an operation, in seconds.
const WAIT_S: u64 = 30;

/// A client of one appliance.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    url: String,
    token: String,
}

/// When a console, or a log that is followed, is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// When the VM has stopped; one that is stopped already is waited for until it has run.
    Stopped,
    /// When the VM is deleted.
    Deleted,
}

impl Until {
    const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Deleted => "deleted",
        }
    }
}

/// A VM's console output, as it comes.
pub struct Log(ureq::BodyReader<'static>);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

impl Read for Log {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Client {
    /// Creates a client of the appliance at `url`, `http://HOST[:PORT]`. Connects to
    /// nothing yet.
    pub fn new(url: &str, token: &str) -> Result<Self, Error> {
        let url = url.trim_end_matches('/');
        let valid = url
            .parse::<Uri>()
            .is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some());
        if !valid {
            return Err(Error::Usage(format!(
                "'{url}' is not of the form http://HOST:PORT"
            )));
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::Usage(
                "the token has a character that no token has".into(),
            ));
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // What manages a machine talks to that machine and not to a proxy.
            .proxy(None)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .timeout_await_100(Some(CONTINUE))
            .build()
            .new_agent();
        Ok(Self {
            agent,
            url: url.into(),
            token: token.into(),
        })
    }

    /// Returns the appliance's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) fn unreachable(&self, why: impl ToString) -> Error {
        Error::Unreachable {
            url: self.url.clone(),
            why: why.to_string(),
        }
    }

    /// Makes a request. An answer of 400 and more is an error.
    pub(crate) fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsSendBody,
        limit: Option<Duration>,
    ) -> Result<Response<Body>, Error> {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("Authorization", format!("Bearer {}", self.token));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(body)
            .map_err(|why| Error::Usage(why.to_string()))?;
        let request = self
            .agent
            .configure_request(request)
            .timeout_global(limit)
            .build();
        let mut response = self.agent.run(request).map_err(|why| match why {
            ureq::Error::Protocol(_) | ureq::Error::Http(_) => Error::Protocol(why.to_string()),
            why => self.unreachable(why),
        })?;
        let status = response.status().as_u16();
        if status < 400 {
            return Ok(response);
        }
        let text = response.body_mut().read_to_string().unwrap_or_default();
        Err(refusal(status, text.as_bytes()))
    }

    fn read<T: DeserializeOwned>(&self, response: &mut Response<Body>) -> Result<T, Error> {
        let text = response
            .body_mut()
            .read_to_string()
            .map_err(|why| self.unreachable(why))?;
        serde_json::from_str(&text).map_err(|why| Error::Protocol(why.to_string()))
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let mut response = self.send(Method::GET, path, &[], (), Some(REQUEST))?;
        self.read(&mut response)
    }

    fn json(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &impl Serialize,
    ) -> Result<Response<Body>, Error> {
        let body = serde_json::to_vec(body).map_err(|why| Error::Usage(why.to_string()))?;
        let mut all = vec![("Content-Type", "application/json")];
        all.extend_from_slice(headers);
        self.send(method, path, &all, body.as_slice(), Some(REQUEST))
    }

    /// Describes the server and the machine.
    pub fn host(&self) -> Result<ServerInfo, Error> {
        self.get("/v1")
    }

    /// Lists the images.
    pub fn image_list(&self) -> Result<Vec<Image>, Error> {
        Ok(self.get::<ImageList>("/v1/images")?.images)
    }

    /// Returns an image.
    pub fn image_get(&self, name: &str) -> Result<Image, Error> {
        self.get(&image_path(name)?)
    }

    /// Defines an image, or finds it defined the same way.
    pub fn image_define(
        &self,
        name: &str,
        kind: ImageKind,
        size_bytes: Option<u64>,
    ) -> Result<Image, Error> {
        let spec = ImageSpec { kind, size_bytes };
        let mut response = self.json(Method::PUT, &image_path(name)?, &[], &spec)?;
        self.read(&mut response)
    }

    /// Deletes an image.
    pub fn image_delete(&self, name: &str) -> Result<(), Error> {
        self.send(Method::DELETE, &image_path(name)?, &[], (), Some(REQUEST))?;
        Ok(())
    }

    /// Lists the VMs.
    pub fn vm_list(&self) -> Result<Vec<Vm>, Error> {
        Ok(self.get::<VmList>("/v1/vms")?.vms)
    }

    /// Returns a VM.
    pub fn vm_get(&self, name: &str) -> Result<Vm, Error> {
        self.get(&vm_path(name)?)
    }

    /// Defines a VM, or finds it defined the same way.
    pub fn vm_create(&self, name: &str, spec: &VmSpec) -> Result<Vm, Error> {
        let mut response = self.json(Method::PUT, &vm_path(name)?, &[], spec)?;
        self.read(&mut response)
    }

    /// Returns a VM, and the tag that its definition has until it is changed.
    pub(crate) fn vm_and_tag(&self, name: &str) -> Result<(Vm, String), Error> {
        let mut response = self.send(Method::GET, &vm_path(name)?, &[], (), Some(REQUEST))?;
        let tag = response.headers().get("ETag");
        let tag = tag.and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        let tag = tag.ok_or_else(|| Error::Protocol("a VM came without an ETag".into()))?;
        Ok((self.read(&mut response)?, tag))
    }

    /// Gives a VM another definition, if its present one still has this tag.
    pub(crate) fn vm_replace(&self, name: &str, spec: &VmSpec, tag: &str) -> Result<Vm, Error> {
        let headers = [("If-Match", tag)];
        let mut response = self.json(Method::PUT, &vm_path(name)?, &headers, spec)?;
        self.read(&mut response)
    }

    /// Posts something that is answered with a value or with nothing.
    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Option<T>, Error> {
        let mut response = self.json(Method::POST, path, &[], body)?;
        if response.status().as_u16() == 204 {
            return Ok(None);
        }
        self.read(&mut response).map(Some)
    }

    /// Does something to a VM and waits until it is done; tells `progress` how many bytes
    /// of how many are loaded meanwhile.
    pub fn vm_action(
        &self,
        name: &str,
        action: Action,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vm, Error> {
        let path = format!("{}/actions", vm_path(name)?);
        let mut response = self.json(Method::POST, &path, &[], &ActionRequest::new(action))?;
        if response.status().as_u16() == 202 {
            self.finish(&mut response, progress)?;
            return self.vm_get(name);
        }
        self.read(&mut response)
    }

    /// Starts a VM and waits until it runs.
    pub fn vm_start(&self, name: &str) -> Result<Vm, Error> {
        self.vm_action(name, Action::Start, &mut |_, _| {})
    }

    /// Stops a VM at once, and waits until its memory is given back.
    pub fn vm_stop(&self, name: &str) -> Result<Vm, Error> {
        self.vm_action(name, Action::Stop, &mut |_, _| {})
    }

    /// Makes an SError pending in a vCPU of a VM that runs.
    pub fn vm_serror(&self, name: &str, vcpu: u32, syndrome: u32) -> Result<Vm, Error> {
        let path = format!("{}/actions", vm_path(name)?);
        let request = ActionRequest {
            vcpu: Some(vcpu),
            syndrome: Some(syndrome),
            ..ActionRequest::new(Action::Serror)
        };
        let mut response = self.json(Method::POST, &path, &[], &request)?;
        self.read(&mut response)
    }

    /// Returns a VM's share of the machine, where its vCPUs run and what they did.
    pub fn cpu_get(&self, name: &str) -> Result<VmCpu, Error> {
        self.get(&format!("{}/cpu", vm_path(name)?))
    }

    /// Changes a VM's share, or where its vCPUs may run; absent fields stay.
    pub fn cpu_set(&self, name: &str, change: &CpuChange) -> Result<VmCpu, Error> {
        let path = format!("{}/cpu", vm_path(name)?);
        let mut response = self.json(Method::PATCH, &path, &[], change)?;
        self.read(&mut response)
    }

    /// Returns what the memory of a running VM is made of.
    pub fn memory_get(&self, name: &str) -> Result<Memory, Error> {
        self.get(&format!("{}/memory", vm_path(name)?))
    }

    /// Changes what the memory of a running VM may be made of; absent fields stay.
    pub fn memory_set(&self, name: &str, policy: &MemoryPolicy) -> Result<Memory, Error> {
        let path = format!("{}/memory", vm_path(name)?);
        let mut response = self.json(Method::PATCH, &path, &[], policy)?;
        self.read(&mut response)
    }

    /// Does something to the memory of a running VM, or a part of it.
    pub fn memory_act(&self, name: &str, request: &MemoryRequest) -> Result<MemoryDone, Error> {
        let path = format!("{}/memory/actions", vm_path(name)?);
        let mut response = self.json(Method::POST, &path, &[], request)?;
        self.read(&mut response)
    }

    /// Deletes a VM.
    pub fn vm_delete(&self, name: &str) -> Result<(), Error> {
        self.send(Method::DELETE, &vm_path(name)?, &[], (), Some(REQUEST))?;
        Ok(())
    }

    /// Deletes a VM, stopping it first if it runs.
    pub fn vm_delete_forced(&self, name: &str) -> Result<(), Error> {
        let path = format!("{}?force=true", vm_path(name)?);
        let mut response = self.send(Method::DELETE, &path, &[], (), Some(REQUEST))?;
        if response.status().as_u16() == 202 {
            self.finish(&mut response, &mut |_, _| {})?;
        }
        Ok(())
    }

    /// Waits for the operation that a response names.
    fn finish(
        &self,
        response: &mut Response<Body>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Error> {
        let mut operation: Operation = self.read(response)?;
        while operation.status == OperationStatus::Running {
            progress(operation.progress.done, operation.progress.total);
            // Short waits while something moves, so that a progress bar does too.
            let wait_s = if operation.progress.total > 0 {
                1
            } else {
                WAIT_S
            };
            operation = self.get(&format!("/v1/operations/{}?wait={wait_s}", operation.id))?;
        }
        match operation.error {
            None => Ok(()),
            Some(problem) => Err(Error::Refused(problem)),
        }
    }

    /// Returns what is remembered of a VM's console output, at most 64 KiB.
    pub fn console_log(&self, name: &str) -> Result<Vec<u8>, Error> {
        let path = format!("{}/console/log", vm_path(name)?);
        let mut response = self.send(Method::GET, &path, &[], (), Some(REQUEST))?;
        response
            .body_mut()
            .read_to_vec()
            .map_err(|why| self.unreachable(why))
    }

    /// Streams a VM's console output, beginning with what is remembered.
    pub fn console_follow(&self, name: &str, until: Until) -> Result<Log, Error> {
        let until = until.name();
        let path = format!("{}/console/log?follow=true&until={until}", vm_path(name)?);
        let response = self.send(Method::GET, &path, &[], (), None)?;
        Ok(Log(response.into_body().into_reader()))
    }

    /// Types at a VM's console. Blocks until the guest has taken it all.
    pub fn console_input(&self, name: &str, input: &[u8]) -> Result<(), Error> {
        let path = format!("{}/console/input", vm_path(name)?);
        let headers = [("Content-Type", "application/octet-stream")];
        self.send(Method::POST, &path, &headers, input, Some(REQUEST))?;
        Ok(())
    }

    /// Attaches to a VM's console. What is remembered of its output comes first.
    pub fn console(&self, name: &str, until: Until) -> Result<Console, Error> {
        let path = format!("{}/console?until={}", vm_path(name)?, until.name());
        Console::connect(self, &path)
    }

    /// Streams events after number `since`, or from now on.
    pub fn events(&self, since: Option<u64>, follow: bool) -> Result<Events, Error> {
        let since = since.map(|since| format!("&since={since}"));
        let path = format!("/v1/events?follow={follow}{}", since.unwrap_or_default());
        let response = self.send(Method::GET, &path, &[], (), None)?;
        Ok(Events::new(
            self.clone(),
            response.into_body().into_reader(),
        ))
    }

    /// Returns the metrics in Prometheus' text format.
    pub fn metrics(&self) -> Result<String, Error> {
        let mut response = self.send(Method::GET, "/metrics", &[], (), Some(REQUEST))?;
        response
            .body_mut()
            .read_to_string()
            .map_err(|why| self.unreachable(why))
    }

    /// Returns an operation.
    pub fn operation(&self, id: &str) -> Result<Operation, Error> {
        self.get(&format!("/v1/operations/{id}"))
    }

    /// Switches the machine off or restarts it. Returns when the appliance has agreed.
    pub fn power(&self, action: PowerAction) -> Result<(), Error> {
        let body = PowerRequest::new(action);
        self.json(Method::POST, "/v1/system/actions", &[], &body)?;
        Ok(())
    }

    /// Returns whether the appliance answers. Needs no token.
    pub fn is_alive(&self) -> bool {
        let limit = Some(Duration::from_secs(2));
        self.send(Method::GET, "/healthz", &[], (), limit).is_ok()
    }
}

/// Reads a refusal, whoever wrote it.
pub(crate) fn refusal(status: u16, body: &[u8]) -> Error {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => Error::Refused(problem),
        Err(_) => Error::Protocol(format!("status {status} without an explanation")),
    }
}

pub(crate) fn image_path(name: &str) -> Result<String, Error> {
    Ok(format!("/v1/images/{}", checked(name)?))
}

fn vm_path(name: &str) -> Result<String, Error> {
    Ok(format!("/v1/vms/{}", checked(name)?))
}

/// A name goes into a path, so it must be one.
fn checked(name: &str) -> Result<&str, Error> {
    if api::names::is_valid(name) {
        Ok(name)
    } else {
        Err(Error::Usage(format!(
            "'{name}' cannot be a name: a name has {}",
            api::names::NAME_RULE
        )))
    }
}
