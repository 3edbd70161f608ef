//! The lives of virtual machines: every action in every state, and what guests do.

use control::backend::{BackendError, RunState};

use super::support::{MS, Response, SECOND, World};

/// A world with VM `a` in a state.
fn world(state: &str) -> World {
    let mut world = World::new();
    world.vm("a");
    match state {
        "stopped" => {}
        "starting" => {
            world.backend.loading_polls = u64::MAX;
            world.ask(
                "POST",
                "/v1/vms/a/actions",
                "Prefer: wait=0\r\n",
                r#"{"action":"start"}"#,
            );
        }
        "stopping" => {
            world.action("a", "start");
            world.backend.release_polls = u64::MAX;
            world.ask(
                "POST",
                "/v1/vms/a/actions",
                "Prefer: wait=0\r\n",
                r#"{"action":"stop"}"#,
            );
            world.idle(5 * MS);
        }
        "failed" => {
            world.backend.loading_polls = u64::MAX;
            world.ask(
                "POST",
                "/v1/vms/a/actions",
                "Prefer: wait=0\r\n",
                r#"{"action":"start"}"#,
            );
            let why = BackendError::Other("it does not want to".into());
            world.backend.set_state("a", RunState::Failed(why));
            world.idle(5 * MS);
            world.backend.loading_polls = 0;
        }
        "running" => {
            world.action("a", "start");
        }
        "crashed" => {
            world.action("a", "start");
            world
                .backend
                .set_state("a", RunState::Crashed { esr: 1, pc: 2 });
            world.idle(5 * MS);
        }
        other => panic!("no state {other}"),
    }
    assert_eq!(world.state("a"), state);
    world
}

