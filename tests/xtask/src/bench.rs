//! `cargo xtask bench`: what operations cost, in instructions.
//!
//! QEMU counts: under `-icount shift=0` virtual time advances by a nanosecond an instruction,
//! so that a counter read before and after tells how many there were, whatever this machine
//! is doing meanwhile. Time in which every CPU waits is skipped (`sleep=off`) and counts too.

mod device;
mod mutex;
mod rebirth;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use qemu::{Appliance, Board, Control, Cpu, Machine, number, paths};
use serde_json::{Map, Value, json};

use crate::{build, modules, run, setup};

/// What a result may be at most; no limit for what is only reported.
const KEYS: &[(&str, &str, Option<u64>)] = &[
    ("hypercall", "insns", Some(200)),
    ("gic_read", "insns", Some(300)),
    ("uart_read", "insns", Some(300)),
    ("unclaimed_read", "insns", Some(300)),
    ("sysreg_id_read", "insns", Some(300)),
    ("ipi", "insns", Some(1100)),
    ("lpi", "insns", Some(2000)),
    ("lpi_self", "insns", Some(2000)),
    ("timer_latency", "insns", Some(1000)),
    ("ready_insns", "insns", Some(40_000_000)),
    ("rebirth_insns", "insns", Some(60_000_000)),
    ("rebirth_core_insns", "insns", None),
    ("rebirth_slice", "insns", Some(250_000)),
    ("rebirth_late", "us", None),
    ("guest_boot_insns", "insns", None),
    ("guest_boot_untold_insns", "insns", None),
    ("guest_boot_ratio", "per mille", Some(1_005)),
    ("idle_bytes", "bytes", Some(64 << 20)),
    ("vm_bytes", "bytes", Some(256 << 10)),
    ("world_switch", "insns", Some(5_000)),
    ("lock_1x_plain", "ns", None),
    ("lock_1x_hint", "ns", None),
    ("lock_1x_ratio", "per mille", Some(1_010)),
    ("lock_2x_plain", "ns", None),
    ("lock_2x_hint", "ns", None),
    ("lock_2x_ratio", "per mille", Some(640)),
    ("lock_4x_plain", "ns", None),
    ("lock_4x_hint", "ns", None),
    ("lock_4x_ratio", "per mille", Some(640)),
    ("mutex_1x_plain", "ns", None),
    ("mutex_1x_hint", "ns", None),
    ("mutex_1x_ratio", "per mille", Some(1_010)),
    ("mutex_2x_plain", "ns", None),
    ("mutex_2x_hint", "ns", None),
    ("mutex_2x_ratio", "per mille", Some(900)),
    ("mutex_4x_plain", "ns", None),
    ("mutex_4x_hint", "ns", None),
    ("mutex_4x_ratio", "per mille", Some(900)),
    ("mem_populate_2m", "insns", None),
    ("mem_populate_2m_tlbi", "ops", Some(0)),
    ("mem_populate_4k", "insns", None),
    ("mem_populate_4k_tlbi", "ops", Some(0)),
    ("mem_touch", "insns", None),
    ("mem_write_after_sync", "insns", None),
    ("mem_write_after_sync_tlbi", "ops", Some(512)),
    ("mem_key_set", "insns", None),
    ("mem_key_set_tlbi", "ops", Some(1)),
    ("mem_split", "insns", None),
    ("mem_split_tlbi", "ops", None),
    ("mem_dirty_sync_gib_4k", "insns", None),
    ("mem_dirty_sync_gib_4k_tlbi", "ops", None),
    ("mem_dirty_sync_gib_2m", "insns", None),
    ("mem_dirty_sync_gib_2m_tlbi", "ops", None),
    ("mem_age_gib_4k", "insns", None),
    ("mem_age_gib_4k_tlbi", "ops", None),
    ("mem_age_gib_2m", "insns", None),
    ("mem_age_gib_2m_tlbi", "ops", None),
    ("dev_fault_1g", "insns", Some(4_000)),
    ("dev_fault_2m", "insns", Some(5_000)),
    ("dev_fault_64k", "insns", Some(4_000)),
    ("dev_fault_4k", "insns", Some(5_000)),
    ("dev_faults_per_gib", "faults", Some(2)),
    ("dev_zap_gib_1g", "insns", Some(10_000)),
    ("dev_zap_gib_2m", "insns", Some(500_000)),
    ("dev_zap_gib_64k", "insns", None),
    ("irq_late_populate", "insns", Some(20_000)),
    ("irq_late_copy", "insns", Some(20_000)),
    ("irq_late_share", "insns", Some(20_000)),
    ("irq_late_unshare", "insns", Some(20_000)),
    ("irq_late_keys", "insns", Some(20_000)),
    ("irq_late_states", "insns", Some(20_000)),
    ("irq_late_drain", "insns", Some(20_000)),
    ("irq_late_dirty", "insns", Some(20_000)),
    ("irq_late_age", "insns", Some(20_000)),
    ("irq_late_move", "insns", Some(20_000)),
    ("irq_late_zero", "insns", Some(20_000)),
    ("irq_late_drop", "insns", Some(20_000)),
    ("irq_late_destroy", "insns", Some(20_000)),
    ("irq_late_wipe", "insns", Some(20_000)),
    ("irq_late_load", "insns", Some(20_000)),
    ("irq_late_write", "insns", Some(20_000)),
    ("irq_late_grant", "insns", Some(20_000)),
    ("irq_late_release", "insns", Some(20_000)),
    ("irq_late_create", "insns", Some(120_000)),
];

