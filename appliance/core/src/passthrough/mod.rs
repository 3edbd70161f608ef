//! Devices handed to guests: PCI functions, whose memory a guest reaches by fault.
//!
//! Core owns every PCI function and its configuration space (`ecam`): it finds and places them
//! at boot (`bus`), and hands them out when root asks (`assign`, `control`). A guest sees the
//! model of crate `pci` (`config`). Its BARs are mapped by touch (`touch`), as crate `devmem`
//! says, and every mapping goes before a device is reset (`zap`, `reset`). Nothing of a device's memory
//! is ever mapped in core's own tables but the one page of `window`, while it is used. Messages
//! (`msix`) come through the machine's ITS (`lpi`) and the VM's.
//!
//! # Locks
//!
//! A function has one lock, [`Slot`]'s. It comes before a VM's `gmap` and the window's, and no
//! run queue or vGIC is touched with it held. Nobody waits with it held: who has to wait is
//! parked (`park`) and tries again.

mod assign;
mod bus;
mod config;
mod control;
pub(crate) mod dma;
mod ecam;
mod events;
mod lpi;
mod msix;
mod park;
mod registers;
mod reset;
pub(crate) mod smmu;
mod touch;
mod window;
mod zap;

use arch::{Ipa, Pa};
use boot_info::Interrupt;
use devmem::profile::Profile;
use devmem::{Memory, Region, Taken, TouchMap, Trace, Waiter};
use guest_abi::map::{PCI_HIGH_BASE, PCI_HIGH_BYTES, PCI_LOW_BASE, PCI_LOW_BYTES};
use pci::{Address, BARS, Bar, Emulated, Function, Window};
use spin::Mutex;

use crate::{hw, timer};

pub(crate) use assign::release;
pub(crate) use bus::init;
pub(crate) use config::{Stored, load as config_load, store as config_store};
pub(crate) use control::handle;
pub(crate) use dma::View;
pub(crate) use events::interrupt;
pub(crate) use lpi::FIRST as LPI_FIRST;
pub(crate) use msix::taken as message_taken;
pub(crate) use park::{Parked, wake_at};
pub(crate) use touch::{claims, touch};

/// Most functions of the machine that core knows; and the bits of a VM's set of them.
const FUNCTIONS_MAX: usize = 32;
const _: () = assert!(FUNCTIONS_MAX <= 32, "a VM's set of them has 32 bits");

/// One function of the machine.
#[derive(Debug)]
struct Slot {
    address: Address,
    function: Function,
    /// Where its BARs are in the machine.
    placed: [Option<Pa>; BARS],
    /// How large those that can be resized may become there, and how large they were.
    room: [u64; BARS],
    found_bytes: [u64; BARS],
    /// Where its wire ends, if it has one.
    wire: Option<Interrupt>,
    /// The port behind which it is alone.
    port: Option<Address>,
    /// Functions of a group may reach each other's memory past the SMMU.
    group: u16,
    /// A reset of its bus is held, and is to be ended then (`reset`).
    held_until_ms: Option<u64>,
    /// It is not to be accessed before then, also while nobody has it.
    rests_until_ms: u64,
    /// The VM, by handle, whose device's memory it is.
    companion_of: Option<u64>,
    /// What there is to know while a VM has it.
    assigned: Option<Assigned>,
}

static FUNCTIONS: [Mutex<Option<Slot>>; FUNCTIONS_MAX] =
    [const { Mutex::new(None) }; FUNCTIONS_MAX];

/// A BAR as a guest has it.
#[derive(Clone, Copy, Debug)]
struct Shown {
    bar: Bar,
    pa: Pa,
    /// Bytes of memory in it.
    len: u64,
    memory: Memory,
    /// Registers that tell whether the device is ready: they can be reached before it is.
    tells: bool,
    /// First and last byte, in whole pages, of what is never mapped: the MSI-X table and its
    /// pending bits, which are the machine's.
    withheld: Option<(u64, u64)>,
}

/// Who bounds what the function does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dma {
    /// It may not be bus master.
    Never,
    /// The SMMU: it sees what its VM sees.
    Bounded,
    /// Nobody, and its owner knows.
    Unbounded,
}

/// A zap that is going on, and how far it is.
#[derive(Debug)]
struct Zap {
    duty: Taken,
    bar: usize,
    offset: u64,
}

/// A function that a VM has.
#[derive(Debug)]
struct Assigned {
    /// The VM's handle.
    vm: u64,
    /// Which function it is, by its place among [`FUNCTIONS`].
    index: usize,
    /// Device number on the guest's bus 0.
    number: u16,
    profile: Profile,
    state: devmem::Device,
    config: Emulated,
    bars: [Option<Shown>; BARS],
    zap: Option<Zap>,
    /// The function lost its configuration, which comes back once it may be accessed.
    restore: bool,
    quiet_until_ms: u64,
    dma: Dma,
    /// The guest's INTID, tied to the machine's.
    wire: Option<(u32, Interrupt)>,
    /// The guest has its messages (`msix`).
    messages: bool,
    /// The function's MSI-X table is not what the guest's says.
    vectors_lost: bool,
    /// The function that is its memory.
    companion: Option<usize>,
    trace: Trace,
    touches: TouchMap,
    timeouts: u64,
    /// Its transactions that the SMMU aborted, and the address of the last.
    dma_faults: u64,
    dma_fault_at: u64,
    mapped_bytes: u64,
    /// The control port's, for its reads and writes.
    waiter: Option<Waiter>,
}

const LOW: Window = Window {
    base: PCI_LOW_BASE,
    bytes: PCI_LOW_BYTES,
};
const HIGH: Window = Window {
    base: PCI_HIGH_BASE,
    bytes: PCI_HIGH_BYTES,
};

impl Assigned {
    /// Returns what BAR `n` shows where the guest has put it; nothing where no BAR may be.
    fn region(&self, n: usize) -> Option<(Shown, Region)> {
        let shown = self.bars.get(n).copied().flatten()?;
        let at = self.config.bar_address(n)?;
        let size = shown.bar.size;
        if !LOW.holds(at, size) && !HIGH.holds(at, size) {
            return None;
        }
        let region = Region::new(Ipa::new(at)?, shown.pa, shown.len, size, shown.memory).ok()?;
        Some((shown, region))
    }

    /// Returns the BAR that `ipa` is in.
    fn region_at(&self, ipa: Ipa) -> Option<(usize, Shown, Region)> {
        (0..BARS).find_map(|n| {
            let (shown, region) = self.region(n)?;
            region.offset(ipa).map(|_| (n, shown, region))
        })
    }
}

/// Milliseconds since the counter was zero.
fn now_ms() -> u64 {
    timer::nanoseconds(hw::cntpct()) / 1_000_000
}

/// Returns the counter value `ms` milliseconds after zero.
fn ticks_at(ms: u64) -> u64 {
    timer::ticks(ms.saturating_mul(1_000_000))
}

/// Returns the VM that has the SPI `intid` of the machine, by its handle, and what it is there.
pub(crate) fn owner_of(intid: u32) -> Option<(u64, u32)> {
    FUNCTIONS.iter().find_map(|slot| {
        let slot = slot.lock();
        let assigned = slot.as_ref()?.assigned.as_ref()?;
        let (guest, wire) = assigned.wire?;
        (wire.intid == intid).then_some((assigned.vm, guest))
    })
}
