//! Root dies and another one is started, while guests run on.
//!
//! Root is a VM of core's like any other: its stage 2, the frames granted to it, the pages it
//! shares with core about each VM, and its notes are core's, and stay. What goes is what root
//! itself was: its RAM is zeroed where it lies, so that nothing of it is left and no memory has
//! to be found for the next one; its image is copied there again from the bundle, which nobody
//! can write; its vCPU, its vGIC and its devices are reset. No lock is root's: it is never ended
//! within a call, only between two instructions of its own.
//!
//! ```text
//! runs ─stop→ dying ─vCPU is off→ zeroing, 2 MiB at a time → loading, 64 KiB at a time → runs
//! ```
//!
//! All of that happens on the first core, which is root's, a slice whenever that core chooses who
//! runs; in between its guests run. Whether root lives, [`watch`] looks at.
#![expect(
    unsafe_code,
    reason = "resets virtio devices, reads root's sign of life"
)]

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ::vcpu::lives::{Lease, Lives, Next};
use arch::{Ipa, Width};
use boot_entry::PHYSMAP;
use guest_abi::core_call::{Status, VmState};
use guest_abi::root_boot::{DEVICE_VIRTIO_MMIO, LEASE_NS, ROOT_RAM_IPA, RootDevice, RootEnd};
use spin::Mutex;

use crate::console::println;
use crate::guest::{self, ROOT_SLOT, Run, VCPU_IDS, Vm};
use crate::per_cpu::PerCpu;
use crate::{epitaph, gic, guarded, hw, memory, mmio, root, schedule, timer, world};

/// The number among deadlines of what looks at root: no vCPU has it.
pub(crate) const WATCH: u16 = VCPU_IDS as u16;
/// How often that is.
const LOOK_NS: u64 = LEASE_NS / 4;
/// Bytes of root's RAM zeroed in one slice.
const BLOCK_BYTES: u64 = 2 << 20;
/// Order of the piece of a block that is zeroed before interrupts are looked for: 64 KiB.
const PIECE_ORDER: u8 = 4;
/// Bytes of its image copied in one slice.
const LOAD_BYTES: usize = 64 << 10;
/// Status of a virtio-mmio device (virtio 1.2, 4.2.2): 0 resets it.
const VIRTIO_STATUS: u64 = 0x70;
/// How often a device is asked whether it is reset.
const RESET_LOOKS: u32 = 1000;

/// Root is dead or about to be.
static DYING: AtomicBool = AtomicBool::new(false);
/// Counter value at which root is to end, because it was asked for; 0 for never.
static END_AT: AtomicU64 = AtomicU64::new(0);
static LIFE: Mutex<Life> = Mutex::new(Life {
    lives: Lives::new(),
    lease: Lease::new(),
    end: RootEnd::Itself,
    step: Step::Dying,
    ended: 0,
    longest: 0,
});

/// What is known of root's lives.
struct Life {
    lives: Lives,
    lease: Lease,
    /// Why this one ends.
    end: RootEnd,
    step: Step,
    /// When it ended, and how long the longest slice since has been, in ticks.
    ended: u64,
    longest: u64,
}

/// How far a rebirth is.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Its vCPU is not off yet.
    Dying,
    /// Its RAM is zero below this offset.
    Zeroing { generation: u64, at: u64 },
    /// So many bytes of its image are there.
    Loading { generation: u64, done: usize },
}

/// Root's VM was just given an end state: whatever it was, another root follows.
pub(crate) fn begin(to: VmState) {
    {
        let mut life = LIFE.lock();
        life.step = Step::Dying;
        life.ended = hw::cntpct();
        life.longest = 0;
        life.end = match to {
            // What was asked for, or what the lease found: `end_now` says which.
            VmState::Killed => life.end,
            VmState::Crashed => RootEnd::Crashed,
            VmState::Off | VmState::Reset | VmState::Built | VmState::Running => RootEnd::Itself,
        };
    }
    END_AT.store(0, Ordering::Relaxed);
    DYING.store(true, Ordering::Release);
    schedule::notify(crate::per_cpu::cpu(0));
}

