//! The machine's ITS: makes LPIs of the messages of functions that VMs have.
//!
//! It is switched on when the first function is given away that sends messages; before that it
//! costs nothing. LPI [`FIRST`] + 256 n + v is vector v of function n, always enabled here:
//! vectors are masked at the function.

use ::its::register::{
    BASER, CBASER, CREADR, CREADR_STALLED, CTLR, CTLR_ENABLED, CTLR_QUIESCENT, CWRITER, Features,
    GICR_CTLR, GICR_CTLR_ENABLE_LPIS, GICR_PENDBASER, GICR_PROPBASER, GICR_TYPER, PAGE_BYTES,
    PAGES_MAX, TRANSLATER, TYPER, Table, configuration, page_code, pending, queue, table,
    table_entry_bytes, target,
};
use ::its::{Command, Queue};
use arch::Pa;
use boot_entry::PHYSMAP;
use boot_info::BootInfo;
use core::sync::atomic::Ordering;
use spin::Mutex;

use super::registers::{read32, read64, write32, write64};
use crate::console::println;
use crate::{hw, memory, per_cpu, physmap};

/// The first LPI.
pub(crate) const FIRST: u32 = 8192;
/// LPIs of a function.
pub(super) const PER_FUNCTION: u32 = 256;

/// Bits of INTIDs: LPIs up to 16383.
const INTID_BITS: u8 = 14;
/// Order of the configuration table: a byte each of 8192 LPIs.
const CONFIG_ORDER: u8 = 1;
/// A configuration byte: enabled (bit 0; bit 1 is RES1), as urgent as everything of core's.
const CONFIG: u8 = 0xa3;
/// Order of a pending table: it has to lie at a multiple of 64 KiB.
const PENDING_ORDER: u8 = 4;
/// Reads of a register after which the ITS is taken to be stuck.
const PATIENCE: u32 = 1_000_000;

#[derive(Debug)]
struct Its {
    /// Where core sees the registers, and where they are.
    base: u64,
    pa: u64,
    features: Features,
    /// Bits of device IDs that are used.
    device_bits: u8,
    /// Requester ID that the ITS calls device `device_first`, and how many follow.
    requester_first: u32,
    device_first: u32,
    devices: u32,
    queue: Option<(Pa, Queue)>,
}

static ITS: Mutex<Option<Its>> = Mutex::new(None);

/// Finds the ITS, if the PCI host's messages lead there.
/// Device IDs have `device_bits` bits.
pub(super) fn init(info: &BootInfo, device_bits: u8) {
    let messages = info.pci.and_then(|host| host.messages);
    let Some((registers, messages)) = info.gic.its.zip(messages) else {
        return;
    };
    if registers.bytes < ::its::register::FRAMES_BYTES || physmap::add_device(registers).is_err() {
        println!("the ITS at {:#x} cannot be mapped", registers.pa);
        return;
    }
    let base = PHYSMAP + registers.pa;
    let features = Features::read(read64(base + TYPER));
    let Some(features) = features.filter(|f| f.device_bits >= device_bits) else {
        println!("the ITS at {:#x} is of no use here", registers.pa);
        return;
    };
    *ITS.lock() = Some(Its {
        base,
        pa: registers.pa,
        features,
        device_bits,
        requester_first: messages.requester_first,
        device_first: messages.device_first,
        devices: messages.count,
        queue: None,
    });
}

/// Returns the address that a message is written to, if there is an ITS.
pub(super) fn doorbell() -> Option<Pa> {
    let its = ITS.lock();
    Pa::new(its.as_ref()?.pa + TRANSLATER)
}

/// A function's translation table, as long as it has one.
#[derive(Debug)]
pub(super) struct Translation {
    device: u32,
    table: Pa,
    order: u8,
}

/// Makes LPIs of the `count` messages of the function with requester ID `requester`, the `n`-th
/// that core knows; they come to core `core`.
pub(super) fn map(n: usize, requester: u16, count: u16, core: usize) -> Option<Translation> {
    let mut its = ITS.lock();
    let its = its.as_mut()?;
    let device = u32::from(requester)
        .checked_sub(its.requester_first)
        .filter(|device| *device < its.devices)?
        .checked_add(its.device_first)
        .filter(|device| device >> its.device_bits == 0)?;
    let bits = (count.next_power_of_two().trailing_zeros() as u8).clamp(1, its.features.event_bits);
    if u32::from(count) > 1 << bits || !its.switch_on() {
        return None;
    }
    let pages = (its.features.entry_bytes << bits).div_ceil(4096);
    let order = pages.next_power_of_two().trailing_zeros() as u8;
    let table = memory::alloc_zeroed(order)?;
    hw::clean_to_poc(memory::va(table), 4096 << order);
    let first = FIRST + n as u32 * PER_FUNCTION;
    let mut done = its.issue(Command::map_device(device, bits, table.raw()));
    for event in 0..u32::from(count) {
        done &= its.issue(Command::map_event(
            device,
            event,
            first + event,
            core as u16,
        ));
    }
    done &= its.sync(core);
    if !done {
        // The table may be in use still: it is lost.
        println!("the ITS does not take the messages of device {device:#x}");
        return None;
    }
    Some(Translation {
        device,
        table,
        order,
    })
}

