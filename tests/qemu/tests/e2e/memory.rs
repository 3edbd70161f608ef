//! Guests' memory under roots that do nothing else: one tests core's calls one by one
//! (`tests/guests/memory_root`), one takes Linux's memory apart while it works
//! (`tests/guests/linux_root`).

use qemu::{Board, Cpu, Machine, paths};

use crate::common::{PATIENCE, alone, logs};

on_both_cpus!(
    what_core_says_of_memory_is_what_the_guest_did,
    linux_under_load_survives_random_reclaim,
);

/// Runs a root to its end; returns what it printed.
fn run(cpu: Cpu, root: &str, cpus: u32, end: &str) -> String {
    let mut board = Board::new(cpu, paths::bare_root(root));
    board.smp = cpus;
    let mut machine = Machine::start(&board, &logs()).expect("QEMU starts");
    machine
        .serial()
        .wait_for(end, 0, PATIENCE * 2)
        .expect("comes to its end");
    let status = machine.wait_for_end(PATIENCE).expect("root switches off");
    assert!(status.success());
    machine.serial().text()
}

fn what_core_says_of_memory_is_what_the_guest_did(cpu: Cpu) {
    let _alone = alone();
    let log = run(cpu, "memory_root", 2, "SUMMARY");
    let failed: Vec<&str> = log.lines().filter(|line| line.contains(" FAIL ")).collect();
    assert!(log.contains("failed=0"), "{}\n{log}", failed.join("\n"));
    // Keys, states, tracking, touching, lives: none was left out.
    let passed = log.lines().filter(|line| line.ends_with(" ok")).count();
    assert_eq!(passed, 20, "{log}");
}

fn linux_under_load_survives_random_reclaim(cpu: Cpu) {
    let _alone = alone();
    let log = run(cpu, "linux_root", 3, "LINUX ");
    assert!(log.contains("LINUX ok same 24 wrong 0"), "{log}");
}
