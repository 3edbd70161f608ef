//! Two VMs on one core: what each finds in its registers is its own, whatever the other does.
//!
//! `tests/guests/direct` is root and runs `conformance` in both, with two vCPUs each. C3 to C6.

use qemu::{Board, Cpu, Machine, paths};

use crate::common::{PATIENCE, alone, logs};

on_both_cpus!(what_a_guest_finds_is_its_own_beside_another,);

fn what_a_guest_finds_is_its_own_beside_another(cpu: Cpu) {
    let _alone = alone();
    let mut board = Board::new(cpu, paths::bare_root("direct"));
    board.smp = 1;
    board.append =
        "guest=conformance vms=2 vcpus=2 mib=64 serror=3 args=rounds=200,serror=1".to_owned();
    let mut machine = Machine::start(&board, &logs()).expect("QEMU starts");
    let log = machine.output(PATIENCE * 3).expect("root switches off");
    let failed: Vec<&str> = log.lines().filter(|line| line.contains(" FAIL ")).collect();
    let whole = log.matches("failed=0").count();
    assert_eq!(whole, 2, "{}\n{log}", failed.join("\n"));
    // The guests were there together: each lost the core to the other.
    assert!(log.contains("vm0| SUMMARY") && log.contains("vm1| SUMMARY"));
}
