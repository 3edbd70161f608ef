//! The control port as the tests use it: raw requests, and the few steps of a VM's life.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::http::{self, Answer};
use crate::serial::last_lines;

/// How long a request may take; uploads are slow under emulation.
const REQUEST: Duration = Duration::from_secs(240);
/// How often a request is made again to a machine whose time leaps.
const LEAPS: u32 = 20;

/// A client of the control port.
#[derive(Clone, Debug)]
pub struct Control {
    port: u16,
    token: String,
    time_leaps: bool,
}

impl Control {
    /// A client of the port on 127.0.0.1.
    pub fn new(port: u16, token: &str) -> Self {
        Self {
            port,
            token: token.to_owned(),
            time_leaps: false,
        }
    }

    /// For a machine with [`crate::Board::counted`]: while it idles its time leaps to the next
    /// deadline, so that a client a few milliseconds late has been silent for ten seconds (the
    /// limit for a request's head) and finds its connection closed. It tries again.
    #[must_use]
    pub fn whose_time_leaps(self, time_leaps: bool) -> Self {
        Self { time_leaps, ..self }
    }

    /// Makes a request with further header fields and any body.
    pub fn raw(&self, line: &str, fields: &[&str], body: &[u8]) -> Result<Answer> {
        self.raw_within(line, fields, body, REQUEST)
    }

    /// The same, answered within `patience`.
    pub fn raw_within(
        &self,
        line: &str,
        fields: &[&str],
        body: &[u8],
        patience: Duration,
    ) -> Result<Answer> {
        let request = format!("{line} HTTP/1.1");
        let bearer = format!("Authorization: Bearer {}", self.token);
        let length = format!("Content-Length: {}", body.len());
        let mut head = vec![request.as_str(), bearer.as_str()];
        if !line.starts_with("GET") {
            head.push(&length);
        }
        head.extend(fields);
        let mut leaps = if self.time_leaps { LEAPS } else { 0 };
        loop {
            let answer = http::exchange(self.port, &head, body, patience);
            let is_late = match &answer {
                Ok(answer) => answer.status == 408,
                Err(error) => error.is::<http::Unheard>(),
            };
            if !is_late || leaps == 0 {
                return answer.with_context(|| line.to_owned());
            }
            leaps -= 1;
        }
    }

    /// Makes a request with a JSON body, or none for null; fails unless the status is 2xx.
    pub fn json(&self, line: &str, body: &Value) -> Result<Value> {
        let answer = if body.is_null() {
            self.raw(line, &[], &[])?
        } else {
            let fields = ["Content-Type: application/json"];
            self.raw(line, &fields, body.to_string().as_bytes())?
        };
        ensure!(
            (200..300).contains(&answer.status),
            "{line} answered {}: {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        Ok(answer.json())
    }

    /// Gets a resource.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.json(&format!("GET {path}"), &Value::Null)
    }

    /// Deletes a resource, and waits until it is gone.
    pub fn delete(&self, path: &str) -> Result<()> {
        self.json(&format!("DELETE {path}"), &Value::Null)?;
        until(Duration::from_secs(60), &format!("{path} to go"), || {
            Ok((self.raw(&format!("GET {path}"), &[], &[])?.status == 404).then_some(()))
        })
    }

    /// A number of `GET /v1`'s `machine`.
    pub fn machine(&self, key: &str) -> Result<u64> {
        number(&self.get("/v1")?, &["machine", key])
    }

    /// Defines an image and sends its bytes with their digest.
    pub fn push(&self, name: &str, kind: &str, bytes: &[u8]) -> Result<()> {
        self.json(
            &format!("PUT /v1/images/{name}"),
            &json!({ "kind": kind, "size_bytes": bytes.len() }),
        )?;
        let answer = self.push_data(name, bytes, &Sha256::digest(bytes))?;
        ensure!(
            (200..300).contains(&answer.status),
            "the upload of {name} was refused: {}",
            String::from_utf8_lossy(&answer.body)
        );
        Ok(())
    }

    /// Sends the bytes of an image that is defined, claiming a digest.
    pub fn push_data(&self, name: &str, bytes: &[u8], sha256: &[u8]) -> Result<Answer> {
        let digest = format!("Repr-Digest: sha-256=:{}:", STANDARD.encode(sha256));
        let line = format!("PUT /v1/images/{name}/data");
        let fields = ["Content-Type: application/octet-stream", &digest];
        self.raw(&line, &fields, bytes)
    }

