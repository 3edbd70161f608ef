//! Kernel modules for the guest: Skete's preempt hint for a stock kernel, and what measures it.
//! Built for Debian's kernel as Debian's users do, with its headers; an initramfs of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use qemu::paths;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::shell::{command, has, output};
use crate::{apt, guest, initramfs};

/// Bumped when what is built from the sources changes.
const RECIPE: u32 = 2;
/// Each module, and where its sources are in the repository.
const MODULES: [(&str, &str); 2] = [
    ("skete_hint", "guest-abi/linux"),
    ("lock_bench", "tests/xtask/guest/lock_bench"),
];
/// What the kernel runs first under `rdinit=/hint`: the bench without the hint and with it.
const HINT: &str = "\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
insmod /modules/lock_bench.ko ms=$ms
rmmod lock_bench
insmod /modules/skete_hint.ko
insmod /modules/lock_bench.ko ms=$ms
echo skete-guest: ready
exec poweroff -f
";
/// The compiler's and its tools' prefix.
const CROSS: &str = "aarch64-linux-gnu-";

/// Builds the archive of modules unless it is there for this kernel and these sources.
pub(crate) fn build() -> Result<()> {
    guest::fetch()?;
    let dir = paths::guest();
    let kernel = guest::kernel()?;
    let wanted = json!({ "recipe": RECIPE, "kernel": kernel, "sources": sources()? });
    let manifest = dir.join("modules.json");
    let is: Value = fs::read(&manifest)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    if is == wanted && paths::guest_modules().exists() {
        return Ok(());
    }
    eprintln!("guest: building kernel modules for {kernel}");
    if !has("make") || !has(&format!("{CROSS}gcc")) {
        apt::install(&["gcc-aarch64-linux-gnu", "make"], None)?;
    }
    let work = dir.join("modules");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work)?;
    let headers = unpack_headers(&dir, &kernel, &work)?;
    let mut files = BTreeMap::new();
    for (name, from) in MODULES {
        let to = work.join(name);
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(paths::repository().join(from))? {
            let path = entry?.path();
            if let Some(file) = path.file_name() {
                fs::copy(&path, to.join(file))?;
            }
        }
        output(
            command(
                "make",
                &[
                    "-s",
                    "ARCH=arm64",
                    "CONFIG_DEBUG_INFO_BTF_MODULES=",
                    "modules",
                ],
            )
            .args([
                format!("-C{}", headers.display()),
                format!("CROSS_COMPILE={CROSS}"),
                format!("M={}", to.display()),
            ]),
        )
        .with_context(|| format!("{name} does not compile"))?;
        let module = to.join(format!("{name}.ko"));
        output(command(&format!("{CROSS}strip"), &["-g"]).arg(&module))?;
        files.insert(format!("modules/{name}.ko"), fs::read(&module)?);
    }
    files.insert("hint".to_owned(), HINT.as_bytes().to_vec());
    fs::write(paths::guest_modules(), initramfs::of_files(&files)?)?;
    fs::remove_dir_all(&work)?;
    fs::write(manifest, format!("{wanted:#}\n"))?;
    Ok(())
}

/// What the modules' sources hash to.
fn sources() -> Result<String> {
    let mut digest = Sha256::new();
    for (name, from) in MODULES {
        for file in [format!("{name}.c"), "Kbuild".to_owned()] {
            digest.update(fs::read(paths::repository().join(from).join(file))?);
        }
    }
    Ok(digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Unpacks what Debian has for building modules of `kernel`, and returns where to begin.
fn unpack_headers(dir: &Path, kernel: &str, work: &Path) -> Result<std::path::PathBuf> {
    let archive = dir.join("apt");
    let apt = apt::Archive::update(&archive, "arm64")?;
    let headers = kernel.replace("linux-image-", "linux-headers-");
    let common = apt.dependency(&headers, "linux-headers-")?;
    let tools = apt.dependency(&headers, "linux-kbuild-")?;
    apt.unpack(&[&headers, &common], work)?;
    // What runs while compiling is for this machine.
    let here = output(&mut command("dpkg", &["--print-architecture"]))?;
    let archive = dir.join("apt-here");
    fs::create_dir_all(&archive)?;
    apt::Archive::update(&archive, here.trim())?.unpack(&[&tools], work)?;
    // It names the place where the packages would be installed.
    let headers = work.join("usr/src").join(headers);
    let line = format!("include {}/usr/src/{common}/Makefile\n", work.display());
    fs::write(headers.join("Makefile"), line)?;
    Ok(headers)
}
