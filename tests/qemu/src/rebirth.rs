//! Root killed under load, as often as one likes: a guest computes on, and nothing leaks (R3).

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::stress::Outcome;
use crate::{Appliance, Control, Cpu, number, paths};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// How long a request may take that may never be answered.
const SHORT: Duration = Duration::from_secs(2);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(240);
/// The latest that root is killed after it was asked for, in milliseconds.
const LATEST_MS: u64 = 250;

/// Returns what identifies a life of root, if one answers.
pub fn life(control: &Control) -> Option<String> {
    let answer = control.raw_within("GET /v1", &[], &[], SHORT).ok()?;
    let facts = (answer.status == 200).then(|| answer.json())?;
    Some(facts.get("boot_id")?.as_str()?.to_owned())
}

/// Waits until another root than `before` answers.
pub fn wait_for_another(control: &Control, before: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while life(control).is_none_or(|life| life == before) {
        ensure!(Instant::now() < deadline, "no other root answers");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Asks for an end of root, by the fields `how` of the request, and waits for the next.
pub fn end_root(control: &Control, how: &Value) -> Result<()> {
    let before = life(control).context("no root answers")?;
    let mut body = json!({ "action": "restart_control" });
    if let (Some(body), Some(how)) = (body.as_object_mut(), how.as_object()) {
        body.extend(how.clone());
    }
    let fields = ["Content-Type: application/json"];
    let bytes = body.to_string();
    let answer = control.raw("POST /v1/system/actions", &fields, bytes.as_bytes());
    if let Ok(answer) = answer {
        ensure!(
            answer.status == 202,
            "{body} was answered {}",
            answer.json()
        );
    }
    // Without an answer it was killed before it could give one.
    wait_for_another(control, &before)
}

/// Returns how many sums the guest `sentinel` has made, by its last line; fails if one was wrong.
pub fn sums(control: &Control) -> Result<u64> {
    let log = control.console("sentinel")?;
    ensure!(
        !log.contains("WRONG"),
        "the sentinel found a wrong sum: {log}"
    );
    let last = log.rsplit_once(" sums ").map(|(_, rest)| rest);
    let digits = last.and_then(|rest| rest.split_whitespace().next());
    Ok(digits.and_then(|digits| digits.parse().ok()).unwrap_or(0))
}

/// Uploads a bare-metal guest, and starts a VM of its name with one vCPU, on root's core.
pub fn start_bare(control: &Control, name: &str) -> Result<()> {
    push_bare(control, name)?;
    let spec = json!({
        "cpus": 1, "memory_bytes": 64 << 20, "boot": { "flat": name },
        "cpu": { "pins": [{ "vcpu": 0, "cores": [0] }] },
    });
    control.json(&format!("PUT /v1/vms/{name}"), &spec)?;
    control.start(name)
}

fn push_bare(control: &Control, name: &str) -> Result<()> {
    let image = std::fs::read(paths::payload(name)).context("cargo xtask build --guests")?;
    control.push(name, "flat", &image)
}

/// What is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse {
    /// Bytes that are free or root's own: what root has once touched the next one has.
    pub free: u64,
    /// Bytes granted to root.
    pub granted: u64,
    /// VMs in core.
    pub vms: u64,
}

/// Asks what is in use.
pub fn in_use(control: &Control) -> Result<InUse> {
    let facts = control.get("/v1")?;
    let of = |key| number(&facts, &["machine", key]);
    Ok(InUse {
        free: of("free_bytes")? + of("root_bytes")?,
        granted: of("granted_bytes")?,
        vms: of("vms")?,
    })
}

/// Has root killed after so many milliseconds, which may be before it has answered.
fn kill_after(control: &Control, after: u64) {
    let body = json!({ "action": "restart_control", "after_ms": after }).to_string();
    let fields = ["Content-Type: application/json"];
    let line = "POST /v1/system/actions";
    let _ = control.raw_within(line, &fields, body.as_bytes(), SHORT);
}

/// Does this and that; whatever of it root is at when its time comes. Any answer will do, or
/// none.
fn work(control: &Control, data: &[u8]) {
    let send = |line: &str, body: &[u8]| {
        let fields = ["Content-Type: application/json", "Prefer: wait=0"];
        let _ = control.raw_within(line, &fields, body, SHORT);
    };
    let spec = json!({ "cpus": 2, "memory_bytes": 64 << 20, "boot": { "flat": "hello" } });
    send("PUT /v1/vms/other", spec.to_string().as_bytes());
    for action in ["start", "stop", "start"] {
        let body = json!({ "action": action });
        send("POST /v1/vms/other/actions", body.to_string().as_bytes());
    }
    send("PUT /v1/images/more", br#"{"kind":"flat"}"#);
    let fields = ["Content-Type: application/octet-stream"];
    let _ = control.raw_within("PUT /v1/images/more/data", &fields, data, SHORT);
    send("DELETE /v1/vms/other?force=true", &[]);
    send("DELETE /v1/images/more", &[]);
}

/// Takes away what [`work`] may have left.
fn tidy(control: &Control) -> Result<()> {
    for (what, line) in [
        ("VM", "DELETE /v1/vms/other?force=true"),
        ("image", "DELETE /v1/images/more"),
    ] {
        let deadline = Instant::now() + PATIENCE;
        while ![404, 204].contains(&control.raw(line, &[], &[])?.status) {
            ensure!(Instant::now() < deadline, "a {what} does not go");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while in_use(control)?.vms > 1 {
        ensure!(Instant::now() < deadline, "a VM does not go");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Kills root `rounds` times at random instants, while it is kept busy and the guest `sentinel`
/// computes: that one notices nothing, its VM is there each time, and in the end as much is in
/// use as in the beginning.
pub fn kills(cpu: Cpu, rounds: u32, seed: u64, logs: &Path) -> Result<Outcome> {
    let board = Appliance::board(cpu);
    let appliance = Appliance::start(board, TOKEN, logs, PATIENCE)?;
    let control = &appliance.control();
    push_bare(control, "hello")?;
    start_bare(control, "sentinel")?;
    control.wait_for_console("sentinel", "SENTINEL p99", PATIENCE)?;
    let id = control.get("/v1/vms/sentinel")?.get("id").cloned();
    // The first life may have what the others do not.
    end_root(control, &json!({}))?;
    let (first, begun) = (in_use(control)?, sums(control)?);
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let (mut state, mut slowest) = (seed, Duration::ZERO);
    for round in 0..rounds {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let after = 1 + (state >> 33) % LATEST_MS;
        let before = life(control).context("no root answers")?;
        kill_after(control, after);
        work(control, &data);
        let since = Instant::now();
        while life(control).is_none_or(|life| life == before) {
            // The request may have met a root that was about to go.
            if since.elapsed() > SHORT {
                kill_after(control, after);
            }
            ensure!(since.elapsed() < PATIENCE, "round {round}: no root answers");
            std::thread::sleep(Duration::from_millis(20));
        }
        slowest = slowest.max(since.elapsed());
        let vm = control.get("/v1/vms/sentinel")?;
        let runs = vm.pointer("/status/state") == Some(&json!("running"));
        if !runs || vm.get("id") != id.as_ref() {
            bail!("round {round}: the sentinel is {vm}");
        }
        sums(control)?;
        tidy(control).with_context(|| format!("round {round}"))?;
    }
    let deadline = Instant::now() + PATIENCE;
    while sums(control)? <= begun {
        ensure!(Instant::now() < deadline, "the sentinel makes no more sums");
        std::thread::sleep(Duration::from_millis(100));
    }
    // An image that was there before all of it still boots.
    control.define("other", 1, 64 << 20, &json!({ "flat": "hello" }))?;
    control.start("other")?;
    control.wait_for_state("other", "stopped", PATIENCE)?;
    control.delete("/v1/vms/other")?;
    end_root(control, &json!({}))?;
    let last = in_use(control)?;
    ensure!(last == first, "in use before {first:?}, now {last:?}");
    appliance.shut_down()?;
    Ok(Outcome::Passed(format!(
        "root killed {rounds} times, the next one answered after {} ms at the latest",
        slowest.as_millis()
    )))
}
