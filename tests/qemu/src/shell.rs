//! Commands in a Linux guest, through its console.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::Control;

/// What the guest prints when its user space is up.
pub(crate) const READY: &str = "skete-guest: ready";

/// A file of 64 MiB is this line of 8 bytes, doubled 17 times, and that 64 times. Nothing here
/// reads byte by byte: under QEMU's two stages a system call costs tens of microseconds.
const LINE: &str = "skete64";
/// Bytes of the part that is repeated.
const PART_BYTES: usize = 1 << 20;
/// How often.
const PARTS: usize = 64;

/// The shell that runs on a guest's console.
#[derive(Debug)]
pub struct Shell {
    control: Control,
    vm: String,
    commands: u32,
}

impl Shell {
    /// Waits until the guest's shell prompts.
    pub fn wait(control: &Control, vm: &str, patience: Duration) -> Result<Self> {
        let log = control.wait_for_console(vm, READY, patience)?;
        ensure!(
            !log.contains("Kernel panic"),
            "the guest's kernel panicked on the way"
        );
        let prompts = |log: &str| log.contains("# ");
        control.wait_for_console_that(vm, patience, prompts)?;
        Ok(Self {
            control: control.clone(),
            vm: vm.to_owned(),
            commands: 0,
        })
    }

    /// Runs a command; returns what it printed, without the last line end.
    pub fn run(&mut self, command: &str, patience: Duration) -> Result<String> {
        self.commands += 1;
        // What is typed is echoed: the sum is what only the shell prints.
        let (id, sum) = (self.commands, self.commands + 1000);
        let line = format!("echo \"[$(({id}+1000)) $({command}) {id}-end]\"\n");
        self.control.type_text(&self.vm, &line)?;
        let (begin, end) = (format!("[{sum} "), format!(" {id}-end]"));
        let found = |log: &str| {
            let from = log.rfind(&begin)? + begin.len();
            let rest = log.get(from..)?;
            Some(rest.get(..rest.find(&end)?)?.replace("\r\n", "\n"))
        };
        self.control
            .wait_for_console(&self.vm, &begin, patience)
            .with_context(|| format!("running {command:?}"))?;
        let log = self
            .control
            .wait_for_console_that(&self.vm, patience, |log| found(log).is_some())
            .with_context(|| format!("running {command:?}"))?;
        found(&log).context("was found a moment ago")
    }

    /// Checks that the guest is what it was defined as, and that its RAM holds what is
    /// written; returns a line for each that held.
    pub fn check(&mut self, cpus: u32, memory_bytes: u64) -> Result<Vec<String>> {
        let short = Duration::from_secs(30);
        let mut held = Vec::new();

        let machine = self.run("uname -m", short)?;
        ensure!(machine == "aarch64", "uname -m printed {machine:?}");
        held.push(format!("uname -m   {machine}"));

        let count = self.run("nproc", short)?;
        ensure!(
            count == cpus.to_string(),
            "nproc printed {count}, not {cpus}"
        );
        held.push(format!("nproc      {count}"));

        let total = self.run(
            "sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo",
            short,
        )?;
        let bytes = total.parse::<u64>().context("MemTotal")? * 1024;
        // The kernel keeps its image and its page records, some 30 MiB, to itself.
        let least = (memory_bytes - memory_bytes / 8).saturating_sub(32 << 20);
        ensure!(
            (least..=memory_bytes).contains(&bytes),
            "MemTotal is {bytes} bytes of {memory_bytes}"
        );
        held.push(format!(
            "MemTotal   {total} kB of {} kB",
            memory_bytes / 1024
        ));

        let sum = self.run(
            &format!(
                "echo {LINE} >/tmp/p; for i in $(seq 17); do \
                 cat /tmp/p /tmp/p >/tmp/q; mv /tmp/q /tmp/p; done; \
                 for i in $(seq {PARTS}); do cat /tmp/p; done >/tmp/f; \
                 sha256sum </tmp/f; rm /tmp/p /tmp/f"
            ),
            Duration::from_secs(300),
        )?;
        let text = format!("{LINE}\n").repeat(PART_BYTES / (LINE.len() + 1));
        let part = text.as_bytes().get(..PART_BYTES).unwrap_or(&[]);
        let expected: String = Sha256::digest(part.repeat(PARTS))
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        ensure!(
            sum.starts_with(&expected),
            "64 MiB of fresh RAM came back as {sum}, not {expected}"
        );
        held.push(format!(
            "sha256sum  {} (64 MiB)",
            expected.get(..16).unwrap_or("")
        ));
        Ok(held)
    }

    /// Switches the guest off, and waits until its VM is.
    pub fn power_off(self, patience: Duration) -> Result<()> {
        self.control.type_text(&self.vm, "poweroff -f\n")?;
        self.control.wait_for_state(&self.vm, "stopped", patience)
    }
}
