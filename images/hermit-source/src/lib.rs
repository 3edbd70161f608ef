//! The patched copy of hermit-kernel that root is built with.
//!
//! [`prepare`] finds the crate's source as Cargo downloaded and verified it, copies it into
//! the target directory and applies `images/patches/hermit-kernel/*.patch` in order.
//! `appliance/root` names that copy in `[patch.crates-io]`. Nothing is touched when the
//! copy is already what the patches ask for, so Cargo rebuilds nothing.
//!
//! A patch file is a unified diff with its reason in words before the first `--- ` line.

mod patch;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

use patch::FilePatch;

/// The release of hermit-kernel that the patches are written for.
pub const VERSION: &str = "0.11.0";

/// Where the patches are, from the repository's root.
const PATCHES: &str = "images/patches/hermit-kernel";
/// Records in the copy which patches it was made with.
const STAMP: &str = ".skete-patches";

/// Makes sure that `<repository>/target/hermit-kernel-<VERSION>` is the patched source, and
/// returns its path.
///
/// Needs the network the first time, unless Cargo has the crate already.
///
/// # Errors
/// Says in words what could not be found, read, fetched or applied. A half-made copy is
/// never left under the final name.
pub fn prepare(repository: &Path) -> Result<PathBuf, String> {
    let target = repository.join("target");
    let copy = target.join(format!("hermit-kernel-{VERSION}"));
    let patches = read_patches(&repository.join(PATCHES))?;
    let stamp = format!("{VERSION}\n{}", patches.concat());
    if fs::read_to_string(copy.join(STAMP)).is_ok_and(|old| old == stamp) {
        return Ok(copy);
    }

    let original = find_original(&target.join("hermit-source"))?;
    let fresh = target.join(format!("hermit-kernel-{VERSION}.new"));
    remove(&fresh)?;
    copy_tree(&original, &fresh)
        .map_err(|error| format!("copying {}: {error}", original.display()))?;
    for text in &patches {
        for file in FilePatch::split(text)? {
            file.apply(&fresh)?;
        }
    }
    // The archive carries the lock file and toolchain of Hermit's own repository.
    for stray in ["Cargo.lock", "rust-toolchain.toml", ".cargo-ok"] {
        remove(&fresh.join(stray))?;
    }
    write(&fresh.join(STAMP), &stamp)?;
    remove(&copy)?;
    fs::rename(&fresh, &copy).map_err(|error| format!("naming {}: {error}", copy.display()))?;
    Ok(copy)
}

/// Reads every patch, in the order of their names.
fn read_patches(folder: &Path) -> Result<Vec<String>, String> {
    let complain = |error: io::Error| format!("reading {}: {error}", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(complain)? {
        let path = entry.map_err(complain)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "patch")
        {
            paths.push(path);
        }
    }
    paths.sort();
    paths
        .iter()
        .map(|path| {
            fs::read_to_string(path).map_err(|error| format!("reading {}: {error}", path.display()))
        })
        .collect()
}

/// Returns the folder where Cargo keeps the unpacked, checksummed source.
///
/// Cargo is asked through a package made for the question, in `scratch`: root's own
/// manifest cannot be read before the copy exists.
fn find_original(scratch: &Path) -> Result<PathBuf, String> {
    let manifest = format!(
        "[package]\nname = \"hermit-source\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
         [lib]\npath = \"lib.rs\"\n[dependencies]\n\
         hermit-kernel = {{ version = \"={VERSION}\", default-features = false, features = [\"nostd\"] }}\n\
         [workspace]\n"
    );
    fs::create_dir_all(scratch)
        .map_err(|error| format!("making {}: {error}", scratch.display()))?;
    let path = scratch.join("Cargo.toml");
    write(&path, &manifest)?;
    write(&scratch.join("lib.rs"), "")?;

    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--manifest-path"])
        .arg(&path)
        .args(["--filter-platform", "aarch64-unknown-none-softfloat"])
        .output()
        .map_err(|error| format!("starting cargo: {error}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "cargo could not fetch hermit-kernel {VERSION}:\n{words}"
        ));
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("reading what cargo metadata said: {error}"))?;
    let text = |package: &serde_json::Value, key| package.get(key)?.as_str().map(String::from);
    metadata
        .get("packages")
        .and_then(serde_json::Value::as_array)
        .into_iter()
        .flatten()
        .find(|package| {
            text(package, "name").as_deref() == Some("hermit-kernel")
                && text(package, "version").as_deref() == Some(VERSION)
        })
        .and_then(|package| text(package, "manifest_path"))
        .and_then(|manifest| Some(Path::new(&manifest).parent()?.to_path_buf()))
        .ok_or_else(|| format!("cargo metadata does not list hermit-kernel {VERSION}"))
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Removes a file or a folder, if it is there.
fn remove(path: &Path) -> Result<(), String> {
    let result = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("removing {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("writing {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_patch_in_the_repository_gives_its_reason_and_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../patches/hermit-kernel");
        let patches = read_patches(&folder).expect("the patches are part of the repository");
        assert!(!patches.is_empty());
        for text in patches {
            let reason = text.split("--- ").next().unwrap_or_default();
            assert!(reason.trim().len() > 40, "no reason given: {reason:?}");
            assert!(!FilePatch::split(&text).expect("a unified diff").is_empty());
        }
    }
}
