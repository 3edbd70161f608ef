//! What this repository is made of.

use std::process::Command;

use anyhow::{Context, Result};
use qemu::paths;
use serde_json::Value;

use crate::shell::{command, output};
use crate::toolchain;

/// Packages that only exist for the bare target.
const BARE: [&str; 1] = ["skete-core"];

/// Workspaces beside the main one, each with the environment that its cargo needs.
pub(crate) const OTHERS: [&str; 2] = ["appliance/root", "tests/guests"];

/// The names of the main workspace's packages.
fn packages() -> Result<Vec<String>> {
    let text = output(&mut command(
        "cargo",
        &["metadata", "--no-deps", "--format-version", "1"],
    ))?;
    let metadata: Value = serde_json::from_str(&text)?;
    let packages = metadata.get("packages").and_then(Value::as_array);
    Ok(packages
        .context("cargo's metadata name no packages")?
        .iter()
        .filter_map(|package| package.get("name")?.as_str())
        .map(str::to_owned)
        .collect())
}

/// Arguments that select every package which builds for this machine.
pub(crate) fn host() -> Result<Vec<String>> {
    let mut words = vec!["--workspace".to_owned()];
    for name in bare()? {
        words.extend(["--exclude".to_owned(), name]);
    }
    Ok(words)
}

/// Packages of the main workspace that only build for the bare target.
pub(crate) fn bare() -> Result<Vec<String>> {
    let mut names = packages()?;
    names.retain(|name| BARE.contains(&name.as_str()));
    Ok(names)
}

/// A cargo command in one of the [`OTHERS`], if that is there.
pub(crate) fn other(workspace: &str, what: &str) -> Result<Option<Command>> {
    let dir = paths::repository().join(workspace);
    if !dir.join("Cargo.toml").exists() {
        return Ok(None);
    }
    let name = workspace.rsplit('/').next().unwrap_or(workspace);
    let mut cargo = toolchain::cargo(what)?;
    cargo
        .arg("--release")
        .current_dir(dir)
        .env("CARGO_TARGET_DIR", paths::target().join(name));
    if workspace == "appliance/root" {
        // Hermit uses features of the nightly compiler, which the stable one then allows.
        cargo
            .env("RUSTC_BOOTSTRAP", "1")
            .env("HERMIT_LOG_LEVEL_FILTER", "Warn");
    }
    Ok(Some(cargo))
}
