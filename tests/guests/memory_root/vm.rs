//! The guest under test: made once, and told what to do.

use crate::{orders, tree};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use guest_abi::core_call::{CoreCall, Status};
use guest_abi::map::{FLAT_OFFSET, RAM_BASE};
use guest_abi::memory_call::{MemoryPolicy, Scan, VmMemory};
use payload::root::{self, Block, call, try_call};
use payload::timer::{self, Timer};
use payload::{cpu, gic};

/// The guest: a flat image.
static GUEST: &[u8] = include_bytes!(env!("SKETE_DIRECT_GUEST"));
/// Where its device tree goes, from the first byte of RAM.
const TREE: u64 = 12 << 20;
/// How long an order may take, in nanoseconds of the counter.
const PATIENCE_NS: u64 = 120_000_000_000;

static SEQUENCE: AtomicU64 = AtomicU64::new(0);
/// Whether root and its guest share a core: root sleeps while it waits.
static NAPS: AtomicBool = AtomicBool::new(false);

/// Makes root sleep while it waits for its guest.
pub(crate) fn share_the_core() {
    gic::init_distributor();
    gic::init_cpu();
    gic::set_bit(gic::ISENABLER, Timer::Virtual.intid());
    NAPS.store(true, Ordering::Relaxed);
}

/// Sleeps for ten milliseconds: see `direct`.
pub(crate) fn nap() {
    let timer = Timer::Virtual;
    let before = gic::taken(0);
    timer.set_compare(timer.now() + timer::ticks(10_000_000));
    timer.set_control(timer::ENABLE);
    while gic::taken(0) == before {
        cpu::wfi();
        cpu::unmask_irq();
        cpu::isb();
        cpu::mask_irq();
    }
}

/// A running guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vm {
    pub(crate) handle: u64,
    pub(crate) ram_bytes: u64,
}

impl Vm {
    /// Creates a VM that is not started.
    pub(crate) fn create(ram_bytes: u64) -> Result<Self, Status> {
        Self::create_with(ram_bytes, 0)
    }

    /// As [`Self::create`], without what `flags` say.
    pub(crate) fn create_with(ram_bytes: u64, flags: u32) -> Result<Self, Status> {
        Self::create_smp(ram_bytes, 1, flags)
    }

    /// As [`Self::create_with`], with so many vCPUs.
    pub(crate) fn create_smp(ram_bytes: u64, vcpus: u32, flags: u32) -> Result<Self, Status> {
        let frame = Block::new(0);
        // A VmConfig: RAM, vCPUs and flags, name.
        let mut config = [0; 80];
        config[..8].copy_from_slice(&ram_bytes.to_le_bytes());
        config[8..12].copy_from_slice(&vcpus.to_le_bytes());
        config[12..16].copy_from_slice(&flags.to_le_bytes());
        config[16..22].copy_from_slice(b"memory");
        frame.fill(&config);
        match try_call(CoreCall::VmCreate, &[frame.pa]) {
            (Status::Ok, [handle, ..]) => Ok(Self { handle, ram_bytes }),
            (status, _) => Err(status),
        }
    }

    /// Loads the guest and starts it.
    pub(crate) fn start(self) {
        self.start_with(1);
    }

    /// As [`Self::start`], for a VM with so many vCPUs.
    pub(crate) fn start_with(self, vcpus: u64) {
        self.copy_in(RAM_BASE + FLAT_OFFSET, GUEST);
        let tree = tree::make(vcpus, self.ram_bytes, "").expect("a device tree");
        self.copy_in(RAM_BASE + TREE, &tree);
        self.enter();
    }

    /// Starts it with what its RAM holds. It may do once more what it was last told.
    pub(crate) fn enter(self) {
        let entry = RAM_BASE + FLAT_OFFSET;
        call(CoreCall::VmEntry, &[self.handle, entry, RAM_BASE + TREE]);
        call(CoreCall::VmStart, &[self.handle]);
    }

    fn copy_in(self, ipa: u64, bytes: &[u8]) {
        let frame = Block::new(6);
        let size = 4096 << 6;
        for (chunk, at) in bytes.chunks(size).zip((ipa..).step_by(size)) {
            frame.fill(chunk);
            let mut done = 0;
            while done < chunk.len() as u64 {
                let left = chunk.len() as u64 - done;
                let args = [self.handle, at + done, frame.pa + done, left];
                let [copied, ..] = call(CoreCall::VmCopyIn, &args);
                done += copied;
            }
        }
    }