/// Has root end after `after_ns` nanoseconds.
pub(crate) fn end_after(after_ns: u64) -> Result<(), Status> {
    /// A minute: whoever wants more asks later.
    const MOST_NS: u64 = 60_000_000_000;
    if after_ns > MOST_NS {
        return Err(Status::Invalid);
    }
    if after_ns == 0 {
        end_now(RootEnd::Asked);
        return Ok(());
    }
    let at = hw::cntpct() + timer::ticks(after_ns);
    // Root makes this call, so this is its core.
    let cpu = crate::per_cpu::this();
    let set = cpu.deadlines.lock().set(WATCH, at);
    set.map_err(|_| Status::Exhausted)?;
    END_AT.store(at, Ordering::Relaxed);
    timer::arm(cpu);
    Ok(())
}

fn end_now(why: RootEnd) {
    let Some(root) = guest::by_slot(ROOT_SLOT) else {
        return;
    };
    LIFE.lock().end = why;
    schedule::stop(root, VmState::Killed);
}

/// Looks whether root lives and may go on, and sets when to look again. On the first core, from
/// its timer's interrupt.
pub(crate) fn watch(cpu: &PerCpu) {
    let now = hw::cntpct();
    let asked = END_AT.load(Ordering::Relaxed);
    if asked != 0 && asked <= now {
        end_now(RootEnd::Asked);
    } else if !DYING.load(Ordering::Acquire) {
        let silent = LIFE
            .lock()
            .lease
            .look(root::beat(), now, timer::ticks(LEASE_NS));
        if silent {
            end_now(RootEnd::Silent);
        }
    }
    let next = now + timer::ticks(LOOK_NS);
    let at = match END_AT.load(Ordering::Relaxed) {
        0 => next,
        asked => next.min(asked),
    };
    // There is room: its own place was given up for this.
    let _ = cpu.deadlines.lock().set(WATCH, at);
}

/// This core was kicked: if by [`work`], it comes to the next slice.
#[inline(always)]
pub(crate) fn go_on(cpu: &PerCpu) {
    if DYING.load(Ordering::Relaxed) {
        cpu.resched.store(true, Ordering::Relaxed);
    }
}

/// Does a slice of a rebirth, if there is one, on the first core.
#[inline(always)]
pub(crate) fn work(cpu: &PerCpu) {
    if DYING.load(Ordering::Relaxed) && cpu.number() == 0 {
        slice(cpu);
    }
}

#[inline(never)]
fn slice(cpu: &PerCpu) {
    let Some(root) = guest::by_slot(ROOT_SLOT) else {
        return;
    };
    let mut life = LIFE.lock();
    let begun = hw::cntpct();
    life.step = match life.step {
        Step::Dying => {
            let vcpu = root.vcpu(0).expect("root has a vCPU");
            if vcpu.run() == Run::Off && vcpu.is_held() {
                world::switch_to(cpu, core::ptr::null_mut());
            }
            if vcpu.run() == Run::Off && !vcpu.is_held() {
                died(root, &mut life)
            } else {
                Step::Dying
            }
        }
        Step::Zeroing { generation, at } => match zero(root, at) {
            at if at < root.ram_bytes => Step::Zeroing { generation, at },
            _ => Step::Loading {
                generation,
                done: 0,
            },
        },
        Step::Loading { generation, done } => {
            let loaded = root::load_part(root, done, LOAD_BYTES).and_then(|more| {
                if !more {
                    start(root, &mut life, generation)?;
                }
                Ok(more)
            });
            match loaded {
                Ok(true) => Step::Loading {
                    generation,
                    done: done + LOAD_BYTES,
                },
                Ok(false) => Step::Dying,
                Err(why) => {
                    println!("root cannot be started anew: {why}");
                    epitaph::stop()
                }
            }
        }
    };
    life.longest = life.longest.max(hw::cntpct() - begun);
    drop(life);
    if DYING.load(Ordering::Relaxed) {
        // A guest may run now, and brings this core back here at once.
        gic::kick(cpu.mpidr.load(Ordering::Relaxed));
    }
}

