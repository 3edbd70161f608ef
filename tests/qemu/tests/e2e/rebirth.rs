//! Root dies, by the operator's wish or by itself, and guests run on (I8, R3).

use std::time::{Duration, Instant};

use qemu::{Appliance, Control, Cpu, Shell, number, rebirth};
use serde_json::{Value, json};

use crate::common::{MIB, PATIENCE, Running, alone, appliance_on, linux, logs};

on_both_cpus!(
    i8_guests_run_on_however_root_ends,
    i8_stock_linux_works_on_and_its_shell_is_there_again,
    i8_a_root_that_is_silent_is_started_anew,
    r3_root_is_killed_at_any_instant_under_load_and_nothing_leaks,
);

/// An appliance whose root can be told to fail.
fn fragile(cpu: Cpu) -> Running {
    let mut board = Appliance::board(cpu);
    board.append = "drills".to_owned();
    appliance_on(board)
}

/// How many sums the sentinel has made; none was wrong.
fn sums(control: &Control) -> u64 {
    rebirth::sums(control).expect("its console is there and has no wrong sum")
}

fn end_root(control: &Control, how: &Value) {
    rebirth::end_root(control, how).expect("root ends, and another one answers");
}

/// Starts the sentinel, whose name is its image's.
fn sentinel(skete: &Running) {
    let control = &skete.control;
    rebirth::start_bare(control, "sentinel").expect("starts");
    control
        .wait_for_console("sentinel", "SENTINEL p99", PATIENCE)
        .expect("works");
}

/// Runs a VM from an image that was uploaded before, to its end, and deletes it.
fn another_vm(control: &Control) {
    let boot = json!({ "flat": "hello" });
    control
        .define("other", 1, 64 * MIB, &boot)
        .expect("defined");
    control.start("other").expect("starts");
    control
        .wait_for_state("other", "stopped", PATIENCE)
        .expect("switches itself off");
    control.delete("/v1/vms/other").expect("can go");
}

fn i8_guests_run_on_however_root_ends(cpu: Cpu) {
    let skete = fragile(cpu);
    let control = &skete.control;
    skete.push_payload("hello");
    sentinel(&skete);
    let vm = control.get("/v1/vms/sentinel").expect("there");
    let mut printed = 0;
    for how in [
        json!({}),
        json!({ "after_ms": 300 }),
        json!({ "drill": "panic" }),
        json!({ "drill": "fault" }),
    ] {
        let before = sums(control);
        end_root(control, &how);
        let again = control.get("/v1/vms/sentinel").expect("there");
        for part in ["name", "id", "spec", "created_at"] {
            assert_eq!(again.get(part), vm.get(part), "{part} after {how}");
        }
        let of = |path: &str| again.pointer(path).cloned();
        assert_eq!(of("/status/state"), Some(json!("running")), "after {how}");
        assert_eq!(of("/status/starts"), Some(json!(1)), "after {how}");
        assert_eq!(of("/status/console_dropped_bytes"), Some(json!(0)));
        let bytes = number(&again, &["status", "console_bytes"]).expect("a number");
        assert!(bytes >= printed, "{bytes} {printed}");
        printed = bytes;
        // It works on, and what it says is heard.
        let deadline = Instant::now() + PATIENCE;
        while sums(control) <= before {
            assert!(Instant::now() < deadline, "no sums after {how}");
            std::thread::sleep(Duration::from_millis(100));
        }
        another_vm(control);
    }
    // Everything that it printed is there: it says so once a second, and has not said much.
    let log = control.console("sentinel").expect("has a console");
    assert!(log.starts_with("SENTINEL begins"), "{log}");
    let events = control
        .raw("GET /v1/events?since=0&follow=false", &[], &[])
        .expect("answers");
    let events = String::from_utf8_lossy(&events.body).into_owned();
    assert!(events.contains("system.control_restarted"), "{events}");
    assert!(events.contains("\"generation\":\"5\""), "{events}");
    control.act("sentinel", "stop").expect("can be stopped");
    control
        .wait_for_state("sentinel", "stopped", PATIENCE)
        .expect("is stopped");
    control.delete("/v1/vms/sentinel").expect("can go");
    let said = skete.appliance.serial().text();
    for (why, times) in [("that was asked for", 2), ("it ended itself", 2)] {
        assert_eq!(said.matches(why).count(), times, "{why}: {said}");
    }
    for report in ["a drill", "exception: ESR_EL1"] {
        assert!(said.contains(report), "{report}: {said}");
    }
    skete.shut_down();
}

