//! The compiler for the bare target.
//!
//! As a rule that is rustup's, with the target added. Where rustup cannot fetch the target,
//! Debian's packaged compiler and its sources do: they are unpacked under the target
//! directory, not installed, and `core` and `alloc` are built from those sources.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use qemu::paths;

use crate::apt::Archive;
use crate::shell::{command, has, output, run};

/// The bare target that core and root are compiled for.
pub(crate) const TARGET: &str = "aarch64-unknown-none-softfloat";

/// Makes sure that something can compile for [`TARGET`].
pub(crate) fn prepare() -> Result<()> {
    if installed()? || debian().exists() {
        return Ok(());
    }
    if has("rustup") {
        eprintln!("setup: installing the Rust target {TARGET}");
        if output(&mut command("rustup", &["target", "add", TARGET])).is_ok() {
            return Ok(());
        }
    }
    unpack_debian().with_context(|| format!("run `rustup target add {TARGET}`, then try again"))
}

/// Makes sure that a component of the toolchain is there.
pub(crate) fn component(program: &str, component: &str) -> Result<()> {
    if output(&mut command("cargo", &[program, "--version"])).is_ok() {
        return Ok(());
    }
    eprintln!("setup: installing {component}");
    run(&mut command(
        "rustup",
        &["--quiet", "component", "add", component],
    ))
    .with_context(|| format!("run `rustup component add {component}`, then try again"))
}

/// A cargo command for [`TARGET`].
pub(crate) fn cargo(what: &str) -> Result<Command> {
    let rustc = debian();
    if installed()? || !rustc.exists() {
        return Ok(command("cargo", &[what, "--target", TARGET]));
    }
    // clippy comes with the compiler that it belongs to: here there is only the other one.
    let what = if what == "clippy" { "check" } else { what };
    let mut cargo = command("cargo", &[what, "--target", TARGET]);
    cargo
        .args(["-Zbuild-std=core,alloc,compiler_builtins"])
        .args(["-Zbuild-std-features=compiler-builtins-mem"])
        .env("RUSTC", rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "CARGO_TARGET_AARCH64_UNKNOWN_NONE_SOFTFLOAT_LINKER",
            linker()?,
        );
    Ok(cargo)
}

/// Whether rustup's toolchain has the target.
fn installed() -> Result<bool> {
    Ok(sysroot()?
        .join("lib/rustlib")
        .join(TARGET)
        .join("lib")
        .exists())
}

fn sysroot() -> Result<PathBuf> {
    let path = output(&mut command("rustc", &["--print", "sysroot"]))?;
    Ok(PathBuf::from(path.trim()))
}

/// The linker that comes with rustup's toolchain.
fn linker() -> Result<PathBuf> {
    let path = sysroot()?.join("lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld");
    if path.exists() {
        return Ok(path);
    }
    bail!("the toolchain holds no rust-lld")
}

/// A script that runs Debian's compiler with the libraries that it needs.
fn debian() -> PathBuf {
    paths::target().join("debian-rust/rustc")
}

fn unpack_debian() -> Result<()> {
    let script = debian();
    let dir = script.parent().context("has a parent")?;
    eprintln!("setup: rustup cannot fetch {TARGET}; unpacking Debian's compiler instead");
    fs::create_dir_all(dir.join("apt"))?;
    let apt_dir = dir.join("apt");
    let archive = Archive::update(&apt_dir, "amd64")?;
    // The libraries' packages have the versions in their names.
    let library = archive.dependency("libstd-rust-web-dev", "libstd-rust-web-")?;
    let llvm = archive.dependency(&library, "libllvm")?;
    let packages = [
        "rustc-web",
        "rust-web-src",
        "libstd-rust-web-dev",
        &library,
        &llvm,
    ];
    archive.unpack(&packages, dir)?;
    fs::write(&script, wrapper(dir))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    output(Command::new(&script).arg("--version"))?;
    Ok(())
}

fn wrapper(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "#!/bin/sh\n\
         LD_LIBRARY_PATH='{dir}/usr/lib/x86_64-linux-gnu' exec '{dir}/usr/bin/rustc' \"$@\"\n"
    )
}
