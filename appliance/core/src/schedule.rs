//! Which vCPU runs on this core, and who is told when that changes.
//!
//! Each core has a queue (`sched::RunQueue`), which says who runs and for how long; `place`
//! moves vCPUs between them. While one vCPU is alone on its core there is no tick: its WFI
//! waits here, with its registers left where they are.
//!
//! The lock of a core's queue guards the run state ([`Run`]) of every vCPU whose home that
//! core is, and its home itself: a vCPU changes home only under the locks of both queues, and
//! only while no core holds its registers. Inside it are only a VM's limit and a vCPU's account.

use core::sync::atomic::Ordering;

use ::vcpu::power::Busy;
use ::vcpu::wakes::{self, Flag as _};
use guest_abi::core_call::VmState;
use sched::{Entity, Phase, RunQueue, Why};
use spin::MutexGuard;

use crate::features::serror;
use crate::guest::{self, Run, Vcpu, VcpuControl, Vm};
use crate::per_cpu::{self, PerCpu};
use crate::place::{self, Known};
use crate::{gic, grace, hw, pins, rebirth, root, scrub, timer, world};

/// Who runs and waits on a core.
pub(crate) type Queue = RunQueue<{ guest::VCPU_IDS }>;

/// Locks the queue of the core that is `vcpu`'s home.
pub(crate) fn lock_home(vcpu: &VcpuControl) -> (&'static PerCpu, MutexGuard<'static, Queue>) {
    loop {
        let home = per_cpu::cpu(vcpu.home());
        let queue = home.queue.lock();
        // It may have moved before the lock was ours. Under it, it cannot.
        if core::ptr::eq(home, per_cpu::cpu(vcpu.home())) {
            return (home, queue);
        }
    }
}

/// Makes a blocked vCPU want to run, and a running one look up.
pub(crate) fn wake(vcpu: &VcpuControl) {
    place::find_home(vcpu);
    let (home, mut queue) = lock_home(vcpu);
    match vcpu.run() {
        Run::Blocked => enqueue(home, queue, vcpu),
        Run::Running => {
            drop(queue);
            // It may wait, still running as far as the queue knows.
            vcpu.attention.raise();
            if !core::ptr::eq(home, per_cpu::this()) {
                gic::kick(home.mpidr.load(Ordering::Relaxed));
            }
        }
        Run::Queued if vcpu.vm().stopping.load(Ordering::Acquire) => {
            // What has to go does not wait for its limit.
            queue.release(vcpu.id);
            drop(queue);
            notify(home);
        }
        Run::Off | Run::Queued => {}
    }
}

/// Switches a vCPU on; its home core gives it the registers that `start` asks for.
pub(crate) fn power_on(vcpu: &VcpuControl, pc: u64, x0: u64) -> Result<(), Busy> {
    // Nobody else gets past this until the vCPU has run and is off again.
    vcpu.power.start()?;
    place::find_home(vcpu);
    let (home, queue) = lock_home(vcpu);
    *vcpu.start.lock() = Some((pc, x0));
    enqueue(home, queue, vcpu);
    Ok(())
}

fn enqueue(home: &PerCpu, mut queue: MutexGuard<'_, Queue>, vcpu: &VcpuControl) {
    let now = hw::cntpct();
    vcpu.set_run(Run::Queued, now);
    let entity = Entity {
        id: vcpu.id,
        age: vcpu.age.load(Ordering::Relaxed),
        boosted: vcpu.vm().is_root(),
        ..Entity::default()
    };
    let look = queue
        .wake(entity, now, &Known)
        .expect("a queue has room for every vCPU, and holds each at most once");
    let busy = queue.running().is_some();
    drop(queue);
    if look {
        notify(home);
    }
    if busy {
        place::offer(home, vcpu);
    }
}

/// Makes a core choose anew.
pub(crate) fn notify(home: &PerCpu) {
    home.resched.store(true, Ordering::Release);
    if !core::ptr::eq(home, per_cpu::this()) {
        gic::kick(home.mpidr.load(Ordering::Relaxed));
    }
}

