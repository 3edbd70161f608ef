//! Root dies, by the operator's wish or by itself, and guests run on (I8, R3).

use std::time::{Duration, Instant};

use qemu::{Appliance, Control, Cpu, number};
use serde_json::{Value, json};

use crate::common::{MIB, PATIENCE, Running, appliance_on};

on_both_cpus!(
    i8_guests_run_on_however_root_ends,
    i8_a_root_that_is_silent_is_started_anew,
    r3_root_is_killed_at_any_instant_under_load_and_nothing_leaks,
);

/// An appliance whose root can be told to fail.
fn fragile(cpu: Cpu) -> Running {
    let mut board = Appliance::board(cpu);
    board.append = "drills".to_owned();
    appliance_on(board)
}

/// Identifies a life of root.
fn life(control: &Control) -> Option<String> {
    let patience = Duration::from_secs(2);
    let answer = control.raw_within("GET /v1", &[], &[], patience).ok()?;
    let facts = (answer.status == 200).then(|| answer.json())?;
    Some(facts.get("boot_id")?.as_str()?.to_owned())
}

/// Waits until another root than `before` answers.
fn wait_for_another(control: &Control, before: &str) {
    let deadline = Instant::now() + PATIENCE;
    while life(control).is_none_or(|life| life == before) {
        assert!(Instant::now() < deadline, "no other root answers");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends root in a way, and waits for the next.
fn end_root(control: &Control, how: &Value) {
    let before = life(control).expect("a root answers");
    let mut body = json!({ "action": "restart_control" });
    if let (Some(body), Some(how)) = (body.as_object_mut(), how.as_object()) {
        body.extend(how.clone());
    }
    control
        .json("POST /v1/system/actions", &body)
        .expect("root takes the request");
    wait_for_another(control, &before);
}

/// How many sums the sentinel has made, by its last line; fails if one was wrong.
fn sums(control: &Control) -> u64 {
    let log = control.console("sentinel").expect("has a console");
    assert!(!log.contains("WRONG"), "{log}");
    let last = log.rsplit_once(" sums ").map(|(_, rest)| rest);
    let digits = last.and_then(|rest| rest.split_whitespace().next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// Starts the sentinel, whose name is its image's.
fn sentinel(skete: &Running) {
    skete.push_payload("sentinel");
    let boot = json!({ "flat": "sentinel" });
    let control = &skete.control;
    control
        .define("sentinel", 1, 64 * MIB, &boot)
        .expect("defined");
    control.start("sentinel").expect("starts");
    control
        .wait_for_console("sentinel", "SENTINEL p99", PATIENCE)
        .expect("works");
}

/// Runs a VM from an image that was uploaded before, to its end, and deletes it.
fn another_vm(control: &Control) {
    let boot = json!({ "flat": "hello" });
    control
        .define("other", 1, 64 * MIB, &boot)
        .expect("defined");
    control.start("other").expect("starts");
    control
        .wait_for_state("other", "stopped", PATIENCE)
        .expect("switches itself off");
    control.delete("/v1/vms/other").expect("can go");
}

/// What is in use: free, granted, VMs.
fn in_use(control: &Control) -> (u64, u64, u64) {
    let facts = control.get("/v1").expect("answers");
    let of = |key| number(&facts, &["machine", key]).expect("a number");
    // What root has once touched stays its own: the next one has it.
    let free = of("free_bytes") + of("root_bytes");
    (free, of("granted_bytes"), of("vms"))
}

fn i8_guests_run_on_however_root_ends(cpu: Cpu) {
    let skete = fragile(cpu);
    let control = &skete.control;
    skete.push_payload("hello");
    sentinel(&skete);
    let vm = control.get("/v1/vms/sentinel").expect("there");
    let mut printed = 0;
    for how in [
        json!({}),
        json!({ "after_ms": 300 }),
        json!({ "drill": "panic" }),
        json!({ "drill": "fault" }),
    ] {
        let before = sums(control);
        end_root(control, &how);
        let again = control.get("/v1/vms/sentinel").expect("there");
        for part in ["name", "id", "spec", "created_at"] {
            assert_eq!(again.get(part), vm.get(part), "{part} after {how}");
        }
        let of = |path: &str| again.pointer(path).cloned();
        assert_eq!(of("/status/state"), Some(json!("running")), "after {how}");
        assert_eq!(of("/status/starts"), Some(json!(1)), "after {how}");
        assert_eq!(of("/status/console_dropped_bytes"), Some(json!(0)));
        let bytes = number(&again, &["status", "console_bytes"]).expect("a number");
        assert!(bytes >= printed, "{bytes} {printed}");
        printed = bytes;
        // It works on, and what it says is heard.
        let deadline = Instant::now() + PATIENCE;
        while sums(control) <= before {
            assert!(Instant::now() < deadline, "no sums after {how}");
            std::thread::sleep(Duration::from_millis(100));
        }
        another_vm(control);
    }
    // Everything that it printed is there: it says so once a second, and has not said much.
    let log = control.console("sentinel").expect("has a console");
    assert!(log.starts_with("SENTINEL begins"), "{log}");
    let events = control
        .raw("GET /v1/events?since=0&follow=false", &[], &[])
        .expect("answers");
    let events = String::from_utf8_lossy(&events.body).into_owned();
    assert!(events.contains("system.control_restarted"), "{events}");
    assert!(events.contains("\"generation\":\"5\""), "{events}");
    control.act("sentinel", "stop").expect("can be stopped");
    control
        .wait_for_state("sentinel", "stopped", PATIENCE)
        .expect("is stopped");
    control.delete("/v1/vms/sentinel").expect("can go");
    let said = skete.appliance.serial().text();
    for (why, times) in [("that was asked for", 2), ("it ended itself", 2)] {
        assert_eq!(said.matches(why).count(), times, "{why}: {said}");
    }
    for report in ["a drill", "exception: ESR_EL1"] {
        assert!(said.contains(report), "{report}: {said}");
    }
    skete.shut_down();
}

fn i8_a_root_that_is_silent_is_started_anew(cpu: Cpu) {
    let skete = fragile(cpu);
    let control = &skete.control;
    sentinel(&skete);
    let before = sums(control);
    end_root(control, &json!({ "drill": "hang" }));
    let text = skete.appliance.serial().text();
    assert!(text.contains("it gave no sign of life"), "{text}");
    assert_eq!(control.state("sentinel").expect("there"), "running");
    assert!(sums(control) > before);
    skete.shut_down();
}

fn r3_root_is_killed_at_any_instant_under_load_and_nothing_leaks(cpu: Cpu) {
    let skete = fragile(cpu);
    let control = &skete.control;
    skete.push_payload("hello");
    sentinel(&skete);
    // The first life may have what the others do not.
    end_root(control, &json!({}));
    let first = in_use(control);
    for round in 0..10_u64 {
        let life = life(control).expect("a root answers");
        let after = 3 + round * 37 % 200;
        let body = json!({ "action": "restart_control", "after_ms": after });
        control
            .json("POST /v1/system/actions", &body)
            .expect("root takes the request");
        // Load: whatever of this it is at when its time comes. Any answer will do, or none.
        let patience = Duration::from_secs(2);
        let _ = control.raw_within(
            "PUT /v1/vms/other",
            &["Content-Type: application/json"],
            json!({ "cpus": 2, "memory_bytes": 64 * MIB, "boot": { "flat": "hello" } })
                .to_string()
                .as_bytes(),
            patience,
        );
        for action in ["start", "stop", "start"] {
            let body = json!({ "action": action }).to_string();
            let _ = control.raw_within(
                "POST /v1/vms/other/actions",
                &["Content-Type: application/json", "Prefer: wait=0"],
                body.as_bytes(),
                patience,
            );
        }
        let _ = control.raw_within("DELETE /v1/vms/other?force=true", &[], &[], patience);
        wait_for_another(control, &life);
        assert_eq!(control.state("sentinel").expect("there"), "running");
        // Whatever became of the other one, it can be taken away.
        let gone = control.raw("DELETE /v1/vms/other?force=true", &[], &[]);
        assert!(gone.is_ok_and(|answer| [202, 204, 404].contains(&answer.status)));
        let deadline = Instant::now() + PATIENCE;
        while in_use(control).2 > 1 {
            assert!(Instant::now() < deadline, "a VM does not go");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(sums(control) > 0);
    another_vm(control);
    end_root(control, &json!({}));
    assert_eq!(in_use(control), first, "free, granted, VMs");
    skete.shut_down();
}
