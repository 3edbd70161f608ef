//! What the other commands need, installed if it is missing.

use anyhow::{Context, Result, bail};

use crate::shell::{command, has, output};
use crate::{apt, modules, toolchain};

/// The oldest QEMU that runs the appliance.
const QEMU_OLDEST: u32 = 8;

/// Everything that any command needs.
pub(crate) fn everything() -> Result<()> {
    toolchain::prepare()?;
    emulator()?;
    modules::build()
}

/// QEMU, recent enough.
pub(crate) fn emulator() -> Result<()> {
    if qemu_major().is_some_and(|major| major >= QEMU_OLDEST) {
        return Ok(());
    }
    let codename = apt::codename()?;
    // Debian 12 itself has 7.2; later ones have 10 or more.
    let suite = match codename.as_str() {
        "bookworm" => Some(apt::add_backports(&codename)?),
        _ => None,
    };
    apt::install(&["qemu-system-arm"], suite.as_deref())?;
    match qemu_major() {
        Some(major) if major >= QEMU_OLDEST => Ok(()),
        found => bail!("QEMU {QEMU_OLDEST} or newer is needed; found {found:?}"),
    }
}

/// A gdb that knows aarch64.
pub(crate) fn debugger() -> Result<()> {
    if has("gdb-multiarch") {
        return Ok(());
    }
    apt::install(&["gdb-multiarch"], None)
}

fn qemu_major() -> Option<u32> {
    let text = output(&mut command("qemu-system-aarch64", &["--version"])).ok()?;
    major(&text).context("unlike any QEMU").ok()
}

/// The major number in what `qemu-system-aarch64 --version` prints.
fn major(text: &str) -> Option<u32> {
    let version = text.split_once("version ")?.1;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_number_is_read_from_a_version() {
        let debian = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright …";
        assert_eq!(major(debian), Some(10));
        assert_eq!(major("QEMU emulator version 7.2.17"), Some(7));
        assert_eq!(major("command not found"), None);
    }
}