/// Takes `vcpu`, which runs on this core, out of the queue.
fn stop_running(queue: &mut Queue, vcpu: &VcpuControl, run: Run, now: u64) {
    let cpu = per_cpu::this();
    queue.forgive(cpu.waited.swap(0, Ordering::Relaxed));
    if let Some(entity) = queue.stop(now, &mut Known) {
        vcpu.age.store(entity.age, Ordering::Relaxed);
    }
    vcpu.set_run(run, now);
    cpu.resched.store(true, Ordering::Relaxed);
}

/// Switches `vcpu`, which runs on this core, off.
pub(crate) fn power_off(vcpu: &VcpuControl) {
    let mut queue = per_cpu::this().queue.lock();
    stop_running(&mut queue, vcpu, Run::Off, hw::cntpct());
    drop(queue);
    // Only now may it be switched on again.
    vcpu.power.off();
}

/// Blocks `vcpu`, which runs on this core, unless something already waits for it.
pub(crate) fn block(vcpu: &mut Vcpu) {
    world::refill(vcpu);
    if is_pending(vcpu) || serror::is_pending(vcpu) {
        return;
    }
    let cpu = per_cpu::this();
    wait_here(cpu, vcpu);
    let mut queue = cpu.queue.lock();
    // Whoever pends an interrupt sets `attention` first and looks at `run` second; here it
    // is the other way round, under the lock that orders both.
    if wakes::may_wait(&vcpu.attention) {
        stop_running(&mut queue, vcpu, Run::Blocked, hw::cntpct());
    }
}

/// Returns whether `vcpu`, whose list registers have just been read, has an interrupt to take.
fn is_pending(vcpu: &Vcpu) -> bool {
    vcpu.vm().vgic.lock().pending(vcpu.index)
}

/// Waits with `vcpu` loaded and running until it, or anyone else, has something to do: while
/// it is alone on its core, waiting and going on costs no choice of who runs.
fn wait_here(cpu: &PerCpu, vcpu: &Vcpu) {
    let busy = || {
        vcpu.attention.load(Ordering::Acquire)
            || cpu.resched.load(Ordering::Acquire)
            || cpu.crowded.load(Ordering::Relaxed)
    };
    if busy() {
        return;
    }
    let start = hw::cntpct();
    vcpu.enter(Phase::Waiting, start);
    cpu.set_idle(true);
    while !busy() {
        idle(cpu);
    }
    cpu.set_idle(false);
    let now = hw::cntpct();
    vcpu.enter(Phase::Running, now);
    cpu.waited.store(
        cpu.waited.load(Ordering::Relaxed) + (now - start),
        Ordering::Relaxed,
    );
}

/// Takes `vcpu`, which runs on this core, off it until a device is ready for it or something
/// wakes it; its deadline is set. Unless it has its interrupts masked, one that is pending
/// keeps it running: it can be taken first.
pub(crate) fn pause(vcpu: &mut Vcpu) {
    const PSTATE_I: u64 = 1 << 7;
    if vcpu.pstate & PSTATE_I == 0 {
        world::refill(vcpu);
        if is_pending(vcpu) {
            return;
        }
    }
    let cpu = per_cpu::this();
    let now = hw::cntpct();
    vcpu.deadline_at.store(cpu.number(), Ordering::Relaxed);
    let mut queue = cpu.queue.lock();
    if wakes::may_wait(&vcpu.attention) {
        stop_running(&mut queue, vcpu, Run::Blocked, now);
        vcpu.enter(Phase::Parked, now);
    }
}

/// Blocks `vcpu` as [`block`] does, until its virtual counter reaches `count` at the latest
/// (WFIT). A deadline that has passed ends the wait at once.
pub(crate) fn block_until(vcpu: &mut Vcpu, count: u64) {
    let at = count.wrapping_add(vcpu.vm().cntvoff);
    // Compared as the counter counts: the sign of the distance, so that a wrap is no eternity.
    if hw::cntpct().wrapping_sub(at).cast_signed() >= 0 {
        return;
    }
    let cpu = per_cpu::this();
    vcpu.wake_at.store(at, Ordering::Relaxed);
    vcpu.deadline_at.store(cpu.number(), Ordering::Relaxed);
    if cpu.deadlines.lock().set(vcpu.id, at).is_err() {
        // 128 wait here already: it looks again when its turn comes.
        vcpu.wake_at.store(0, Ordering::Relaxed);
        yield_now();
        return;
    }
    timer::arm(cpu);
    block(vcpu);
}

