//! The appliance: core, root, and the image that holds both.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use qemu::paths;

use crate::setup::{self, TARGET};
use crate::shell::{cargo, command};

/// Builds target/skete.img.
pub(crate) fn appliance() -> Result<()> {
    setup::toolchain()?;
    cargo(&mut core_command("build"))
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
pub(crate) fn core_command(what: &str) -> Command {
    command(
        "cargo",
        &[what, "--release", "--target", TARGET, "-p", "skete-core"],
    )
}
