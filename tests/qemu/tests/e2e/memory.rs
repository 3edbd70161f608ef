//! Guests' memory under roots that do nothing else: one tests core's calls one by one
//! (`tests/guests/memory_root`), one takes Linux's memory apart while it works
//! (`tests/guests/linux_root`).

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use qemu::{Board, Cpu, Machine, paths};
use serde_json::json;

use crate::common::{PATIENCE, alone, logs};

on_both_cpus!(
    what_core_says_of_memory_is_what_the_guest_did,
    clones_share_frames_and_a_vm_migrates_under_load,
    m4_no_read_finds_what_another_vm_wrote,
    b30_what_guests_can_do_without_is_there_for_others,
    b40_nothing_is_left_of_a_vm_that_is_wiped,
    linux_under_load_survives_random_reclaim,
);

/// Runs a root to its end; returns what it printed.
fn run(cpu: Cpu, root: &str, cpus: u32) -> String {
    let mut board = Board::new(cpu, paths::bare_root(root));
    board.smp = cpus;
    let mut machine = Machine::start(&board, &logs()).expect("QEMU starts");
    machine.output(PATIENCE * 3).expect("root switches off")
}

fn what_core_says_of_memory_is_what_the_guest_did(cpu: Cpu) {
    let _alone = alone();
    let log = run(cpu, "memory_root", 2);
    let failed: Vec<&str> = log.lines().filter(|line| line.contains(" FAIL ")).collect();
    assert!(log.contains("failed=0"), "{}\n{log}", failed.join("\n"));
    // Keys, states, tracking, touching, lives: none was left out.
    let passed = log.lines().filter(|line| line.ends_with(" ok")).count();
    assert_eq!(passed, 20, "{log}");
}

fn linux_under_load_survives_random_reclaim(cpu: Cpu) {
    let _alone = alone();
    let log = run(cpu, "linux_root", 3);
    assert!(log.contains("LINUX ok same 24 wrong 0"), "{log}");
}

/// Runs tests of their own, which `argument` chooses, and expects that all of `tests` pass.
fn chosen(cpu: Cpu, argument: &str, tests: usize, (smp, memory): (u32, &str)) {
    let _alone = alone();
    let mut board = Board::new(cpu, paths::bare_root("memory_root"));
    (board.smp, board.memory) = (smp, memory.to_owned());
    board.append = argument.to_owned();
    let mut machine = Machine::start(&board, &logs()).expect("QEMU starts");
    let log = machine.output(PATIENCE).expect("root switches off");
    let all = format!("SUMMARY passed={tests} failed=0");
    assert!(log.contains(&all), "{log}");
}

fn clones_share_frames_and_a_vm_migrates_under_load(cpu: Cpu) {
    chosen(cpu, "sharing", 4, (2, "1G"));
}

fn b30_what_guests_can_do_without_is_there_for_others(cpu: Cpu) {
    chosen(cpu, "crowded", 1, (2, "512M"));
}

fn m4_no_read_finds_what_another_vm_wrote(cpu: Cpu) {
    chosen(cpu, "readers", 1, (4, "2G"));
}

/// The words that the guest hides, by their formula in `tests/guests/memory/orders.rs`.
fn secrets(words: u64) -> HashSet<u64> {
    let secret = |n: u64| {
        let mut x = (0x5eed ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x ^= x >> 31;
        x.wrapping_mul(0xd6e8_feb8_6659_fd93) & !0xffff | 0xa53c
    };
    (0..words).map(secret).collect()
}

/// Counts words of the set in all of the machine's RAM, which stands still meanwhile.
fn count(machine: &mut Machine, bytes: u64, secrets: &HashSet<u64>, file: &Path) -> usize {
    let qmp = machine.qmp();
    qmp.run("stop", json!({})).expect("stops");
    let save = json!({ "val": 0x4000_0000_u64, "size": bytes, "filename": file });
    qmp.run("pmemsave", save).expect("writes RAM to a file");
    let mut ram = BufReader::with_capacity(1 << 20, File::open(file).expect("was written"));
    let mut chunk = vec![0; 1 << 20];
    let mut found = 0;
    for _ in 0..bytes >> 20 {
        ram.read_exact(&mut chunk).expect("all of it");
        let words = chunk.chunks_exact(8);
        let words = words.map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")));
        found += words
            .filter(|word| word & 0xffff == 0xa53c && secrets.contains(word))
            .count();
    }
    std::fs::remove_file(file).expect("was there");
    // Only now: it would be through with what comes next before this is.
    machine.qmp().run("cont", json!({})).expect("goes on");
    found
}

fn b40_nothing_is_left_of_a_vm_that_is_wiped(cpu: Cpu) {
    const RAM: u64 = 512 << 20;
    let _alone = alone();
    let mut board = Board::new(cpu, paths::bare_root("memory_root"));
    board.memory = "512M".to_owned();
    board.append = "wiped".to_owned();
    let logs = logs();
    // Before the machine starts, which does not wait while this takes its seconds.
    let (secrets, file) = (secrets(40 << 17), logs.join("ram"));
    let mut machine = Machine::start(&board, &logs).expect("QEMU starts");
    let mut found = [0; 2];
    for (found, line) in found.iter_mut().zip(["WIPE there", "WIPE gone"]) {
        machine
            .serial()
            .wait_for(line, 0, PATIENCE)
            .expect("says so");
        *found = count(&mut machine, RAM, &secrets, &file);
    }
    let log = machine.output(PATIENCE).expect("root switches off");
    assert!(log.contains("passed=1 failed=0"), "{log}");
    // 40 MiB less what it dropped: found while it is there, and not once it is gone.
    assert!(found[0] > 36 << 17, "{found:?}");
    assert_eq!(found[1], 0, "{found:?}");
}
