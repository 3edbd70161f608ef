//! The guest on QEMU alone: what must work before the appliance can be blamed.

use std::time::Duration;

use qemu::{Board, Cpu, Machine, paths};

use crate::common::{alone, logs};

#[test]
fn the_guest_boots_to_a_shell_and_powers_off_without_skete() {
    let mut board = Board::new(Cpu::CortexA72, paths::guest_kernel());
    board.el2 = false;
    board.memory = "256M".to_owned();
    board.initrd = Some(paths::guest_initrd());
    board.append = "console=ttyAMA0".to_owned();
    let _alone = alone();
    let mut machine = Machine::start(&board, &logs()).expect("QEMU starts");
    let patience = Duration::from_secs(120);
    let ready = machine
        .serial()
        .wait_for("skete-guest: ready", 0, patience)
        .expect("boots");
    let prompt = machine.serial().wait_for("# ", ready, patience);
    let prompt = prompt.expect("a shell with a prompt");
    machine
        .type_text("echo cpus=$(nproc) machine=$(uname -m)\n")
        .expect("QEMU reads");
    machine
        .serial()
        .wait_for("cpus=2 machine=aarch64", prompt, patience)
        .expect("the shell answers");
    machine.type_text("poweroff -f\n").expect("QEMU reads");
    let status = machine.wait_for_end(patience).expect("PSCI SYSTEM_OFF");
    assert!(status.success());
}
