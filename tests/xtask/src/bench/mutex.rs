//! What a contended mutex of a stock Linux takes, without the preempt hint and with it.

use std::fs;

use anyhow::{Context, Result, ensure};
use qemu::{Appliance, Cpu, paths};
use serde_json::json;

use super::PATIENCE;
use crate::run;

/// Milliseconds of each measurement: two hundred turns.
const MS: u32 = 1000;

/// Measures with as many vCPUs as cores, with twice and with four times as many.
pub(super) fn measure(cpu: Cpu) -> Result<Vec<(String, u64)>> {
    let mut board = Appliance::board(cpu);
    board.counted = true;
    board.append = "ip=10.0.2.15/24,10.0.2.2".to_owned();
    let cores = board.smp;
    let logs = paths::logs(&format!("bench-mutex-{cpu}"));
    let skete = Appliance::start(board, &run::token()?, &logs, PATIENCE)?;
    let control = skete.control();
    let initrd = [
        fs::read(paths::guest_initrd())?,
        fs::read(paths::guest_modules())?,
    ]
    .concat();
    control.push("linux", "kernel", &fs::read(paths::guest_kernel())?)?;
    control.push("modules", "initrd", &initrd)?;
    let mut lines = Vec::new();
    for times in [1, 2, 4] {
        let vm = format!("mutex-{times}x");
        let boot = json!({
            "kernel": "linux", "initrd": "modules",
            "cmdline": format!("console=ttyAMA0 rdinit=/hint ms={MS}"),
        });
        control.define(&vm, cores * times, 256 << 20, &boot)?;
        control.start(&vm)?;
        let log = control.wait_for_console(&vm, "skete-guest: ready", PATIENCE)?;
        control.wait_for_state(&vm, "stopped", PATIENCE)?;
        let results: Vec<u64> = log.lines().filter_map(per_acquisition).collect();
        let &[plain, hint] = results.as_slice() else {
            anyhow::bail!("the guest measured {} mutexes:\n{log}", results.len());
        };
        ensure!(
            log.contains("use Skete's preempt hint"),
            "without the hint:\n{log}"
        );
        let ratio = (hint * 1000)
            .checked_div(plain)
            .context("it took no time")?;
        for (what, n) in [("plain", plain), ("hint", hint), ("ratio", ratio)] {
            lines.push((format!("mutex_{times}x_{what}"), n));
        }
    }
    skete.shut_down()?;
    Ok(lines)
}

/// Nanoseconds an acquisition, from `LOCK <acquisitions> in <ns> ns, wrong 0`.
fn per_acquisition(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("LOCK ")?;
    let (acquired, rest) = rest.split_once(" in ")?;
    let (ns, wrong) = rest.split_once(" ns, wrong ")?;
    (wrong.trim() == "0").then_some(())?;
    ns.parse::<u64>().ok()?.checked_div(acquired.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_time_by_acquisitions_and_none_if_the_mutex_was_none() {
        let line = "[    1.2] lock_bench: LOCK 250 in 1000000 ns, wrong 0\r";
        assert_eq!(per_acquisition(line), Some(4_000));
        assert_eq!(per_acquisition(&line.replace("wrong 0", "wrong 3")), None);
    }
}
