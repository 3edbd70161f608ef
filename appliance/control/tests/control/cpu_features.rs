//! Features of the CPU: what a VM asks for, and what it is given.

use serde_json::json;

use super::support::World;

fn spec(features: &serde_json::Value) -> String {
    let boot = json!({ "flat": "flat" });
    json!({ "cpus": 1, "memory_bytes": 64 << 20, "boot": boot, "cpu_features": features })
        .to_string()
}

fn world() -> World {
    let mut world = World::new();
    world.image("flat", "flat", b"any bytes will do");
    world
}

#[test]
fn a_vm_has_what_the_machine_has_but_for_what_it_hides() {
    for (features, pmu) in [(json!({}), true), (json!({ "pmu": false }), false)] {
        let mut world = world();
        assert_eq!(world.put("/v1/vms/a", &spec(&features)).status, 201);
        world.action("a", "start");
        let plan = &world.backend.run("a").expect("it runs").plan;
        // The fake machine has performance monitors, and neither of the others.
        assert_eq!(plan.cpu_features.pmu, Some(pmu));
        assert_eq!(plan.cpu_features.sve, Some(false));
        assert_eq!(plan.cpu_features.pauth, Some(false));
    }
}

#[test]
fn what_the_machine_lacks_cannot_be_asked_for() {
    let mut world = world();
    let refused = world.put("/v1/vms/a", &spec(&json!({ "sve": true, "pmu": true })));
    assert_eq!(refused.status, 422, "{}", refused.text());
    let text = refused.text();
    assert!(text.contains("/cpu_features/sve"), "{text}");
    assert!(text.contains("no sve"), "{text}");
    assert!(!text.contains("/cpu_features/pmu"), "{text}");
    let unknown = world.put("/v1/vms/a", &spec(&json!({ "sme": true })));
    assert!((400..500).contains(&unknown.status), "{}", unknown.text());
}

#[test]
fn the_machine_says_what_it_has() {
    let mut world = world();
    let text = world.get("/v1").text();
    assert!(text.contains(r#""cpu_features""#), "{text}");
}
