//! Root's lives: how it is noticed that one has ended without saying so, and how many may fail
//! in a row before it is the machine that has to begin anew.

/// Lives in a row that may end before root was ready. After so many it is not a mishap: the
/// machine is reset.
pub const UNREADY_MAX: u32 = 5;

/// What comes after a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another one; root's generation from then on.
    Life(u64),
    /// A reset: root does not become ready any more.
    Reset,
}

/// How many lives root has had.
#[derive(Debug)]
pub struct Lives {
    generation: u64,
    unready: u32,
}

impl Default for Lives {
    fn default() -> Self {
        Self::new()
    }
}

impl Lives {
    /// The first one.
    pub const fn new() -> Self {
        Self {
            generation: 1,
            unready: 0,
        }
    }

    /// Returns how many in a row were not ready before this one.
    pub const fn unready(&self) -> u32 {
        self.unready
    }

    /// Says what comes after this life, in which root was ready or was not.
    pub fn end(&mut self, was_ready: bool) -> Next {
        self.unready = match was_ready {
            true => 0,
            false => self.unready.saturating_add(1),
        };
        if self.unready >= UNREADY_MAX {
            return Next::Reset;
        }
        self.generation = self.generation.saturating_add(1);
        Next::Life(self.generation)
    }
}

/// The time for which root may be silent.
///
/// A root that has never given a sign of life has none: it may not know of any. Once one has,
/// every root after it must, from its first instruction on.
#[derive(Debug)]
pub struct Lease {
    holds: bool,
    /// The sign that was seen last, 0 for none in this life, and when.
    beat: u64,
    since: u64,
}

impl Default for Lease {
    fn default() -> Self {
        Self::new()
    }
}

impl Lease {
    /// None yet.
    pub const fn new() -> Self {
        Self {
            holds: false,
            beat: 0,
            since: 0,
        }
    }

    /// A life begins now.
    pub const fn begin(&mut self, now: u64) {
        self.beat = 0;
        self.since = now;
    }

    /// Looks at the sign of life. Returns whether it has been the same for longer than `ticks`.
    pub const fn look(&mut self, beat: u64, now: u64, ticks: u64) -> bool {
        if beat != self.beat {
            self.holds = true;
            self.beat = beat;
            self.since = now;
        }
        self.holds && now.saturating_sub(self.since) > ticks
    }
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "a test that panics has failed"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the rule in other words: the machine is reset exactly after five lives in a
        /// row that were not ready, and generations count the others.
        #[test]
        fn five_unready_lives_in_a_row_are_the_end(lives in prop::collection::vec(any::<bool>(), 0..40)) {
            let mut subject = Lives::new();
            let end = (1..=lives.len()).find(|end| {
                *end >= 5 && lives.iter().take(*end).rev().take(5).all(|ready| !ready)
            });
            for (number, ready) in (1_usize..).zip(&lives) {
                let next = subject.end(*ready);
                if end == Some(number) {
                    prop_assert_eq!(next, Next::Reset);
                    break;
                }
                prop_assert_eq!(next, Next::Life(number as u64 + 1));
                let unready = lives.iter().take(number).rev().take_while(|ready| !**ready);
                prop_assert_eq!(subject.unready() as usize, unready.count());
            }
        }

        /// Against a list of all looks: silent is who has not changed its sign for longer than
        /// the lease, if any root ever gave one.
        #[test]
        fn silence_is_noticed_and_nothing_else(
            steps in prop::collection::vec((0..30_u64, 0..3_u64, prop::bool::weighted(0.1)), 1..60),
        ) {
            let mut lease = Lease::new();
            let (mut now, mut changed, mut last, mut ever) = (0, 0, 0, false);
            for (passed, beat, reborn) in steps {
                now += passed;
                if reborn {
                    lease.begin(now);
                    (changed, last) = (now, 0);
                }
                if beat != last {
                    (changed, last, ever) = (now, beat, true);
                }
                prop_assert_eq!(lease.look(beat, now, 50), ever && now - changed > 50);
            }
        }
    }

    #[test]
    fn who_never_beat_is_left_alone() {
        let mut lease = Lease::new();
        assert!(!lease.look(0, u64::MAX, 1));
    }

    #[test]
    fn who_comes_after_one_that_beat_has_to_beat_too() {
        let mut lease = Lease::new();
        assert!(!lease.look(7, 10, 20));
        lease.begin(100);
        assert!(!lease.look(0, 120, 20));
        assert!(lease.look(0, 121, 20));
    }
}
