//! Adversaries beside a bare-metal guest that has deadlines (`tests/guests/sentinel`), on one
//! core: it keeps its share, its deadlines and its sums; the control port answers; the log
//! does not grow (RELIABILITY S1, S2, S4, S5, G4).

use std::time::{Duration, Instant};

use qemu::{Appliance, Cpu};
use serde_json::{Value, json};

use crate::common::{MIB, PATIENCE, Running, appliance_on};

on_both_cpus!(
    s1_s2_s4_s5_g4_a_sentinel_keeps_its_share_beside_every_storm,
    c4_registers_of_two_vms_on_one_core_stay_apart_under_load,
);

/// Each adversary: its name, its boot arguments, and whether what it does must come to core
/// (WFE never does in QEMU, nor does WFI while an interrupt is pending; WFIT and WFET may not be
/// there; an undefined instruction stays the guest's own).
const STORMS: [(&str, &str, bool); 18] = [
    // S4: every vCPU masks DAIF and spins.
    ("spin", "", false),
    // S1.
    ("storm", "kind=wfi", true),
    ("storm", "kind=wfi_pending", false),
    ("storm", "kind=wfe", false),
    ("storm", "kind=wfit", false),
    ("storm", "kind=wfet", false),
    // S2: every kind of exit.
    ("storm", "kind=hvc", true),
    ("storm", "kind=gic", true),
    ("storm", "kind=uart", true),
    ("storm", "kind=unclaimed", true),
    ("storm", "kind=sysreg", true),
    ("storm", "kind=sgi", true),
    ("storm", "kind=undef", false),
    ("touch", "", false),
    // G4: lines that never go down, one that core keeps and one of the hardware's; edges.
    ("storm", "kind=level_uart", true),
    ("storm", "kind=level_timer", true),
    ("storm", "kind=edge", true),
    // S5, while its memory is moved under it.
    ("storm", "kind=excl", false),
];

/// How soon the control port has to answer: the median, since the host, too, has other
/// things to do.
const SOON: Duration = Duration::from_secs(1);
/// What a guest gets, of the time that it and another of the same weight run, in per mille:
/// half, less what so short a look is off by.
const SHARE: u64 = 450;
/// And over all of them together.
const SHARE_IN_ALL: u64 = 490;
/// Microseconds that a deadline may be missed by, but one in a hundred: a few turns, and what
/// the host takes meanwhile.
const LATE_US: u64 = 200_000;
/// Bytes that the appliance's log may grow by, whatever a guest does.
const LOG_BYTES: usize = 4096;

/// Exits while the sentinel prints two lines, without which it was no storm.
const STORM_EXITS: u64 = 1_000;

/// Nanoseconds that the vCPUs of a VM ran.
fn ran(skete: &Running, vm: &str) -> u64 {
    let vm = skete.control.get(&format!("/v1/vms/{vm}"));
    let run_ns = &vm.expect("answers")["status"]["run_ns"];
    run_ns.as_u64().expect("a number")
}

/// Exits of a VM's vCPUs, of every kind.
fn exits(skete: &Running, vm: &str) -> u64 {
    let vm = skete.control.get(&format!("/v1/vms/{vm}"));
    let exits = vm.expect("answers")["status"]["exits"].clone();
    let exits = exits.as_object().expect("a count for each kind").values();
    exits.filter_map(Value::as_u64).sum()
}

/// What the sentinel has printed.
fn said(skete: &Running) -> String {
    let line = "GET /v1/vms/sentinel/console/log";
    let log = skete.control.raw(line, &[], &[]).expect("answers");
    String::from_utf8_lossy(&log.body).into_owned()
}

/// The lateness in every line of the sentinel's, but its worst: in microseconds.
fn lateness(log: &str) -> Vec<u64> {
    log.lines()
        .filter_map(|line| line.split_once("p99 ")?.1.split(' ').next()?.parse().ok())
        .collect()
}

/// Has something done five times; fails unless it is done soon.
fn soon(what: &str, mut ask: impl FnMut()) {
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let begin = Instant::now();
            ask();
            begin.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[2] < SOON, "{what} took {times:?}");
}

