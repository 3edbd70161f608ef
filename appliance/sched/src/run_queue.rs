//! One core: who runs, who waits, and when that changes.

use crate::{Facts, Full, Limit, Tuning};

/// A vCPU that wants to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entity {
    /// Its number.
    pub id: u16,
    /// Time it had, by weight. Who had least runs next.
    pub age: u64,
    /// It goes before its time (root).
    pub boosted: bool,
    /// Its VM's limit holds it back until then; 0 if it does not.
    pub held_until: u64,
    /// When it came from another core's queue; 0 if it did not.
    pub moved_at: u64,
}

/// The vCPU on the core.
#[derive(Clone, Copy, Debug)]
struct Running {
    entity: Entity,
    /// When it was last charged.
    since: u64,
    /// When its turn ends; `u64::MAX` while nobody waits.
    until: u64,
}

/// Why a choice is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Something changed: a vCPU woke, or the time is over.
    News,
    /// The vCPU that runs gives the core up, and still wants to run.
    Yield,
}

/// What a core does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The vCPU that runs goes on.
    Stay,
    /// This one runs; if one ran, it waits now.
    Run(u16),
    /// Nobody runs. If one ran, its VM's limit holds it back, and it waits now.
    Idle,
}

/// One core's vCPUs that want to run, `N` at most.
///
/// A vCPU is in one queue at most, and there once; its owner sees to that.
#[derive(Debug)]
pub struct RunQueue<const N: usize> {
    waiting: [Entity; N],
    len: usize,
    running: Option<Running>,
    /// The least age here, which only grows: where newcomers begin.
    floor: u64,
    /// Who was favoured by one that yielded.
    favourite: Option<u16>,
    tuning: Tuning,
}

impl<const N: usize> RunQueue<N> {
    /// Creates an empty queue.
    pub const fn new(tuning: Tuning) -> Self {
        Self {
            waiting: [Entity {
                id: 0,
                age: 0,
                boosted: false,
                held_until: 0,
                moved_at: 0,
            }; N],
            len: 0,
            running: None,
            floor: 0,
            favourite: None,
            tuning,
        }
    }

    /// Sets the times to work with.
    pub fn tune(&mut self, tuning: Tuning) {
        self.tuning = tuning;
    }

    /// Returns the times it works with.
    pub const fn tuning(&self) -> Tuning {
        self.tuning
    }

    /// Returns those that wait, in no order.
    pub fn waiting(&self) -> &[Entity] {
        self.waiting.get(..self.len).unwrap_or(&[])
    }

    /// Returns who runs.
    pub fn running(&self) -> Option<u16> {
        self.running.map(|running| running.entity.id)
    }

    /// Returns how many run or could.
    pub fn load(&self, now: u64) -> usize {
        let could = self.waiting().iter().filter(|e| e.held_until <= now);
        could
            .count()
            .saturating_add(usize::from(self.running.is_some()))
    }

    /// Returns where newcomers begin.
    pub const fn floor(&self) -> u64 {
        self.floor
    }

    /// Returns when the running vCPU's turn ends, or somebody held back may go on;
    /// `u64::MAX` for never.
    pub fn wakes_at(&self, now: u64) -> u64 {
        let until = self.running.map_or(u64::MAX, |running| running.until);
        self.waiting()
            .iter()
            .map(|e| e.held_until)
            .filter(|at| *at > now)
            .fold(until, u64::min)
    }

    /// Adds a vCPU that woke or was switched on; returns whether a choice must be made.
    ///
    /// # Errors
    /// [`Full`] if there is no room.
    pub fn wake(&mut self, entity: Entity, now: u64, facts: &impl Facts) -> Result<bool, Full> {
        self.raise_floor(now, facts);
        // It may go to any core that it is allowed on: where they had most, it would wait least.
        let floor = self.floor.max(facts.floor(entity.id));
        let age = entity.age.max(floor.saturating_sub(self.tuning.lag));
        let entity = Entity { age, ..entity };
        self.push(entity)?;
        let Some(running) = self.running else {
            return Ok(true);
        };
        // Alone until now, it has no end of its turn yet.
        let untimed = running.until == u64::MAX;
        let ahead = self.age_at(&running, now, facts);
        let before = self.key(&entity).saturating_add(self.tuning.wake);
        Ok(untimed
            || before
                < self.key(&Entity {
                    age: ahead,
                    ..running.entity
                }))
    }

    /// Takes the running vCPU out: it blocks, or is switched off.
    pub fn stop(&mut self, now: u64, facts: &mut impl Facts) -> Option<Entity> {
        self.charge(now, facts);
        self.raise_floor(now, facts);
        let running = self.running.take()?;
        Some(running.entity)
    }

