//! `cargo xtask demo`: from nothing to a Linux shell in a VM of Skete's.

mod device;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use qemu::{Appliance, Control, Shell, paths};

use crate::shell::{command, run};
use crate::{MachineArgs, build, guest, run as runs, setup};

/// The VM's name, and those of its images.
const VM: &str = "demo";
const KERNEL: &str = "linux";
const INITRD: &str = "busybox";

/// What emulation may need on a slow, busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs the demo: attached to this terminal, or checking by itself.
///
/// With `device`, the guest gets a drive of the machine's, and uses it before either.
pub(crate) fn demo(machine: &MachineArgs, check: bool, device: bool) -> Result<()> {
    setup::emulator()?;
    guest::fetch()?;
    build::appliance()?;
    let client = build::client()?;

    let MachineArgs { cpu, smp, memory } = machine;
    say(&format!(
        "starting Skete in QEMU: {cpu}, {smp} CPUs, {memory}"
    ));
    let mut board = machine.board();
    let drive = device
        .then(|| device::Drive::add_to(&mut board))
        .transpose()?;
    let begin = Instant::now();
    let logs = paths::logs("demo");
    let skete = Appliance::start(board, &runs::token()?, &logs, PATIENCE)?;
    let seconds = begin.elapsed().as_secs_f32();
    say(&format!("{} answers after {seconds:.1} s", skete.url()));

    let skete_cli = |line: &[&str]| {
        println!("$ skete {}", line.join(" "));
        run(command(&client.to_string_lossy(), line)
            .env("SKETE_URL", skete.url())
            .env("SKETE_TOKEN", skete.token()))
    };
    let guest_bytes = guest_memory(memory)?;
    let guest_memory = format!("{}M", guest_bytes >> 20);
    let kernel = relative(&paths::guest_kernel());
    let initrd = relative(&paths::guest_initrd());
    skete_cli(&["image", "push", &kernel, "--name", KERNEL])?;
    skete_cli(&["image", "push", &initrd, "--name", INITRD])?;
    skete_cli(&[
        "vm",
        "create",
        VM,
        "--cpus",
        "2",
        "--memory",
        &guest_memory,
        "--kernel",
        KERNEL,
        "--initrd",
        INITRD,
        "--cmdline",
        "console=ttyAMA0",
    ])?;
    if drive.is_some() {
        skete_cli(&["device", "ls"])?;
        skete_cli(&["device", "attach", VM, device::PCI, "--profile", "nvme"])?;
    }
    skete_cli(&["vm", "start", VM])?;
    let control = skete.control();
    if let Some(drive) = &drive {
        let mut shell = prompt(&control)?;
        device::show(&control, &mut shell, drive)?;
        skete_cli(&["device", "show", device::PCI])?;
        skete_cli(&["device", "touches", device::PCI])?;
        if check {
            power_off(shell)?;
        }
    } else if check {
        let mut shell = prompt(&control)?;
        for held in shell.check(2, guest_bytes)? {
            println!("  {held}");
        }
        power_off(shell)?;
    }
    if !check {
        skete_cli(&["console", VM])?;
    }
    skete.shut_down()?;
    say("Skete is switched off");
    Ok(())
}

/// Waits for the guest's shell.
fn prompt(control: &Control) -> Result<Shell> {
    let begin = Instant::now();
    let shell = Shell::wait(control, VM, PATIENCE)?;
    let seconds = begin.elapsed().as_secs_f32();
    say(&format!("Linux prompts after {seconds:.1} s"));
    Ok(shell)
}

fn power_off(shell: Shell) -> Result<()> {
    shell.power_off(PATIENCE)?;
    say("the guest powered itself off by PSCI");
    Ok(())
}

fn say(what: &str) {
    println!("demo: {what}");
}

/// RAM of the guest in bytes: half of the machine's, and not more than 512 MiB.
fn guest_memory(machine: &str) -> Result<u64> {
    let bytes = parse_memory(machine).with_context(|| format!("{machine} is no size"))?;
    let half = (bytes / 2) & !((2 << 20) - 1);
    if half < 128 << 20 {
        bail!("the demo needs a machine of 256M or more, not {machine}");
    }
    Ok(half.min(512 << 20))
}

/// Reads a size as QEMU does: a number of mebibytes, or one with a suffix.
fn parse_memory(text: &str) -> Option<u64> {
    let (number, shift) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (text.get(..at)?, 10),
        (at, 'm' | 'M') => (text.get(..at)?, 20),
        (at, 'g' | 'G') => (text.get(..at)?, 30),
        _ => (text, 20),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The path from the repository, where that is shorter.
fn relative(path: &Path) -> String {
    let path = path.strip_prefix(paths::repository()).unwrap_or(path);
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_as_qemu_reads_it() {
        assert_eq!(parse_memory("2G"), Some(2 << 30));
        assert_eq!(parse_memory("512"), Some(512 << 20));
        assert_eq!(parse_memory("3x"), None);
        assert_eq!(parse_memory(""), None);
    }

    #[test]
    fn the_guest_gets_at_most_half_of_the_machine() {
        assert_eq!(guest_memory("2G").expect("enough"), 512 << 20);
        assert_eq!(guest_memory("300M").expect("enough"), 150 << 20);
        assert!(guest_memory("128M").is_err());
    }
}