/// Two vCPUs, on both cores, one of which is root's. Every sum is of the same bytes, and each
/// line that says so has the next number: nothing was printed twice or lost.
fn i8_stock_linux_works_on_and_its_shell_is_there_again(cpu: Cpu) {
    let skete = fragile(cpu);
    let control = &skete.control;
    skete.push_linux();
    control
        .define("linux", 2, 256 * MIB, &linux())
        .expect("defined");
    control.start("linux").expect("starts");
    let mut shell = Shell::wait(control, "linux", PATIENCE).expect("boots to a shell");
    shell
        .run(
            "dd if=/dev/zero of=/tmp/zeroes bs=1M count=4 2>/dev/null",
            PATIENCE,
        )
        .expect("runs");
    // What is typed is echoed, and has no number in it.
    let work = "n=0; while [ -e /tmp/zeroes ]; do n=$((n+1)); echo \"round:$n $(sha256sum </tmp/zeroes)\"; done >/dev/console &\n";
    control.type_text("linux", work).expect("is typed");
    let rounds = |log: &str| -> Vec<(u64, String)> {
        let lines = log
            .lines()
            .filter_map(|line| line.trim().strip_prefix("round:"));
        let pairs = lines.filter_map(|line| line.split_once(' '));
        pairs
            .filter_map(|(n, sum)| Some((n.parse().ok()?, sum.get(..64)?.to_owned())))
            .collect()
    };
    let mut at_least = 1;
    for how in [
        json!({ "drill": "panic" }),
        json!({ "after_ms": 400 }),
        json!({}),
    ] {
        let further = |log: &str| rounds(log).last().is_some_and(|(n, _)| *n > at_least);
        let log = control.wait_for_console_that("linux", PATIENCE, further);
        at_least = rounds(&log.expect("works on")).last().expect("some").0;
        end_root(control, &how);
    }
    let further = |log: &str| rounds(log).last().is_some_and(|(n, _)| *n > at_least);
    let log = control.wait_for_console_that("linux", PATIENCE, further);
    let rounds = rounds(&log.expect("works on"));
    // busybox's sha256sum of 4 MiB of zeroes.
    let expected = "bb9f8df61474d25e71fa00722318cd387396ca1736605e1248821cc0de3d3af8";
    for (at, (n, sum)) in rounds.iter().enumerate() {
        assert_eq!(*n, rounds[0].0 + at as u64, "{rounds:?}");
        assert_eq!(sum, expected, "round {n}");
    }
    shell
        .run("rm /tmp/zeroes", PATIENCE)
        .expect("takes what is typed");
    shell.power_off(PATIENCE).expect("ends");
    skete.shut_down();
}

fn i8_a_root_that_is_silent_is_started_anew(cpu: Cpu) {
    let skete = fragile(cpu);
    let control = &skete.control;
    sentinel(&skete);
    let before = sums(control);
    end_root(control, &json!({ "drill": "hang" }));
    let text = skete.appliance.serial().text();
    assert!(text.contains("it gave no sign of life"), "{text}");
    assert_eq!(control.state("sentinel").expect("there"), "running");
    assert!(sums(control) > before);
    skete.shut_down();
}

fn r3_root_is_killed_at_any_instant_under_load_and_nothing_leaks(cpu: Cpu) {
    let _alone = alone();
    rebirth::kills(cpu, 10, 1, &logs()).expect("nobody notices");
}
