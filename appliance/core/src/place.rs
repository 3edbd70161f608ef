//! Which core a vCPU runs on: what the queues know of it, and moving it.
//!
//! A vCPU moves only while it waits and no core holds its registers, under the locks of both
//! queues. The second lock is only tried for, or both are taken in the order of the cores.

use core::sync::atomic::Ordering;

use sched::{Facts, Limit, Rate, balance};

use crate::guest::{self, Run, VcpuControl};
use crate::per_cpu::{self, PerCpu};
use crate::schedule::{self, Queue};
use crate::{hw, timer};

/// Rounds of choosing, after each of which something may have come from another core or been
/// found to belong there.
pub(crate) const ROUNDS: usize = 8;

/// What the queues ask about vCPUs.
#[derive(Debug)]
pub(crate) struct Known;

impl Facts for Known {
    fn rate(&self, vcpu: u16) -> Rate {
        guest::by_id(usize::from(vcpu)).map_or(Rate::new(1, 1), |vcpu| {
            let vm = vcpu.vm();
            Rate::new(
                vm.weight.load(Ordering::Relaxed),
                vm.busy.load(Ordering::Relaxed),
            )
        })
    }

    fn limit(&mut self, vcpu: u16, now: u64) -> Limit {
        let Some(vcpu) = guest::by_id(usize::from(vcpu)) else {
            return Limit::None;
        };
        let vm = vcpu.vm();
        if !vm.capped.load(Ordering::Relaxed) || vm.stopping.load(Ordering::Acquire) {
            return Limit::None;
        }
        vm.cap.lock().limit(now)
    }

    fn charge(&mut self, vcpu: u16, ticks: u64, now: u64) {
        if let Some(vcpu) = guest::by_id(usize::from(vcpu))
            && vcpu.vm().capped.load(Ordering::Relaxed)
        {
            vcpu.vm().cap.lock().charge(ticks, now);
        }
    }

    fn floor(&self, vcpu: u16) -> u64 {
        guest::by_id(usize::from(vcpu)).map_or(0, |vcpu| {
            per_cpu::online()
                .filter(|cpu| vcpu.may_run_on(cpu.number()))
                .map(|cpu| cpu.floor.load(Ordering::Relaxed))
                .max()
                .unwrap_or(0)
        })
    }

    fn may_move(&self, vcpu: u16, core: usize) -> bool {
        guest::by_id(usize::from(vcpu)).is_some_and(|vcpu| vcpu.may_run_on(core) && !vcpu.is_held())
    }
}

/// Cores that were given something and have to be told.
#[derive(Debug, Default)]
pub(crate) struct Push(u32);

impl Push {
    /// Tells them. No lock is held.
    pub(crate) fn tell(self) {
        for cpu in per_cpu::online().filter(|cpu| self.0 >> cpu.number() & 1 == 1) {
            schedule::notify(cpu);
        }
    }
}

/// Moves what should rather be elsewhere between this core, whose queue this is, and each
/// other; returns whether something came here. One that has nothing to do only takes.
pub(crate) fn even_out(
    cpu: &PerCpu,
    queue: &mut Queue,
    now: u64,
    idle: bool,
    push: &mut Push,
) -> bool {
    let me = cpu.number();
    let mut came = false;
    for other in per_cpu::online().filter(|other| other.number() != me) {
        let Some(mut theirs) = other.queue.try_lock() else {
            continue;
        };
        if let Some(entity) = balance(&mut theirs, queue, me, now, &Known) {
            set_home(entity.id, me);
            came = true;
            if idle {
                break;
            }
        } else if !idle
            && let Some(entity) = balance(queue, &mut theirs, other.number(), now, &Known)
        {
            set_home(entity.id, other.number());
            push.0 |= 1 << other.number();
        }
    }
    came
}

/// Gives other cores those whose turn it is there. The one that this core has just put down was
/// still held when it chose, so this comes after the switch.
fn push_out(cpu: &PerCpu) {
    let now = hw::cntpct();
    let mut push = Push::default();
    let mut queue = cpu.queue.lock();
    // Root's turns are short as a rule: not worth a move. If one is not, its end is.
    let running = queue.running().and_then(|id| guest::by_id(usize::from(id)));
    if running.is_some_and(|vcpu| vcpu.vm().is_root()) {
        return;
    }
    for other in per_cpu::online().filter(|other| other.number() != cpu.number()) {
        let Some(mut theirs) = other.queue.try_lock() else {
            continue;
        };
        if let Some(entity) = balance(&mut queue, &mut theirs, other.number(), now, &Known) {
            set_home(entity.id, other.number());
            push.0 |= 1 << other.number();
        }
    }
    drop(queue);
    push.tell();
}

/// Both queues' locks are held.
fn set_home(id: u16, core: usize) {
    if let Some(vcpu) = guest::by_id(usize::from(id)) {
        vcpu.set_home(core);
    }
}

