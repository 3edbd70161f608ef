//! What device memory by fault costs: a guest touches BARs of four sizes and takes their mappings
//! away again, by clearing COMMAND.MEM.

use std::fs;

use anyhow::{Context, Result, ensure};
use qemu::{Appliance, Cpu, number, paths};
use serde_json::{Value, json};

use super::PATIENCE;
use crate::run;

/// A BAR of each size of leaf: name, bytes of the BAR and of a leaf, and how often it is
/// touched and zapped as a whole.
const LEAVES: [(&str, u64, u64, usize); 4] = [
    ("1g", 2 << 30, 1 << 30, 8),
    ("2m", 512 << 20, 2 << 20, 4),
    ("64k", 1 << 20, 64 << 10, 8),
    ("4k", 32 << 10, 4 << 10, 8),
];
const GIB: u64 = 1 << 30;
/// Where the guest puts BARs.
const WINDOW: u64 = 0x80_0000_0000;

/// Measures on one core, root's rare turns included. Keys `dev_fault_…`, `dev_zap_gib_…` and
/// `dev_faults_per_gib`.
pub(super) fn measure(cpu: Cpu) -> Result<Vec<(String, u64)>> {
    let mut board = Appliance::board(cpu);
    board.counted = true;
    board.smp = 1;
    board.append = "ip=10.0.2.15/24,10.0.2.2".to_owned();
    for (n, (name, bytes, ..)) in LEAVES.iter().enumerate() {
        let words = [
            "-object".to_owned(),
            format!("memory-backend-ram,id=leaf{name},size={bytes}"),
            "-device".to_owned(),
            format!("ivshmem-plain,memdev=leaf{name},addr={}", n + 1),
        ];
        board.more.extend(words);
    }
    let logs = paths::logs(&format!("bench-device-{cpu}"));
    let skete = Appliance::start(board, &run::token()?, &logs, PATIENCE)?;
    let control = skete.control();
    control.push("device", "flat", &fs::read(paths::payload("device"))?)?;
    let mut results = Vec::new();
    for (n, leaf) in LEAVES.iter().enumerate() {
        let pci = format!("0000:00:{:02x}.0", n + 1);
        let vm = format!("vm{n}");
        let boot = json!({ "flat": "device", "cmdline": format!("script={}", script(leaf)) });
        let spec = json!({
            "cpus": 1, "memory_bytes": 64_u64 << 20, "boot": boot, "devices": [{ "pci": pci }],
        });
        control.json(&format!("PUT /v1/vms/{vm}"), &spec)?;
        control.start(&vm)?;
        let log = control.wait_for_console(&vm, "READY", PATIENCE)?;
        let now = control.get("/v1/devices")?;
        let list = now.get("devices").and_then(Value::as_array);
        let device = list
            .and_then(|list| list.get(n))
            .context("no such device")?;
        results.extend(read(leaf, &log, device)?);
        control.type_text(&vm, "off\n")?;
        control.wait_for_state(&vm, "stopped", PATIENCE)?;
    }
    skete.shut_down()?;
    Ok(results)
}

/// Places the BAR, and again and again switches memory on, touches every leaf, and switches it
/// off.
fn script(&(_, bytes, leaf, rounds): &(&str, u64, u64, usize)) -> String {
    let mut script = format!("cw+1+18+0;cw+1+1c+{:x}", WINDOW >> 32);
    for _ in 0..rounds {
        script.push_str(&format!(
            ";ch+1+4+2;bench+{WINDOW:x}+{bytes:x}+{leaf:x};store+1+4+0"
        ));
    }
    script
}

/// Reads the answers: the cheapest round counts, which root disturbed least.
fn read(
    &(name, bytes, leaf, rounds): &(&str, u64, u64, usize),
    log: &str,
    device: &Value,
) -> Result<Vec<(String, u64)>> {
    let cheapest = |command: &str| {
        let answers = log.lines().filter(|line| line.contains(command));
        let values = answers.filter_map(|line| {
            let (_, value) = line.split_once(" = ")?;
            u64::from_str_radix(value.trim(), 16).ok()
        });
        values
            .min()
            .with_context(|| format!("no answer to {command}"))
    };
    let faults = number(device, &["faults", &format!("mapped_{name}")])?;
    let touches = bytes / leaf * rounds as u64;
    ensure!(
        faults == touches,
        "{touches} touches mapped {faults} leaves of {name}: {device}"
    );
    let mut results = vec![(format!("dev_fault_{name}"), cheapest("bench+")?)];
    // What is fixed about a zap would be most of what a few pages cost, times 32,768.
    if leaf > 4096 {
        let zap = cheapest("store+")? * GIB / bytes;
        results.push((format!("dev_zap_gib_{name}"), zap));
    }
    if name == "1g" {
        let per_gib = faults * GIB / (bytes * rounds as u64);
        results.push(("dev_faults_per_gib".to_owned(), per_gib));
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheapest_round_counts_and_every_touch_must_have_mapped_a_leaf() {
        let leaf = ("64k", 1 << 20, 64 << 10, 2);
        let log = "bench+8000000000+100000+10000 = 7d0\r\nstore+1+4+0 = 100\r\n\
                   bench+8000000000+100000+10000 = 7d1\r\nstore+1+4+0 = 101\r\n";
        let device = |mapped: u64| json!({ "faults": { "mapped_64k": mapped } });
        let results = read(&leaf, log, &device(32)).expect("are there");
        let wanted = [("dev_fault_64k", 2000), ("dev_zap_gib_64k", 0x100 * 1024)];
        assert_eq!(results, wanted.map(|(key, value)| (key.to_owned(), value)));
        assert!(read(&leaf, log, &device(31)).is_err());
        assert!(read(&leaf, "", &device(32)).is_err());
    }
}
