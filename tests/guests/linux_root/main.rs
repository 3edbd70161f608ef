//! A root that runs Linux, gives it work, and takes its memory apart meanwhile: pages move,
//! zeroes go, blocks are split, age and dirty state are cleared, all at random. The guest
//! compares checksums; `LINUX ok` says that they were all the same.
#![no_std]
#![no_main]

extern crate alloc;

mod console;
#[path = "../direct/heap.rs"]
mod heap;

use guest_abi::core_call::{CoreCall, Status, VmState};
use guest_abi::map::RAM_BASE;
use guest_abi::memory_call::{MemoryPolicy, Scan, reclaim};
use loader::{Kind, Tree};
use payload::root::{self, Block, call, try_call};
use payload::timer::{self, Timer};
use payload::{cpu, gic, println, psci};

use crate::console::Console;

payload::guest!(main);

static KERNEL: &[u8] = include_bytes!(env!("SKETE_LINUX_KERNEL"));
static INITRD: &[u8] = include_bytes!(env!("SKETE_LINUX_INITRD"));

const RAM_BYTES: u64 = 256 << 20;
const VCPUS: u32 = 2;
const PAGE: u64 = 4096;
/// Nanoseconds that all of it may take.
const PATIENCE_NS: u64 = 400_000_000_000;

/// Two workers copy random files and compare checksums.
const WORK: &str = "w() { dd if=/dev/urandom of=/tmp/a$1 bs=1M count=12 2>/dev/null; \
    S=$(md5sum </tmp/a$1); n=0; while [ $n -lt 12 ]; do cp /tmp/a$1 /tmp/b$1; \
    [ \"$S\" = \"$(md5sum </tmp/b$1)\" ] && echo same $1 $n || echo DIFFERENT; \
    rm /tmp/b$1; n=$((n+1)); done; }; w 1 & w 2 & wait; echo work is done; poweroff -f\n";

/// A VM that runs Linux.
struct Linux {
    vm: u64,
    console: Console,
}

fn main() -> ! {
    gic::init_distributor();
    gic::init_cpu();
    gic::set_bit(gic::ISENABLER, Timer::Virtual.intid());
    let mut linux = Linux::start();
    let end = timer::now() + timer::ticks(PATIENCE_NS);
    while !linux.console.line().contains("# ") {
        linux.look(end);
    }
    println!("# a shell answers: {:#x} bytes resident", linux.resident());
    linux.console.type_text(WORK);
    let (done, bytes) = linux.disturb(end);
    let memory = root::vm_memory(linux.vm);
    println!("# disturbed: {done:?}, {bytes:#x} bytes of zeroes taken");
    println!(
        "# faults {} minor {} splits {} leaves {:?}",
        memory.faults, memory.minor_faults, memory.splits, memory.leaves
    );
    let (same, wrong) = (linux.console.same, linux.console.wrong);
    let enough = done.iter().all(|n| *n >= 5);
    let well = same == 24 && wrong == 0 && linux.console.done && enough;
    println!(
        "LINUX {} same {same} wrong {wrong}",
        if well { "ok" } else { "FAIL" }
    );
    call(CoreCall::VmDestroy, &[linux.vm]);
    psci::system_off()
}

impl Linux {
    fn start() -> Self {
        let frame = Block::new(6);
        let mut config = [0; 80];
        config[..8].copy_from_slice(&RAM_BYTES.to_le_bytes());
        config[8..12].copy_from_slice(&VCPUS.to_le_bytes());
        config[16..21].copy_from_slice(b"linux");
        frame.fill(&config);
        let [vm, shared_pa, _] = call(CoreCall::VmCreate, &[frame.pa]);
        let (file, initrd) = (KERNEL.len() as u64, INITRD.len() as u64);
        let head = &KERNEL[..loader::HEAD_BYTES];
        let plan = loader::plan(Kind::Image, head, file, RAM_BYTES, Some(initrd));
        let plan = plan.expect("a kernel and room for it");
        for part in &plan.parts {
            let bytes = &KERNEL[part.from as usize..(part.from + part.bytes) as usize];
            copy_in(vm, &frame, part.to, bytes);
        }
        let at = plan.initrd.expect("there is one");
        copy_in(vm, &frame, at, INITRD);
        let tree = Tree {
            ram_bytes: RAM_BYTES,
            cpus: VCPUS,
            cmdline: "console=ttyAMA0",
            initrd: Some((at, initrd)),
            seed: core::array::from_fn(|n| (n as u8).wrapping_mul(37)),
            pmu: false,
            pci: false,
        };
        copy_in(vm, &frame, plan.tree, &tree.write().expect("a device tree"));
        call(CoreCall::VmEntry, &[vm, plan.entry, plan.tree]);
        call(CoreCall::VmStart, &[vm]);
        Self {
            vm,
            console: Console::new(vm, root::window(shared_pa)),
        }
    }