    /// Defines a VM.
    pub fn define(&self, name: &str, cpus: u32, memory_bytes: u64, boot: &Value) -> Result<Value> {
        self.json(
            &format!("PUT /v1/vms/{name}"),
            &json!({ "cpus": cpus, "memory_bytes": memory_bytes, "boot": boot }),
        )
    }

    /// Asks for an action: `start`, `stop`, `reset`.
    pub fn act(&self, vm: &str, action: &str) -> Result<Value> {
        let line = format!("POST /v1/vms/{vm}/actions");
        self.json(&line, &json!({ "action": action }))
    }

    /// Starts a VM and waits until it runs.
    pub fn start(&self, vm: &str) -> Result<()> {
        self.act(vm, "start")?;
        let patience = Duration::from_secs(120);
        let what = format!("{vm} to start");
        let state = until(patience, &what, || {
            let state = self.state(vm)?;
            Ok((state != "starting").then_some(state))
        })?;
        ensure!(
            state != "failed",
            "{vm} did not start: {}",
            self.get(&format!("/v1/vms/{vm}"))?
        );
        Ok(())
    }

    /// Where a VM is in its life.
    pub fn state(&self, vm: &str) -> Result<String> {
        let vm = self.get(&format!("/v1/vms/{vm}"))?;
        let state = vm.pointer("/status/state").and_then(Value::as_str);
        Ok(state.context("a VM without a state")?.to_owned())
    }

    /// Waits until a VM is in a state.
    pub fn wait_for_state(&self, vm: &str, state: &str, patience: Duration) -> Result<()> {
        until(patience, &format!("{vm} to be {state}"), || {
            Ok((self.state(vm)? == state).then_some(()))
        })
        .with_context(|| {
            let log = self.console(vm).unwrap_or_default();
            format!("its console ends in\n{}", last_lines(log.as_bytes(), 20))
        })
    }

    /// What a VM printed, as far as it is remembered.
    pub fn console(&self, vm: &str) -> Result<String> {
        let answer = self.raw(&format!("GET /v1/vms/{vm}/console/log"), &[], &[])?;
        ensure!(answer.status == 200, "no console: {:?}", answer.json());
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// Types at a VM's console.
    pub fn type_text(&self, vm: &str, text: &str) -> Result<()> {
        let line = format!("POST /v1/vms/{vm}/console/input");
        let fields = ["Content-Type: application/octet-stream"];
        let answer = self.raw(&line, &fields, text.as_bytes())?;
        ensure!(
            (200..300).contains(&answer.status),
            "{line}: {:?}",
            answer.json()
        );
        Ok(())
    }

    /// Waits until a VM has printed a whole line with `wanted` in it; returns all that it printed.
    pub fn wait_for_console(&self, vm: &str, wanted: &str, patience: Duration) -> Result<String> {
        let whole = |log: &str| {
            let at = log.find(wanted);
            at.and_then(|at| log.get(at..))
                .is_some_and(|line| line.contains('\n'))
        };
        self.wait_for_console_that(vm, patience, whole)
            .with_context(|| format!("{wanted:?} was awaited"))
    }

    /// Waits until what a VM printed satisfies `enough`; returns it.
    pub fn wait_for_console_that(
        &self,
        vm: &str,
        patience: Duration,
        enough: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let mut seen = String::new();
        let found = until(patience, &format!("{vm}'s console"), || {
            seen = self.console(vm)?;
            Ok(enough(&seen).then_some(()))
        });
        match found {
            Ok(()) => Ok(seen),
            Err(error) => {
                let end = last_lines(seen.as_bytes(), 30);
                Err(error.context(format!("the console of {vm} ends in\n{end}")))
            }
        }
    }
}

/// A number within a JSON document.
pub fn number(of: &Value, path: &[&str]) -> Result<u64> {
    let pointer: String = path.iter().map(|part| format!("/{part}")).collect();
    of.pointer(&pointer)
        .and_then(Value::as_u64)
        .with_context(|| format!("no number at {pointer} of {of}"))
}

/// Asks again and again until there is an answer.
fn until<T>(
    patience: Duration,
    what: &str,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("waited {} s for {what}", patience.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
