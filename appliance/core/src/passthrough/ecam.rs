//! Configuration space of the machine's functions, by its memory-mapped window (PCIe 7.2.2).
#![expect(unsafe_code, reason = "registers are reached by address")]

use boot_entry::PHYSMAP;
use core::sync::atomic::{AtomicU64, Ordering};
use pci::{Address, Config};

/// Where function 0 of bus 0 is in core's tables, whether or not that is a bus of the host's.
static BASE: AtomicU64 = AtomicU64::new(0);

/// Says where it is, and what its first bus is. All buses that are used are mapped in core's
/// tables.
pub(super) fn init(pa: u64, bus_first: u8) {
    let before = u64::from(bus_first) << 20;
    BASE.store((PHYSMAP + pa).wrapping_sub(before), Ordering::Release);
}

/// One function.
#[derive(Debug)]
pub(super) struct Ecam(u64);

impl Ecam {
    /// Returns the configuration space of `address`, on one of the buses that were mapped.
    pub(super) fn of(address: Address) -> Self {
        let page = u64::from(address.raw()) << 12;
        Self(BASE.load(Ordering::Acquire).wrapping_add(page))
    }
}

impl Config for Ecam {
    fn read(&mut self, offset: u16) -> u32 {
        let at = self.0 + u64::from(offset & 0xffc);
        // SAFETY: the page of a function, mapped as device memory at boot with its bus; a
        // word that is nobody's reads as ones.
        unsafe { core::ptr::read_volatile(at as *const u32) }
    }

    fn write(&mut self, offset: u16, value: u32) {
        let at = self.0 + u64::from(offset & 0xffc);
        // SAFETY: as above. What a register does to the machine is the caller's concern: it
        // is a function that core owns.
        unsafe { core::ptr::write_volatile(at as *mut u32, value) }
    }

    fn write_low(&mut self, offset: u16, value: u16) {
        let at = self.0 + u64::from(offset & 0xffc);
        // SAFETY: as above. A half-word store leaves the status half alone altogether.
        unsafe { core::ptr::write_volatile(at as *mut u16, value) }
    }
}
