//! Guests that mean harm: the appliance goes on, and so does everyone else. What a guest of
//! equal weight gets beside them on one core is in `storms`.

use std::time::{Duration, Instant};

use qemu::{Control, Cpu, Shell};
use serde_json::json;

use crate::common::{MIB, PATIENCE, appliance, linux};

on_both_cpus!(a_hostile_guest_harms_only_itself);

/// Each guest, with its boot arguments.
const HOSTILE: [(&str, &str); 5] = [
    ("jump", ""),
    ("touch", ""),
    ("undef-smc", ""),
    ("spin", ""),
    ("storm", "kind=sgi"),
];

/// How soon the control port has to answer while a guest does its worst.
const SOON: Duration = Duration::from_secs(1);

fn a_hostile_guest_harms_only_itself(cpu: Cpu) {
    let skete = appliance(cpu);
    let control = &skete.control;
    skete.push_linux();
    control
        .define("sentinel", 1, 192 * MIB, &linux())
        .expect("defined");
    control.start("sentinel").expect("starts");
    let mut shell = Shell::wait(control, "sentinel", PATIENCE).expect("boots");
    let sum = "dd if=/dev/zero bs=1M count=4 2>/dev/null | sha256sum";
    let expected = shell.run(sum, PATIENCE).expect("runs");

    let mut pushed = Vec::new();
    for (name, cmdline) in HOSTILE {
        if !pushed.contains(&name) {
            skete.push_payload(name);
            pushed.push(name);
        }
        let boot = json!({ "flat": name, "cmdline": cmdline });
        // As many vCPUs as there are cores, so that none is left that it does not reach.
        control.define(name, 2, 64 * MIB, &boot).expect("defined");
        control.start(name).expect("starts");
        control
            .wait_for_console(name, "ADVERSARY", PATIENCE)
            .expect("is at work");
        answers_soon(control, name);
        let again = shell.run(sum, PATIENCE).expect("the sentinel lives");
        assert_eq!(again, expected, "beside {name} {cmdline}");
        answers_soon(control, name);

        let state = control.state(name).expect("has a state");
        assert!(["running", "crashed"].contains(&state.as_str()), "{state}");
        control.act(name, "stop").expect("can be stopped");
        let stopped = || {
            let state = control.state(name).expect("has a state");
            state == "stopped" || state == "crashed"
        };
        let begin = Instant::now();
        while !stopped() {
            assert!(begin.elapsed() < PATIENCE, "{name} cannot be stopped");
            std::thread::sleep(Duration::from_millis(100));
        }
        control.delete(&format!("/v1/vms/{name}")).expect("can go");
    }
    shell
        .power_off(PATIENCE)
        .expect("the sentinel ends as it wishes");
    skete.shut_down();
}

/// Takes the median of five: the host, too, has other things to do.
fn answers_soon(control: &Control, beside: &str) {
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let begin = Instant::now();
            control.get("/v1/vms").expect("answers");
            begin.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[2] < SOON, "beside {beside} answers took {times:?}");
}