    fn resident(&self) -> u64 {
        root::vm_memory(self.vm).resident_bytes
    }

    /// Lets the guest run a little, and takes what it printed.
    fn look(&mut self, end: u64) {
        assert!(timer::now() < end, "Linux takes too long");
        nap();
        self.console.poll();
    }

    /// Disturbs the guest until it switches itself off. Returns how often each thing was done,
    /// and the bytes of zeroes that were taken.
    fn disturb(&mut self, end: u64) -> ([u64; 6], u64) {
        let mut random = 0x0dd_ba11_u64;
        let mut draw = |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % n
        };
        let (mut done, mut zeroes) = ([0; 6], 0);
        while self.console.state() == VmState::Running as u32 {
            self.look(end);
            let pages = 1 + draw(512);
            let at = RAM_BASE + draw(RAM_BYTES / PAGE - pages) * PAGE;
            let (all, some) = ((RAM_BASE, RAM_BYTES), (at, pages * PAGE));
            let what = draw(6);
            done[what as usize] += 1;
            match what {
                0 => {
                    let shift = if draw(2) == 0 { 12 } else { 21 };
                    root::set_policy(self.vm, policy(shift, draw(2) as u32 * 2));
                }
                1 => drop(self.reclaim(reclaim::MOVE, some)),
                2 => zeroes += self.reclaim(reclaim::ZERO, (at & !0x1f_ffff, 8 << 21)),
                3 => drop(self.reclaim(reclaim::SPLIT, some)),
                4 => self.scan(Scan::Young, all),
                _ => self.scan(Scan::Dirty, all),
            }
        }
        self.console.poll();
        (done, zeroes)
    }

    fn reclaim(&self, what: u64, (ipa, bytes): (u64, u64)) -> u64 {
        let bytes = bytes.min(RAM_BASE + RAM_BYTES - ipa);
        self.sliced(CoreCall::VmReclaim, |cursor| {
            [self.vm, what, ipa, bytes, cursor, 0, 0]
        })
    }

    fn scan(&self, what: Scan, (ipa, bytes): (u64, u64)) {
        self.sliced(CoreCall::VmMemoryScan, |cursor| {
            [self.vm, what as u64, ipa, bytes, 0, cursor, 0]
        });
    }

    fn sliced(&self, what: CoreCall, args: impl Fn(u64) -> [u64; 7]) -> u64 {
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
}

fn policy(largest_shift: u32, flags: u32) -> MemoryPolicy {
    MemoryPolicy {
        limit_bytes: u64::MAX,
        table_limit_bytes: u64::MAX,
        largest_shift,
        flags,
    }
}

fn copy_in(vm: u64, frame: &Block, ipa: u64, bytes: &[u8]) {
    let size = 4096 << 6;
    for (chunk, at) in bytes.chunks(size).zip((ipa..).step_by(size)) {
        frame.fill(chunk);
        let mut done = 0;
        while done < chunk.len() as u64 {
            let left = chunk.len() as u64 - done;
            let [copied, ..] = call(CoreCall::VmCopyIn, &[vm, at + done, frame.pa + done, left]);
            done += copied;
        }
    }
}

/// Sleeps for two milliseconds: see `direct`.
fn nap() {
    let timer = Timer::Virtual;
    let before = gic::taken(0);
    timer.set_compare(timer.now() + timer::ticks(2_000_000));
    timer.set_control(timer::ENABLE);
    while gic::taken(0) == before {
        cpu::wfi();
        cpu::unmask_irq();
        cpu::isb();
        cpu::mask_irq();
    }
}
