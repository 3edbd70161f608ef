//! The appliance: core, root, and the image that holds both.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};
use qemu::paths;

use crate::shell::{cargo, cargo_terse, command};
use crate::toolchain::{self, TARGET};
use crate::workspace;

const ROOT: &str = "appliance/root";
const GUESTS: &str = "tests/guests";

/// Builds target/skete.img.
pub(crate) fn appliance() -> Result<()> {
    toolchain::prepare()?;
    sources()?;
    cargo(toolchain::cargo("build")?.args(["--release", "-p", "skete-core"]))?;
    let root = match workspace::other(ROOT, "build")? {
        Some(mut root) => {
            // Hermit's source is patched in place, so that its warnings are shown as if ours.
            cargo_terse(&mut root)?;
            Some(read(&root_elf())?)
        }
        None => None,
    };
    let core = read(&core_elf())?;
    let image = mkimage::build(&core, root.as_deref())?;
    let path = paths::target().join("skete.img");
    if fs::read(&path).is_ok_and(|old| old == image) {
        return Ok(());
    }
    fs::write(&path, &image)?;
    eprintln!("build: {} ({} KiB)", path.display(), image.len() / 1024);
    Ok(())
}

/// Prepares the sources that are not in the repository: Hermit's, patched.
pub(crate) fn sources() -> Result<()> {
    hermit_source::prepare(&paths::repository())
        .map(drop)
        .map_err(Error::msg)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("{} was not built", path.display()))
}

/// Builds the bare-metal guests of tests and bench, and the images whose root is one of them.
pub(crate) fn guests() -> Result<()> {
    let Some(mut guests) = workspace::other(GUESTS, "build")? else {
        return Ok(());
    };
    cargo(&mut guests)?;
    let carried = [
        ("SKETE_DIRECT_GUEST", paths::payload("memory")),
        ("SKETE_DIRECT_MIGRATE", paths::payload("migrate")),
        ("SKETE_DIRECT_TIMERS", paths::payload("timers")),
        ("SKETE_DIRECT_LOCK", paths::payload("lock")),
        ("SKETE_DIRECT_TURNS", paths::payload("turns")),
        ("SKETE_DIRECT_CONFORMANCE", paths::payload("conformance")),
        ("SKETE_DIRECT_PARAVIRT", paths::payload("paravirt")),
        ("SKETE_LINUX_KERNEL", paths::guest_kernel()),
        ("SKETE_LINUX_INITRD", paths::guest_initrd()),
    ];
    for name in ["memory_root", "linux_root", "direct"] {
        bare_root(name, &carried)?;
    }
    Ok(())
}

/// Builds target/NAME.img: core, and the guest `name` as its root, which carries some files.
fn bare_root(name: &str, carried: &[(&str, PathBuf)]) -> Result<()> {
    let elves = paths::target().join("guests-elf");
    let Some(mut root) = workspace::other(GUESTS, "build")? else {
        return Ok(());
    };
    root.args(["--bin", name])
        .env("CARGO_TARGET_DIR", &elves)
        .env("SKETE_GUEST_ELF", "1");
    for (variable, file) in carried {
        root.env(variable, file);
    }
    cargo(&mut root)?;
    let root = read(&elves.join(TARGET).join("release").join(name))?;
    let image = mkimage::build(&read(&core_elf())?, Some(&root))?;
    fs::write(paths::bare_root(name), image)?;
    Ok(())
}

/// Builds `skete`, the command-line client; returns where it is.
pub(crate) fn client() -> Result<PathBuf> {
    cargo(&mut command(
        "cargo",
        &["build", "--profile", "host", "-p", "skete-cli"],
    ))?;
    Ok(paths::target().join("host/skete"))
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
