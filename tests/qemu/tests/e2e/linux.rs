//! Debian's kernel, as a guest.

use std::fs;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use qemu::{Control, Cpu, Shell, paths};
use serde_json::json;

use crate::common::{MIB, PATIENCE, appliance, linux};

on_both_cpus!(
    boots_to_a_shell_with_one_vcpu,
    boots_to_a_shell_with_two_vcpus,
    two_guests_run_at_once,
    a_gzipped_kernel_boots,
    the_guests_clock_starts_from_the_machines,
    a_guest_that_reboots_boots_again,
);

/// Defines and starts a VM; returns its shell.
fn boot(control: &Control, vm: &str, cpus: u32, memory_bytes: u64) -> Shell {
    control
        .define(vm, cpus, memory_bytes, &linux())
        .expect("can be defined");
    control.start(vm).expect("starts");
    Shell::wait(control, vm, PATIENCE).expect("boots to a shell")
}

fn boots_to_a_shell_with_one_vcpu(cpu: Cpu) {
    boots_to_a_shell(cpu, 1);
}

fn boots_to_a_shell_with_two_vcpus(cpu: Cpu) {
    boots_to_a_shell(cpu, 2);
}

fn boots_to_a_shell(cpu: Cpu, cpus: u32) {
    let skete = appliance(cpu);
    skete.push_linux();
    let mut shell = boot(&skete.control, "one", cpus, 256 * MIB);
    shell.check(cpus, 256 * MIB).expect("is what was asked for");
    shell.power_off(PATIENCE).expect("PSCI SYSTEM_OFF ends it");
    let vm = skete.control.get("/v1/vms/one").expect("is still defined");
    let reason = vm.pointer("/status/reason").and_then(|r| r.as_str());
    assert_eq!(reason, Some("guest_poweroff"), "{vm}");
    skete.shut_down();
}

fn two_guests_run_at_once(cpu: Cpu) {
    let skete = appliance(cpu);
    skete.push_linux();
    let mut one = boot(&skete.control, "one", 1, 192 * MIB);
    let mut two = boot(&skete.control, "two", 2, 256 * MIB);
    let write = |word: &str| format!("echo {word} >/tmp/who; cat /tmp/who");
    assert_eq!(one.run(&write("first"), PATIENCE).expect("runs"), "first");
    assert_eq!(two.run(&write("second"), PATIENCE).expect("runs"), "second");
    assert_eq!(one.run("cat /tmp/who", PATIENCE).expect("runs"), "first");
    one.check(1, 192 * MIB).expect("beside the other");
    two.check(2, 256 * MIB).expect("beside the other");
    one.power_off(PATIENCE).expect("ends");
    let still = two.run("cat /tmp/who", PATIENCE);
    assert_eq!(still.expect("outlives the other"), "second");
    two.power_off(PATIENCE).expect("ends");
    skete.shut_down();
}

fn a_gzipped_kernel_boots(cpu: Cpu) {
    let skete = appliance(cpu);
    let kernel = fs::read(paths::guest_kernel()).expect("cargo xtask guest");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&kernel).expect("memory suffices");
    let small = gzip.finish().expect("memory suffices");
    let initrd = fs::read(paths::guest_initrd()).expect("cargo xtask guest");
    skete
        .control
        .push("small", "kernel", &small)
        .expect("taken");
    skete
        .control
        .push("busybox", "initrd", &initrd)
        .expect("taken");
    let boot = json!({ "kernel": "small", "initrd": "busybox", "cmdline": "console=ttyAMA0 rdinit=/bench" });
    skete
        .control
        .define("small", 1, 256 * MIB, &boot)
        .expect("can be defined");
    skete.control.start("small").expect("starts");
    skete
        .control
        .wait_for_console("small", "skete-guest: ready", PATIENCE)
        .expect("boots");
    skete
        .control
        .wait_for_state("small", "stopped", PATIENCE)
        .expect("powers itself off");
}

fn the_guests_clock_starts_from_the_machines(cpu: Cpu) {
    let skete = appliance(cpu);
    skete.push_linux();
    let mut shell = boot(&skete.control, "one", 1, 256 * MIB);
    let seconds = shell.run("date -u +%s", PATIENCE).expect("runs");
    let guest: u64 = seconds.trim().parse().expect("a number");
    let here = SystemTime::now().duration_since(UNIX_EPOCH);
    let here = here.expect("after 1970").as_secs();
    // Boot and shell take their time under emulation; a clock that was never set is decades off.
    assert!(guest.abs_diff(here) < 600, "guest {guest}, machine {here}");
    shell.power_off(PATIENCE).expect("ends");
    skete.shut_down();
}

/// `reboot` is PSCI SYSTEM_RESET, or SYSTEM_RESET2 where the kernel prefers it (`warm`).
fn a_guest_that_reboots_boots_again(cpu: Cpu) {
    const READY: &str = "skete-guest: ready";
    let skete = appliance(cpu);
    let control = &skete.control;
    skete.push_linux();
    let mut shell = boot(control, "again", 2, 192 * MIB);
    for (again, how) in [(2, "reboot=cold"), (3, "reboot=warm")] {
        shell
            .run("echo before >/tmp/who", PATIENCE)
            .expect("its RAM disk takes a file");
        let mode = how.trim_start_matches("reboot=");
        // The kernel says no when it was built without the choice; cold is its default.
        let choose = format!("echo {mode} >/sys/kernel/reboot/mode; cat /sys/kernel/reboot/mode");
        assert_eq!(shell.run(&choose, PATIENCE).expect("runs"), mode, "{how}");
        control
            .type_text("again", "reboot -f\n")
            .expect("can be typed");
        let boots = |log: &str| log.matches(READY).count() == again;
        control
            .wait_for_console_that("again", PATIENCE, boots)
            .expect("boots again");
        let vm = control.get("/v1/vms/again").expect("answers");
        let starts = vm.pointer("/status/starts").and_then(|n| n.as_u64());
        assert_eq!(starts, Some(again as u64), "{vm}");
        let left = shell.run("ls /tmp", PATIENCE).expect("runs");
        assert!(!left.contains("who"), "memory outlived the reset: {left}");
    }
    shell.check(2, 192 * MIB).expect("is a whole machine still");
    shell.power_off(PATIENCE).expect("ends");
    skete.shut_down();
}
