//! The guest of tests and demo: Debian's arm64 cloud kernel, busybox as its user space, and a
//! compiler beside it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use qemu::paths;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{apt, compiler, initramfs};

/// Bumped when what is built from the packages changes.
const RECIPE: u32 = 3;

/// Fetches and builds the guest unless it is there, whole and unchanged.
pub(crate) fn fetch() -> Result<()> {
    let dir = paths::guest();
    if is_whole(&dir) {
        return Ok(());
    }
    eprintln!("guest: fetching Debian's arm64 cloud kernel and busybox");
    let archive = dir.join("apt");
    let unpacked = dir.join("unpacked");
    let _ = fs::remove_dir_all(&unpacked);
    fs::create_dir_all(&unpacked)?;
    fs::create_dir_all(&archive)?;
    let apt = apt::Archive::update(&archive, "arm64")?;
    // The meta package always exists; the kernel's own name moves with its version.
    let kernel = apt.dependency("linux-image-cloud-arm64", "linux-image-")?;
    apt.unpack(&[&kernel, "busybox-static"], &unpacked)?;

    let version = kernel.strip_prefix("linux-image-").unwrap_or(&kernel);
    let image = unpacked.join(format!("boot/vmlinuz-{version}"));
    fs::copy(&image, paths::guest_kernel())
        .with_context(|| format!("{kernel} holds no {}", image.display()))?;
    let busybox = ["bin/busybox", "usr/bin/busybox"]
        .iter()
        .map(|path| unpacked.join(path))
        .find(|path| path.exists())
        .context("busybox-static holds no busybox")?;
    fs::write(
        paths::guest_initrd(),
        initramfs::build(&fs::read(busybox)?)?,
    )?;

    let _ = fs::remove_dir_all(&unpacked);
    fs::create_dir_all(&unpacked)?;
    fs::write(paths::guest_compiler(), compiler::build(&apt, &unpacked)?)?;

    let manifest = json!({
        "recipe": RECIPE,
        "kernel": kernel,
        "vmlinuz": hash(&paths::guest_kernel())?,
        "initrd.gz": hash(&paths::guest_initrd())?,
        "compiler.gz": hash(&paths::guest_compiler())?,
    });
    fs::write(dir.join("manifest.json"), format!("{manifest:#}\n"))?;
    fs::remove_dir_all(&unpacked)?;
    ensure!(is_whole(&dir), "{} was changed meanwhile", dir.display());
    eprintln!("guest: {kernel}");
    Ok(())
}

/// The package that the guest's kernel is from.
pub(crate) fn kernel() -> Result<String> {
    let text = fs::read(paths::guest().join("manifest.json"))?;
    let manifest: Value = serde_json::from_slice(&text)?;
    let kernel = manifest.get("kernel").and_then(Value::as_str);
    Ok(kernel.context("the manifest names no kernel")?.to_owned())
}

fn is_whole(dir: &Path) -> bool {
    let manifest: Value = fs::read(dir.join("manifest.json"))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let same = |name: &str| {
        let expected = manifest.get(name).and_then(Value::as_str);
        expected.is_some_and(|expected| hash(&dir.join(name)).is_ok_and(|is| is == expected))
    };
    manifest.get("recipe") == Some(&json!(RECIPE))
        && ["vmlinuz", "initrd.gz", "compiler.gz"]
            .into_iter()
            .all(same)
}

/// SHA-256 of a file, in hexadecimal.
pub(crate) fn hash(path: &Path) -> Result<String> {
    let digest = Sha256::digest(fs::read(path)?);
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}
