//! `/v1/vms/{name}/memory`.

use api::MemoryPolicy;
use serde_json::json;

use crate::support::World;

fn running() -> World {
    let mut world = World::new();
    world.vm("web");
    world.action("web", "start");
    world
}

fn act(world: &mut World, body: &serde_json::Value) -> crate::support::Response {
    world.ask("POST", "/v1/vms/web/memory/actions", "", &body.to_string())
}

#[test]
fn memory_is_shown_while_the_guest_runs() {
    let mut world = World::new();
    world.vm("web");
    let off = world.get("/v1/vms/web/memory");
    assert_eq!((off.status, off.code().as_str()), (409, "vm_not_running"));
    assert_eq!(world.get("/v1/vms/nobody/memory").status, 404);
    world.action("web", "start");
    let on = world.get("/v1/vms/web/memory").json();
    assert_eq!(on["promised_bytes"], 64 << 20);
    assert_eq!(on["leaves"], json!([512, 15, 0]));
}

#[test]
fn a_limit_is_changed_alone_and_told_as_an_event() {
    let mut world = running();
    let set = |world: &mut World, body: &str| world.ask("PATCH", "/v1/vms/web/memory", "", body);
    let limited = set(&mut world, r#"{"limit_bytes":33554432}"#);
    assert_eq!(limited.status, 200);
    let also = set(&mut world, r#"{"largest_leaf_bytes":4096}"#).json();
    assert_eq!(also["policy"]["limit_bytes"], 32 << 20);
    let policy = world.backend.run("web").expect("runs").policy.clone();
    let expected = MemoryPolicy {
        limit_bytes: Some(32 << 20),
        largest_leaf_bytes: Some(4096),
        ..MemoryPolicy::default()
    };
    assert_eq!(policy, expected);
    let wrong = set(&mut world, r#"{"largest_leaf_bytes":8192}"#);
    assert_eq!(wrong.status, 422);
    assert_eq!(wrong.json()["errors"][0]["pointer"], "/largest_leaf_bytes");
    assert_eq!(set(&mut world, r#"{"limit":1}"#).status, 422);
    let events = world.get("/v1/events?since=0&follow=false").text();
    assert_eq!(events.matches("vm.memory-policy").count(), 2, "{events}");
}

#[test]
fn scans_reclaim_and_keys_do_as_they_are_told() {
    let mut world = running();
    let scan = json!({"action": "scan", "scan": "dirty", "bitmap": true, "bytes": 65536});
    let found = act(&mut world, &scan).json();
    assert_eq!(
        (&found["bytes"], &found["bitmap"]),
        (&json!(32768), &json!("VVU="))
    );
    let freed = act(&mut world, &json!({"action": "reclaim", "bytes": 12288})).json();
    assert_eq!(freed, json!({"bytes": 4096}));
    let set = json!({"action": "set-keys", "start": 0x4000_1000, "values": "MEA="});
    assert_eq!(act(&mut world, &set).json(), json!({"bytes": 8192}));
    let get = json!({"action": "get-keys", "bytes": 12288});
    assert_eq!(act(&mut world, &get).json()["values"], "ADBA");
    let states = act(&mut world, &json!({"action": "get-states", "bytes": 4096}));
    assert_eq!(
        (states.status, states.code().as_str()),
        (409, "memory_facility_off")
    );
}

#[test]
fn what_cannot_be_asked_of_memory_is_explained_field_by_field() {
    let mut world = running();
    for (body, pointer) in [
        (json!({"action": "scan"}), "/scan"),
        (json!({"action": "move", "start": 4096}), "/start"),
        (json!({"action": "move", "start": 0x4400_0000}), "/start"),
        (json!({"action": "move", "bytes": 0}), "/bytes"),
        (json!({"action": "move", "bytes": 1}), "/bytes"),
        (json!({"action": "move", "bytes": 1_u64 << 40}), "/bytes"),
        (json!({"action": "set-keys", "values": "%"}), "/values"),
        (
            json!({"action": "get-keys", "bytes": 4096 * 4097}),
            "/bytes",
        ),
        (json!({"action": "burn"}), "/action"),
        (json!({"action": "move", "colour": 1}), "/colour"),
    ] {
        let answer = act(&mut world, &body);
        assert_eq!(answer.status, 422, "{body}");
        let errors = answer.json()["errors"].clone();
        let found = errors.as_array().into_iter().flatten();
        let mut found = found.map(|error| error["pointer"].clone());
        assert!(found.any(|at| at == pointer), "{body}: {errors}");
    }
}
