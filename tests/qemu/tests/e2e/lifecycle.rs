//! VMs come and go, and nothing stays behind.

use qemu::{Cpu, number};
use serde_json::json;

use crate::common::{MIB, PATIENCE, appliance, linux};

on_both_cpus!(
    ten_lives_leak_no_frame,
    a_vm_costs_the_same_whatever_its_ram,
    the_name_of_a_deleted_vm_can_be_used_again,
);

fn ten_lives_leak_no_frame(cpu: Cpu) {
    let skete = appliance(cpu);
    let control = &skete.control;
    skete.push_linux();
    skete.push_payload("hello");
    let round = || {
        control
            .define("linux", 2, 256 * MIB, &linux())
            .expect("defined");
        control
            .define("bare", 1, 64 * MIB, &json!({ "flat": "hello" }))
            .expect("defined");
        control.start("linux").expect("starts");
        control.start("bare").expect("starts");
        control
            .wait_for_console("linux", "Linux version", PATIENCE)
            .expect("is under way");
        control
            .wait_for_state("bare", "stopped", PATIENCE)
            .expect("switches itself off");
        control.act("linux", "stop").expect("can be stopped");
        control
            .wait_for_state("linux", "stopped", PATIENCE)
            .expect("is stopped");
        control.delete("/v1/vms/linux").expect("can go");
        control.delete("/v1/vms/bare").expect("can go");
        let facts = control.get("/v1").expect("answers");
        let free = number(&facts, &["machine", "free_bytes"]).expect("a number");
        let granted = number(&facts, &["machine", "granted_bytes"]).expect("a number");
        let vms = number(&facts, &["machine", "vms"]).expect("a number");
        (free, granted, vms)
    };
    // The first life may fill what is kept for the next.
    let first = round();
    assert_eq!(first.2, 0, "VMs that core still knows");
    for _ in 1..10 {
        assert_eq!(round(), first, "free, granted, VMs");
    }
    skete.shut_down();
}

fn a_vm_costs_the_same_whatever_its_ram(cpu: Cpu) {
    let skete = appliance(cpu);
    let control = &skete.control;
    skete.push_payload("hello");
    let boot = json!({ "flat": "hello" });
    // The guest touches a few pages here and there; an 8th of the larger RAM would show.
    let mut overheads = Vec::new();
    for (name, mib) in [("small", 128), ("large", 1024)] {
        let before = control.machine("free_bytes").expect("a number");
        control.define(name, 1, mib * MIB, &boot).expect("defined");
        control.start(name).expect("starts");
        control
            .wait_for_state(name, "stopped", PATIENCE)
            .expect("ends");
        let vm = control.get(&format!("/v1/vms/{name}")).expect("there");
        overheads.push(number(&vm, &["status", "overhead_bytes"]).expect("a number"));
        let after = control.machine("free_bytes").expect("a number");
        assert!(before.abs_diff(after) < 16 * MIB, "{before} {after}");
        control.delete(&format!("/v1/vms/{name}")).expect("can go");
    }
    let limit = 256 << 10;
    assert!(
        overheads.iter().all(|&bytes| bytes <= limit),
        "{overheads:?}"
    );
    skete.shut_down();
}

fn the_name_of_a_deleted_vm_can_be_used_again(cpu: Cpu) {
    let skete = appliance(cpu);
    let control = &skete.control;
    skete.push_payload("hello");
    let mut ids = Vec::new();
    for _ in 0..2 {
        let boot = json!({ "flat": "hello" });
        let vm = control
            .define("phoenix", 1, 64 * MIB, &boot)
            .expect("defined");
        ids.push(vm.get("id").cloned().expect("has an id"));
        control.start("phoenix").expect("starts");
        control
            .wait_for_state("phoenix", "stopped", PATIENCE)
            .expect("ends");
        control.delete("/v1/vms/phoenix").expect("can go");
    }
    assert_ne!(ids.first(), ids.last());
    skete.shut_down();
}
