//! Bare-metal guests: each checks the machine that it finds, and says what it saw.

use qemu::{Appliance, Cpu};
use serde_json::json;

use crate::common::{MIB, PATIENCE, Running, appliance, appliance_on};

on_both_cpus!(
    a_bare_metal_guest_makes_every_kind_of_exit,
    what_a_guest_finds_is_what_the_architecture_says,
    g5_a_guest_with_a_device_finds_an_its_and_cannot_harm_others_with_it,
);

/// Runs a bare-metal guest until it prints `end`; returns what it printed.
fn run(skete: &Running, name: &str, cpus: u32, end: &str) -> String {
    skete.push_payload(name);
    skete
        .control
        .define(name, cpus, 64 * MIB, &json!({ "flat": name }))
        .expect("can be defined");
    skete.control.start(name).expect("starts");
    let log = skete.control.wait_for_console(name, end, PATIENCE);
    let log = log.expect("comes to its end");
    skete
        .control
        .wait_for_state(name, "stopped", PATIENCE)
        .expect("PSCI SYSTEM_OFF ends it");
    log
}

fn a_bare_metal_guest_makes_every_kind_of_exit(cpu: Cpu) {
    let skete = appliance(cpu);
    let log = run(&skete, "hello", 1, "BYE");
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
    skete.shut_down();
}

fn what_a_guest_finds_is_what_the_architecture_says(cpu: Cpu) {
    let skete = appliance(cpu);
    let log = run(&skete, "conformance", 3, "SUMMARY");
    assert!(log.contains("on_skete true"), "{log}");
    passed(&log);
    skete.shut_down();
}

/// A VM with a device, whatever that is, has an ITS.
fn g5_a_guest_with_a_device_finds_an_its_and_cannot_harm_others_with_it(cpu: Cpu) {
    let mut board = Appliance::board(cpu);
    let device = ["-device", "edu,addr=4"].map(str::to_owned);
    board.more.extend(device);
    let skete = appliance_on(board);
    skete.push_payload("conformance");
    let spec = json!({
        "cpus": 3, "memory_bytes": 64 * MIB, "boot": { "flat": "conformance" },
        "devices": [{ "pci": "0000:00:04.0" }],
    });
    let control = &skete.control;
    control
        .json("PUT /v1/vms/its", &spec)
        .expect("can be defined");
    control.start("its").expect("starts");
    let log = control.wait_for_console("its", "SUMMARY", PATIENCE);
    let log = log.expect("comes to its end");
    for test in [
        "lpi_moves",
        "lpi_more_than_list_registers",
        "its_random_commands",
    ] {
        assert!(log.contains(&format!("TEST {test} ok")), "{log}");
    }
    passed(&log);
    control
        .wait_for_state("its", "stopped", PATIENCE)
        .expect("PSCI SYSTEM_OFF ends it");
    skete.shut_down();
}

/// Fails with the lines that say what is wrong.
fn passed(log: &str) {
    let wrong: Vec<&str> = log
        .lines()
        .filter(|line| !line.starts_with("RUN ") && !line.ends_with(" ok"))
        .collect();
    let summary = log.lines().find(|line| line.starts_with("SUMMARY"));
    assert!(
        summary.is_some_and(|line| line.trim().ends_with("failed=0")),
        "{}",
        wrong.join("\n")
    );
}