/// Root's vCPU is off and nobody holds it: what it had is taken from it.
fn died(root: &Vm, life: &mut Life) -> Step {
    mmio::end_line();
    let why = match life.end {
        RootEnd::Itself => "it ended itself",
        RootEnd::Crashed => "it did what cannot be continued",
        RootEnd::Silent => "it gave no sign of life",
        RootEnd::Asked => "that was asked for",
    };
    println!(
        "root ended at {} ns: {why}; {} VMs run on",
        timer::nanoseconds(life.ended - root::reset_ticks()),
        guest::count()
    );
    if life.end == RootEnd::Crashed {
        println!(
            "  esr {:#x} pc {:#x}",
            root.reason.load(Ordering::Relaxed),
            root.reason_pc.load(Ordering::Relaxed)
        );
    }
    let Next::Life(generation) = life.lives.end(root::beat() != 0) else {
        println!("root does not become ready: the machine is reset");
        epitaph::stop()
    };
    root::each_device(quiet);
    root::reset_interrupts(root);
    root.asking.satisfied();
    let machine = &mut root.gmap.machine();
    if let Some(half) =
        world::as_mut(guest::pointer((ROOT_SLOT * 8) as u16)).and_then(|vcpu| vcpu.half.take())
    {
        half.free(machine);
    }
    Step::Zeroing { generation, at: 0 }
}

/// Has a device forget root's memory, and its interrupt go.
fn quiet(device: &RootDevice) {
    if device.kind == DEVICE_VIRTIO_MMIO {
        let status = PHYSMAP + device.pa + VIRTIO_STATUS;
        for look in 0..RESET_LOOKS {
            if look == 0 {
                // SAFETY: registers that core mapped when it gave the device to root; root is
                // off.
                let _ = unsafe { guarded::store(status, Width::Word, 0) };
            }
            // SAFETY: as above.
            let read = unsafe { guarded::load(status, Width::Word) };
            if read.is_none_or(|status| status == 0) {
                break;
            }
        }
    }
    if device.intid != 0 {
        gic::forget_spi(device.intid);
    }
}

/// Zeroes what there is of root's RAM from offset `at` on: a slice, or less if an interrupt comes.
/// Returns where to go on.
fn zero(root: &Vm, at: u64) -> u64 {
    let gmap = root.gmap.shared();
    let machine = root.gmap.machine();
    let end = (at + BLOCK_BYTES).min(root.ram_bytes);
    let mut offset = at;
    while offset < end {
        let leaf = Ipa::new(ROOT_RAM_IPA + offset).and_then(|ipa| gmap.leaf(&machine, ipa));
        offset += match leaf {
            Some((leaf, level)) if level.span() == BLOCK_BYTES => {
                let within = offset & (BLOCK_BYTES - 1);
                if let Some(piece) = leaf.base().checked_add(within) {
                    memory::scrub(piece, PIECE_ORDER);
                }
                memory::FRAME << PIECE_ORDER
            }
            Some((leaf, _)) => {
                memory::scrub(leaf.base(), 0);
                memory::FRAME
            }
            None => memory::FRAME,
        };
        if hw::interrupt_pending() {
            break;
        }
    }
    offset
}

fn start(root: &'static Vm, life: &mut Life, generation: u64) -> Result<(), &'static str> {
    root::load_page(root, generation, life.end as u32, life.lives.unready())?;
    guest::bury_all();
    let now = hw::cntpct();
    life.lease.begin(now);
    println!(
        "root begins anew, life {generation}, after {} ns; the longest slice took {} ns",
        timer::nanoseconds(now - life.ended),
        timer::nanoseconds(life.longest)
    );
    root.revive();
    DYING.store(false, Ordering::Release);
    root::enter(root)
}
