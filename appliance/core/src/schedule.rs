//! Which vCPU runs on this core, and who is told when that changes.
//!
//! A core's vCPUs take turns (`sched::RunQueue`), root first. While only one wants the
//! core there is no tick and its WFI is its own: the core waits inside the guest, and any
//! interrupt brings it out. The lock of a core's queue guards [`Run`] of the vCPUs at home
//! there; it is the innermost lock and nothing is called with it held.

use core::sync::atomic::Ordering;

use guest_abi::core_call::VmState;

use crate::guest::{self, Run, Vcpu, VcpuControl, Vm};
use crate::per_cpu::{self, PerCpu};
use crate::{gic, hw, interrupt, pins, root, scrub, timer, world};

/// Makes a blocked vCPU want to run, and a running one look up.
pub(crate) fn wake(vcpu: &VcpuControl) {
    let home = per_cpu::cpu(vcpu.home);
    let mut queue = home.queue.lock();
    match vcpu.run() {
        Run::Blocked => {
            vcpu.set_run(Run::Queued);
            enqueue(&mut queue, vcpu);
        }
        Run::Running => {
            drop(queue);
            if !core::ptr::eq(home, per_cpu::this()) {
                gic::kick(home.mpidr.load(Ordering::Relaxed));
            }
            return;
        }
        Run::Off | Run::Queued => return,
    }
    drop(queue);
    notify(home);
}

/// Switches a vCPU on; its home core gives it the registers that `start` asks for.
///
/// Returns false if it is on already.
pub(crate) fn power_on(vcpu: &VcpuControl, pc: u64, x0: u64) -> bool {
    let home = per_cpu::cpu(vcpu.home);
    let mut queue = home.queue.lock();
    if vcpu.run() != Run::Off {
        return false;
    }
    *vcpu.start.lock() = Some((pc, x0));
    vcpu.set_run(Run::Queued);
    enqueue(&mut queue, vcpu);
    drop(queue);
    notify(home);
    true
}

fn enqueue(queue: &mut sched::RunQueue<{ guest::VCPU_IDS }>, vcpu: &VcpuControl) {
    let pushed = if vcpu.vm().is_root() {
        queue.push_front(vcpu.id)
    } else {
        queue.push_back(vcpu.id)
    };
    pushed.expect("a queue has room for every vCPU, and holds each at most once");
}

/// Makes a core choose anew.
fn notify(home: &PerCpu) {
    home.resched.store(true, Ordering::Release);
    if !core::ptr::eq(home, per_cpu::this()) {
        gic::kick(home.mpidr.load(Ordering::Relaxed));
    }
}

/// Switches `vcpu`, which runs on this core, off.
pub(crate) fn power_off(vcpu: &VcpuControl) {
    let cpu = per_cpu::this();
    let _queue = cpu.queue.lock();
    vcpu.set_run(Run::Off);
    cpu.resched.store(true, Ordering::Relaxed);
}

/// Blocks `vcpu`, which runs on this core, unless something already waits for it.
pub(crate) fn block(vcpu: &mut Vcpu) {
    world::refill(vcpu);
    if vcpu.vm().vgic.lock().pending(vcpu.index) {
        return;
    }
    let cpu = per_cpu::this();
    let _queue = cpu.queue.lock();
    // Whoever pends an interrupt sets `attention` first and looks at `run` second; here it
    // is the other way round, under the lock that orders both.
    if !vcpu.attention.load(Ordering::Acquire) {
        vcpu.set_run(Run::Blocked);
        cpu.resched.store(true, Ordering::Relaxed);
    }
}

/// Lets others of this core run, if any wait.
pub(crate) fn yield_now() {
    let cpu = per_cpu::this();
    cpu.slice_end.store(0, Ordering::Relaxed);
    cpu.resched.store(true, Ordering::Relaxed);
}

/// Ends `vm` in state `to`: every vCPU goes off at its next exit, which is made to come.
pub(crate) fn stop(vm: &'static Vm, to: VmState) {
    if !vm.change_state(VmState::Running, to) && !vm.change_state(VmState::Built, to) {
        return;
    }
    vm.stopping.store(true, Ordering::Release);
    for vcpu in vm.all_vcpus() {
        vcpu.attention.store(true, Ordering::Release);
        wake(vcpu);
    }
    root::ring(vm.slot);
}

