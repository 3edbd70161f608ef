//! The machine's SMMUv3: a device that a VM has sees through the VM's stage 2, every other
//! device sees nothing.
//!
//! The tables are the VM's own, so they never differ from what its vCPUs see. When something is
//! taken out of them the SMMU's copies go with the cores' ([`invalidate`]), before its frame is
//! anyone else's.

use arch::Pa;
use boot_entry::PHYSMAP;
use boot_info::BootInfo;
use smmu::register::{
    BASE_ALLOCATE, CMDQ_BASE, CMDQ_CONS, CMDQ_CONS_ERROR, CMDQ_PROD, CR0, CR0_CMDQEN, CR0_EVENTQEN,
    CR0_SMMUEN, CR0ACK, CR1, CR1_COHERENT, EVENTQ_BASE, EVENTQ_CONS, EVENTQ_PROD, GBPA, GBPA_ABORT,
    GBPA_UPDATE, IDR0, IDR1, IDR5, IRQ_CTRL, IRQ_CTRL_EVENTQ, IRQ_CTRLACK, STRTAB_BASE,
    STRTAB_BASE_CFG,
};
use smmu::{Command, Event, Features, Ring, STE_WORDS, Stage2, Ste};
use spin::Mutex;

use super::events;
use super::registers::{read32, read64, write32, write64};
use crate::console::println;
use crate::{hw, memory, physmap};

/// log2 of the bytes of a stream table entry.
const ENTRY_BITS: u8 = 6;
/// Commands and events that a page holds.
const COMMAND_BITS: u8 = 8;
const EVENT_BITS: u8 = 7;
/// Reads of a register after which the SMMU is taken to be stuck.
const PATIENCE: u32 = 1_000_000;

#[derive(Debug)]
struct Smmu {
    /// Where core sees the registers.
    base: u64,
    table: Pa,
    /// The table has an entry for each stream of so many bits.
    stream_bits: u8,
    commands: (Pa, Ring),
    events: (Pa, Ring),
    producer: u32,
    consumer: u32,
}

static SMMU: Mutex<Option<Smmu>> = Mutex::new(None);

/// Finds the SMMU and switches it on, with nothing let through. Streams have `stream_bits` bits,
/// eight at least.
pub(super) fn init(info: &BootInfo, stream_bits: u8) {
    let Some(registers) = info.smmu else { return };
    if physmap::add_device(registers).is_err() {
        println!("the SMMU at {:#x} cannot be mapped", registers.pa);
        return;
    }
    let base = PHYSMAP + registers.pa;
    let features = Features::read(
        read32(base + IDR0),
        read32(base + IDR1),
        read32(base + IDR5),
    );
    let features = match features {
        Ok(features) => features,
        Err(why) => {
            println!("the SMMU at {:#x} is not used: {why}", registers.pa);
            return;
        }
    };
    let stream_bits = features.stream_bits.min(stream_bits);
    let blocks = (
        memory::alloc_zeroed((stream_bits + ENTRY_BITS).saturating_sub(12)),
        memory::alloc_zeroed(0),
        memory::alloc_zeroed(0),
    );
    let (Some(table), Some(commands), Some(events)) = blocks else {
        println!("no memory for the SMMU's tables");
        return;
    };
    let mut new = Smmu {
        base,
        table,
        stream_bits,
        commands: (commands, Ring::new(COMMAND_BITS.min(features.command_bits))),
        events: (events, Ring::new(EVENT_BITS.min(features.event_bits))),
        producer: 0,
        consumer: 0,
    };
    if new.switch_on() {
        if let Some(interrupt) = info.smmu_events
            && new.interrupt()
        {
            events::by_interrupt(interrupt);
        }
        *SMMU.lock() = Some(new);
    } else {
        println!("the SMMU at {:#x} does not answer", registers.pa);
    }
}

/// Returns whether devices can be bounded.
pub(super) fn is_there() -> bool {
    SMMU.lock().is_some()
}

/// Lets `stream` see what `stage2` shows, or nothing.
pub(super) fn attach(stream: u16, stage2: Option<Stage2>) -> bool {
    let mut smmu = SMMU.lock();
    let Some(smmu) = smmu.as_mut() else {
        return false;
    };
    let entry = stage2.map_or(Ste::ABORT, Ste::stage2);
    smmu.write_entry(stream, &entry)
}

/// Drops what the SMMU has cached of a VM's tables.
pub(crate) fn invalidate(vmid: u16) {
    if let Some(smmu) = SMMU.lock().as_mut() {
        let done = smmu.issue(&[Command::drop_vmid(vmid), Command::sync()]);
        // Frames are about to be given to somebody else: nothing may go on without this.
        assert!(done, "the SMMU does not drop what it has cached");
    }
}

/// Most events that the queue holds.
pub(super) const EVENTS_MAX: usize = 1 << EVENT_BITS;