fn s1_s2_s4_s5_g4_a_sentinel_keeps_its_share_beside_every_storm(cpu: Cpu) {
    let mut board = Appliance::board(cpu);
    board.smp = 1;
    let mut skete = appliance_on(board);
    for guest in ["sentinel", "spin", "storm", "touch"] {
        skete.push_payload(guest);
    }
    let boot = json!({ "flat": "sentinel" });
    let control = skete.control.clone();
    control
        .define("sentinel", 1, 16 * MIB, &boot)
        .expect("defined");
    control.start("sentinel").expect("starts");
    let alone = control.wait_for_console("sentinel", "SENTINEL p99", PATIENCE);
    alone.expect("has its beat");

    let (mut all, mut results) = ([0, 0], Vec::new());
    for (name, cmdline, must_exit) in STORMS {
        let boot = json!({ "flat": name, "cmdline": cmdline });
        let (vm, what) = ("adversary", format!("{name} {cmdline}"));
        control.define(vm, 2, 16 * MIB, &boot).expect("defined");
        let printed = skete.appliance.machine().serial().position();
        control.start(vm).expect("starts");
        let began = control.wait_for_console(vm, "ADVERSARY", PATIENCE);
        began.expect("is at work");
        let lines = lateness(&said(&skete)).len();
        let before = ["sentinel", vm].map(|vm| ran(&skete, vm));
        let exits_before = exits(&skete, vm);
        // Two lines: the first may have begun before the storm.
        let two = |log: &str| lateness(log).len() >= lines + 2;
        let log = control.wait_for_console_that("sentinel", PATIENCE, two);
        let log = log.unwrap_or_else(|why| panic!("no deadline is kept beside {what}: {why}"));
        let after = ["sentinel", vm].map(|vm| ran(&skete, vm));
        let exits = exits(&skete, vm) - exits_before;
        let [ours, theirs] = [0, 1].map(|n| after[n] - before[n]);
        (all[0], all[1]) = (all[0] + ours, all[1] + theirs);
        let share = ours * 1000 / (ours + theirs).max(1);
        // The better of two: the host, too, has other things to do.
        let late = lateness(&log).iter().rev().take(2).min().copied();
        let late = late.unwrap_or(u64::MAX);
        results.push(format!(
            "{what}: {share} per mille, p99 {late} us, {exits} exits"
        ));
        assert!(
            !must_exit || exits >= STORM_EXITS,
            "{what} is no storm: {exits} exits"
        );

        soon(&format!("an answer beside {what}"), || {
            control.get("/v1/vms").expect("answers");
        });
        if cmdline == "kind=excl" {
            let part = json!({ "action": "move", "bytes": 2 * MIB });
            soon("moving what a guest fights for", || {
                let line = format!("POST /v1/vms/{vm}/memory/actions");
                control.json(&line, &part).expect("is moved");
            });
        }
        assert!(
            share >= SHARE,
            "beside {what} {share} per mille:\n{results:#?}"
        );
        assert!(
            late <= LATE_US,
            "beside {what} {late} us late:\n{results:#?}"
        );
        assert_eq!(control.state(vm).expect("has a state"), "running", "{what}");
        control.act(vm, "stop").expect("can be stopped");
        control
            .wait_for_state(vm, "stopped", PATIENCE)
            .expect("is stopped");
        control.delete("/v1/vms/adversary").expect("can go");
        let grown = skete.appliance.machine().serial().position() - printed;
        assert!(grown <= LOG_BYTES, "{grown} bytes in the log beside {what}");
    }
    let share = all[0] * 1000 / (all[0] + all[1]).max(1);
    eprintln!("{cpu}: {share} per mille in all\n{results:#?}");
    assert!(
        share >= SHARE_IN_ALL,
        "{share} per mille in all:\n{results:#?}"
    );
    let log = said(&skete);
    assert!(!log.contains("WRONG"), "{log}");
    assert_eq!(control.state("sentinel").expect("has one"), "running");
    skete.shut_down();
}

/// Two VMs fill every register with patterns, each with its own, sleep a tenth of a millisecond
/// and look, and a third wants the core all the time; the list of registers is in `tests/guests/conformance/state.rs`.
fn c4_registers_of_two_vms_on_one_core_stay_apart_under_load(cpu: Cpu) {
    const SWITCHES: u64 = 10_000;
    let mut board = Appliance::board(cpu);
    board.smp = 1;
    let skete = appliance_on(board);
    let control = &skete.control;
    skete.push_payload("conformance");
    skete.push_payload("storm");
    let boot = json!({ "flat": "storm", "cmdline": "kind=sysreg" });
    control.define("load", 2, 16 * MIB, &boot).expect("defined");
    control.start("load").expect("starts");
    for (vm, seed) in [("one", 1), ("two", 2)] {
        let cmdline = format!("only=c4 rounds=4000 always=0 seed={seed}");
        let boot = json!({ "flat": "conformance", "cmdline": cmdline });
        control.define(vm, 1, 32 * MIB, &boot).expect("defined");
    }
    control.start("one").expect("starts");
    control.start("two").expect("starts");
    let switches = |vm: &str| -> Value {
        let cpu = control.get(&format!("/v1/vms/{vm}/cpu")).expect("answers");
        cpu["vcpus"][0]["switches"].clone()
    };
    let mut most = [0, 0];
    let begin = Instant::now();
    while ["one", "two"]
        .iter()
        .any(|vm| control.state(vm).expect("has one") == "running")
    {
        assert!(begin.elapsed() < PATIENCE, "it does not come to its end");
        for (most, vm) in most.iter_mut().zip(["one", "two"]) {
            // Those of a VM that has ended are gone.
            *most = switches(vm).as_u64().unwrap_or(0).max(*most);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    for vm in ["one", "two"] {
        let log = control
            .wait_for_console(vm, "SUMMARY", PATIENCE)
            .expect("ends");
        assert!(log.contains("SUMMARY passed=4 failed=0"), "{log}");
    }
    let all = most[0] + most[1];
    assert!(all >= SWITCHES, "{most:?} switches");
    skete.shut_down();
}
