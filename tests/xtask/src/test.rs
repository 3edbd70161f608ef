//! `cargo xtask test`: the tests of the host, then those of the appliance in QEMU.

use std::process::Command;

use anyhow::Result;

use crate::shell::{command, output, run};
use crate::{build, modules, setup, stack, workspace};

/// The package whose tests need QEMU, the appliance and the guests.
const END_TO_END: &str = "skete-qemu";

/// Builds all that tests need and runs those whose name contains `filter`; `long` makes every
/// test that draws sequences at random draw a hundred times as many.
pub(crate) fn everything(filter: Option<&str>, long: bool) -> Result<()> {
    setup::emulator()?;
    modules::build()?;
    build::appliance()?;
    stack::check()?;
    build::guests()?;
    let mut line = runner(long);
    line.args(workspace::host()?);
    if let Some(filter) = filter {
        line.arg(filter);
    }
    run(&mut line)
}

/// The tests that need nothing but this machine.
pub(crate) fn host() -> Result<()> {
    let mut line = runner(false);
    line.args(workspace::host()?);
    line.args(["--exclude", END_TO_END]);
    run(&mut line)
}

/// nextest if it is installed, for its one summary; cargo's own otherwise.
fn runner(long: bool) -> Command {
    let nextest = output(&mut command("cargo", &["nextest", "--version"])).is_ok();
    let mut line = if nextest {
        command("cargo", &["nextest", "run", "--no-fail-fast"])
    } else {
        command("cargo", &["test", "--no-fail-fast"])
    };
    if long {
        line.env("SKETE_LONG", "1");
    }
    if long && nextest {
        line.args(["--profile", "long"]);
    }
    // An error's own chain of causes says where; a backtrace per retry says nothing.
    line.env("RUST_LIB_BACKTRACE", "0");
    line
}
