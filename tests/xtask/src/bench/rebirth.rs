//! What it takes to start root anew, and what a guest on root's core loses meanwhile.

use anyhow::{Context, Result};
use qemu::{Appliance, Cpu, paths, rebirth};
use serde_json::json;

use super::PATIENCE;
use crate::run;

/// Ends root beside a guest that has deadlines.
pub(super) fn measure(cpu: Cpu) -> Result<Vec<(String, u64)>> {
    let mut board = Appliance::board(cpu);
    board.counted = true;
    // Waiting for a DHCP server would count the time of this machine, not of the appliance.
    board.append = "ip=10.0.2.15/24,10.0.2.2".to_owned();
    let logs = paths::logs(&format!("bench-rebirth-{cpu}"));
    let mut skete = Appliance::start(board, &run::token()?, &logs, PATIENCE)?;
    let control = skete.control();
    rebirth::start_bare(&control, "sentinel")?;
    let lines = |wanted: usize| {
        let enough = |log: &str| log.matches(" sums ").count() >= wanted;
        control.wait_for_console_that("sentinel", PATIENCE, enough)
    };
    let before = lines(1)?.matches(" sums ").count();
    rebirth::end_root(&control, &json!({}))?;
    // The line in which it happened is whole by then.
    let log = lines(before + 2)?;
    let late = log.lines().skip(before).filter_map(|line| {
        let (_, worst) = line.split_once(" worst ")?;
        worst.split(' ').next()?.parse::<u64>().ok()
    });
    let late = late.max().context("the sentinel said nothing")?;
    let said = skete.machine().serial().text();
    let of = |before| number_after(&said, before);
    let insns = of("answering at ")?.saturating_sub(of("root ended at ")?);
    let results = [
        ("rebirth_insns", insns),
        ("rebirth_core_insns", of(", after ")?),
        ("rebirth_slice", of("the longest slice took ")?),
        ("rebirth_late", late),
    ];
    skete.shut_down()?;
    Ok(results
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect())
}

/// The number that follows the last `before` in what a machine said.
fn number_after(said: &str, before: &str) -> Result<u64> {
    let rest = said.rsplit_once(before).map(|(_, rest)| rest);
    let digits = rest.and_then(|rest| rest.split(' ').next());
    digits
        .and_then(|digits| digits.parse().ok())
        .with_context(|| format!("no number after {before:?} in\n{said}"))
}