/// A PCI function to give to a VM; what it does does not matter.
const DEVICE: &str = "0000:00:04.0";

/// Emulation without threads is slow.
const PATIENCE: Duration = Duration::from_secs(300);

/// One CPU model's results.
type Results = Map<String, Value>;

/// What is measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Exits, start, a stock Linux
    Appliance,
    /// What guests' memory costs
    Memory,
    /// Devices' memory
    Devices,
    /// Contended locks, and the switch from one VM to another
    Locks,
    /// Root's end and the next one's begin
    Rebirth,
    /// A contended mutex of a stock Linux
    Mutex,
}

impl Part {
    const ALL: [Self; 6] = [
        Self::Appliance,
        Self::Memory,
        Self::Devices,
        Self::Locks,
        Self::Rebirth,
        Self::Mutex,
    ];
}

/// Measures on every tested CPU model; fails when a limit is exceeded.
pub(crate) fn bench(json: bool, part: Option<Part>) -> Result<()> {
    setup::emulator()?;
    modules::build()?;
    build::appliance()?;
    build::guests()?;
    let mut all = Map::new();
    for cpu in Cpu::TESTED {
        eprintln!("bench: {cpu}");
        let mut results = Results::new();
        for one in Part::ALL {
            if part.is_none_or(|part| part == one) {
                let some = measure(cpu, one).with_context(|| format!("on {cpu}"))?;
                results.extend(some);
            }
        }
        all.insert(cpu.name().to_owned(), Value::Object(results));
    }
    let over = over(&all, part.is_none());
    if json {
        println!("{}", Value::Object(all));
    } else {
        print!("{}", table(&all, part.is_none()));
    }
    if over.is_empty() {
        return Ok(());
    }
    bail!("over the limit or missing: {}", over.join(", "))
}

fn measure(cpu: Cpu, part: Part) -> Result<Results> {
    let lines = match part {
        Part::Appliance => return appliance(cpu),
        Part::Memory => memory(cpu)?,
        Part::Devices => device::measure(cpu)?,
        Part::Rebirth => rebirth::measure(cpu)?,
        Part::Mutex => mutex::measure(cpu)?,
        Part::Locks => {
            let mut lines = vec![("world_switch".to_owned(), world_switch(cpu)?)];
            for times in [1, 2, 4] {
                lines.extend(lock(cpu, times)?);
            }
            lines
        }
    };
    Ok(lines.into_iter().map(|(key, n)| (key, json!(n))).collect())
}

