//! A machine of cores that run nothing: core's part of scheduling, on a clock of its own.
//!
//! It does what core's `schedule.rs` does, in the same order, and after every step checks
//! what must hold at any moment. Who has had what is counted apart from the code under test.

use sched::{Cap, Entity, Facts, Limit, Next, Phase, Rate, RunQueue, Tuning, Turns, Why, balance};

/// Ticks are microseconds here.
pub(crate) const HZ: u64 = 1_000_000;
/// Room in a queue.
pub(crate) const VCPUS: usize = 32;

/// What a vCPU does with the time it gets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Life {
    /// It never waits.
    Busy,
    /// It never waits until then, and never runs again.
    Until(u64),
    /// It runs so long, then waits so long.
    Bursts { run: u64, wait: u64 },
    /// It runs so long, then gives its core up and goes on.
    Yields { run: u64 },
    /// It runs so long, then lends the rest of its turn to another of its VM, as who spins for
    /// a lock does.
    Lends { run: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    Queued,
    Running,
    Blocked,
}

#[derive(Clone, Debug)]
pub(crate) struct Vcpu {
    pub(crate) vm: usize,
    pub(crate) life: Life,
    /// Cores it may run on.
    pub(crate) affinity: u32,
    pub(crate) home: usize,
    pub(crate) run: Run,
    pub(crate) age: u64,
    pub(crate) boosted: bool,
    pub(crate) turns: Turns,
    /// What its guest reads.
    pub(crate) hint: bool,
    /// Counted here alone.
    pub(crate) ran: u64,
    pub(crate) last_ran: u64,
    pub(crate) longest_wait: u64,
    pub(crate) moves: u64,
    since: u64,
    /// Its core has not put its registers down yet.
    held: bool,
    /// Left of the burst it is in.
    left: u64,
    wakes: u64,
    involuntary: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Vm {
    pub(crate) weight: u32,
    pub(crate) cap: Cap,
    pub(crate) busy: u32,
}

/// What core knows, as the queues ask for it.
pub(crate) struct World {
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) vms: Vec<Vm>,
    /// Floors of the cores, as they last said.
    floors: Vec<u64>,
}

impl Facts for World {
    fn rate(&self, vcpu: u16) -> Rate {
        let vm = &self.vms[self.vcpus[usize::from(vcpu)].vm];
        Rate::new(vm.weight, vm.busy)
    }
    fn limit(&mut self, vcpu: u16, now: u64) -> Limit {
        let vm = self.vcpus[usize::from(vcpu)].vm;
        self.vms[vm].cap.limit(now)
    }
    fn charge(&mut self, vcpu: u16, ticks: u64, now: u64) {
        let vm = self.vcpus[usize::from(vcpu)].vm;
        self.vms[vm].cap.charge(ticks, now);
    }
    fn floor(&self, vcpu: u16) -> u64 {
        let affinity = self.vcpus[usize::from(vcpu)].affinity;
        let floors = self.floors.iter().enumerate();
        let allowed = floors.filter(|(core, _)| affinity >> core & 1 == 1);
        allowed.map(|(_, floor)| *floor).max().unwrap_or(0)
    }
    fn may_move(&self, vcpu: u16, core: usize) -> bool {
        let vcpu = &self.vcpus[usize::from(vcpu)];
        vcpu.affinity >> core & 1 == 1 && !vcpu.held
    }
}

pub(crate) struct Machine {
    pub(crate) now: u64,
    pub(crate) queues: Vec<RunQueue<VCPUS>>,
    pub(crate) world: World,
    /// Core `n` has something to look at.
    resched: Vec<Option<Why>>,
}

impl Machine {
    pub(crate) fn new(cores: usize) -> Self {
        Self {
            now: 1,
            queues: (0..cores).map(|_| RunQueue::new(Tuning::new(HZ))).collect(),
            world: World {
                vcpus: Vec::new(),
                vms: Vec::new(),
                floors: vec![0; cores],
            },
            resched: vec![None; cores],
        }
    }

    pub(crate) fn add_vm(&mut self, weight: u32, percent: u32) -> usize {
        let cap = match percent {
            0 => Cap::NONE,
            percent => Cap::new(percent, HZ / 20, self.now),
        };
        self.world.vms.push(Vm {
            weight,
            cap,
            busy: 0,
        });
        self.world.vms.len() - 1
    }

    /// Switches a vCPU on.
    pub(crate) fn add_vcpu(
        &mut self,
        vm: usize,
        life: Life,
        affinity: u32,
        boosted: bool,
    ) -> usize {
        let n = self.world.vcpus.len();
        let allowed: Vec<usize> = (0..self.queues.len())
            .filter(|core| affinity >> core & 1 == 1)
            .collect();
        let left = match life {
            Life::Busy | Life::Until(_) => u64::MAX,
            Life::Bursts { run, .. } | Life::Yields { run } | Life::Lends { run } => run,
        };
        self.world.vcpus.push(Vcpu {
            vm,
            life,
            affinity,
            home: allowed[n % allowed.len()],
            run: Run::Blocked,
            age: 0,
            boosted,
            turns: Turns::new(),
            hint: false,
            ran: 0,
            last_ran: self.now,
            longest_wait: 0,
            moves: 0,
            since: self.now,
            held: false,
            left,
            wakes: u64::MAX,
            involuntary: false,
        });
        self.wake(n);
        n
    }

