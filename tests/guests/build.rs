//! Links every guest as a flat image at RAM + 0x80000.
//!
//! `SKETE_GUEST_ELF=1` makes ELF files at the same addresses instead, for a debugger.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../payload/payload.ld");
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rerun-if-env-changed=SKETE_GUEST_ELF");
    println!("cargo:rustc-link-arg-bins=-T{script}");
    if std::env::var_os("SKETE_GUEST_ELF").is_none() {
        println!("cargo:rustc-link-arg-bins=--oformat=binary");
    }
}