/// Times that Linux boots, with stolen time and without.
const BOOTS: u32 = 3;

fn appliance(cpu: Cpu) -> Result<Results> {
    let mut board = Appliance::board(cpu);
    board.counted = true;
    // Waiting for a DHCP server would count the time of this machine, not of the appliance.
    board.append = "ip=10.0.2.15/24,10.0.2.2".to_owned();
    let device = ["-device", "edu,addr=4"].map(str::to_owned);
    board.more.extend(device);
    let logs = paths::logs(&format!("bench-{cpu}"));
    let mut skete = Appliance::start(board, &run::token()?, &logs, PATIENCE)?;
    let control = skete.control();
    let mut results = Results::new();
    let mut keep = |key: &str, value: u64| results.insert(key.to_owned(), json!(value));

    let facts = control.get("/v1")?;
    let ready = match number(&facts, &["ready_ns"]) {
        Ok(ready) => ready,
        Err(_) => ready_line(&skete.machine().serial().text())?,
    };
    keep("ready_insns", ready);
    let part = |key| number(&facts, &["machine", key]);
    keep(
        "idle_bytes",
        part("core_bytes")? + part("root_bytes")? + part("granted_bytes")?,
    );

    for (key, value) in operations(&control, "bench", &json!([]))? {
        keep(&key, value);
    }
    // A VM with a device has an ITS, and measures what comes through it.
    let device = json!([{ "pci": DEVICE }]);
    for (key, value) in operations(&control, "messages", &device)? {
        keep(&key, value);
    }
    control.push("linux", "kernel", &fs::read(paths::guest_kernel())?)?;
    control.push("busybox", "initrd", &fs::read(paths::guest_initrd())?)?;
    // Each time we ask how far it is, root has work: the quickest of some is the one that was
    // disturbed least.
    let (mut boot, mut untold, mut overhead) = (u64::MAX, u64::MAX, 0);
    for n in 0..BOOTS {
        let (insns, beyond) = linux(&control, &format!("told-{n}"), &[])?;
        (boot, overhead) = (boot.min(insns), beyond);
        let (insns, _) = linux(&control, &format!("untold-{n}"), &["stolen-time"])?;
        untold = untold.min(insns);
    }
    keep("guest_boot_insns", boot);
    keep("guest_boot_untold_insns", untold);
    keep(
        "guest_boot_ratio",
        (boot * 1000).checked_div(untold).unwrap_or(u64::MAX),
    );
    keep("vm_bytes", overhead);
    skete.shut_down()?;
    Ok(results)
}

/// What the root that tests memory measures (`tests/guests/memory_root`).
fn memory(cpu: Cpu) -> Result<Vec<(String, u64)>> {
    let mut board = Board::new(cpu, paths::bare_root("memory_root"));
    board.counted = true;
    board.smp = 1;
    board.append = "bench".to_owned();
    let logs = paths::logs(&format!("bench-memory-{cpu}"));
    let mut machine = Machine::start(&board, &logs)?;
    Ok(bench_lines(&machine.output(PATIENCE)?))
}

/// What a contended lock costs with `times` as many vCPUs as cores, without the preempt hint
/// and with it, and what the second is of the first (`tests/guests/lock`).
fn lock(cpu: Cpu, times: u32) -> Result<Vec<(String, u64)>> {
    let mut board = Board::new(cpu, paths::bare_root("direct"));
    board.counted = true;
    let vcpus = board.smp * times;
    board.append = format!("guest=lock vcpus={vcpus} mib=64");
    let logs = paths::logs(&format!("bench-lock-{times}x-{cpu}"));
    let mut machine = Machine::start(&board, &logs)?;
    lock_results(&machine.output(PATIENCE)?, times)
}

/// Instructions from the last of one VM to the first of another on the same core, its turn being
/// over (`tests/guests/turns`).
fn world_switch(cpu: Cpu) -> Result<u64> {
    let mut board = Board::new(cpu, paths::bare_root("direct"));
    board.counted = true;
    // Both on the second core: root has the first.
    board.append = "guest=turns vms=2 vcpus=1 mib=32 cores=2 nap=20000".to_owned();
    let logs = paths::logs(&format!("bench-turns-{cpu}"));
    let mut machine = Machine::start(&board, &logs)?;
    let log = machine.output(PATIENCE)?;
    switch_of(&log).with_context(|| format!("the guests saw no switch:\n{log}"))
}