/// Puts the running vCPU back if it may not run on this core; returns whether it did.
pub(crate) fn evict_misplaced(cpu: &PerCpu, queue: &mut Queue, now: u64) -> bool {
    let running = queue.running().and_then(|id| guest::by_id(usize::from(id)));
    if running.is_none_or(|vcpu| vcpu.may_run_on(cpu.number())) {
        return false;
    }
    // Until it has been put where it belongs, which is done as soon as it can be.
    let until = now.saturating_add(timer::tuning().slice);
    queue.evict(now, until, &mut Known);
    cpu.misplaced.store(true, Ordering::Relaxed);
    true
}

/// What can be done once this core holds other registers than before.
pub(crate) fn after_switch(cpu: &PerCpu) {
    if cpu.misplaced.swap(false, Ordering::Relaxed) {
        while let Some(vcpu) = misplaced(cpu) {
            if !move_to(vcpu, target(vcpu), Run::Queued) {
                break;
            }
        }
    }
    if !cpu.crowded.load(Ordering::Relaxed) {
        return;
    }
    push_out(cpu);
    if per_cpu::any_idle() {
        let queue = cpu.queue.lock();
        let mut cores = 0_u32;
        for entity in queue.waiting() {
            if let Some(core) = guest::by_id(usize::from(entity.id)).and_then(idle_core) {
                cores |= 1 << core;
            }
        }
        drop(queue);
        Push(cores).tell();
    }
}

/// Returns one that waits here, may not run here, and is held by no core.
fn misplaced(cpu: &PerCpu) -> Option<&'static VcpuControl> {
    let queue = cpu.queue.lock();
    queue
        .waiting()
        .iter()
        .filter_map(|entity| guest::by_id(usize::from(entity.id)))
        .find(|vcpu| !vcpu.may_run_on(cpu.number()) && !vcpu.is_held())
}

/// Returns an idle core that `vcpu`, which waits, may run on.
fn idle_core(vcpu: &VcpuControl) -> Option<usize> {
    if vcpu.vm().is_root() {
        return None;
    }
    let idle = |cpu: &&PerCpu| cpu.is_idle() && vcpu.may_run_on(cpu.number());
    per_cpu::online().find(idle).map(PerCpu::number)
}

/// Tells an idle core, if there is one, of a vCPU that waits at `home`.
pub(crate) fn offer(home: &PerCpu, vcpu: &VcpuControl) {
    if let Some(core) = idle_core(vcpu)
        && core != home.number()
    {
        schedule::notify(per_cpu::cpu(core));
    }
}

/// Returns the core that `vcpu` is to go to: an idle one, or any that it may run on, or home
/// if there is none (it runs there then).
fn target(vcpu: &VcpuControl) -> usize {
    let first = || {
        per_cpu::online()
            .map(PerCpu::number)
            .find(|core| vcpu.may_run_on(*core))
    };
    idle_core(vcpu).or_else(first).unwrap_or(vcpu.home())
}

/// Moves `vcpu` to core `to`, if its run state is still `run` and no core holds it.
fn move_to(vcpu: &VcpuControl, to: usize, run: Run) -> bool {
    let from = vcpu.home();
    if from == to {
        return false;
    }
    let (here, there) = (per_cpu::cpu(from), per_cpu::cpu(to));
    // In the order of the cores, so that two who move in opposite directions both can.
    let (mut source, mut sink);
    if from < to {
        source = here.queue.lock();
        sink = there.queue.lock();
    } else {
        sink = there.queue.lock();
        source = here.queue.lock();
    }
    if vcpu.home() != from || vcpu.run() != run || vcpu.is_held() {
        return false;
    }
    if run == Run::Queued {
        let now = hw::cntpct();
        let Some(mut entity) = source.take(vcpu.id) else {
            return false;
        };
        entity.held_until = 0;
        let floor = source.floor();
        sink.arrive(entity, floor, now)
            .expect("a queue has room for every vCPU, and holds each at most once");
    }
    vcpu.set_home(to);
    drop(source);
    drop(sink);
    if run == Run::Queued {
        schedule::notify(there);
    }
    true
}

/// Gives a vCPU that does not want to run a home that it may run on.
pub(crate) fn find_home(vcpu: &VcpuControl) {
    if vcpu.may_run_on(vcpu.home()) {
        return;
    }
    // Still held, it goes where it may once its core has let go of it.
    let _ = move_to(vcpu, target(vcpu), Run::Blocked) || move_to(vcpu, target(vcpu), Run::Off);
}

/// Brings `vcpu`, which waits, to this core if it may run here.
pub(crate) fn pull(cpu: &PerCpu, vcpu: &VcpuControl) {
    if vcpu.home() != cpu.number() && vcpu.may_run_on(cpu.number()) {
        let _ = move_to(vcpu, cpu.number(), Run::Queued);
    }
}

/// Sets the cores that `vcpu` may run on; it leaves any other at once.
pub(crate) fn set_affinity(vcpu: &VcpuControl, cores: u32) {
    vcpu.affinity.store(cores, Ordering::Release);
    let (home, queue) = schedule::lock_home(vcpu);
    let wrong = !vcpu.may_run_on(home.number());
    drop(queue);
    if wrong {
        home.misplaced.store(true, Ordering::Release);
        schedule::notify(home);
    }
}
