//! A stock Linux that is given the preempt hint by a module (`guest-abi/linux`): who waits for a
//! mutex whose owner has lost its core sleeps, and the mutex stays one.

use std::fs;

use qemu::{Control, Cpu, Shell, paths};
use serde_json::json;

use crate::common::{MIB, PATIENCE, appliance};

on_both_cpus!(
    c08_a_stock_linux_uses_the_hint_by_a_module,
    c05_the_module_finds_no_hint_where_it_is_hidden,
);

/// Loads a module; what the kernel said meanwhile is in the result.
fn insmod(shell: &mut Shell, module: &str) -> String {
    let line = format!("dmesg -c >/dev/null; insmod /modules/{module} 2>&1; dmesg");
    shell.run(&line, PATIENCE).expect("answers")
}

/// What the bench says of one run of its own: acquisitions.
fn acquisitions(shell: &mut Shell) -> u64 {
    let said = insmod(shell, "lock_bench.ko ms=2000");
    assert!(said.contains(", wrong 0"), "{said}");
    let number = said
        .split_once("LOCK ")
        .and_then(|(_, rest)| rest.split(' ').next());
    let number = number.and_then(|number| number.parse().ok());
    shell.run("rmmod lock_bench", PATIENCE).expect("goes");
    number.unwrap_or_else(|| panic!("no result: {said}"))
}

/// Starts a Linux with four vCPUs and modules.
fn linux(control: &Control, hide: &[&str]) -> Shell {
    let read = |path| fs::read(path).expect("cargo xtask guest");
    let initrd = [read(paths::guest_initrd()), read(paths::guest_modules())].concat();
    let kernel = read(paths::guest_kernel());
    control.push("linux", "kernel", &kernel).expect("taken");
    control.push("modules", "initrd", &initrd).expect("taken");
    let boot = json!({ "kernel": "linux", "initrd": "modules", "cmdline": "console=ttyAMA0" });
    let definition = json!({
        "cpus": 4, "memory_bytes": 512 * MIB, "boot": boot, "cpu": { "hide": hide },
    });
    control
        .json("PUT /v1/vms/linux", &definition)
        .expect("defined");
    control.start("linux").expect("starts");
    Shell::wait(control, "linux", PATIENCE).expect("boots")
}

fn c08_a_stock_linux_uses_the_hint_by_a_module(cpu: Cpu) {
    let skete = appliance(cpu);
    let mut shell = linux(&skete.control, &[]);
    let without = acquisitions(&mut shell);
    let said = insmod(&mut shell, "skete_hint.ko");
    assert!(
        said.contains("mutexes of 4 CPUs use Skete's preempt hint"),
        "{said}"
    );
    let with = acquisitions(&mut shell);
    let slept = "cat /sys/module/skete_hint/parameters/slept";
    let slept = shell.run(slept, PATIENCE).expect("can be read");
    assert!(
        slept.trim().parse::<u64>().is_ok_and(|n| n > 0),
        "nobody slept: {slept:?}"
    );
    shell.run("rmmod skete_hint", PATIENCE).expect("goes");
    let after = acquisitions(&mut shell);
    eprintln!(
        "{cpu}: in two seconds {without} acquisitions, {with} with the hint ({slept} slept), {after} after"
    );
    shell.power_off(PATIENCE).expect("ends as it wishes");
    skete.shut_down();
}

fn c05_the_module_finds_no_hint_where_it_is_hidden(cpu: Cpu) {
    let skete = appliance(cpu);
    let mut shell = linux(&skete.control, &["preempt-hint"]);
    let said = insmod(&mut shell, "skete_hint.ko");
    assert!(
        said.contains("this VM is not given preempt hints"),
        "{said}"
    );
    let modules = shell.run("cat /proc/modules", PATIENCE).expect("answers");
    assert!(!modules.contains("skete_hint"), "{modules}");
    shell.power_off(PATIENCE).expect("ends as it wishes");
    skete.shut_down();
}
