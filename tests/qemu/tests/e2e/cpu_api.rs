//! How vCPUs run, through the control port.

use std::time::{Duration, Instant};

use qemu::{Appliance, Cpu, Shell};
use serde_json::{Value, json};

use crate::common::{MIB, PATIENCE, Running, appliance, appliance_on, linux};

on_both_cpus!(
    a_vm_gets_the_share_that_it_is_given_and_no_more_than_its_limit,
    d02_a_running_linux_is_moved_from_core_to_core_and_finds_what_it_may,
    c10_an_serror_is_for_the_vcpu_that_is_named_and_for_nobody_else,
);

fn cpu_of(skete: &Running, vm: &str) -> Value {
    let path = format!("/v1/vms/{vm}/cpu");
    skete.control.get(&path).expect("shows its vCPUs")
}

fn set(skete: &Running, vm: &str, change: &Value) -> Value {
    let line = format!("PATCH /v1/vms/{vm}/cpu");
    skete.control.json(&line, change).expect("obeys")
}

/// Milliseconds since the machine began, and that the VM's first vCPU ran.
fn clocks(skete: &Running, vm: &str) -> (u64, u64) {
    let cpu = cpu_of(skete, vm);
    let up = skete.control.get("/v1").expect("answers");
    let ms = |value: &Value| value.as_u64().expect("a number") / 1_000_000;
    (ms(&up["uptime_ns"]), ms(&cpu["vcpus"][0]["run_ns"]))
}

/// What two busy VMs ran within some seconds, in per cent of that time.
fn shares(skete: &Running, seconds: u64) -> [u64; 2] {
    let before = ["one", "two"].map(|vm| clocks(skete, vm));
    std::thread::sleep(Duration::from_secs(seconds));
    let after = ["one", "two"].map(|vm| clocks(skete, vm));
    [0, 1].map(|n| (after[n].1 - before[n].1) * 100 / (after[n].0 - before[n].0).max(1))
}

/// Two that never rest share one core, and nobody but root wants it beside them.
fn a_vm_gets_the_share_that_it_is_given_and_no_more_than_its_limit(cpu: Cpu) {
    let mut board = Appliance::board(cpu);
    board.smp = 1;
    let skete = appliance_on(board);
    let control = &skete.control;
    skete.push_payload("spin");
    for vm in ["one", "two"] {
        let boot = json!({ "flat": "spin" });
        control.define(vm, 1, 16 * MIB, &boot).expect("defined");
    }
    // Kept while it is stopped, and begun with.
    set(&skete, "one", &json!({ "weight": 300 }));
    for vm in ["one", "two"] {
        control.start(vm).expect("starts");
        let ready = control.wait_for_console(vm, "ADVERSARY", PATIENCE);
        ready.expect("is at work");
    }
    let [one, two] = shares(&skete, 4);
    let part = one * 100 / (one + two);
    assert!(
        (70..=80).contains(&part),
        "{part} % for 300 of 400: {one} and {two}"
    );

    set(&skete, "one", &json!({ "weight": 100 }));
    let [one, two] = shares(&skete, 4);
    let part = one * 100 / (one + two);
    assert!(
        (45..=55).contains(&part),
        "{part} % for half: {one} and {two}"
    );

    set(&skete, "one", &json!({ "limit_percent": 20 }));
    let [one, two] = shares(&skete, 4);
    assert!((17..=22).contains(&one), "{one} % of a core, limited to 20");
    // What it may not have, the other has.
    assert!(two > 60, "{two} % beside one that is limited to 20");
    let queued = |vm: &Value| vm["vcpus"][0]["stolen"]["queue_ns"].as_u64();
    assert!(queued(&cpu_of(&skete, "one")) > Some(2_000_000_000));
    skete.shut_down();
}