/// Makes no LPIs of a function's messages any more.
pub(super) fn unmap(translation: Translation) {
    let mut its = ITS.lock();
    let Some(its) = its.as_mut() else { return };
    let done = its.issue(Command::unmap_device(translation.device)) && its.sync(0);
    if done {
        memory::free(translation.table, translation.order);
    }
}

impl Its {
    /// Brings ITS and redistributors from reset to work, once.
    fn switch_on(&mut self) -> bool {
        if self.queue.is_some() {
            return true;
        }
        let on = self.try_on();
        if !on {
            println!(
                "the ITS at {:#x} does not work: no messages for guests",
                self.pa
            );
        }
        on
    }

    fn try_on(&mut self) -> bool {
        write32(self.base + CTLR, 0);
        let quiet = (0..PATIENCE).any(|_| read32(self.base + CTLR) & CTLR_QUIESCENT != 0);
        if !quiet || !lpis_on() {
            return false;
        }
        for n in 0..8 {
            let at = self.base + BASER + n * 8;
            let bytes = match Table::of(read64(at)) {
                Table::Devices => table_entry_bytes(read64(at)) << self.device_bits,
                Table::Collections => 1,
                Table::Other => continue,
            };
            if !give_table(at, bytes) {
                return false;
            }
        }
        let Some(page) = memory::alloc_zeroed(0) else {
            return false;
        };
        write64(self.base + CBASER, queue(page.raw()));
        write64(self.base + CWRITER, 0);
        write32(self.base + CTLR, CTLR_ENABLED);
        self.queue = Some((page, Queue::default()));
        let mut done = true;
        for cpu in per_cpu::online() {
            let core = cpu.number();
            done &= self.issue(Command::map_collection(core as u16, self.target(core)));
            done &= self.issue(Command::invalidate_all(core as u16));
            done &= self.sync(core);
        }
        done
    }

    /// Returns how commands name the redistributor of core `core`.
    fn target(&self, core: usize) -> u64 {
        let at = per_cpu::cpu(core).redistributor.load(Ordering::Relaxed);
        target(self.features, at - PHYSMAP, read64(at + GICR_TYPER))
    }

    fn sync(&mut self, core: usize) -> bool {
        self.issue(Command::sync(self.target(core)))
    }

    /// Issues a command, and waits until it is done.
    fn issue(&mut self, command: Command) -> bool {
        let Some((page, queue)) = &mut self.queue else {
            return false;
        };
        let at = memory::va(*page) + queue.writer();
        for (n, word) in (0..).zip(command.words()) {
            write64(at + n * 8, word);
        }
        hw::clean_to_poc(at, ::its::COMMAND_BYTES);
        // The ITS may read the command once it sees that it is there.
        hw::dsb_ish();
        let behind = queue.advance();
        write64(self.base + CWRITER, behind);
        for _ in 0..PATIENCE {
            let reader = read64(self.base + CREADR);
            if reader == behind {
                return true;
            }
            if reader & CREADR_STALLED != 0 {
                break;
            }
        }
        println!("the ITS stopped at a command");
        false
    }
}

/// Gives the table of the GITS_BASER at `at` zeroes, in pages of the size it wants.
fn give_table(at: u64, bytes: u64) -> bool {
    for code in 0..3_u8 {
        let page = PAGE_BYTES.get(usize::from(code)).copied().unwrap_or(4096);
        let bytes = bytes.next_multiple_of(page).next_power_of_two();
        if bytes / page > PAGES_MAX {
            continue;
        }
        let order = (bytes >> 12).trailing_zeros() as u8;
        let Some(pa) = memory::alloc_zeroed(order) else {
            return false;
        };
        hw::clean_to_poc(memory::va(pa), bytes);
        write64(at, table(pa.raw(), code, bytes / page));
        if page_code(read64(at)) == code {
            return true;
        }
        write64(at, 0);
        memory::free(pa, order);
    }
    false
}

/// Switches LPIs on in every core's redistributor, all of them enabled.
fn lpis_on() -> bool {
    let Some(config) = memory::alloc_zeroed(CONFIG_ORDER) else {
        return false;
    };
    let bytes = 4096 << CONFIG_ORDER;
    let part = [CONFIG; 512];
    for at in (0..bytes).step_by(part.len()) {
        if let Some(to) = config.checked_add(at) {
            memory::copy_in(to, &part);
        }
    }
    hw::clean_to_poc(memory::va(config), bytes);
    for cpu in per_cpu::online() {
        let base = cpu.redistributor.load(Ordering::Relaxed);
        let Some(table) = memory::alloc_zeroed(PENDING_ORDER) else {
            return false;
        };
        hw::clean_to_poc(memory::va(table), 4096 << PENDING_ORDER);
        write64(
            base + GICR_PROPBASER,
            configuration(config.raw(), INTID_BITS),
        );
        write64(base + GICR_PENDBASER, pending(table.raw()));
        write32(base + GICR_CTLR, GICR_CTLR_ENABLE_LPIS);
    }
    hw::dsb_ish();
    true
}
