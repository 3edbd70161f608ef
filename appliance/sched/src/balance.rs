//! When a vCPU moves from one core's queue to another's.

use crate::{Entity, Facts, RunQueue};

/// Takes out of `from` a vCPU that should rather wait for core `core`, whose queue is `to`,
/// and puts it there; returns which. Moves one that
///
/// - would find the core idle, or
/// - leaves a core with at least two more than there, or
/// - is so far behind all that the other core has that it is its turn on the machine, if not
///   on its core: three busy vCPUs on two cores take turns at having to share.
pub fn balance<const N: usize>(
    from: &mut RunQueue<N>,
    to: &mut RunQueue<N>,
    core: usize,
    now: u64,
    facts: &impl Facts,
) -> Option<Entity> {
    let (here, there) = (from.load(now), to.load(now));
    // The only one that wants a core has it, or is about to.
    if here < 2 {
        return None;
    }
    let candidate = from.movable(core, now, facts)?;
    let behind = || {
        to.least_age(now, facts)
            .is_some_and(|least| candidate.age.saturating_add(to.tuning().steal) < least)
    };
    // One that has just come stays for a while, or two cores could hand it to and fro.
    let settled = now.saturating_sub(candidate.moved_at) >= to.tuning().slice;
    let uneven = here >= there.saturating_add(2) || behind();
    if there != 0 && !(settled && uneven) {
        return None;
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
