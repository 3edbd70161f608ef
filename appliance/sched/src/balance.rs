//! When a vCPU moves from one core's queue to another's.
//!
//! Ages are comparable over all cores, so that who is youngest of all that wait anywhere is
//! whose turn it is: a core that chooses anew looks at the others' queues, too. Counting heads
//! would not do: where weights differ, two of one core can be worth one of another.
//!
//! A vCPU whose share is more than a core never gets it all and would fall behind without end,
//! to have the machine for itself once that changes. What it cannot use is not owed to it: one
//! that runs, and still is behind those that wait, is brought up to them.

use crate::{Entity, Facts, RunQueue};

/// Takes out of `from` a vCPU that should rather wait for core `core`, whose queue is `to`,
/// and puts it there; returns which. Moves one that would find the core idle, or that is
/// behind all that the core has: it is its turn on the machine, if not on its core.
pub fn balance<const N: usize>(
    from: &mut RunQueue<N>,
    to: &mut RunQueue<N>,
    core: usize,
    now: u64,
    facts: &impl Facts,
) -> Option<Entity> {
    // The only one that wants a core has it, or is about to.
    if from.load(now) < 2 {
        return None;
    }
    let candidate = from.movable(core, now, facts)?;
    to.catch_up(&candidate, now, facts);
    if to.load(now) != 0 {
        // One that has just come stays for a while, or two cores could hand it to and fro.
        let settled = now.saturating_sub(candidate.moved_at) >= to.tuning().slice;
        let least = to.least_age(now, facts)?;
        if !settled || candidate.age.saturating_add(to.tuning().steal) >= least {
            return None;
        }
    }
    from.raise_floor(now, facts);
    to.raise_floor(now, facts);
    to.follow(from.floor());
    let entity = from.take(candidate.id)?;
    if to.arrive(entity, from.floor(), now).is_err() {
        // Its place is still free.
        let _ = from.arrive(entity, from.floor(), now);
        return None;
    }
    Some(entity)
}
