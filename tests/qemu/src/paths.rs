//! Where the build puts things.

use std::path::PathBuf;

/// The repository.
pub fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .canonicalize()
        .expect("this crate was compiled from the repository that it now runs in")
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => repository().join(dir),
        None => repository().join("target"),
    }
}

/// The appliance, as `cargo xtask build` leaves it, or what `SKETE_IMAGE` names.
pub fn image() -> PathBuf {
    std::env::var_os("SKETE_IMAGE").map_or_else(|| target().join("skete.img"), PathBuf::from)
}

/// Where the guest of tests and demo is kept.
pub fn guest() -> PathBuf {
    target().join("guest")
}

/// The guest's kernel, an arm64 `Image`.
pub fn guest_kernel() -> PathBuf {
    guest().join("vmlinuz")
}

/// The guest's initramfs, gzipped.
pub fn guest_initrd() -> PathBuf {
    guest().join("initrd.gz")
}

/// What goes behind the guest's initramfs for a guest that compiles: gzipped, too.
pub fn guest_compiler() -> PathBuf {
    guest().join("compiler.gz")
}

/// What goes behind the guest's initramfs for a guest with kernel modules: `/modules`, gzipped, too.
pub fn guest_modules() -> PathBuf {
    guest().join("modules.gz")
}

/// Where a failed test leaves its logs.
pub fn logs(test: &str) -> PathBuf {
    target().join("logs").join(test.replace("::", "."))
}

/// A bare-metal guest of `tests/guests`: a flat image.
pub fn payload(name: &str) -> PathBuf {
    let release = "guests/aarch64-unknown-none-softfloat/release";
    target().join(release).join(name)
}

/// The appliance with a bare-metal guest of `tests/guests` for its root.
pub fn bare_root(name: &str) -> PathBuf {
    target().join(format!("{name}.img"))
}