fn ask(world: &mut World, what: &str) -> Response {
    let no_wait = "Prefer: wait=0\r\n";
    match what {
        "delete" => world.ask("DELETE", "/v1/vms/a", no_wait, ""),
        "force" => world.ask("DELETE", "/v1/vms/a?force=true", no_wait, ""),
        "change" => {
            let etag = world
                .get("/v1/vms/a")
                .header("ETag")
                .unwrap_or("")
                .to_owned();
            let spec = super::support::SPEC.replace(r#""cpus":2"#, r#""cpus":3"#);
            world.ask("PUT", "/v1/vms/a", &format!("If-Match: {etag}\r\n"), &spec)
        }
        "type" => world.post("/v1/vms/a/console/input", "x"),
        action => {
            let body = format!(r#"{{"action":"{action}"}}"#);
            world.ask("POST", "/v1/vms/a/actions", no_wait, &body)
        }
    }
}

/// What is asked, the status of the answer, the state afterwards.
type Row = [(&'static str, u16, &'static str); 8];

#[test]
fn every_request_in_every_state_has_one_answer() {
    // Status, and the state afterwards, when nothing has had time to happen.
    let table: [(&str, Row); 6] = [
        (
            "stopped",
            [
                ("start", 202, "starting"),
                ("stop", 200, "stopped"),
                ("poweroff", 200, "stopped"),
                ("reset", 409, "stopped"),
                ("delete", 204, "none"),
                ("force", 204, "none"),
                ("change", 200, "stopped"),
                ("type", 409, "stopped"),
            ],
        ),
        (
            "starting",
            [
                ("start", 202, "starting"),
                ("stop", 202, "stopping"),
                ("poweroff", 202, "stopping"),
                ("reset", 409, "starting"),
                ("delete", 409, "starting"),
                ("force", 202, "stopping"),
                ("change", 409, "starting"),
                ("type", 204, "starting"),
            ],
        ),
        (
            "running",
            [
                ("start", 200, "running"),
                ("stop", 202, "stopping"),
                ("poweroff", 202, "stopping"),
                ("reset", 202, "stopping"),
                ("delete", 409, "running"),
                ("force", 202, "stopping"),
                ("change", 409, "running"),
                ("type", 204, "running"),
            ],
        ),
        (
            "stopping",
            [
                ("start", 409, "stopping"),
                ("stop", 202, "stopping"),
                ("poweroff", 202, "stopping"),
                ("reset", 409, "stopping"),
                ("delete", 409, "stopping"),
                ("force", 202, "stopping"),
                ("change", 409, "stopping"),
                ("type", 204, "stopping"),
            ],
        ),
        (
            "crashed",
            [
                ("start", 202, "starting"),
                ("stop", 200, "crashed"),
                ("poweroff", 200, "crashed"),
                ("reset", 409, "crashed"),
                ("delete", 204, "none"),
                ("force", 204, "none"),
                ("change", 200, "crashed"),
                ("type", 409, "crashed"),
            ],
        ),
        (
            "failed",
            [
                ("start", 202, "starting"),
                ("stop", 200, "failed"),
                ("poweroff", 200, "failed"),
                ("reset", 409, "failed"),
                ("delete", 204, "none"),
                ("force", 204, "none"),
                ("change", 200, "failed"),
                ("type", 409, "failed"),
            ],
        ),
    ];
    for (state, row) in table {
        for (what, status, after) in row {
            let mut world = world(state);
            let answer = ask(&mut world, what);
            assert_eq!(
                answer.status,
                status,
                "{what} when {state}: {}",
                answer.text()
            );
            assert_eq!(world.state("a"), after, "{what} when {state}");
            assert_eq!(answer.status == 202, answer.header("Location").is_some());
        }
    }
}

#[test]
fn what_does_not_exist_is_not_found() {
    let mut world = World::new();
    for what in ["start", "stop", "reset", "delete", "force", "type"] {
        let answer = ask(&mut world, what);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (404, "vm_not_found"),
            "{what}"
        );
    }
    for path in ["/v1/vms/a", "/v1/vms/a/console/log", "/v1/vms/a/console"] {
        assert_eq!(world.get(path).code(), "vm_not_found", "{path}");
    }
    assert_eq!(world.get("/v1/images/a").code(), "image_not_found");
    assert_eq!(world.delete("/v1/images/a").code(), "image_not_found");
    assert_eq!(
        world.get("/v1/operations/op-9").code(),
        "operation_not_found"
    );
}

#[test]
fn a_short_start_is_answered_with_the_vm_and_a_long_one_with_its_operation() {
    let mut world = World::new();
    world.vm("a");
    world.backend.loading_polls = 500;
    let short = world.action("a", "start");
    assert_eq!(
        (short.status, short.json()["status"]["state"].as_str()),
        (200, Some("running"))
    );
    world.action("a", "stop");
    world.backend.loading_polls = 2_000;
    let long = world.action("a", "start");
    assert_eq!(long.status, 202);
    let location = long.header("Location").expect("a location").to_owned();
    let operation = world.get(&location).json();
    assert_eq!(operation["kind"], "vm.start");
    assert_eq!(operation["status"], "running");
    assert_eq!(operation["resource"], "/v1/vms/a");
    assert_eq!(operation["progress"]["total"], 2_000);
    assert!(operation["progress"]["done"].as_u64() > Some(500));
    let done = world.get(&format!("{location}?wait=30s")).json();
    assert_eq!(done["status"], "succeeded");
    world.action("a", "stop");
    let body = r#"{"action":"start"}"#;
    let waited = world.ask("POST", "/v1/vms/a/actions", "Prefer: wait=10\r\n", body);
    assert_eq!(
        (waited.status, waited.json()["status"]["state"].as_str()),
        (200, Some("running"))
    );
}

#[test]
fn a_start_that_fails_says_why() {
    let mut world = World::new();
    world.vm("a");
    world.backend.start_error = Some(BackendError::NoMemory {
        needed_bytes: 67_108_864,
        free_bytes: 1_000,
    });
    let answer = world.action("a", "start");
    assert_eq!((answer.status, answer.code().as_str()), (507, "no_memory"));
    let detail = answer.json()["detail"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        detail.contains("67108864") && detail.contains("1000"),
        "{detail}"
    );
    assert_eq!(world.state("a"), "stopped");
    world.backend.loading_polls = 1_000_000;
    let mut connection = world.connect();
    let start = super::support::request("POST", "/v1/vms/a/actions", "", br#"{"action":"start"}"#);
    let (mut output, _) = world.exchange(&mut connection, &start, 999);
    let image = world
        .backend
        .run("a")
        .map(|run| run.plan.boot)
        .expect("a run");
    let why = BackendError::BadImage {
        image,
        why: "does not decompress".into(),
    };
    world.backend.set_state("a", RunState::Failed(why));
    world.run(&mut connection, 10 * MS, &mut output);
    let (answer, _) = super::support::split(&output, false).expect("an answer");
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (422, "not_an_image")
    );
    let vm = world.get("/v1/vms/a").json();
    assert_eq!(vm["status"]["state"], "failed");
    assert_eq!(vm["status"]["last_error"]["code"], "not_an_image");
    assert!(
        world.backend.runs.is_empty(),
        "nothing is left of a failed start"
    );
}

/// Actions of the events after number `after`.
fn events(world: &mut World, after: u64) -> Vec<String> {
    let answer = world.get(&format!("/v1/events?follow=false&since={after}"));
    answer
        .text()
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter_map(|data| serde_json::from_str::<serde_json::Value>(data).ok())
        .map(|event| event["action"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn a_guest_that_powers_off_is_stopped_and_its_memory_is_given_back() {
    let mut world = world("running");
    world.backend.print("a", b"last words");
    world.backend.set_state("a", RunState::Off);
    world.idle(5 * MS);
    let vm = world.get("/v1/vms/a").json();
    assert_eq!(vm["status"]["state"], "stopped");
    assert_eq!(vm["status"]["reason"], "guest_poweroff");
    assert_eq!(vm["status"]["resident_bytes"], 0);
    assert_eq!(
        vm["status"]["exits"]["fault"], 16,
        "the counters of the last run are kept"
    );
    assert!(world.backend.runs.is_empty());
    assert_eq!(world.get("/v1/vms/a/console/log").text(), "last words");
    assert_eq!(events(&mut world, 4), ["vm.poweroff", "vm.stopped"]);
}

#[test]
fn a_guest_that_crashes_is_crashed_with_its_reason() {
    let mut world = world("running");
    let state = RunState::Crashed {
        esr: 0x8200_0010,
        pc: 0x4020_0000,
    };
    world.backend.set_state("a", state);
    world.idle(5 * MS);
    let vm = world.get("/v1/vms/a").json();
    assert_eq!(vm["status"]["state"], "crashed");
    assert_eq!(vm["status"]["last_error"]["code"], "guest_crashed");
    let detail = vm["status"]["last_error"]["detail"]
        .as_str()
        .unwrap_or_default();
    assert!(
        detail.contains("0x40200000") && detail.contains("0x82000010"),
        "{detail}"
    );
    assert_eq!(events(&mut world, 4), ["vm.crashed"]);
    world.action("a", "start");
    let vm = world.get("/v1/vms/a").json();
    assert_eq!(vm["status"]["state"], "running");
    assert!(vm["status"]["last_error"].is_null());
    assert_eq!(vm["status"]["starts"], 2);
}

#[test]
fn a_guest_that_resets_is_started_again_but_not_in_a_tight_loop() {
    let mut world = world("running");
    world.idle(2 * SECOND);
    world.backend.set_state("a", RunState::Reset);
    world.idle(5 * MS);
    let vm = world.get("/v1/vms/a").json();
    assert_eq!(vm["status"]["state"], "running");
    assert_eq!(
        (&vm["status"]["starts"], &vm["status"]["reason"]),
        (&2.into(), &"guest_reset".into())
    );
    assert_eq!(events(&mut world, 4), ["vm.reset", "vm.started"]);
    world.backend.set_state("a", RunState::Reset);
    world.idle(500 * MS);
    assert_eq!(world.state("a"), "starting");
    assert!(
        world.backend.runs.is_empty(),
        "while it waits it holds nothing"
    );
    world.idle(600 * MS);
    assert_eq!(world.state("a"), "running");
    world.backend.set_state("a", RunState::Reset);
    world.idle(100 * MS);
    assert_eq!(world.action("a", "stop").status, 200);
    world.idle(2 * SECOND);
    assert_eq!(world.state("a"), "stopped");
}

#[test]
fn an_operator_resets_a_vm() {
    let mut world = world("running");
    let answer = world.action("a", "reset");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["status"]["starts"], 2);
    assert_eq!(world.state("a"), "running");
    assert_eq!(world.backend.runs.len(), 1);
}

#[test]
fn a_later_request_cancels_an_earlier_one() {
    let mut world = world("starting");
    assert_eq!(world.action("a", "stop").status, 200);
    let operations = world.get("/v1/operations").json();
    assert_eq!(operations["operations"][0]["status"], "cancelled");
    assert_eq!(operations["operations"][0]["error"]["code"], "cancelled");
    assert_eq!(operations["operations"][1]["status"], "succeeded");
    assert!(world.backend.runs.is_empty());
}

#[test]
fn a_forced_delete_waits_until_the_memory_is_back() {
    let mut world = world("running");
    world.backend.release_polls = 100;
    assert_eq!(world.delete("/v1/vms/a?force=true").status, 204);
    assert_eq!(world.get("/v1/vms/a").status, 404);
    assert!(world.backend.runs.is_empty());
    assert_eq!(world.delete("/v1/vms/a?force=true").status, 404);
    assert_eq!(world.delete("/v1/vms/a?force=maybe").code(), "bad_query");
}

#[test]
fn many_lives_leave_nothing_behind() {
    let mut world = World::new();
    for _ in 0..20 {
        world.vm("a");
        world.action("a", "start");
        world.action("a", "stop");
        world.action("a", "start");
        assert_eq!(world.delete("/v1/vms/a?force=true").status, 204);
    }
    assert!(world.backend.runs.is_empty());
    assert_eq!(world.delete("/v1/images/flat").status, 204);
    assert!(world.backend.images.is_empty());
    assert_eq!(world.get("/v1").json()["machine"]["free_bytes"], 3u64 << 30);
}
