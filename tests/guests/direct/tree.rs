//! The device tree of a guest: what `tests/payload` reads of it.

use alloc::vec::Vec;
use guest_abi::map::RAM_BASE;
use vm_fdt::{Error, FdtWriter};

/// Makes the tree of a VM.
pub(crate) fn make(vcpus: u64, ram_bytes: u64, bootargs: &str) -> Result<Vec<u8>, Error> {
    let mut tree = FdtWriter::new()?;
    let root = tree.begin_node("")?;
    tree.property_string("compatible", "linux,dummy-virt")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;

    let chosen = tree.begin_node("chosen")?;
    tree.property_string("bootargs", bootargs)?;
    tree.end_node(chosen)?;

    let memory = tree.begin_node("memory@40000000")?;
    tree.property_string("device_type", "memory")?;
    tree.property_array_u64("reg", &[RAM_BASE, ram_bytes])?;
    tree.end_node(memory)?;

    let cpus = tree.begin_node("cpus")?;
    tree.property_u32("#address-cells", 1)?;
    tree.property_u32("#size-cells", 0)?;
    for n in 0..vcpus as u32 {
        let cpu = tree.begin_node(&alloc::format!("cpu@{n}"))?;
        tree.property_string("device_type", "cpu")?;
        tree.property_string("compatible", "arm,armv8")?;
        tree.property_string("enable-method", "psci")?;
        tree.property_u32("reg", n)?;
        tree.end_node(cpu)?;
    }
    tree.end_node(cpus)?;

    let psci = tree.begin_node("psci")?;
    tree.property_string("compatible", "arm,psci-1.0")?;
    tree.property_string("method", "hvc")?;
    tree.end_node(psci)?;
    tree.end_node(root)?;
    tree.finish()
}
