//! `cargo xtask demo --device`: an NVMe drive of the machine's, handed to the guest.
//!
//! The guest uses its own driver, and the SMMU keeps the drive's DMA in the guest's memory. What
//! the guest writes is compared with the file that is the drive; then the drive is reset while it reads.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use qemu::{Board, Control, Shell, paths};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{PATIENCE, say};

/// Where the drive is in the machine, and in the guest.
pub(super) const PCI: &str = "0000:00:03.0";
const IN_GUEST: &str = "0000:00:01.0";
const DISK: &str = "/dev/nvme0n1";

const DISK_BYTES: u64 = 64 << 20;
/// What is written and compared.
const DATA_MIB: usize = 16;
const RESETS: u64 = 5;

/// The file that is the drive.
pub(super) struct Drive(PathBuf);

impl Drive {
    /// Puts an empty drive into `board`, and an SMMU.
    pub(super) fn add_to(board: &mut Board) -> Result<Self> {
        let path = paths::target().join(format!("demo-drive-{}.img", std::process::id()));
        File::create(&path)
            .and_then(|file| file.set_len(DISK_BYTES))
            .with_context(|| format!("{} cannot be written", path.display()))?;
        let drive = format!("file={},if=none,id=drive,format=raw", path.display());
        board.more.extend(
            [
                "-machine",
                "iommu=smmuv3",
                "-drive",
                &drive,
                "-device",
                "nvme,drive=drive,serial=skete,addr=3",
            ]
            .map(str::to_owned),
        );
        Ok(Self(path))
    }

    fn sum(&self) -> Result<String> {
        let mut data = vec![0; DATA_MIB << 20];
        File::open(&self.0)?.read_exact(&mut data)?;
        Ok(Sha256::digest(data)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Uses the drive from the guest's shell, and resets it under load.
pub(super) fn show(control: &Control, shell: &mut Shell, drive: &Drive) -> Result<()> {
    let block = "/sys/block/nvme0n1";
    let size = said(shell, &format!("cat {block}/device/model {block}/size"))?;
    ensure!(
        size.lines().last() == Some(&(DISK_BYTES / 512).to_string()),
        "the guest sees another drive: {size:?}"
    );
    said(
        shell,
        &format!("dd if=/dev/urandom of={DISK} bs=1M count={DATA_MIB} conv=fsync 2>&1 | tail -n 1"),
    )?;
    let read = format!("dd if={DISK} bs=1M count={DATA_MIB} iflag=direct 2>/dev/null | sha256sum");
    let sum = said(shell, &read)?;
    let sum = sum.split_whitespace().next().unwrap_or("");
    ensure!(
        sum == drive.sum()?,
        "the drive's file does not hold what the guest wrote"
    );
    say("on the host, the file that is the drive has the same sum");

    said(
        shell,
        &format!(
            "n=0; while dd if={DISK} of=/dev/null bs=64k count=16 iflag=direct; do n=$((n+1)); \
             echo $n >>/tmp/read; done >/dev/null 2>&1 & \
             echo $! >/tmp/load; echo reads the drive all the time"
        ),
    )?;
    let read_mib = "tail -n 1 /tmp/read";
    for n in 1..=RESETS {
        let reset = format!("echo 1 >/sys/bus/pci/devices/{IN_GUEST}/reset");
        println!("guest# {reset}");
        shell.run(&reset, PATIENCE)?;
        // What was on its way before the reset may be counted after it: more than that.
        let before = number(shell, read_mib)?;
        let deadline = Instant::now() + PATIENCE;
        let mut now = before;
        while now < before + 2 {
            ensure!(
                Instant::now() < deadline,
                "nothing was read after reset {n}"
            );
            shell.run("sleep 1", PATIENCE)?;
            now = number(shell, read_mib)?;
        }
        println!(
            "  reset {n} of {RESETS}, and {} MiB read since",
            now - before
        );
    }
    shell.run("kill $(cat /tmp/load)", PATIENCE)?;
    let again = said(shell, &read)?;
    ensure!(
        again.starts_with(sum),
        "after the resets the drive holds something else"
    );
    let now = device(control)?;
    let (resets, blocked) = (field(&now, "generation")? - 1, field(&now, "dma_faults")?);
    ensure!(
        resets == RESETS && blocked == 0,
        "{RESETS} resets and no blocked DMA were expected: {now}"
    );
    Ok(())
}

/// Runs a command in the guest, and shows it with what it printed.
fn said(shell: &mut Shell, line: &str) -> Result<String> {
    println!("guest# {line}");
    let said = shell.run(line, PATIENCE)?;
    for line in said.lines() {
        println!("  {line}");
    }
    Ok(said)
}

fn number(shell: &mut Shell, line: &str) -> Result<u64> {
    let said = shell.run(line, PATIENCE)?;
    let number = said.trim().parse();
    number.with_context(|| format!("{line:?} printed {said:?}"))
}

/// Returns what the control port says about the drive.
fn device(control: &Control) -> Result<Value> {
    let list = control.get("/v1/devices")?;
    let devices = list.get("devices").and_then(Value::as_array);
    let is = |device: &&Value| device.get("pci").is_some_and(|pci| pci == PCI);
    let found = devices.and_then(|devices| devices.iter().find(is));
    found
        .cloned()
        .with_context(|| format!("there is no device {PCI}: {list}"))
}

fn field(of: &Value, name: &str) -> Result<u64> {
    let value = of.get(name).and_then(Value::as_u64);
    value.with_context(|| format!("no number {name} in {of}"))
}
