//! What a vCPU's time went to, and whether it was switched out against its will.

/// What a vCPU is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Switched off.
    #[default]
    Off,
    /// Waiting by WFI: it does not want to run.
    Waiting,
    /// Wanting to run, and held until a device is ready.
    Parked,
    /// Wanting to run, and not running.
    Queued,
    /// On a core.
    Running,
}

/// One vCPU's account. Times are ticks of the system counter; they only grow, whatever the
/// vCPU does, as long as its VM lives.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turns {
    phase: Phase,
    since: u64,
    ran: u64,
    waited: u64,
    queued: u64,
    parked: u64,
    fault: u64,
    /// It was put in its queue by [`Turns::preempt`].
    against_its_will: bool,
    /// What the guest was last told.
    told: bool,
}

impl Turns {
    /// Creates the account of a vCPU that is off.
    pub const fn new() -> Self {
        Self {
            phase: Phase::Off,
            since: 0,
            ran: 0,
            waited: 0,
            queued: 0,
            parked: 0,
            fault: 0,
            against_its_will: false,
            told: false,
        }
    }

    /// Notes that the vCPU does something else from `now` on. One that goes on wanting to run
    /// has given its core up by itself; for one that was made to, see [`Turns::preempt`].
    pub fn enter(&mut self, phase: Phase, now: u64) {
        let spent = now.saturating_sub(self.since);
        match self.phase {
            Phase::Running => self.ran = self.ran.saturating_add(spent),
            Phase::Queued => self.queued = self.queued.saturating_add(spent),
            Phase::Parked => self.parked = self.parked.saturating_add(spent),
            Phase::Waiting => self.waited = self.waited.saturating_add(spent),
            Phase::Off => {}
        }
        // Moved from queue to queue, it is still where it was put against its will.
        if phase != Phase::Queued || self.phase != Phase::Queued {
            self.against_its_will = false;
        }
        self.phase = phase;
        self.since = now;
    }

    /// Notes that the vCPU, which goes on wanting to run, lost its core.
    pub fn preempt(&mut self, now: u64) {
        self.enter(Phase::Queued, now);
        self.against_its_will = true;
    }

    /// Notes that a fault of the vCPU took `ticks` to answer.
    pub fn add_fault(&mut self, ticks: u64) {
        self.fault = self.fault.saturating_add(ticks);
    }

    /// Returns what to tell the guest: true if the vCPU was switched out against its will
    /// and still wants to run. `None` if the guest knows.
    #[must_use]
    pub fn news(&mut self) -> Option<bool> {
        let hint = self.is_preempted();
        if hint == self.told {
            return None;
        }
        self.told = hint;
        Some(hint)
    }

    /// Returns whether the vCPU wants to run and was switched out against its will.
    pub fn is_preempted(&self) -> bool {
        self.against_its_will && self.phase == Phase::Queued
    }

    /// Returns what the vCPU does.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns the time on a core until `now`, answering its exits included.
    pub fn ran(&self, now: u64) -> u64 {
        match self.phase {
            Phase::Running => self.ran.saturating_add(now.saturating_sub(self.since)),
            Phase::Off | Phase::Waiting | Phase::Parked | Phase::Queued => self.ran,
        }
    }

    /// Returns the time it waited by WFI, until `now`.
    pub fn waited(&self, now: u64) -> u64 {
        match self.phase {
            Phase::Waiting => self.waited.saturating_add(now.saturating_sub(self.since)),
            Phase::Off | Phase::Parked | Phase::Queued | Phase::Running => self.waited,
        }
    }

    /// Returns the time it wanted to run and did not, until `now`.
    pub fn queued(&self, now: u64) -> u64 {
        match self.phase {
            Phase::Queued => self.queued.saturating_add(now.saturating_sub(self.since)),
            Phase::Off | Phase::Waiting | Phase::Parked | Phase::Running => self.queued,
        }
    }

    /// Returns the time it was held for devices, until `now`.
    pub fn parked(&self, now: u64) -> u64 {
        match self.phase {
            Phase::Parked => self.parked.saturating_add(now.saturating_sub(self.since)),
            Phase::Off | Phase::Waiting | Phase::Queued | Phase::Running => self.parked,
        }
    }

    /// Returns the time that answering its faults took.
    pub const fn fault(&self) -> u64 {
        self.fault
    }
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows has failed, which is what is meant"
)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Enter(Phase),
        Preempt,
        Tell,
    }

    fn op() -> impl Strategy<Value = (Op, u64)> {
        let op = prop_oneof![
            Just(Op::Enter(Phase::Off)),
            Just(Op::Enter(Phase::Waiting)),
            Just(Op::Enter(Phase::Queued)),
            Just(Op::Enter(Phase::Parked)),
            Just(Op::Enter(Phase::Running)),
            Just(Op::Preempt),
            Just(Op::Tell),
        ];
        (op, 0_u64..1000)
    }

    proptest! {
        /// C03, C06: the account against a history kept as a list: each tick is of exactly
        /// one kind, waiting is nobody's, and the hint is what the last change says.
        #[test]
        fn c03_every_tick_is_counted_once_and_for_what_it_was(ops in proptest::collection::vec(op(), 0..60)) {
            let mut turns = Turns::new();
            let mut history = std::vec![(0_u64, Phase::Off)];
            let (mut now, mut forced, mut told) = (0, false, false);
            for (op, wait) in ops {
                now += wait;
                match op {
                    Op::Enter(phase) => {
                        forced &= phase == Phase::Queued && turns.phase() == Phase::Queued;
                        turns.enter(phase, now);
                        history.push((now, phase));
                    }
                    Op::Preempt => {
                        forced = true;
                        turns.preempt(now);
                        history.push((now, Phase::Queued));
                    }
                    Op::Tell => {
                        let expected = (forced != told).then_some(forced);
                        told = forced;
                        prop_assert_eq!(turns.news(), expected);
                        prop_assert_eq!(turns.news(), None, "redundant stores are suppressed");
                    }
                }
                let later = now + 7;
                let sum = |wanted: Phase| -> u64 {
                    let ends = history.iter().skip(1).map(|(at, _)| *at).chain([later]);
                    history.iter().zip(ends)
                        .filter(|((_, phase), _)| *phase == wanted)
                        .map(|((from, _), to)| to - from)
                        .sum()
                };
                prop_assert_eq!(turns.ran(later), sum(Phase::Running));
                prop_assert_eq!(turns.waited(later), sum(Phase::Waiting));
                prop_assert_eq!(turns.queued(later), sum(Phase::Queued));
                prop_assert_eq!(turns.parked(later), sum(Phase::Parked));
            }
        }
    }
}