/// Lets others of this core run, if any wait.
pub(crate) fn yield_now() {
    let cpu = per_cpu::this();
    cpu.yielding.store(true, Ordering::Relaxed);
    cpu.resched.store(true, Ordering::Relaxed);
}

/// Lets `target`, a vCPU of the caller's VM, have this core if it wants to run and does not.
pub(crate) fn yield_to(target: &VcpuControl) {
    let cpu = per_cpu::this();
    if target.run() != Run::Queued {
        return;
    }
    place::pull(cpu, target);
    if cpu.queue.lock().favour(|id| id == target.id) {
        yield_now();
    }
}

/// The loaded `vcpu` spins: one of its VM that lost this core against its will may have what
/// it spins for.
pub(crate) fn yield_by_spinner(vcpu: &Vcpu) {
    let vm = vcpu.vm();
    let is_holder = |id: u16| {
        guest::by_id(usize::from(id))
            .is_some_and(|other| core::ptr::eq(other.vm(), vm) && other.is_preempted())
    };
    per_cpu::this().queue.lock().favour(is_holder);
    yield_now();
}

/// Ends `vm` in state `to`: every vCPU goes off at its next exit, which is made to come.
///
/// Several may end it at once, and one of them decides how. None of them goes back into the guest:
/// each tells all vCPUs, its own included, since the one that decided may not have told them yet.
pub(crate) fn stop(vm: &'static Vm, to: VmState) {
    vm.stopping.store(true, Ordering::Release);
    let decides = vm.change_state(VmState::Running, to) || vm.change_state(VmState::Built, to);
    for vcpu in vm.all_vcpus() {
        vcpu.attention.raise();
        wake(vcpu);
    }
    if decides {
        root::ring(vm.slot);
        if vm.is_root() {
            rebirth::begin(to);
        }
    }
}

/// Tells the vCPUs that `kick` names to look at their interrupts.
pub(crate) fn deliver(vm: &Vm, kick: vgic::Kick) {
    let mut mask = kick.bits();
    while mask != 0 {
        let index = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        if let Some(vcpu) = vm.vcpu(index) {
            vcpu.attention.raise();
            // The one whose exit this is sees it on its way back.
            let own = world::as_mut(per_cpu::this().current.load(Ordering::Relaxed))
                .is_some_and(|own| own.id == vcpu.id);
            if !own || vcpu.run() != Run::Running {
                wake(vcpu);
            }
        }
    }
}

/// The end of every exit: goes back to `vcpu`, or to another. Short when nothing changed.
#[inline(always)]
pub(crate) fn leave(vcpu: &mut Vcpu) -> *mut Vcpu {
    let cpu = per_cpu::this();
    if !vcpu.attention.load(Ordering::Relaxed) && !cpu.resched.load(Ordering::Relaxed) {
        return vcpu;
    }
    choose(cpu)
}

/// Attends to the current vCPU, and chooses who runs.
#[inline(never)]
pub(crate) fn choose(cpu: &PerCpu) -> *mut Vcpu {
    loop {
        rebirth::work(cpu);
        let current = cpu.current.load(Ordering::Relaxed);
        if let Some(vcpu) = world::as_mut(current)
            && vcpu.run() == Run::Running
            && !cpu.resched.load(Ordering::Relaxed)
            && attend(vcpu)
            && !cpu.resched.load(Ordering::Relaxed)
        {
            return current;
        }
        let next = pick(cpu).or_else(|| {
            // Before the last look: whoever has a vCPU to give away from now on sees that
            // this core could have it.
            cpu.set_idle(true);
            pick(cpu)
        });
        if let Some(next) = next {
            cpu.set_idle(false);
            if next == current {
                place::after_switch(cpu);
                // Its interrupts may have changed while it waited.
                if let Some(vcpu) = world::as_mut(next)
                    && attend(vcpu)
                {
                    return next;
                }
            } else if start(cpu, next) {
                place::after_switch(cpu);
                return next;
            }
            continue;
        }
        // One that is off is nobody's to hold: its VM may be about to go. Nor is one that is
        // to run elsewhere.
        let leaves = |vcpu: &mut Vcpu| vcpu.run() == Run::Off || !vcpu.may_run_on(cpu.number());
        if world::as_mut(current).is_some_and(leaves) {
            world::switch_to(cpu, core::ptr::null_mut());
        }
        place::after_switch(cpu);
        if !cpu.resched.load(Ordering::Acquire) {
            idle(cpu);
        }
    }
}

