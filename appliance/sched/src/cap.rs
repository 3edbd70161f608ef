//! A VM's limit: so much time on cores, whatever is free.

/// Whether a VM may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// It has no limit.
    None,
    /// For this many ticks more.
    For(u64),
    /// Not before this time.
    Not(u64),
}

/// Time that comes in steadily and is spent by running. What was overspent, by vCPUs on
/// several cores at once, is owed: over any long time the limit holds exactly.
#[derive(Clone, Copy, Debug)]
pub struct Cap {
    /// Per cent of one core; 0 for no limit.
    percent: u32,
    /// Hundredths of ticks in hand. Negative: owed.
    hand: i64,
    /// Most in hand.
    most: i64,
    /// When `hand` was right.
    at: u64,
}

impl Cap {
    /// No limit.
    pub const NONE: Self = Self {
        percent: 0,
        hand: 0,
        most: 0,
        at: 0,
    };

    /// A limit of `percent` of one core from `now` on (250 is two and a half cores); 0 for
    /// none. `period` ticks is what it is kept within, roughly.
    pub fn new(percent: u32, period: u64, now: u64) -> Self {
        let most = Self::income(percent, period).max(1);
        Self {
            percent,
            hand: most,
            most,
            at: now,
        }
    }

    /// Returns whether there is no limit.
    pub const fn is_none(&self) -> bool {
        self.percent == 0
    }

    /// Returns the limit in per cent of one core, 0 for none.
    pub const fn percent(&self) -> u32 {
        self.percent
    }

    /// In hundredths of a tick, so that nothing is lost by rounding.
    fn income(percent: u32, ticks: u64) -> i64 {
        i64::try_from(ticks.saturating_mul(u64::from(percent))).unwrap_or(i64::MAX)
    }

    /// Takes in what came since the last time.
    fn settle(&mut self, now: u64) {
        let came = Self::income(self.percent, now.saturating_sub(self.at));
        self.hand = self.hand.saturating_add(came).min(self.most);
        self.at = self.at.max(now);
    }

    /// Notes that a vCPU ran for `ticks` until `now`.
    pub fn charge(&mut self, ticks: u64, now: u64) {
        if self.is_none() {
            return;
        }
        self.settle(now);
        self.hand = self.hand.saturating_sub(Self::income(100, ticks));
    }

    /// Returns whether a vCPU may run at `now`, and for how long.
    pub fn limit(&mut self, now: u64) -> Limit {
        if self.is_none() {
            return Limit::None;
        }
        self.settle(now);
        if self.hand >= 100 {
            // In parts: what runs is charged late, and by then more has come in.
            return Limit::For(self.hand.min(self.most / 4).unsigned_abs() / 100);
        }
        // Not by the tick: until half of what it can hold is there.
        let missing = (self.most / 2).max(100).saturating_sub(self.hand);
        let wait = missing.unsigned_abs().checked_div(u64::from(self.percent));
        Limit::Not(now.saturating_add(wait.unwrap_or(u64::MAX).max(1)))
    }
}