    /// Chooses who runs from `now` on.
    pub fn next(&mut self, now: u64, why: Why, facts: &mut impl Facts) -> Next {
        self.charge(now, facts);
        self.raise_floor(now, facts);
        let favourite = self.favourite.take();
        if why == Why::Yield && self.lend(favourite, now, facts) {
            return favourite.map_or(Next::Stay, Next::Run);
        }
        let mut may_stay = false;
        if let Some(running) = self.running {
            let limit = facts.limit(running.entity.id, now);
            if let Limit::Not(until) = limit {
                self.put_back(until);
            } else {
                may_stay = true;
                let best = self.best(now).filter(|best| {
                    let timed_out = now >= running.until;
                    let margin = if timed_out { 0 } else { self.tuning.wake };
                    let behind = self.key(best).saturating_add(margin) < self.key(&running.entity);
                    why == Why::Yield || behind
                });
                if best.is_none() {
                    self.renew(now, limit);
                    return Next::Stay;
                }
            }
        }
        // Each turn of the loop holds one vCPU back, or ends it.
        for _ in 0..N {
            let Some(chosen) = self.best(now) else {
                break;
            };
            match facts.limit(chosen.id, now) {
                Limit::Not(until) => self.hold(chosen.id, until),
                limit => {
                    self.put_back(0);
                    self.take(chosen.id);
                    self.running = Some(Running {
                        entity: Entity {
                            held_until: 0,
                            ..chosen
                        },
                        since: now,
                        until: u64::MAX,
                    });
                    self.renew(now, limit);
                    return Next::Run(chosen.id);
                }
            }
        }
        if may_stay {
            let limit = self
                .running()
                .map_or(Limit::None, |id| facts.limit(id, now));
            self.renew(now, limit);
            return Next::Stay;
        }
        Next::Idle
    }

    /// Puts the running vCPU, which may not stay on this core, among those that wait, held
    /// back until then: time to take it to another.
    pub fn evict(&mut self, now: u64, until: u64, facts: &mut impl Facts) {
        self.charge(now, facts);
        self.put_back(until);
    }

    /// Takes back that `vcpu` is held back, if it waits.
    pub fn release(&mut self, vcpu: u16) {
        self.hold(vcpu, 0);
    }

    /// Notes that the running vCPU waited, by WFI, for `ticks` of the time since it was last
    /// charged.
    pub fn forgive(&mut self, ticks: u64) {
        if let Some(running) = self.running.as_mut() {
            running.since = running.since.saturating_add(ticks);
        }
    }

    /// Returns whether the running vCPU's turn is over.
    pub fn is_timed_out(&self, now: u64) -> bool {
        self.running.is_some_and(|running| now >= running.until)
    }

    /// Lets the first of those that wait for which `wanted` says so, and who are of the running
    /// vCPU's VM, have its turn when it yields next. Returns whether there is one.
    pub fn favour(&mut self, wanted: impl Fn(u16) -> bool) -> bool {
        let found = self.waiting().iter().find(|e| wanted(e.id)).map(|e| e.id);
        self.favourite = found.or(self.favourite);
        found.is_some()
    }

    /// Takes a vCPU that waits out.
    pub fn take(&mut self, id: u16) -> Option<Entity> {
        let at = self.waiting().iter().position(|e| e.id == id)?;
        let last = self.len.checked_sub(1)?;
        self.waiting.swap(at, last);
        self.len = last;
        self.waiting.get(last).copied()
    }

    /// Adds a vCPU that was taken from a queue whose floor is `floor`. What it was behind or
    /// ahead there it is here, within limits.
    ///
    /// # Errors
    /// [`Full`] if there is no room.
    pub fn arrive(&mut self, entity: Entity, floor: u64, now: u64) -> Result<(), Full> {
        let ahead = entity.age.saturating_sub(floor).max(self.tuning.reach);
        let age = entity
            .age
            .max(self.floor.saturating_sub(self.tuning.reach))
            .min(self.floor.saturating_add(ahead));
        self.push(Entity {
            age,
            moved_at: now,
            ..entity
        })
    }

    /// Returns who of those that wait and may be moved to `core` had least.
    pub(crate) fn movable(&self, core: usize, now: u64, facts: &impl Facts) -> Option<Entity> {
        self.waiting()
            .iter()
            .filter(|e| e.held_until <= now && !e.boosted && facts.may_move(e.id, core))
            .min_by_key(|e| e.age)
            .copied()
    }

    /// Returns the least age of all that run or could, as it is `now`.
    pub(crate) fn least_age(&self, now: u64, facts: &impl Facts) -> Option<u64> {
        let waiting = self.waiting().iter().filter(|e| e.held_until <= now);
        let running = self.running.map(|r| self.age_at(&r, now, facts));
        waiting.map(|e| e.age).chain(running).min()
    }

