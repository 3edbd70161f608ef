//! `/v1/vms/{name}/cpu`.

use api::GuestFeature;
use serde_json::{Value, json};

use crate::support::{Response, World};

fn world() -> World {
    let mut world = World::new();
    world.image("two", "flat", b"a program");
    let spec = json!({"cpus": 2, "memory_bytes": 64 << 20, "boot": {"flat": "two"}});
    assert_eq!(world.put("/v1/vms/web", &spec.to_string()).status, 201);
    world
}

fn change(world: &mut World, body: &Value) -> Response {
    world.ask("PATCH", "/v1/vms/web/cpu", "", &body.to_string())
}

#[test]
fn a_vm_that_says_nothing_has_the_usual_share_and_may_run_anywhere() {
    let mut world = world();
    let cpu = world.get("/v1/vms/web/cpu").json();
    assert_eq!((&cpu["weight"], &cpu["hide"]), (&json!(100), &json!([])));
    assert_eq!(cpu["limit_percent"], Value::Null);
    assert_eq!(cpu["vcpus"][1]["cores"], json!([0, 1, 2, 3]));
    assert_eq!(cpu["vcpus"][1]["state"], "off");
    assert_eq!(world.get("/v1/vms/nobody/cpu").status, 404);
    assert_eq!(
        world.get("/v1/vms/web").json()["spec"]["cpu"],
        Value::Null,
        "a definition says what was asked for"
    );
}

#[test]
fn what_is_set_while_a_vm_is_stopped_is_kept_and_started_with() {
    let mut world = world();
    let asked = json!({"weight": 200, "limit_percent": 150, "hide": ["preempt-hint"],
        "pins": [{"vcpu": 1, "cores": [3, 1]}]});
    assert_eq!(change(&mut world, &asked).status, 200);
    let kept = world.get("/v1/vms/web").json()["spec"]["cpu"].clone();
    let expected = json!({"weight": 200, "limit_percent": 150, "hide": ["preempt-hint"],
        "pins": [{"vcpu": 1, "cores": [1, 3]}]});
    assert_eq!(kept, expected);
    world.action("web", "start");
    let plan = world.backend.run("web").expect("runs").plan.cpu.clone();
    assert_eq!((plan.weight, plan.limit_percent), (200, 150));
    assert_eq!(plan.affinity, [u32::MAX, 0b1010]);
    assert_eq!(plan.hide, [GuestFeature::PreemptHint]);
}

#[test]
fn a_running_vm_obeys_at_once_and_shows_what_its_vcpus_did() {
    let mut world = world();
    world.action("web", "start");
    let pinned = change(&mut world, &json!({"pins": [{"vcpu": 0, "cores": [2]}]}));
    assert_eq!(pinned.status, 200, "{}", pinned.text());
    let set = change(&mut world, &json!({"weight": 7, "limit_percent": 50})).json();
    assert_eq!(set["vcpus"][0]["cores"], json!([2]), "stays as it was");
    let plan = &world.backend.run("web").expect("runs").plan.cpu;
    assert_eq!((plan.weight, plan.limit_percent), (7, 50));
    assert_eq!(plan.affinity, [0b100, u32::MAX]);
    let first = &set["vcpus"][0];
    assert_eq!(
        (&first["state"], &first["core"]),
        (&json!("running"), &json!(1))
    );
    assert_eq!(first["run_ns"], 1_500_000_000);
    assert_eq!(first["wait_ns"], 2_000_000_000_u64);
    let stolen = json!({"queue_ns": 200_000_000, "fault_ns": 50_000_000, "device_ns": 0});
    assert_eq!(first["stolen"], stolen);
    assert_eq!(
        (&first["moves"], &first["exits"]["fault"]),
        (&json!(3), &json!(16))
    );
    assert_eq!(set["vcpus"][1]["state"], "off");

    let free = change(
        &mut world,
        &json!({"limit_percent": 0, "pins": [{"vcpu": 0, "cores": []}]}),
    );
    assert_eq!(free.json()["limit_percent"], Value::Null);
    let plan = &world.backend.run("web").expect("runs").plan.cpu;
    assert_eq!((plan.limit_percent, plan.affinity[0]), (0, u32::MAX));
}

#[test]
fn the_same_again_is_no_change_and_no_event() {
    let mut world = world();
    let asked = json!({"weight": 300, "hide": ["page-states", "page-states"]});
    let first = change(&mut world, &asked);
    let again = change(&mut world, &asked);
    assert_eq!(first.header("etag"), again.header("etag"));
    assert_eq!(first.body, again.body);
    // Another way to say what is so already.
    let usual = change(
        &mut world,
        &json!({"pins": [{"vcpu": 1, "cores": []}], "limit_percent": 0}),
    );
    assert_eq!(usual.header("etag"), again.header("etag"));
    let events = world.get("/v1/events?since=0&follow=false").text();
    assert_eq!(events.matches("vm.cpu-changed").count(), 1, "{events}");
    assert!(world.get("/v1/vms/web").header("etag") == first.header("etag"));
}