    fn wake(&mut self, n: usize) {
        let now = self.now;
        let home = self.world.vcpus[n].home;
        let (entity, vm) = {
            let vcpu = &mut self.world.vcpus[n];
            assert_eq!(vcpu.run, Run::Blocked);
            vcpu.run = Run::Queued;
            vcpu.since = now;
            vcpu.last_ran = now;
            vcpu.turns.enter(Phase::Queued, now);
            let entity = Entity {
                id: u16::try_from(n).unwrap(),
                age: vcpu.age,
                boosted: vcpu.boosted,
                held_until: 0,
                moved_at: 0,
            };
            (entity, vcpu.vm)
        };
        self.world.vms[vm].busy += 1;
        let look = self.queues[home].wake(entity, now, &self.world).unwrap();
        if look {
            self.resched[home].get_or_insert(Why::News);
        }
        self.offer(home);
    }

    /// Tells a core that idles that there is somebody it could have.
    fn offer(&mut self, from: usize) {
        for core in 0..self.queues.len() {
            let idle = self.queues[core].running().is_none();
            let who = self.queues[from].waiting().iter();
            let mut who = who.filter(|e| e.held_until <= self.now && !e.boosted);
            if core != from && idle && who.any(|e| self.world.may_move(e.id, core)) {
                self.resched[core].get_or_insert(Why::News);
            }
        }
    }

    fn tell(&mut self, n: usize) {
        let vcpu = &mut self.world.vcpus[n];
        if let Some(hint) = vcpu.turns.news() {
            assert_ne!(vcpu.hint, hint, "a store that changes nothing");
            vcpu.hint = hint;
        }
    }

    fn leave(&mut self, n: usize, involuntary: bool) {
        let now = self.now;
        let vcpu = &mut self.world.vcpus[n];
        vcpu.run = Run::Queued;
        vcpu.held = true;
        vcpu.involuntary = involuntary;
        vcpu.last_ran = now;
        if involuntary {
            vcpu.turns.preempt(now);
        } else {
            vcpu.turns.enter(Phase::Queued, now);
        }
        self.tell(n);
    }

    fn choose(&mut self, core: usize, why: Why) {
        let now = self.now;
        let timed_out = self.queues[core].is_timed_out(now);
        for _ in 0..4 {
            let before = self.queues[core].running().map(usize::from);
            let next = self.queues[core].next(now, why, &mut self.world);
            if let (Some(n), false) = (before, next == Next::Stay) {
                self.leave(n, why != Why::Yield);
            }
            if let Next::Run(id) = next {
                let n = usize::from(id);
                let vcpu = &mut self.world.vcpus[n];
                assert_eq!(vcpu.run, Run::Queued);
                assert_eq!(vcpu.home, core);
                vcpu.run = Run::Running;
                vcpu.involuntary = false;
                vcpu.longest_wait = vcpu.longest_wait.max(now - vcpu.last_ran);
                vcpu.turns.enter(Phase::Running, now);
                self.tell(n);
            }
            let idle = self.queues[core].running().is_none();
            // What came is behind: it may have to run at once.
            if !(idle || timed_out) || !self.even_out(core, idle) {
                break;
            }
        }
        self.world.floors[core] = self.queues[core].floor();
        self.after_switch(core);
    }

    /// The core has put down the registers of whom it held before.
    fn after_switch(&mut self, core: usize) {
        for vcpu in self.world.vcpus.iter_mut().filter(|vcpu| vcpu.home == core) {
            vcpu.held = false;
        }
        if self.queues[core].load(self.now) < 2 {
            return;
        }
        let running = self.queues[core].running().map(usize::from);
        let is_root = running.is_some_and(|n| self.world.vcpus[n].boosted);
        let others = (0..self.queues.len()).filter(|other| *other != core && !is_root);
        for other in others {
            let [a, b] = self.queues.get_disjoint_mut([core, other]).unwrap();
            if let Some(entity) = balance(a, b, other, self.now, &self.world) {
                self.moved(entity, other);
                self.resched[other].get_or_insert(Why::News);
            }
        }
        self.offer(core);
    }

    /// Evens out with every other core; returns whether something came here.
    fn even_out(&mut self, core: usize, only_here: bool) -> bool {
        let mut came = false;
        for other in (0..self.queues.len()).filter(|other| *other != core) {
            let [a, b] = self.queues.get_disjoint_mut([core, other]).unwrap();
            if let Some(entity) = balance(b, a, core, self.now, &self.world) {
                self.moved(entity, core);
                came = true;
                if only_here {
                    break;
                }
                continue;
            }
            if !only_here
                && let [a, b] = self.queues.get_disjoint_mut([core, other]).unwrap()
                && let Some(entity) = balance(a, b, other, self.now, &self.world)
            {
                self.moved(entity, other);
                self.resched[other].get_or_insert(Why::News);
            }
        }
        came
    }

