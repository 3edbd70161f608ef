//! Devices: in a VM's specification, listed, reset, read and written, and their troubles.

use api::{Device, DeviceFaults, DeviceProfile, DeviceState};
use control::backend::DeviceError;
use control::fake::FakeBackend;
use serde_json::json;

use super::support::{SECOND, World};

const PCI: &str = "0000:00:03.0";
const ACTIONS: &str = "/v1/devices/0000:00:03.0/actions";

fn device(timeouts: u64, dma_faults: u64) -> Device {
    Device {
        bar_bytes: vec![0x4000, 0, 0, 0, 0, 0],
        bar_sizes: vec![],
        state: DeviceState::Assigned,
        vm: Some("a".into()),
        profile: DeviceProfile::Nvme,
        memory_on: true,
        generation: 1,
        faults: DeviceFaults {
            timeouts,
            ..DeviceFaults::default()
        },
        dma_faults,
        dma_fault_at: 0x4400_0000,
        touch_bytes: 4096,
        ..FakeBackend::device(PCI)
    }
}

fn spec(devices: &serde_json::Value) -> String {
    let boot = json!({ "flat": "flat" });
    json!({ "cpus": 1, "memory_bytes": 64 << 20, "boot": boot, "devices": devices }).to_string()
}

/// A world with VM `a` running, which has the device.
fn world() -> World {
    let mut world = World::new();
    world.image("flat", "flat", b"any bytes will do");
    let put = world.put(
        "/v1/vms/a",
        &spec(&json!([{ "pci": PCI, "profile": "nvme" }])),
    );
    assert_eq!(put.status, 201, "{}", put.text());
    world.backend.devices = vec![device(0, 0)];
    world.action("a", "start");
    world
}

#[test]
fn a_vm_is_started_with_the_devices_it_was_defined_with() {
    let mut world = world();
    let run = world.backend.run("a").expect("runs");
    let [device] = run.plan.devices.as_slice() else {
        panic!("{:?}", run.plan.devices)
    };
    assert_eq!((device.pci.as_str(), device.unsafe_dma), (PCI, false));
    assert_eq!(device.profile, DeviceProfile::Nvme);
    let listed = world.get("/v1/devices").json();
    assert_eq!(listed["devices"][0]["vm"], "a");
    assert_eq!(listed["devices"][0]["profile"], "nvme");
}

#[test]
fn devices_that_cannot_be_are_refused_by_the_field() {
    let mut world = World::new();
    world.image("flat", "flat", b"any bytes will do");
    for (wrong, field) in [
        (json!([{ "pci": "00:03.0" }]), "/devices/0/pci"),
        (json!([{ "pci": "0001:00:03.0" }]), "/devices/0/pci"),
        (json!([{ "pci": "0000:00:03.0 " }]), "/devices/0/pci"),
        (json!([{ "pci": PCI, "memory": PCI }]), "/devices/0/memory"),
        (
            json!([{ "pci": PCI, "profile": "nvgrace-gpu" }]),
            "/devices/0/memory",
        ),
        (
            json!([{ "pci": PCI, "registers_bar": 6 }]),
            "/devices/0/registers_bar",
        ),
        (json!(vec![json!({ "pci": PCI }); 17]), "/devices"),
    ] {
        let answer = world.put("/v1/vms/b", &spec(&wrong));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (422, "invalid"),
            "{wrong}"
        );
        assert_eq!(answer.json()["errors"][0]["pointer"], field, "{wrong}");
    }
    let unheard_of = world.put(
        "/v1/vms/b",
        &spec(&json!([{ "pci": PCI, "profile": "gpu" }])),
    );
    assert!(unheard_of.status >= 400);
}

#[test]
fn a_device_is_reset_read_and_written() {
    let mut world = world();
    assert_eq!(world.post(ACTIONS, r#"{"action":"reset"}"#).status, 204);
    world.backend.device_answer = Some(Ok(vec![0x78, 0x56, 0xff]));
    let read = r#"{"action":"read","bar":2,"offset":4096,"bytes":3}"#;
    assert_eq!(world.post(ACTIONS, read).json()["data"], "7856ff");
    world.backend.device_answer = Some(Ok(Vec::new()));
    let write = r#"{"action":"write","bar":2,"offset":4096,"data":"0aF0"}"#;
    assert_eq!(world.post(ACTIONS, write).status, 204);
    let (pci, request, data) = world.backend.acted.last().expect("was asked").clone();
    assert_eq!((pci.as_str(), request.bar, request.offset), (PCI, 2, 4096));
    assert_eq!(data, [0x0a, 0xf0]);
    let events = world.get("/v1/events?since=0&follow=false").text();
    assert!(events.contains("device.reset") && events.contains("device.written"));

    let asked = world.backend.acted.len();
    for wrong in [
        r#"{"action":"write","data":"0"}"#,
        r#"{"action":"write","data":"0g"}"#,
        r#"{"action":"read","bytes":1025}"#,
    ] {
        assert_eq!(world.post(ACTIONS, wrong).code(), "invalid", "{wrong}");
    }
    assert_eq!(
        world.backend.acted.len(),
        asked,
        "refused without asking the machine"
    );
}

#[test]
fn a_device_s_refusals_have_names() {
    let mut world = world();
    for (error, status, code) in [
        (DeviceError::Unknown, 404, "device_not_found"),
        (DeviceError::Free, 409, "device_off"),
        (DeviceError::Range, 422, "invalid"),
        (DeviceError::Off, 409, "device_off"),
        (DeviceError::Busy, 409, "device_busy"),
        (DeviceError::NotReady, 503, "device_not_ready"),
    ] {
        world.backend.device_answer = Some(Err(error));
        let answer = world.post(ACTIONS, r#"{"action":"reset"}"#);
        assert_eq!((answer.status, answer.code().as_str()), (status, code));
    }
}

#[test]
fn a_device_s_troubles_are_events_once_each() {
    let mut world = world();
    world.backend.devices = vec![device(1, 0)];
    world.idle(3 * SECOND);
    world.backend.devices = vec![device(1, 7)];
    world.idle(3 * SECOND);
    let events = world.get("/v1/events?since=0&follow=false").text();
    assert_eq!(events.matches("device.not_ready").count(), 1, "{events}");
    assert_eq!(events.matches("device.dma_blocked").count(), 1, "{events}");
    assert!(events.contains("0x44000000"), "{events}");
}
