//! `cargo xtask test`: the tests of the host, then those of the appliance in QEMU.

use std::process::Command;

use anyhow::Result;

use crate::shell::{command, output, run};
use crate::{build, guest, setup, workspace};

/// The package whose tests need QEMU, the appliance and the guests.
const END_TO_END: &str = "skete-qemu";

/// Builds all that tests need and runs those whose name contains `filter`.
pub(crate) fn everything(filter: Option<&str>) -> Result<()> {
    setup::emulator()?;
    guest::fetch()?;
    build::appliance()?;
    build::guests()?;
    let mut line = runner();
    line.args(workspace::host()?);
    if let Some(filter) = filter {
        line.arg(filter);
    }
    run(&mut line)
}

/// The tests that need nothing but this machine.
pub(crate) fn host() -> Result<()> {
    let mut line = runner();
    line.args(workspace::host()?);
    line.args(["--exclude", END_TO_END]);
    run(&mut line)
}

/// nextest if it is installed, for its one summary; cargo's own otherwise.
fn runner() -> Command {
    let mut line = if output(&mut command("cargo", &["nextest", "--version"])).is_ok() {
        command("cargo", &["nextest", "run", "--no-fail-fast"])
    } else {
        command("cargo", &["test", "--no-fail-fast"])
    };
    // An error's own chain of causes says where; a backtrace per retry says nothing.
    line.env("RUST_LIB_BACKTRACE", "0");
    line
}
