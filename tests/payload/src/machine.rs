//! What the device tree says of the machine.
#![expect(unsafe_code, reason = "the device tree is found by address")]

use crate::psci;
use core::sync::atomic::{AtomicU64, Ordering};
use fdt::Fdt;
use guest_abi::map::RAM_BASE;

static DEVICE_TREE: AtomicU64 = AtomicU64::new(0);
/// What has been read of it, plus one; zero before that. Reading takes long.
static TREE_BYTES: AtomicU64 = AtomicU64::new(0);
static RAM_BYTES: AtomicU64 = AtomicU64::new(0);
static CPUS: AtomicU64 = AtomicU64::new(0);

/// Returns what `known` holds, or what `read` says, which it then holds.
fn once(known: &AtomicU64, read: impl FnOnce() -> u64) -> u64 {
    match known.load(Ordering::Relaxed).checked_sub(1) {
        Some(value) => value,
        None => {
            let value = read();
            known.store(value + 1, Ordering::Relaxed);
            value
        }
    }
}

pub(crate) fn found_at(address: u64) {
    DEVICE_TREE.store(address, Ordering::Relaxed);
}

/// The device tree, if there is one.
fn tree() -> Option<Fdt<'static>> {
    let address = DEVICE_TREE.load(Ordering::Relaxed);
    // SAFETY: Whoever started the guest put the tree there (guest_abi::map), well above
    // the image, and this program stores nowhere in it (see `fresh`).
    unsafe { Fdt::from_ptr(core::ptr::with_exposed_provenance(address as usize)) }.ok()
}

/// Returns the address and bytes of the device tree.
pub fn device_tree() -> (u64, u64) {
    let bytes = once(&TREE_BYTES, || {
        tree().map_or(0, |tree| tree.total_size() as u64)
    });
    (DEVICE_TREE.load(Ordering::Relaxed), bytes)
}

/// Returns the bytes of RAM from [`RAM_BASE`].
pub fn ram_bytes() -> u64 {
    once(&RAM_BYTES, read_ram_bytes)
}

fn read_ram_bytes() -> u64 {
    tree()
        .and_then(|tree| {
            let memory = tree
                .find_node("/memory")
                .or_else(|| tree.find_node("/memory@40000000"))?;
            memory.reg()?.find_map(|region| {
                (region.starting_address.addr() as u64 == RAM_BASE).then_some(region.size)
            })?
        })
        .map_or(0, |bytes| bytes as u64)
}

/// Returns how many vCPUs there are.
pub fn cpus() -> usize {
    once(&CPUS, || {
        tree().map_or(1, |tree| tree.cpus().count() as u64)
    }) as usize
}

/// Returns the boot arguments.
pub fn bootargs() -> &'static str {
    tree()
        .and_then(|tree| tree.find_node("/chosen")?.property("bootargs")?.as_str())
        .unwrap_or("")
}

/// Returns the word after `key=` in the boot arguments.
pub fn argument_text(key: &str) -> Option<&'static str> {
    bootargs()
        .split_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// Returns the number after `key=` in the boot arguments.
pub fn argument(key: &str) -> Option<u64> {
    argument_text(key)?.parse().ok()
}

/// Returns whether round `n`, from 0, is one too many: after `n=` rounds, if that is given.
pub fn enough(n: u64) -> bool {
    argument("n").is_some_and(|limit| n >= limit)
}

/// Returns the 2 MiB blocks of RAM, as addresses, that hold neither image nor device tree.
///
/// The lowest block is left out too.
pub fn fresh_blocks() -> impl DoubleEndedIterator<Item = u64> {
    const BLOCK: u64 = 2 << 20;
    let (_, image_end) = crate::mem::image();
    let (tree_at, tree_bytes) = device_tree();
    let first = image_end.next_multiple_of(BLOCK);
    let end = RAM_BASE + ram_bytes();
    (first / BLOCK..end / BLOCK)
        .map(|n| n * BLOCK)
        .filter(move |at| at + BLOCK <= tree_at || tree_at + tree_bytes <= *at)
}

/// Returns whether an SMCCC 1.1 hypervisor answers; plain QEMU's PSCI does not.
pub fn on_skete() -> bool {
    psci::result32(psci::hvc(psci::SMCCC_VERSION, 0, 0, 0)) >= 0x1_0001
}