    /// Lets the running vCPU be no further behind `waiting`, which waits elsewhere and could run
    /// here, than [`Tuning::owed`]: it had this core, and more than that it could not have.
    pub(crate) fn catch_up(&mut self, waiting: &Entity, now: u64, facts: &impl Facts) {
        // By so much do those that wait differ because they run whole turns.
        let turns = facts
            .rate(waiting.id)
            .age(self.tuning.slice.saturating_mul(2));
        let least = waiting
            .age
            .saturating_sub(turns.saturating_add(self.tuning.owed));
        if let Some(mut running) = self.running {
            let behind = least.saturating_sub(self.age_at(&running, now, facts));
            running.entity.age = running.entity.age.saturating_add(behind);
            self.running = Some(running);
        }
    }

    /// Brings the floor of a core that was idle up to that of one that was not.
    pub(crate) fn follow(&mut self, floor: u64) {
        if self.running.is_none() && self.len == 0 {
            self.floor = self.floor.max(floor);
        }
    }

    fn push(&mut self, entity: Entity) -> Result<(), Full> {
        *self.waiting.get_mut(self.len).ok_or(Full)? = entity;
        self.len = self.len.saturating_add(1);
        Ok(())
    }

    /// Age, less what root is put forward.
    fn key(&self, entity: &Entity) -> u64 {
        // From the boost up, so that there is room below.
        let age = entity.age.saturating_add(self.tuning.boost);
        if entity.boosted {
            age.saturating_sub(self.tuning.boost)
        } else {
            age
        }
    }

    fn best(&self, now: u64) -> Option<Entity> {
        self.waiting()
            .iter()
            .filter(|e| e.held_until <= now)
            .min_by_key(|e| self.key(e))
            .copied()
    }

    /// Lets `to` have what is left of the running vCPU's turn, and of the two ages the lesser:
    /// both are of one VM, so nobody else gets more or less by it. False if it cannot be.
    fn lend(&mut self, to: Option<u16>, now: u64, facts: &mut impl Facts) -> bool {
        let Some((to, running)) = to.zip(self.running) else {
            return false;
        };
        let limited = matches!(facts.limit(to, now), Limit::Not(_));
        if limited || now >= running.until {
            return false;
        }
        let Some(entity) = self.take(to) else {
            return false;
        };
        let (less, more) = (
            entity.age.min(running.entity.age),
            entity.age.max(running.entity.age),
        );
        if let Some(running) = self.running.as_mut() {
            running.entity.age = more;
        }
        self.put_back(0);
        self.running = Some(Running {
            entity: Entity {
                age: less,
                held_until: 0,
                ..entity
            },
            since: now,
            until: running.until,
        });
        let limit = facts.limit(to, now);
        self.renew(now, limit);
        true
    }

    fn age_at(&self, running: &Running, now: u64, facts: &impl Facts) -> u64 {
        let ticks = now.saturating_sub(running.since);
        let aged = facts.rate(running.entity.id).age(ticks);
        running.entity.age.saturating_add(aged)
    }

    fn charge(&mut self, now: u64, facts: &mut impl Facts) {
        let Some(mut running) = self.running else {
            return;
        };
        let ticks = now.saturating_sub(running.since);
        running.entity.age = self.age_at(&running, now, facts);
        running.since = running.since.max(now);
        facts.charge(running.entity.id, ticks, now);
        self.running = Some(running);
    }

    /// Brings the floor up to what those here have aged: one who runs alone is charged only
    /// when something happens.
    pub(crate) fn raise_floor(&mut self, now: u64, facts: &impl Facts) {
        let waiting = self.waiting().iter().filter(|e| e.held_until == 0);
        let running = self.running.iter().map(|r| self.age_at(r, now, facts));
        if let Some(least) = waiting.map(|e| e.age).chain(running).min() {
            self.floor = self.floor.max(least);
        }
    }

    /// Gives the running vCPU a turn from `now` on, no longer than its VM's limit.
    fn renew(&mut self, now: u64, limit: Limit) {
        let crowded = self.waiting().iter().any(|e| e.held_until <= now);
        let slice = self.tuning.slice;
        if let Some(running) = self.running.as_mut() {
            let old = running.until;
            running.until = match crowded {
                false => u64::MAX,
                true if old > now && old != u64::MAX => old,
                true => now.saturating_add(slice),
            };
            if let Limit::For(ticks) = limit {
                running.until = running.until.min(now.saturating_add(ticks.max(1)));
            }
        }
    }

    fn put_back(&mut self, held_until: u64) {
        if let Some(running) = self.running.take() {
            let entity = Entity {
                held_until,
                ..running.entity
            };
            self.push(entity)
                .expect("a queue has room for every vCPU, and the one that ran is not in it");
        }
    }

    fn hold(&mut self, id: u16, until: u64) {
        let waiting = self.waiting.get_mut(..self.len).unwrap_or(&mut []);
        if let Some(entity) = waiting.iter_mut().find(|e| e.id == id) {
            entity.held_until = until;
        }
    }
}