/// The median distance between a turn's end in one VM and the next turn's begin in the other, in
/// nanoseconds: an instruction each.
fn switch_of(log: &str) -> Option<u64> {
    let turns = |vm: &str| -> Vec<(u64, u64)> {
        let lines = log.lines().filter_map(|line| line.trim().strip_prefix(vm));
        let words = lines.filter_map(|line| line.strip_prefix("TURN ")?.split_once(' '));
        words
            .filter_map(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)))
            .collect()
    };
    let (one, other) = (turns("vm0| "), turns("vm1| "));
    let mut switches: Vec<u64> = other
        .iter()
        .filter_map(|(first, _)| {
            let ends = one.iter().map(|(_, last)| *last);
            Some(first - ends.filter(|end| end < first).max()?)
        })
        .collect();
    switches.sort_unstable();
    switches.get(switches.len() / 2).copied()
}

fn lock_results(log: &str, times: u32) -> Result<Vec<(String, u64)>> {
    let lines = bench_lines(&log.replace("vm0| ", ""));
    let find = |wanted: &str| {
        let found = lines.iter().find(|(key, _)| key == wanted);
        found.map(|(_, value)| *value)
    };
    let (plain, hint) = find("lock_plain")
        .zip(find("lock_hint"))
        .filter(|_| log.contains("BENCH done"))
        .with_context(|| format!("the guest measured no lock:\n{log}"))?;
    let ratio = (hint * 1000).checked_div(plain).unwrap_or(u64::MAX);
    let key = |what| format!("lock_{times}x_{what}");
    Ok(vec![
        (key("plain"), plain),
        (key("hint"), hint),
        (key("ratio"), ratio),
    ])
}

/// What the bare-metal bench guest measures from within.
fn operations(control: &Control, name: &str, devices: &Value) -> Result<Vec<(String, u64)>> {
    let image = fs::read(paths::payload("bench"))?;
    control.push(name, "flat", &image)?;
    let spec = json!({
        "cpus": 2, "memory_bytes": 64 << 20, "boot": { "flat": name }, "devices": devices,
    });
    control.json(&format!("PUT /v1/vms/{name}"), &spec)?;
    control.start(name)?;
    let log = control.wait_for_console(name, "BENCH done", PATIENCE)?;
    control.wait_for_state(name, "stopped", PATIENCE)?;
    Ok(bench_lines(&log))
}

/// Boots Linux, from which some of what we offer guests is hidden, to a user space that switches
/// off at once. Returns the nanoseconds that its
/// vCPU ran, exits included, and what the VM took beyond its RAM.
fn linux(control: &Control, name: &str, hide: &[&str]) -> Result<(u64, u64)> {
    let boot = json!({
        "kernel": "linux", "initrd": "busybox",
        "cmdline": "console=ttyAMA0 rdinit=/bench",
    });
    let path = format!("/v1/vms/{name}");
    let definition = json!({
        "cpus": 1, "memory_bytes": 256 << 20, "boot": boot, "cpu": { "hide": hide },
    });
    control.json(&format!("PUT {path}"), &definition)?;
    control.start(name)?;
    let vm = control.get(&path)?;
    let overhead = number(&vm, &["status", "overhead_bytes"])?;
    control.wait_for_console(name, "skete-guest: ready", PATIENCE)?;
    control.wait_for_state(name, "stopped", PATIENCE)?;
    let vm = control.get(&path)?;
    Ok((number(&vm, &["status", "run_ns"])?, overhead))
}

/// The lines `BENCH <key> <number>` of a console.
fn bench_lines(log: &str) -> Vec<(String, u64)> {
    log.lines()
        .filter_map(|line| {
            let mut words = line.trim().strip_prefix("BENCH ")?.split(' ');
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        })
        .collect()
}

