//! Whose turn it is to give memory back when there is none: a slice of one VM at a time, round
//! and round, for everyone who asks.
//!
//! An asker is refused only after a whole round since it began to ask in which nobody gave
//! anything. A round that others began counts for nothing, nor does the half of one: what was
//! passed over before may have something to give by now.

/// Those who may give.
pub trait Givers {
    /// Number of slots; any may be empty.
    fn slots(&self) -> usize;

    /// Returns whether there is somebody in `slot`.
    fn is_there(&self, slot: usize) -> bool;

    /// Takes one slice of what is in `slot`, from `at` on, or from its beginning. Returns the
    /// bytes taken, and where to go on.
    fn slice(&self, slot: usize, at: Option<u64>) -> (u64, Option<u64>);
}

/// How far the round is.
#[derive(Debug, Default)]
pub struct Round {
    slot: usize,
    at: Option<u64>,
    /// Slots that were passed, and bytes given, since the machine started.
    passed: u64,
    given: u64,
}

/// Since when somebody asks in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asking {
    passed: u64,
    given: u64,
}

impl Round {
    /// The first round, at its beginning.
    pub const fn new() -> Self {
        Self {
            slot: 0,
            at: None,
            passed: 0,
            given: 0,
        }
    }

    /// Takes one slice, for somebody who asks since `asking`. Returns whether it is worth trying
    /// again; if not, `asking` is over.
    pub fn slice(&mut self, givers: &impl Givers, asking: &mut Option<Asking>) -> bool {
        let now = Asking {
            passed: self.passed,
            given: self.given,
        };
        let since = *asking.get_or_insert(now);
        for _ in 0..givers.slots() {
            if givers.is_there(self.slot) {
                break;
            }
            self.pass(givers.slots());
        }
        let (given, next) = givers.slice(self.slot, self.at);
        self.given = self.given.wrapping_add(given);
        match next {
            Some(_) => self.at = next,
            None => self.pass(givers.slots()),
        }
        if self.given != since.given {
            // Whether the asker gets any of it is another matter: it begins anew.
            *asking = None;
            return true;
        }
        let slots = u64::try_from(givers.slots()).unwrap_or(u64::MAX);
        // The slot in which it began to ask was begun before.
        if self.passed.wrapping_sub(since.passed) <= slots {
            return true;
        }
        *asking = None;
        false
    }

    /// Goes on to the next slot.
    fn pass(&mut self, slots: usize) {
        self.at = None;
        self.passed = self.passed.wrapping_add(1);
        self.slot = self.slot.wrapping_add(1);
        if self.slot >= slots {
            self.slot = 0;
        }
    }
}