/// Tells the vCPUs that `kick` names to look at their interrupts.
pub(crate) fn deliver(vm: &Vm, kick: vgic::Kick) {
    let mut mask = kick.bits();
    while mask != 0 {
        let index = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        if let Some(vcpu) = vm.vcpu(index) {
            vcpu.attention.store(true, Ordering::Release);
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
        let current = cpu.current.load(Ordering::Relaxed);
        if let Some(vcpu) = world::as_mut(current)
            && vcpu.run() == Run::Running
            && attend(vcpu)
            && !cpu.resched.load(Ordering::Relaxed)
        {
            return current;
        }
        if let Some(next) = pick(cpu) {
            if next == current {
                // Its interrupts may have changed while it waited.
                if let Some(vcpu) = world::as_mut(next)
                    && attend(vcpu)
                {
                    return next;
                }
            } else if start(cpu, next) {
                return next;
            }
            continue;
        }
        // A vCPU that is off is nobody's to hold: its VM may be about to go.
        if world::as_mut(current).is_some_and(|v| v.run() == Run::Off) {
            world::switch_to(cpu, core::ptr::null_mut());
        }
        idle(cpu);
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
    if vcpu.attention.swap(false, Ordering::AcqRel) {
        if vcpu.vm().stopping.load(Ordering::Acquire) {
            power_off(vcpu);
            return false;
        }
        world::refill(vcpu);
        if !pins::renew(vcpu) {
            crate::exits::crash(vcpu, 0);
            return false;
        }
    }
    true
}

/// Loads a vCPU that was picked; false if its VM is stopping.
fn start(cpu: &PerCpu, next: *mut Vcpu) -> bool {
    let Some(vcpu) = world::as_mut(next) else {
        return false;
    };
    if vcpu.vm().stopping.load(Ordering::Acquire) {
        power_off(vcpu);
        return false;
    }
    let begin = vcpu.start.lock().take();
    if let Some((pc, x0)) = begin {
        vcpu.reset(pc, x0);
    }
    vcpu.attention.store(false, Ordering::Relaxed);
    world::switch_to(cpu, next);
    true
}

/// Takes the next vCPU out of the queue, or leaves the one that runs where it is.
fn pick(cpu: &PerCpu) -> Option<*mut Vcpu> {
    let now = hw::cntpct();
    let mut queue = cpu.queue.lock();
    cpu.resched.store(false, Ordering::Relaxed);
    let current = cpu.current.load(Ordering::Relaxed);
    let running = world::as_mut(current).filter(|v| v.run() == Run::Running);
    let slice_end = cpu.slice_end.load(Ordering::Relaxed);
    let next = match running {
        Some(vcpu) => {
            let root_waits = queue.first().is_some_and(is_root) && !vcpu.vm().is_root();
            if queue.is_empty() {
                cpu.slice_end.store(u64::MAX, Ordering::Relaxed);
                current
            } else if !root_waits && (now < slice_end) {
                if slice_end == u64::MAX {
                    cpu.slice_end
                        .store(now + timer::ticks(sched::SLICE_NS), Ordering::Relaxed);
                }
                current
            } else {
                let next = queue.pop()?;
                vcpu.set_run(Run::Queued);
                // To the back even when root cut its slice short: at the front it could keep
                // the core for ever, with a root that wakes often enough.
                queue
                    .push_back(vcpu.id)
                    .expect("its place in the queue was free");
                start_slice(cpu, now);
                guest::pointer(next)
            }
        }
        None => {
            let next = queue.pop();
            match next {
                Some(_) if !queue.is_empty() => start_slice(cpu, now),
                _ => cpu.slice_end.store(u64::MAX, Ordering::Relaxed),
            }
            next.map_or(core::ptr::null_mut(), guest::pointer)
        }
    };
    if let Some(vcpu) = world::as_mut(next) {
        vcpu.set_run(Run::Running);
    }
    let alone = queue.is_empty();
    drop(queue);
    timer::arm(cpu);
    world::trap_waits(cpu, !alone);
    (!next.is_null()).then_some(next)
}

fn start_slice(cpu: &PerCpu, now: u64) {
    cpu.slice_end
        .store(now + timer::ticks(sched::SLICE_NS), Ordering::Relaxed);
}

fn is_root(id: u16) -> bool {
    usize::from(id) >= guest::ROOT_SLOT * guest_abi::map::VCPUS_MAX as usize
}

/// Waits for an interrupt and takes it; until one comes, zeroes frames.
fn idle(cpu: &PerCpu) {
    let free = || !cpu.resched.load(Ordering::Relaxed) && !hw::interrupt_pending();
    while free() && scrub::work(cpu) {
        core::hint::spin_loop();
    }
    hw::wfi();
    interrupt::take(cpu);
}
