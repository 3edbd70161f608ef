//! What a client sees: every route, in words.

use super::support::{World, request};

#[test]
fn the_server_tells_about_itself_and_the_machine() {
    let mut world = World::new();
    let response = world.get("/v1");
    assert_eq!(response.status, 200);
    let info = response.json();
    assert_eq!(info["name"], "skete");
    assert_eq!(info["machine"]["cpu"]["model"], "Cortex-A72");
    assert_eq!(info["machine"]["ram_bytes"], 4u64 << 30);
    assert_eq!(info["uptime_ns"], 1_000_000_000);
    assert_eq!(info["time"], "2026-11-22T20:00:00Z");
    assert_eq!(
        response.header("Date"),
        Some("Sun, 22 Nov 2026 20:00:00 GMT")
    );
}

#[test]
fn two_requests_on_one_connection_get_two_answers() {
    let mut world = World::new();
    let mut connection = world.connect();
    let twice = [
        request("GET", "/v1", "", b""),
        request("GET", "/v1/vms", "", b""),
    ]
    .concat();
    let (output, taken) = world.exchange(&mut connection, &twice, usize::MAX);
    assert_eq!(taken, twice.len());
    let (first, rest) = super::support::split(&output, false).expect("a response");
    let (second, rest) = super::support::split(rest, false).expect("another response");
    assert_eq!((first.status, second.status, rest.len()), (200, 200, 0));
    assert_eq!(second.text(), "{\"vms\":[]}\n");
}

#[test]
fn a_vm_is_defined_started_stopped_and_deleted() {
    let mut world = World::new();
    world.vm("web");
    assert_eq!(world.state("web"), "stopped");
    let started = world.action("web", "start");
    assert_eq!(started.status, 200, "{}", started.text());
    assert_eq!(started.json()["status"]["state"], "running");
    assert_eq!(world.delete("/v1/vms/web").code(), "vm_running");
    assert_eq!(
        world.action("web", "stop").json()["status"]["state"],
        "stopped"
    );
    assert_eq!(world.delete("/v1/vms/web").status, 204);
    assert_eq!(world.get("/v1/vms/web").status, 404);
    assert!(world.backend.runs.is_empty());
}
