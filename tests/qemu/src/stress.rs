//! Guests that wear core out, under the root `direct`, which runs nothing else.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::serial::last_lines;
use crate::{Board, Cpu, Machine, paths};

/// How a run ended that found nothing wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it should; what it said of it.
    Passed(String),
    /// It could not be done here, and why. Not the same as having passed.
    Skipped(String),
}

/// How often a run that takes long says how far it is.
const TELL: Duration = Duration::from_secs(30);

/// What core may keep at hand for the next VM: pages for tables.
const KEPT_BYTES: u64 = 64 << 10;

/// How much less memory is free after the last round than before the first.
fn lost_bytes(log: &str) -> Option<u64> {
    let hex = |text: &str| u64::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok();
    let last = log
        .lines()
        .rev()
        .find_map(|line| line.split_once(" free_bytes "))?;
    let (before, after) = last.1.split_once(" then ")?;
    Some(hex(before)?.saturating_sub(hex(after)?))
}

/// Starts `direct` with a guest on `smp` cores; returns what it printed until it switched off.
fn direct(cpu: Cpu, smp: u32, orders: &str, logs: &Path, patience: Duration) -> Result<String> {
    let mut board = Board::new(cpu, paths::bare_root("direct"));
    board.smp = smp;
    board.append = orders.to_owned();
    let mut machine = Machine::start(&board, logs)?;
    machine.keep_logs();
    let (begin, mut told) = (Instant::now(), Instant::now());
    while machine.runs() && begin.elapsed() < patience {
        std::thread::sleep(Duration::from_millis(100));
        if told.elapsed() >= TELL {
            told = Instant::now();
            let (seconds, text) = (begin.elapsed().as_secs(), machine.serial().text());
            let last = text.lines().next_back().unwrap_or("nothing yet");
            eprintln!("stress: {cpu}: {seconds} s; the machine's last line: {last}");
        }
    }
    let log = machine.output(patience.saturating_sub(begin.elapsed()))?;
    if let Some(wrong) = log.lines().find(|line| line.contains("FAIL")) {
        bail!("{wrong}; all that was printed is in {}", logs.display());
    }
    Ok(log)
}

/// Rows D02 and D03: moves a running vCPU from core to core until it has found itself on
/// another `moves` times, and checks each time that all of it came along. `sane`: fails if it
/// looked less than half as often.
pub fn migrations(
    cpu: Cpu,
    smp: u32,
    moves: u32,
    sane: bool,
    logs: &Path,
    patience: Duration,
) -> Result<Outcome> {
    let sanity = u8::from(sane);
    let orders = format!("guest=migrate pin=1 args=moves={moves},sanity={sanity}");
    let log = direct(cpu, smp, &orders, logs, patience)?;
    if let Some(why) = log.lines().find_map(|line| line.strip_prefix("SKIP ")) {
        return Ok(Outcome::Skipped(why.trim().to_owned()));
    }
    ensure!(
        log.contains("MIGRATED ok"),
        "the guest did not come to its end:\n{}",
        last_lines(log.as_bytes(), 20)
    );
    let facts = log.lines().find(|line| line.contains("# moves "));
    Ok(Outcome::Passed(facts.unwrap_or("").trim().to_owned()))
}

/// Two VMs with two vCPUs each on one core write their registers and look again, `rounds` times in
/// each test (C3, C4). Fails if vCPUs were put on the core fewer than `switches` times.
pub fn registers(
    cpu: Cpu,
    rounds: u32,
    switches: u64,
    logs: &Path,
    patience: Duration,
) -> Result<Outcome> {
    let orders = format!("guest=conformance vms=2 vcpus=2 mib=64 args=rounds={rounds}");
    let log = direct(cpu, 1, &orders, logs, patience)?;
    ensure!(
        log.matches("failed=0").count() == 2,
        "not both came to their end:\n{}",
        last_lines(log.as_bytes(), 20)
    );
    let of = |line: &str| line.split_once(" switches ")?.1.trim().parse::<u64>().ok();
    let seen: u64 = log.lines().filter_map(of).sum();
    ensure!(
        seen >= switches,
        "only {seen} switches, {switches} are wanted: more rounds"
    );
    Ok(Outcome::Passed(format!(
        "{rounds} rounds, {seen} switches between vCPUs"
    )))
}

/// Four vCPUs on two cores switch one another on and off `rounds` times, and end their VM all at
/// once in each of `lives` (S6).
pub fn power(
    cpu: Cpu,
    rounds: u32,
    lives: u32,
    logs: &Path,
    patience: Duration,
) -> Result<Outcome> {
    let orders = format!("guest=conformance vcpus=4 mib=64 args=psci={rounds}");
    let log = direct(cpu, 2, &orders, logs, patience)?;
    ensure!(
        log.contains("failed=0"),
        "the guest did not come to its end:\n{}",
        last_lines(log.as_bytes(), 20)
    );
    let orders = format!("guest=conformance vcpus=4 mib=16 repeat={lives} args=only=nothing,end=1");
    let log = direct(cpu, 2, &orders, logs, patience)?;
    let ended = |how: &str| log.matches(&format!("DIRECT vm0 Some({how}) ")).count();
    let (off, reset) = (ended("Off"), ended("Reset"));
    ensure!(
        off + reset == usize::try_from(lives)?,
        "of {lives} lives {off} ended by SYSTEM_OFF and {reset} by SYSTEM_RESET:\n{}",
        last_lines(log.as_bytes(), 20)
    );
    let lost = lost_bytes(&log).context("the root says nothing of its memory")?;
    ensure!(
        lost <= KEPT_BYTES,
        "{lost} bytes are lost after {lives} lives"
    );
    Ok(Outcome::Passed(format!(
        "{rounds} rounds in which each of three was switched on, and as many in which one was by three; \
         {off} VMs switched off and {reset} reset by all their vCPUs at once"
    )))
}

/// Runs a guest with four vCPUs on two cores `runs` times, one after the other: timer
/// interrupts at odd times on all of them, each to come once, none early, none lost.
pub fn timers(cpu: Cpu, runs: u32, seed: u32, logs: &Path, patience: Duration) -> Result<Outcome> {
    let orders = format!("guest=timers vcpus=4 repeat={runs} args=n=100,seed={seed}");
    let log = direct(cpu, 2, &orders, logs, patience)?;
    let passed = log
        .lines()
        .filter(|line| line.contains("TIMERS ok"))
        .count();
    ensure!(
        passed == usize::try_from(runs)?,
        "{passed} of {runs} runs passed; the last lines were\n{}",
        last_lines(log.as_bytes(), 20)
    );
    let latest = log
        .lines()
        .filter_map(|line| {
            line.split_once("latest ")?
                .1
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
        .max()
        .unwrap_or(0_u64);
    Ok(Outcome::Passed(format!(
        "{passed} of {runs} runs, the latest interrupt after {latest} us"
    )))
}