    /// Gives an order and does not wait.
    pub(crate) fn begin(self, order: u64, arguments: [u64; 4]) -> u64 {
        let frame = Block::new(0);
        let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed) + 1;
        frame.set_word(0, order);
        for (n, argument) in (1..).zip(arguments) {
            frame.set_word(n, argument);
        }
        frame.set_word(8, sequence);
        let mailbox = RAM_BASE + orders::MAILBOX;
        self.write(mailbox + orders::ORDER, frame.pa, 40, 0)
            .expect("the mailbox is RAM without a key");
        self.write(mailbox + orders::SEQUENCE, frame.pa + 64, 8, 0)
            .expect("as above");
        sequence
    }

    /// Returns the results of order `sequence`, if it is carried out.
    pub(crate) fn poll(self, sequence: u64) -> Option<[u64; 2]> {
        let frame = Block::new(0);
        let mailbox = RAM_BASE + orders::MAILBOX;
        self.read(mailbox + orders::DONE, frame.pa, 24, 0)
            .expect("the mailbox is RAM without a key");
        (frame.word(0) == sequence).then(|| [frame.word(1), frame.word(2)])
    }

    /// Waits for order `sequence`.
    pub(crate) fn wait(self, sequence: u64) -> [u64; 2] {
        let end = timer::now() + timer::ticks(PATIENCE_NS);
        loop {
            if let Some(results) = self.poll(sequence) {
                return results;
            }
            assert!(timer::now() < end, "the guest does not answer");
            if NAPS.load(Ordering::Relaxed) {
                nap();
            } else {
                cpu::yield_now();
            }
        }
    }

    /// Returns the ticks that the last order took the guest.
    pub(crate) fn ticks(self) -> u64 {
        let frame = Block::new(0);
        let at = RAM_BASE + orders::MAILBOX + orders::RESULTS + 16;
        self.read(at, frame.pa, 8, 0)
            .expect("the mailbox is RAM without a key");
        frame.word(0)
    }

    /// Gives an order and waits for its results.
    pub(crate) fn order(self, order: u64, arguments: [u64; 4]) -> [u64; 2] {
        self.wait(self.begin(order, arguments))
    }

    /// Reads the guest's RAM into granted frames.
    pub(crate) fn read(self, ipa: u64, pa: u64, bytes: u64, key: u64) -> Result<(), Status> {
        self.transfer(CoreCall::VmRead, [ipa, pa, bytes, key])
    }

    /// Writes the guest's RAM from granted frames.
    pub(crate) fn write(self, ipa: u64, pa: u64, bytes: u64, key: u64) -> Result<(), Status> {
        self.transfer(CoreCall::VmWrite, [ipa, pa, bytes, key])
    }

    fn transfer(self, what: CoreCall, [ipa, pa, bytes, key]: [u64; 4]) -> Result<(), Status> {
        let mut done = 0;
        while done < bytes {
            let args = [self.handle, ipa + done, bytes - done, pa + done, key];
            match try_call(what, &args) {
                (Status::Ok, [n, ..]) => done += n,
                (Status::Again, _) => {}
                (status, _) => return Err(status),
            }
        }
        Ok(())
    }

    pub(crate) fn memory(self) -> VmMemory {
        root::vm_memory(self.handle)
    }

    /// Sets the largest leaf, and whether a page counts as written from its first touch.
    pub(crate) fn policy(self, largest_shift: u32, flags: u32) {
        let policy = MemoryPolicy {
            limit_bytes: u64::MAX,
            table_limit_bytes: u64::MAX,
            largest_shift,
            flags,
        };
        root::set_policy(self.handle, policy);
    }

    /// Scans a range to its end; returns the bytes found.
    pub(crate) fn scan(self, what: Scan, ipa: u64, bytes: u64, bitmap: u64) -> u64 {
        self.sliced(CoreCall::VmMemoryScan, |cursor| {
            [self.handle, what as u64, ipa, bytes, bitmap, cursor, 0]
        })
    }

    /// Takes memory back to the end of a range; returns the bytes freed.
    pub(crate) fn reclaim(self, what: u64, ipa: u64, bytes: u64) -> u64 {
        self.reclaim_logged(what, ipa, bytes, 0)
    }

    /// As [`Self::reclaim`], with a migration's log of the range.
    pub(crate) fn reclaim_logged(self, what: u64, ipa: u64, bytes: u64, log: u64) -> u64 {
        self.sliced(CoreCall::VmReclaim, |cursor| {
            [self.handle, what, ipa, bytes, cursor, 0, log]
        })
    }

    /// Makes its RAM hold what `from`'s does; returns the bytes shared.
    pub(crate) fn share(self, from: Self, ipa: u64, bytes: u64) -> u64 {
        self.sliced(CoreCall::VmShareMemory, |cursor| {
            [self.handle, from.handle, ipa, bytes, cursor, 0, 0]
        })
    }

    fn sliced(self, what: CoreCall, args: impl Fn(u64) -> [u64; 7]) -> u64 {
        let (mut cursor, mut sum) = (0, 0);
        loop {
            let (status, [next, found, _]) = try_call(what, &args(cursor));
            sum += found;
            match status {
                Status::Ok => return sum,
                Status::Again => cursor = next,
                other => panic!("{what:?} {:x?}: {other:?}", args(cursor)),
            }
        }
    }

    /// One operation on a key: 1 reads, 2 resets referenced, 3 sets.
    pub(crate) fn key(self, op: u64, ipa: u64, key: u64) -> u64 {
        let [old, ..] = call(CoreCall::VmKey, &[self.handle, op, ipa, key]);
        old
    }

    /// Stops and destroys it.
    pub(crate) fn end(self) {
        let _ = try_call(CoreCall::VmStop, &[self.handle]);
        call(CoreCall::VmDestroy, &[self.handle]);
    }
}