    fn moved(&mut self, entity: Entity, core: usize) {
        let vcpu = &mut self.world.vcpus[usize::from(entity.id)];
        assert_eq!(vcpu.run, Run::Queued);
        assert_eq!(vcpu.affinity >> core & 1, 1, "moved where it may not be");
        vcpu.home = core;
        vcpu.moves += 1;
    }

    /// Runs until `end`.
    pub(crate) fn run_until(&mut self, end: u64) {
        while self.now < end {
            let mut choices = 0;
            while let Some(core) = self.resched.iter().position(Option::is_some) {
                let why = self.resched[core].take().unwrap();
                self.choose(core, why);
                choices += 1;
                assert!(choices < 100, "cores hand vCPUs to and fro for ever");
            }
            self.check();
            let ends = self.world.vcpus.iter().filter_map(|v| match v.run {
                Run::Running => Some(self.now.saturating_add(v.left)),
                Run::Blocked => Some(v.wakes),
                Run::Queued => None,
            });
            let timers = self.queues.iter().map(|q| q.wakes_at(self.now));
            let at = ends.chain(timers).fold(end, u64::min).max(self.now + 1);
            self.pass(at - self.now);
        }
    }

    fn pass(&mut self, ticks: u64) {
        self.now += ticks;
        let now = self.now;
        for core in 0..self.queues.len() {
            if self.queues[core].wakes_at(now - 1) <= now {
                self.resched[core].get_or_insert(Why::News);
            }
        }
        for n in 0..self.world.vcpus.len() {
            let vcpu = &mut self.world.vcpus[n];
            match vcpu.run {
                Run::Running => {
                    vcpu.ran += ticks;
                    vcpu.left = vcpu.left.saturating_sub(ticks);
                    if matches!(vcpu.life, Life::Until(end) if now >= end) {
                        vcpu.life = Life::Bursts {
                            run: u64::MAX,
                            wait: u64::MAX / 2,
                        };
                        vcpu.left = 0;
                    }
                    if vcpu.left == 0 {
                        self.burst_over(n);
                    }
                }
                Run::Blocked if vcpu.wakes <= now => self.wake(n),
                Run::Queued | Run::Blocked => {}
            }
        }
    }

    fn burst_over(&mut self, n: usize) {
        let now = self.now;
        let vcpu = &mut self.world.vcpus[n];
        let core = vcpu.home;
        match vcpu.life {
            Life::Busy | Life::Until(_) => vcpu.left = u64::MAX,
            Life::Yields { run } => {
                vcpu.left = run;
                self.resched[core] = Some(Why::Yield);
            }
            Life::Lends { run } => {
                vcpu.left = run;
                let vm = vcpu.vm;
                let sibling = |id: u16| self.world.vcpus[usize::from(id)].vm == vm;
                self.queues[core].favour(sibling);
                self.resched[core] = Some(Why::Yield);
            }
            Life::Bursts { run, wait } => {
                vcpu.left = run;
                vcpu.wakes = now + wait;
                vcpu.run = Run::Blocked;
                vcpu.turns.enter(Phase::Waiting, now);
                let vm = vcpu.vm;
                let entity = self.queues[core].stop(now, &mut self.world).unwrap();
                assert_eq!(usize::from(entity.id), n);
                self.world.vcpus[n].age = entity.age;
                self.world.vms[vm].busy -= 1;
                self.tell(n);
                self.resched[core] = Some(Why::News);
            }
        }
    }

    /// What must hold at any moment.
    fn check(&self) {
        let mut seen = vec![0; self.world.vcpus.len()];
        for (core, queue) in self.queues.iter().enumerate() {
            for entity in queue.waiting() {
                let n = usize::from(entity.id);
                seen[n] += 1;
                assert_eq!(self.world.vcpus[n].run, Run::Queued);
                assert_eq!(self.world.vcpus[n].home, core);
            }
            if let Some(id) = queue.running() {
                seen[usize::from(id)] += 1;
                assert_eq!(self.world.vcpus[usize::from(id)].run, Run::Running);
            } else {
                // A core idles only if nobody could use it.
                for other in &self.queues {
                    let could = other.waiting().iter().filter(|e| {
                        e.held_until <= self.now && self.world.may_move(e.id, core) && !e.boosted
                    });
                    let taken = other.running().is_some() || other.load(self.now) > 1;
                    assert!(could.count() == 0 || !taken, "core {core} idles in vain");
                }
            }
        }
        for (n, vcpu) in self.world.vcpus.iter().enumerate() {
            let wants = usize::from(vcpu.run != Run::Blocked);
            assert_eq!(seen[n], wants, "vCPU {n} is in one place");
            // C06: exactly while it wants to run and was switched out against its will.
            assert_eq!(vcpu.hint, vcpu.run == Run::Queued && vcpu.involuntary);
            assert_eq!(vcpu.turns.ran(self.now), vcpu.ran);
        }
    }
}
