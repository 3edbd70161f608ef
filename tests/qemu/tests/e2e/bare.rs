//! Bare-metal guests: each checks the machine that it finds, and says what it saw.

use qemu::Cpu;
use serde_json::json;

use crate::common::{MIB, PATIENCE, appliance};

on_both_cpus!(a_bare_metal_guest_makes_every_kind_of_exit);

fn a_bare_metal_guest_makes_every_kind_of_exit(cpu: Cpu) {
    let skete = appliance(cpu);
    skete.push_payload("hello");
    let boot = json!({ "flat": "hello" });
    skete
        .control
        .define("hello", 1, 64 * MIB, &boot)
        .expect("can be defined");
    skete.control.start("hello").expect("starts");
    let log = skete
        .control
        .wait_for_console("hello", "BYE", PATIENCE)
        .expect("comes to its end");
    for line in [
        "HELLO from EL1",
        "ram_bytes 0x4000000",
        "cpus 1",
        // DEN 0022: PSCI 1.1.
        "hypercall PSCI_VERSION 0x10001",
        "unclaimed 0x0",
        "first_touch zero 12 kept 12 of 12",
        "interrupt true",
        "sgi_self true",
    ] {
        assert!(log.contains(line), "no {line:?} in\n{log}");
    }
    skete
        .control
        .wait_for_state("hello", "stopped", PATIENCE)
        .expect("PSCI SYSTEM_OFF ends it");
    skete.shut_down();
}
