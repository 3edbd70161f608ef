//! `cargo xtask check`: what a change must pass before it is looked at.

use std::process::Command;

use anyhow::Result;

use crate::setup::{self, TARGET};
use crate::shell::{cargo, command};
use crate::{build, test, workspace};

/// Formats, lints and host tests.
pub(crate) fn check() -> Result<()> {
    setup::toolchain()?;
    build::sources()?;
    step("format");
    cargo(&mut command("cargo", &["fmt", "--all", "--check"]))?;
    for other in workspace::OTHERS {
        if let Some(fmt) = workspace::other(other, "fmt") {
            let mut fmt = plain(&fmt, "fmt");
            cargo(fmt.arg("--check"))?;
        }
    }
    step("lints");
    let mut host = command("cargo", &["clippy", "--all-targets"]);
    cargo(deny(host.args(workspace::host()?)))?;
    for package in workspace::bare()? {
        cargo(deny(&mut command(
            "cargo",
            &["clippy", "--target", TARGET, "-p", &package],
        )))?;
    }
    for other in workspace::OTHERS {
        if let Some(mut clippy) = workspace::other(other, "clippy") {
            cargo(deny(&mut clippy))?;
        }
    }
    step("host tests");
    test::host()
}

fn step(name: &str) {
    eprintln!("check: {name}");
}

fn deny(clippy: &mut Command) -> &mut Command {
    clippy.args(["--", "-D", "warnings"])
}

/// The same directory, without the arguments that only compiling takes.
fn plain(of: &Command, what: &str) -> Command {
    let mut command = command("cargo", &[what]);
    if let Some(dir) = of.get_current_dir() {
        command.current_dir(dir);
    }
    command
}