/// Gives `vcpu` its interrupts; false if it has to go off instead.
fn attend(vcpu: &mut Vcpu) -> bool {
    if vcpu.start.lock().is_some() {
        // Switched on again while it was still loaded: it starts afresh.
        world::switch_to(per_cpu::this(), core::ptr::null_mut());
        let next = core::ptr::from_mut(vcpu);
        return start(per_cpu::this(), next);
    }
    if vcpu.attention.lower() {
        if vcpu.vm().stopping.load(Ordering::Acquire) {
            power_off(vcpu);
            return false;
        }
        world::refill(vcpu);
        serror::attend(vcpu);
        return renew_pin(vcpu);
    }
    true
}

/// Loads a vCPU that was picked; false if its VM is stopping.
fn start(cpu: &PerCpu, next: *mut Vcpu) -> bool {
    let Some(vcpu) = world::as_mut(next) else {
        return false;
    };
    // Lowered first: all that follows looks for what is wanted of it. Its end, where it starts,
    // interrupts and an SError as it is loaded, its page.
    vcpu.attention.lower();
    if vcpu.vm().stopping.load(Ordering::Acquire) {
        power_off(vcpu);
        return false;
    }
    let begin = vcpu.start.lock().take();
    if let Some((pc, x0)) = begin {
        vcpu.reset(pc, x0);
        vcpu.power.began();
    }
    world::switch_to(cpu, next);
    renew_pin(vcpu)
}

/// Pins the page that the loaded `vcpu` needs again, if it was taken; false if that ends its VM.
fn renew_pin(vcpu: &mut Vcpu) -> bool {
    let there = pins::renew(vcpu);
    if !there {
        crate::exits::crash(vcpu, 0);
    }
    there
}

/// Chooses who runs on this core; that one's run state says so from now on.
fn pick(cpu: &PerCpu) -> Option<*mut Vcpu> {
    let now = hw::cntpct();
    let mut why = match cpu.yielding.swap(false, Ordering::Relaxed) {
        true => Why::Yield,
        false => Why::News,
    };
    let gave_up = why == Why::Yield;
    let mut queue = cpu.queue.lock();
    cpu.resched.store(false, Ordering::Relaxed);
    queue.forgive(cpu.waited.swap(0, Ordering::Relaxed));
    let before = queue.running();
    let timed_out = queue.is_timed_out(now);
    let mut push = place::Push::default();
    place::evict_misplaced(cpu, &mut queue, now);
    for _ in 0..place::ROUNDS {
        let _ = queue.next(now, why, &mut Known);
        why = Why::News;
        if place::evict_misplaced(cpu, &mut queue, now) {
            continue;
        }
        // What comes from another core is behind: it may have to run at once.
        let idle = queue.running().is_none();
        if !(idle || timed_out) || !place::even_out(cpu, &mut queue, now, idle, &mut push) {
            break;
        }
    }
    let chosen = queue.running();
    if chosen != before {
        if let Some(vcpu) = before.and_then(|id| guest::by_id(usize::from(id))) {
            if gave_up {
                vcpu.set_run(Run::Queued, now);
            } else {
                vcpu.set_preempted(now);
            }
        }
        if let Some(vcpu) = chosen.and_then(|id| guest::by_id(usize::from(id))) {
            vcpu.set_run(Run::Running, now);
        }
    }
    let crowded = queue.load(now) > 1;
    let at = queue.wakes_at(now);
    let floor = queue.floor();
    drop(queue);
    cpu.floor.store(floor, Ordering::Relaxed);
    cpu.wakes_at.store(at, Ordering::Relaxed);
    cpu.crowded.store(crowded, Ordering::Relaxed);
    timer::arm(cpu);
    world::trap_waits(cpu, crowded);
    push.tell();
    chosen.map(guest::pointer)
}

/// Waits for an interrupt and takes it; until one comes, zeroes frames.
fn idle(cpu: &PerCpu) {
    let free = || !cpu.resched.load(Ordering::Relaxed) && !hw::interrupt_pending();
    while free() && scrub::work(cpu) {
        core::hint::spin_loop();
    }
    hw::wfi();
    grace::take_interrupts(cpu);
}
