//! The appliance: core, root, and the image that holds both.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use qemu::paths;

use crate::setup::{self, TARGET};
use crate::shell::{cargo, command};
use crate::workspace;

const ROOT: &str = "appliance/root";

/// Builds target/skete.img.
pub(crate) fn appliance() -> Result<()> {
    setup::toolchain()?;
    sources()?;
    cargo(&mut core_command("build"))?;
    if let Some(mut root) = workspace::other(ROOT, "build") {
        cargo(&mut root)?;
    }
    Ok(())
}

/// Prepares the sources that are not in the repository: Hermit's, patched.
pub(crate) fn sources() -> Result<()> {
    Ok(())
}

/// Builds the bare-metal guests of tests and bench.
pub(crate) fn guests() -> Result<()> {
    match workspace::other("tests/guests", "build") {
        Some(mut guests) => cargo(&mut guests),
        None => Ok(()),
    }
}

/// The EL2 program with its symbols.
pub(crate) fn core_elf() -> PathBuf {
    paths::target().join(TARGET).join("release/skete-core")
}

/// The Hermit program with its symbols.
pub(crate) fn root_elf() -> PathBuf {
    paths::target()
        .join("root")
        .join(TARGET)
        .join("release/skete-root")
}

/// A cargo command on core for the bare target.
fn core_command(what: &str) -> Command {
    command(
        "cargo",
        &[what, "--release", "--target", TARGET, "-p", "skete-core"],
    )
}