/// Takes the oldest transaction that was aborted out of the queue.
pub(super) fn next_event() -> Option<Event> {
    let mut smmu = SMMU.lock();
    let smmu = smmu.as_mut()?;
    let (queue, ring) = smmu.events;
    let producer = read32(smmu.base + EVENTQ_PROD);
    if ring.is_empty(producer, smmu.consumer) {
        return None;
    }
    let at = memory::va(queue) + u64::from(ring.index(smmu.consumer)) * 32;
    let words = [0, 8, 16, 24].map(|n| read64(at + n));
    smmu.consumer = ring.next(smmu.consumer);
    // The overflow flag, bit 31, is acknowledged by being the same in both.
    write32(smmu.base + EVENTQ_CONS, smmu.consumer | producer & 1 << 31);
    Some(Event::read(words))
}

impl Smmu {
    /// Brings it from whatever the firmware left to translating (IHI 0070, 6.3.9.6).
    fn switch_on(&mut self) -> bool {
        let base = self.base;
        write32(base + GBPA, GBPA_UPDATE | GBPA_ABORT);
        let aborts = wait(base + GBPA, GBPA_UPDATE, 0);
        if !aborts || !self.set_cr0(0) {
            return false;
        }
        write32(base + CR1, CR1_COHERENT);
        write64(base + STRTAB_BASE, self.table.raw() | BASE_ALLOCATE);
        write32(base + STRTAB_BASE_CFG, u32::from(self.stream_bits));
        let (commands, ring) = self.commands;
        let value = commands.raw() | BASE_ALLOCATE | u64::from(ring.bits());
        write64(base + CMDQ_BASE, value);
        write32(base + CMDQ_PROD, 0);
        write32(base + CMDQ_CONS, 0);
        let (events, ring) = self.events;
        let value = events.raw() | BASE_ALLOCATE | u64::from(ring.bits());
        write64(base + EVENTQ_BASE, value);
        write32(base + EVENTQ_PROD, 0);
        write32(base + EVENTQ_CONS, 0);
        let all = [
            Command::forget_all_streams(),
            Command::drop_all(),
            Command::sync(),
        ];
        let queues = CR0_CMDQEN | CR0_EVENTQEN;
        self.set_cr0(queues) && self.issue(&all) && self.set_cr0(queues | CR0_SMMUEN)
    }

    /// Has it interrupt when there is an event; false if it does not.
    fn interrupt(&self) -> bool {
        write32(self.base + IRQ_CTRL, IRQ_CTRL_EVENTQ);
        wait(self.base + IRQ_CTRLACK, IRQ_CTRL_EVENTQ, IRQ_CTRL_EVENTQ)
    }

    fn set_cr0(&self, value: u32) -> bool {
        write32(self.base + CR0, value);
        wait(
            self.base + CR0ACK,
            CR0_SMMUEN | CR0_EVENTQEN | CR0_CMDQEN,
            value,
        )
    }

    /// Issues commands, the last of which is a sync, and waits for them.
    fn issue(&mut self, commands: &[Command]) -> bool {
        let (queue, ring) = self.commands;
        for command in commands {
            let at = memory::va(queue) + u64::from(ring.index(self.producer)) * 16;
            for (n, word) in (0..).zip(command.words()) {
                write64(at + n * 8, word);
            }
            self.producer = ring.next(self.producer);
        }
        // The SMMU may read the commands once it sees that they are there.
        hw::dsb_ish();
        write32(self.base + CMDQ_PROD, self.producer);
        for _ in 0..PATIENCE {
            let consumer = read32(self.base + CMDQ_CONS);
            if ring.is_empty(self.producer, consumer) {
                return true;
            }
            if consumer & CMDQ_CONS_ERROR != 0 {
                break;
            }
        }
        println!("the SMMU stopped at a command");
        false
    }

    /// Changes an entry: invalid first, valid last, and nothing of it cached in between.
    fn write_entry(&mut self, stream: u16, entry: &Ste) -> bool {
        if u32::from(stream) >> self.stream_bits != 0 {
            return false;
        }
        let at = memory::va(self.table) + u64::from(stream) * 8 * STE_WORDS as u64;
        let forget = [Command::forget_stream(u32::from(stream)), Command::sync()];
        write64(at, 0);
        hw::dsb_ish();
        if !self.issue(&forget) {
            return false;
        }
        for (n, word) in (0..).zip(entry.words()).skip(1) {
            write64(at + n * 8, *word);
        }
        hw::dsb_ish();
        let [first, ..] = entry.words();
        write64(at, *first);
        hw::dsb_ish();
        self.issue(&forget)
    }
}

/// Reads until the bits in `mask` are those of `value`.
fn wait(at: u64, mask: u32, value: u32) -> bool {
    (0..PATIENCE).any(|_| read32(at) & mask == value)
}
