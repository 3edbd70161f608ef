//! Links every guest as a flat image at RAM + 0x80000.
//!
//! `SKETE_GUEST_ELF=1` makes ELF files at the same addresses instead, for a debugger and for
//! `mkimage`. `direct`, `memory_root` and `linux_root` are linked where root is, and carry
//! the files that the variables below name.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../payload/payload.ld");
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rerun-if-env-changed=SKETE_GUEST_ELF");
    println!("cargo:rustc-link-arg-bins=-T{script}");
    for root in ["direct", "memory_root", "linux_root"] {
        println!("cargo:rustc-link-arg-bin={root}=--defsym=payload_base=0x40200000");
    }
    for file in [
        "SKETE_DIRECT_GUEST",
        "SKETE_DIRECT_MIGRATE",
        "SKETE_DIRECT_TIMERS",
        "SKETE_DIRECT_LOCK",
        "SKETE_DIRECT_TURNS",
        "SKETE_DIRECT_CONFORMANCE",
        "SKETE_DIRECT_PARAVIRT",
        "SKETE_LINUX_KERNEL",
        "SKETE_LINUX_INITRD",
    ] {
        println!("cargo:rerun-if-env-changed={file}");
        let path = std::env::var(file).unwrap_or_else(|_| script.to_owned());
        println!("cargo:rerun-if-changed={path}");
        println!("cargo:rustc-env={file}={path}");
    }
    if std::env::var_os("SKETE_GUEST_ELF").is_none() {
        println!("cargo:rustc-link-arg-bins=--oformat=binary");
    }
}
