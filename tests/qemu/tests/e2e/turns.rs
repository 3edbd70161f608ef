//! Many vCPUs, few cores: what guests are told of their turns, and what they get.

use guest_abi::core_call::{VM_NO_CORE_NUMBER, VM_NO_PREEMPT_HINT, VM_NO_PV_TIME, VM_NO_YIELD_TO};
use qemu::{Appliance, Board, Cpu, Machine, Shell, paths};

use crate::common::{MIB, PATIENCE, Running, appliance_on, linux, logs};

on_both_cpus!(
    c01_nothing_is_stolen_from_an_idle_linux,
    c03_linux_sees_the_time_that_another_guest_took,
    three_busy_guests_have_two_thirds_of_a_core_each,
    what_a_guest_is_told_of_its_turns_is_so,
);

/// A board with this many cores.
fn board(cpu: Cpu, smp: u32) -> Board {
    let mut board = Appliance::board(cpu);
    board.smp = smp;
    board
}

fn boot(skete: &Running, vm: &str, cpus: u32) -> Shell {
    skete
        .control
        .define(vm, cpus, 192 * MIB, &linux())
        .expect("can be defined");
    skete.control.start(vm).expect("starts");
    Shell::wait(&skete.control, vm, PATIENCE).expect("boots to a shell")
}

/// The first line of /proc/stat: all time there was, and of it what was stolen.
fn stat(shell: &mut Shell) -> (u64, u64) {
    let line = shell.run("head -1 /proc/stat", PATIENCE).expect("runs");
    let fields: Vec<u64> = line
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    (fields.iter().take(8).sum(), fields[7])
}

/// Per cent of the time between two looks that was stolen.
fn stolen((total, steal): (u64, u64), (later_total, later_steal): (u64, u64)) -> u64 {
    (later_steal - steal) * 100 / (later_total - total).max(1)
}

/// Busy for some seconds of its own time, in the shell alone.
const BURN: &str = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; echo done";

fn c01_nothing_is_stolen_from_an_idle_linux(cpu: Cpu) {
    // Root has the first core, the guest the second.
    let skete = appliance_on(board(cpu, 2));
    skete.push_linux();
    let mut one = boot(&skete, "one", 1);
    let said = one.run("dmesg | grep -c 'using stolen time PV'", PATIENCE);
    assert_eq!(said.expect("runs"), "1");

    let before = stat(&mut one);
    one.run("sleep 5", PATIENCE).expect("runs");
    let idle = stolen(before, stat(&mut one));
    assert!(idle < 1, "{idle} % stolen from an idle guest");

    skete.shut_down();
}

fn c03_linux_sees_the_time_that_another_guest_took(cpu: Cpu) {
    let mut board = board(cpu, 1);
    // In real time root, which answers this test, needs the more of the core the slower the
    // machine is that all this runs on.
    board.counted = true;
    let skete = appliance_on(board);
    skete.push_linux();
    let mut one = boot(&skete, "one", 1);
    let mut two = boot(&skete, "two", 1);
    two.run("while :; do :; done >/dev/null 2>&1 & echo busy", PATIENCE)
        .expect("runs");
    let before = stat(&mut one);
    one.run(BURN, PATIENCE).expect("runs");
    let busy = stolen(before, stat(&mut one));
    assert!((40..=60).contains(&busy), "{busy} % stolen, not half");
    skete.shut_down();
}

/// Runs a guest under the root `direct`, counted and on `smp` cores; returns what it printed.
fn direct(cpu: Cpu, smp: u32, words: &str) -> String {
    let mut board = Board::new(cpu, paths::bare_root("direct"));
    board.counted = true;
    board.smp = smp;
    board.append = words.to_owned();
    let mut machine = Machine::start(&board, &logs()).expect("QEMU starts");
    machine.output(PATIENCE * 3).expect("root switches off")
}

/// C02 to C08 as a guest sees them, with everything and with some of it withheld.
fn what_a_guest_is_told_of_its_turns_is_so(cpu: Cpu) {
    for (flags, masked) in [
        (0, "none"),
        (VM_NO_PREEMPT_HINT, "hint"),
        (VM_NO_PV_TIME, "time"),
        (VM_NO_YIELD_TO, "yield"),
        (VM_NO_CORE_NUMBER, "core"),
    ] {
        // All on the second core, whose number is not zero. Root sleeps longer than turns last.
        let words = format!(
            "guest=paravirt vcpus=3 mib=64 nap=20000 cores=2 flags={flags} args=core=1,masked={masked}"
        );
        let log = direct(cpu, 2, &words);
        assert!(log.contains("SUMMARY passed=9 failed=0"), "{log}");
    }
}

fn three_busy_guests_have_two_thirds_of_a_core_each(cpu: Cpu) {
    let log = direct(cpu, 2, "guest=lock vms=3 vcpus=1 mib=64");
    // Each is busy for as long as the others, by the clock.
    let ran: Vec<u64> = log
        .lines()
        .filter_map(|line| line.split_once(" run_ns ")?.1.trim().parse().ok())
        .collect();
    assert_eq!(ran.len(), 3, "{log}");
    let mean = ran.iter().sum::<u64>() / 3;
    for each in &ran {
        assert!(each.abs_diff(mean) * 20 < mean, "{ran:?}");
    }
}