fn d02_a_running_linux_is_moved_from_core_to_core_and_finds_what_it_may(cpu: Cpu) {
    const MOVES: usize = 60;
    let skete = appliance(cpu);
    let control = &skete.control;
    skete.push_linux();
    let mut spec = json!({ "cpus": 2, "memory_bytes": 192 * MIB, "boot": linux() });
    spec["cpu"] = json!({ "hide": ["stolen-time"], "pins": [{ "vcpu": 1, "cores": [1] }] });
    control.json("PUT /v1/vms/moved", &spec).expect("defined");
    control.start("moved").expect("starts");
    let mut shell = Shell::wait(control, "moved", PATIENCE).expect("boots");
    // The other tests see that a guest with nothing hidden says so.
    let said = shell.run("dmesg | grep -c 'using stolen time PV'", PATIENCE);
    assert_eq!(said.expect("runs"), "0");

    let sum = "dd if=/dev/zero bs=1M count=8 2>/dev/null | sha256sum";
    let expected = shell.run(sum, PATIENCE).expect("runs");
    // The subshell of `run` ends when nothing holds its output.
    let busy = format!(
        "while :; do [ \"$({sum})\" = '{expected}' ] || echo wrong >/dev/console; done \
         >/dev/null 2>&1 & echo on"
    );
    assert_eq!(shell.run(&busy, PATIENCE).expect("runs"), "on");
    shell.run(&busy, PATIENCE).expect("runs");
    for n in 0..MOVES {
        let (vcpu, core) = (n % 2, n / 2 % 2);
        let pins = json!({ "pins": [{ "vcpu": vcpu, "cores": [core] }] });
        let now = set(&skete, "moved", &pins);
        assert_eq!(now["vcpus"][vcpu]["cores"], json!([core]));
        // It is busy: it leaves at once, and has its turn there soon.
        let wait = |what: &str, done: &dyn Fn(&Value) -> bool| {
            let begin = Instant::now();
            loop {
                let now = cpu_of(&skete, "moved")["vcpus"][vcpu].clone();
                if done(&now) {
                    return now["run_ns"].as_u64().expect("a number");
                }
                assert!(begin.elapsed() < PATIENCE / 8, "{what} {n}: {now}");
            }
        };
        let ran = wait("move", &|now| now["core"] == core);
        wait("turn after move", &|now| now["run_ns"].as_u64() > Some(ran));
    }
    let after = cpu_of(&skete, "moved");
    let moves: Vec<u64> = (0..2)
        .filter_map(|vcpu| after["vcpus"][vcpu]["moves"].as_u64())
        .collect();
    // The first may have been there already.
    let least = MOVES as u64 / 2 - 1;
    assert!(moves.iter().all(|moves| *moves >= least), "{after}");
    for vcpu in after["vcpus"].as_array().expect("a list") {
        assert_eq!(vcpu["core"], vcpu["cores"][0], "{after}");
        assert!(vcpu["exits"]["interrupt"].as_u64() > Some(0), "{after}");
    }
    let log = control.raw("GET /v1/vms/moved/console/log", &[], &[]);
    let log = String::from_utf8_lossy(&log.expect("answers").body).into_owned();
    assert!(!log.contains("\nwrong\r"), "{log}");
    let again = shell.run(sum, PATIENCE).expect("still runs");
    assert_eq!(again, expected);
    let metrics = control.raw("GET /metrics", &[], &[]).expect("answers");
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("skete_vcpu_moves_total{vm=\"moved\",vcpu=\"1\"}"));
    shell.power_off(PATIENCE).expect("ends as it wishes");
    skete.shut_down();
}

/// Two Linux guests. One is told that its hardware failed, and panics as a kernel should; the
/// other goes on, and so does the appliance, which resets the first.
fn c10_an_serror_is_for_the_vcpu_that_is_named_and_for_nobody_else(cpu: Cpu) {
    let skete = appliance(cpu);
    let control = &skete.control;
    skete.push_linux();
    let mut shells = ["struck", "spared"].map(|vm| {
        control.define(vm, 2, 192 * MIB, &linux()).expect("defined");
        control.start(vm).expect("starts");
        Shell::wait(control, vm, PATIENCE).expect("boots")
    });
    let serror = json!({ "action": "serror", "vcpu": 1, "syndrome": 0x12_3456 });
    let path = "POST /v1/vms/struck/actions";
    control.json(path, &serror).expect("is running");
    let said = control.wait_for_console("struck", "SError Interrupt on CPU1", PATIENCE);
    let log = said.expect("the kernel takes it");
    // Without FEAT_RAS there is no register to put a syndrome in.
    let told = log.contains("code 0x00000000be123456");
    assert_eq!(told, cpu == Cpu::Max, "{log}");
    control
        .wait_for_console("struck", "Kernel panic - not syncing", PATIENCE)
        .expect("no kernel goes on after that");

    let [_, spared] = &mut shells;
    let still = spared.run("dmesg | grep -c SError", PATIENCE);
    assert_eq!(still.expect("goes on"), "0");
    control
        .json(path, &json!({ "action": "reset" }))
        .expect("is reset");
    let twice = |log: &str| log.matches("skete-guest: ready").count() == 2;
    let log = control.wait_for_console_that("struck", PATIENCE, twice);
    log.expect("boots again");
    skete.shut_down();
}