#[test]
fn a_definition_that_is_old_is_not_changed() {
    let mut world = world();
    let etag = world
        .get("/v1/vms/web/cpu")
        .header("etag")
        .map(str::to_owned);
    let field = format!("If-Match: {}\r\n", etag.expect("has one"));
    let body = json!({"weight": 5}).to_string();
    assert_eq!(
        world.ask("PATCH", "/v1/vms/web/cpu", &field, &body).status,
        200
    );
    let body = json!({"weight": 6}).to_string();
    let late = world.ask("PATCH", "/v1/vms/web/cpu", &field, &body);
    assert_eq!(
        (late.status, late.code().as_str()),
        (412, "precondition_failed")
    );
}

#[test]
fn what_a_guest_has_seen_is_not_hidden_from_it() {
    let mut world = world();
    world.action("web", "start");
    let refused = change(&mut world, &json!({"weight": 9, "hide": ["stolen-time"]}));
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (409, "vm_running")
    );
    let cpu = world.get("/v1/vms/web/cpu").json();
    assert_eq!(cpu["weight"], 100, "all or nothing");
    world.action("web", "stop");
    assert_eq!(
        change(&mut world, &json!({"hide": ["stolen-time"]})).status,
        200
    );
}

#[test]
fn what_vcpus_cannot_do_is_explained_with_its_range() {
    let mut world = world();
    for (body, pointer, word) in [
        (json!({"weight": 0}), "/weight", "1 to 10000"),
        (json!({"weight": 10_001}), "/weight", "1 to 10000"),
        (json!({"weight": -1}), "/weight", "u32"),
        (
            json!({"limit_percent": 10_001}),
            "/limit_percent",
            "per cent of one core",
        ),
        (
            json!({"pins": [{"vcpu": 2, "cores": [0]}]}),
            "/pins/0/vcpu",
            "0 to 1",
        ),
        (
            json!({"pins": [{"vcpu": 0, "cores": [1, 4]}]}),
            "/pins/0/cores",
            "0 to 3",
        ),
        (
            json!({"pins": [{"vcpu": 0, "cores": [1]}, {"vcpu": 0, "cores": [2]}]}),
            "/pins/1/vcpu",
            "twice",
        ),
        (json!({"hide": ["sun"]}), "/hide/0", "stolen-time"),
        (json!({"colour": 1}), "/colour", "unknown"),
    ] {
        let answer = change(&mut world, &body);
        assert_eq!(answer.status, 422, "{body}");
        let error = answer.json()["errors"][0].clone();
        assert_eq!(error["pointer"], pointer, "{body}: {error}");
        let detail = error["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(word), "{body}: {error}");
    }
    let spec = json!({"cpus": 1, "memory_bytes": 64 << 20, "boot": {"flat": "two"},
        "cpu": {"pins": [{"vcpu": 1, "cores": [0]}]}});
    let refused = world.put("/v1/vms/other", &spec.to_string());
    assert_eq!(refused.json()["errors"][0]["pointer"], "/cpu/pins/0/vcpu");
}

#[test]
fn every_vcpu_is_in_the_metrics_while_it_runs() {
    let mut world = world();
    let idle = world.get("/metrics").text();
    assert!(!idle.contains("skete_vcpu_seconds_total{"), "{idle}");
    world.action("web", "start");
    let text = world.get("/metrics").text();
    for line in [
        "skete_vm_cpu_weight{vm=\"web\"} 100",
        "skete_vm_stolen_seconds_total{vm=\"web\"} 0.250000000",
        "skete_vcpu_seconds_total{vm=\"web\",vcpu=\"0\",what=\"wait\"} 2.000000000",
        "skete_vcpu_seconds_total{vm=\"web\",vcpu=\"1\",what=\"run\"} 0.000000000",
        "skete_vcpu_core{vm=\"web\",vcpu=\"0\"} 1",
        "skete_vcpu_moves_total{vm=\"web\",vcpu=\"0\"} 3",
        "skete_vcpu_exits_total{vm=\"web\",vcpu=\"0\",reason=\"uart\"} 4",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(!text.contains("skete_vcpu_core{vm=\"web\",vcpu=\"1\"}"));
}

#[test]
fn an_serror_is_for_a_vcpu_of_a_vm_that_runs() {
    let mut world = world();
    let ask = |world: &mut World, body: &str| world.post("/v1/vms/web/actions", body);
    let answer = ask(&mut world, r#"{"action":"serror"}"#);
    assert_eq!(answer.status, 409, "it does not run");
    assert_eq!(answer.code(), "vm_not_running");
    world.action("web", "start");
    for (body, field) in [
        (r#"{"action":"serror","vcpu":2}"#, "/vcpu"),
        (r#"{"action":"serror","syndrome":33554432}"#, "/syndrome"),
        (r#"{"action":"start","vcpu":0}"#, "/vcpu"),
        (r#"{"action":"stop","syndrome":0}"#, "/syndrome"),
    ] {
        let answer = ask(&mut world, body);
        assert_eq!(answer.status, 422, "{body}");
        assert_eq!(answer.json()["errors"][0]["pointer"], field, "{body}");
    }
    for body in [
        r#"{"action":"serror"}"#,
        r#"{"action":"serror","vcpu":1,"syndrome":33554431}"#,
    ] {
        let answer = ask(&mut world, body);
        assert_eq!(answer.status, 200, "{body}");
        assert_eq!(answer.json()["status"]["state"], "running");
    }
    let run = world.backend.run("web").expect("runs");
    assert_eq!(run.serrors, [(0, 0), (1, 0x1ff_ffff)]);
}
