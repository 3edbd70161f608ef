//! A stock Linux with more vCPUs than there are cores builds something real, and it works.

use std::fs;

use qemu::{Cpu, Shell, paths};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::common::{MIB, PATIENCE, appliance};

on_both_cpus!(four_vcpus_on_two_cores_build_lua_and_it_computes_right);

/// Numbers that each Lua program sorts and sums.
const COUNT: u64 = 4000;

/// What `tests/xtask/guest/check.lua` has to print for a seed.
fn expected(seed: u64) -> String {
    let mut numbers = Vec::new();
    let mut x = seed;
    for _ in 0..COUNT {
        x = (x * 1_103_515_245 + 12_345) % (1 << 31);
        numbers.push(x);
    }
    numbers.sort_unstable();
    let lines: Vec<String> = numbers.iter().map(u64::to_string).collect();
    let digest = Sha256::digest(lines.join("\n"));
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{seed}\t{digest}")
}

fn four_vcpus_on_two_cores_build_lua_and_it_computes_right(cpu: Cpu) {
    let skete = appliance(cpu);
    let control = &skete.control;
    let read = |path| fs::read(path).expect("cargo xtask guest");
    let kernel = read(paths::guest_kernel());
    // Linux unpacks one archive after the other.
    let initrd = [read(paths::guest_initrd()), read(paths::guest_compiler())].concat();
    control.push("linux", "kernel", &kernel).expect("taken");
    control.push("compiler", "initrd", &initrd).expect("taken");
    let boot = json!({ "kernel": "linux", "initrd": "compiler", "cmdline": "console=ttyAMA0" });
    control
        .define("builder", 4, 512 * MIB, &boot)
        .expect("defined");
    control.start("builder").expect("starts");
    let mut shell = Shell::wait(control, "builder", PATIENCE).expect("boots");
    assert_eq!(shell.run("nproc", PATIENCE).expect("runs"), "4");

    // Twice, for what one build gets wrong another would get wrong differently.
    let mut build = |into: &str| {
        let line = format!("sh /src/build.sh {into} 4 2>&1");
        shell.run(&line, PATIENCE).expect("compiles")
    };
    let (first, second) = (build("/tmp/a"), build("/tmp/b"));
    assert!(first.ends_with("  -") && first.len() == 67, "{first}");
    assert_eq!(first, second);

    let run = "for n in 1 2 3 4; do /tmp/a/lua /src/check.lua $n 4000 >/tmp/$n 2>&1 & done; \
               wait; cat /tmp/1 /tmp/2 /tmp/3 /tmp/4";
    let printed = shell.run(run, PATIENCE).expect("runs what it built");
    let all: Vec<String> = (1..=4).map(expected).collect();
    assert_eq!(printed, all.join("\n"));
    let vm = control.get("/v1/vms/builder/cpu").expect("answers");
    for vcpu in vm["vcpus"].as_array().expect("a list") {
        assert!(vcpu["run_ns"].as_u64() > Some(1_000_000_000), "{vm}");
    }
    shell.power_off(PATIENCE).expect("ends as it wishes");
    skete.shut_down();
}
