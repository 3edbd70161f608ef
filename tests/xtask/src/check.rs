//! `cargo xtask check`: what a change must pass before it is looked at.

use std::process::Command;

use anyhow::Result;
use qemu::paths;

use crate::shell::{cargo, command};
use crate::{build, test, toolchain, workspace};

/// Formats, lints and host tests.
pub(crate) fn check() -> Result<()> {
    toolchain::prepare()?;
    toolchain::component("fmt", "rustfmt")?;
    toolchain::component("clippy", "clippy")?;
    build::sources()?;
    step("format");
    cargo(&mut command("cargo", &["fmt", "--all", "--check"]))?;
    for other in workspace::OTHERS {
        let manifest = format!("{other}/Cargo.toml");
        if paths::repository().join(&manifest).exists() {
            cargo(&mut command(
                "cargo",
                &["fmt", "--check", "--manifest-path", &manifest],
            ))?;
        }
    }
    step("lints");
    let mut host = command("cargo", &["clippy", "--all-targets"]);
    cargo(deny(host.args(workspace::host()?)))?;
    for package in workspace::bare()? {
        cargo(deny(toolchain::cargo("clippy")?.args(["-p", &package])))?;
    }
    for other in workspace::OTHERS {
        if let Some(mut clippy) = workspace::other(other, "clippy")? {
            cargo(deny(&mut clippy))?;
        }
    }
    step("host tests");
    test::host()
}

fn step(name: &str) {
    eprintln!("check: {name}");
}

/// Makes clippy's warnings errors; the plain check that may stand in for it has none to take.
fn deny(clippy: &mut Command) -> &mut Command {
    if clippy.get_args().any(|word| word == "clippy") {
        clippy.args(["--", "-D", "warnings"]);
    }
    clippy
}
