//! A C compiler and something to compile, for a guest: Debian's tcc with its libraries and
//! headers, and the sources of Lua, from a crate. An initramfs of its own, behind the other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::apt::Archive;
use crate::initramfs;
use crate::shell::{command, output};

/// What tcc needs to compile and link.
const PACKAGES: [&str; 4] = ["tcc", "libc6", "libc6-dev", "linux-libc-dev"];
/// What of these packages is taken: files, and directories with all that is in them.
const TAKEN: [&str; 17] = [
    "usr/bin/tcc",
    "usr/lib/aarch64-linux-gnu/tcc",
    "lib/ld-linux-aarch64.so.1",
    "lib/aarch64-linux-gnu/libc.so.6",
    "lib/aarch64-linux-gnu/libm.so.6",
    "lib/aarch64-linux-gnu/libdl.so.2",
    "lib/aarch64-linux-gnu/libpthread.so.0",
    "usr/lib/aarch64-linux-gnu/crt1.o",
    "usr/lib/aarch64-linux-gnu/crti.o",
    "usr/lib/aarch64-linux-gnu/crtn.o",
    "usr/lib/aarch64-linux-gnu/libc.so",
    "usr/lib/aarch64-linux-gnu/libc_nonshared.a",
    "usr/include/asm-generic",
    "usr/include/aarch64-linux-gnu/asm",
    "usr/include/aarch64-linux-gnu/bits",
    "usr/include/aarch64-linux-gnu/gnu",
    "usr/include/aarch64-linux-gnu/sys",
];
/// Of the kernel's headers only those that C's own include.
const KERNEL_HEADERS: [&str; 3] = ["errno.h", "limits.h", "types.h"];

/// Which of the crate's versions of Lua: what tcc makes of 5.4 does not start.
const LUA: &str = "lua-5.3";

/// What the guest runs.
const OURS: [(&str, &[u8]); 3] = [
    ("src/main.c", include_bytes!("../guest/main.c")),
    ("src/check.lua", include_bytes!("../guest/check.lua")),
    ("src/build.sh", include_bytes!("../guest/build.sh")),
];

/// Downloads what is needed and builds the archive; `unpacked` is a directory for it.
pub(crate) fn build(apt: &Archive<'_>, unpacked: &Path) -> Result<Vec<u8>> {
    apt.unpack(&PACKAGES, unpacked)?;
    let mut files = BTreeMap::new();
    for path in TAKEN {
        take(&mut files, unpacked, Path::new(path))?;
    }
    for entry in fs::read_dir(unpacked.join("usr/include"))? {
        let name = PathBuf::from("usr/include").join(entry?.file_name());
        if name.extension().is_some_and(|extension| extension == "h") {
            take(&mut files, unpacked, &name)?;
        }
    }
    for name in KERNEL_HEADERS {
        let path = PathBuf::from("usr/include/linux").join(name);
        take(&mut files, unpacked, &path)?;
    }
    let lua = lua()?;
    for entry in fs::read_dir(&lua)? {
        let path = entry?.path();
        let name = path.file_name().context("a file has a name")?;
        let name = format!("src/{}", name.to_string_lossy());
        files.insert(name, fs::read(&path)?);
    }
    for (name, data) in OURS {
        files.insert(name.to_owned(), data.to_vec());
    }
    initramfs::of_files(&files)
}

/// Takes a file, or all that is in a directory.
fn take(files: &mut BTreeMap<String, Vec<u8>>, from: &Path, path: &Path) -> Result<()> {
    let full = from.join(path);
    if !full.is_dir() {
        let data =
            fs::read(&full).with_context(|| format!("no package holds {}", path.display()))?;
        files.insert(path.to_string_lossy().into_owned(), data);
        return Ok(());
    }
    for entry in fs::read_dir(full)? {
        take(files, from, &path.join(entry?.file_name()))?;
    }
    Ok(())
}

/// Where cargo has put Lua's sources.
fn lua() -> Result<PathBuf> {
    let text = output(&mut command(
        "cargo",
        &["metadata", "--format-version", "1"],
    ))?;
    let metadata: Value = serde_json::from_str(&text)?;
    let packages = metadata.get("packages").and_then(Value::as_array);
    let manifest = packages
        .into_iter()
        .flatten()
        .find(|package| package.get("name").is_some_and(|name| name == "lua-src"))
        .and_then(|package| package.get("manifest_path")?.as_str())
        .context("cargo's metadata name no lua-src")?;
    let dir = Path::new(manifest).parent().context("it has a directory")?;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        if name.is_some_and(|name| name.starts_with(LUA)) {
            return Ok(path);
        }
    }
    anyhow::bail!("{} holds no {LUA}", dir.display())
}
