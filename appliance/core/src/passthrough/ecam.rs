//! Configuration space of the machine's functions, by its memory-mapped window (PCIe 7.2.2).
#![expect(unsafe_code, reason = "registers are reached by address")]

use boot_entry::PHYSMAP;
use core::sync::atomic::{AtomicU64, Ordering};
use pci::{Address, Config};

/// Address of the first function's page in core's tables; 0 if there is no PCI.
static BASE: AtomicU64 = AtomicU64::new(0);

/// Says where it is. The first bus is mapped in core's tables.
pub(super) fn init(pa: u64) {
    BASE.store(PHYSMAP + pa, Ordering::Release);
}

/// One function of the first bus.
#[derive(Debug)]
pub(super) struct Ecam(u64);

impl Ecam {
    /// Returns the configuration space of `address`, whose bus is the host's first.
    pub(super) fn of(address: Address) -> Self {
        let page = u64::from(address.raw() & 0xff) << 12;
        Self(BASE.load(Ordering::Acquire) + page)
    }
}

impl Config for Ecam {
    fn read(&mut self, offset: u16) -> u32 {
        let at = self.0 + u64::from(offset & 0xffc);
        // SAFETY: the page of a function on the first bus, mapped as device memory at boot; a
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
