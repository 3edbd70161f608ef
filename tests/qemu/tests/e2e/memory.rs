//! Guests' memory under a root that tests core's calls one by one (`tests/guests/memory_root`).

use qemu::{Board, Cpu, Machine, paths};

use crate::common::{PATIENCE, alone, logs};

on_both_cpus!(what_core_says_of_memory_is_what_the_guest_did);

fn what_core_says_of_memory_is_what_the_guest_did(cpu: Cpu) {
    let board = Board::new(cpu, paths::bare_root("memory_root"));
    let _alone = alone();
    let mut machine = Machine::start(&board, &logs()).expect("QEMU starts");
    machine
        .serial()
        .wait_for("SUMMARY", 0, PATIENCE)
        .expect("comes to its end");
    let status = machine.wait_for_end(PATIENCE).expect("root switches off");
    assert!(status.success());
    let log = machine.serial().text();
    let failed: Vec<&str> = log.lines().filter(|line| line.contains(" FAIL ")).collect();
    assert!(log.contains("failed=0"), "{}\n{log}", failed.join("\n"));
    // Keys, states, tracking, touching, lives: none was left out.
    let passed = log.lines().filter(|line| line.ends_with(" ok")).count();
    assert_eq!(passed, 18, "{log}");
}