/// Root's own word for when it began to answer, in nanoseconds since reset.
fn ready_line(serial: &str) -> Result<u64> {
    serial
        .lines()
        .find_map(|line| {
            line.split_once("control port answering at ")?
                .1
                .split(' ')
                .next()
        })
        .and_then(|number| number.parse().ok())
        .context("the appliance did not say when its control port answered")
}

/// Results above their limit, and, when all was measured, those that have a limit and are missing.
fn over(all: &Map<String, Value>, whole: bool) -> Vec<String> {
    let mut over = Vec::new();
    for (cpu, results) in all {
        for &(key, _, limit) in KEYS {
            let value = results.get(key).and_then(Value::as_u64);
            if limit.is_some_and(|limit| value.map_or(whole, |value| value > limit)) {
                over.push(format!("{key} on {cpu}"));
            }
        }
    }
    over
}

fn table(all: &Map<String, Value>, whole: bool) -> String {
    let mut text = format!("{:<28}", "");
    for cpu in all.keys() {
        text.push_str(&format!("{cpu:>16}"));
    }
    text.push_str(&format!("{:>16}\n", "limit"));
    for &(key, unit, limit) in KEYS {
        text.push_str(&format!("{key:<28}"));
        for results in all.values() {
            let value = results.get(key).and_then(Value::as_u64);
            let mark = match (value, limit) {
                (Some(value), Some(limit)) if value <= limit => " ok",
                (None, Some(_)) if !whole => "   ",
                (_, Some(_)) => " NO",
                (_, None) => "   ",
            };
            let shown = value.map_or_else(|| "-".to_owned(), grouped);
            text.push_str(&format!("{shown:>13}{mark}"));
        }
        let limit = limit.map_or_else(|| "-".to_owned(), grouped);
        text.push_str(&format!("{limit:>16} {unit}\n"));
    }
    text
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_a_console() {
        let log = "# counter_hz 1\r\nBENCH hypercall 212\r\nBENCH done\r\nBENCH ipi 7\r\n";
        assert_eq!(
            bench_lines(log),
            [("hypercall".to_owned(), 212), ("ipi".to_owned(), 7)]
        );
        let line = "x\nskete: control port answering at 1234 ns\n";
        assert_eq!(ready_line(line).expect("is there"), 1234);
    }

    #[test]
    fn a_lock_s_results_are_compared() {
        let log = "vm0| BENCH lock_plain 2000\r\nvm0| BENCH lock_hint 1000\r\nvm0| BENCH done\r\n";
        let results = lock_results(log, 4).expect("are there");
        assert_eq!(results.last(), Some(&("lock_4x_ratio".to_owned(), 500)));
        let two_were_inside = log.replace("BENCH done", "FAIL");
        assert!(lock_results(&two_were_inside, 4).is_err());
    }

    #[test]
    fn a_switch_is_between_the_end_of_one_and_the_next_begin_of_the_other() {
        let log = "vm0| TURN 100 200\r\nvm0| TURN 420 500\nvm1| TURN 210 410\nvm1| TURN 530 600\n";
        assert_eq!(switch_of(log), Some(30));
        assert_eq!(switch_of("vm0| TURN 1 2\n"), None);
    }

    #[test]
    fn a_result_over_its_limit_or_missing_is_named() {
        let mut results = Map::new();
        for &(key, _, limit) in KEYS {
            results.insert(key.to_owned(), json!(limit.unwrap_or(9)));
        }
        let all = |results: &Map<String, Value>| {
            Map::from_iter([("max".to_owned(), Value::Object(results.clone()))])
        };
        assert!(over(&all(&results), true).is_empty());
        results.insert("ipi".to_owned(), json!(1101));
        results.remove("vm_bytes");
        let both = ["ipi on max", "vm_bytes on max"];
        assert_eq!(over(&all(&results), true), both);
        assert_eq!(over(&all(&results), false), both[..1]);
        assert!(table(&all(&results), true).contains("1,101 NO"));
    }
}
