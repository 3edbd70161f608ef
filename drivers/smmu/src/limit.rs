//! How many interrupts of the SMMU are taken: a guest can have its device begin aborted
//! transactions as fast as it likes.

/// Counts interrupts in windows of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    window: u64,
    taken: u32,
    off: bool,
}

impl Limit {
    /// Interrupts that are taken in one window; the next switches the line off.
    pub const MOST: u32 = 32;
    /// Milliseconds of a window.
    pub const WINDOW_MS: u64 = 100;

    /// Nothing was taken.
    pub const fn new() -> Self {
        Self {
            window: 0,
            taken: 0,
            off: false,
        }
    }

    /// Notes an interrupt; true if the line is to be switched off now.
    pub fn take(&mut self, now_ms: u64) -> bool {
        let window = now_ms.checked_div(Self::WINDOW_MS).unwrap_or(0);
        if self.window != window {
            (self.window, self.taken) = (window, 0);
        }
        self.taken = self.taken.saturating_add(1);
        let off = self.taken > Self::MOST && !self.off;
        self.off |= off;
        off
    }

    /// Somebody has asked; true if the line is to be switched on again.
    pub fn ask(&mut self) -> bool {
        core::mem::replace(&mut self.off, false)
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line that interrupts whenever it is on, once a millisecond or a thousand times.
    #[test]
    fn d2_a_storm_of_events_is_taken_32_times_a_window_at_the_most() {
        for in_a_ms in [1, 1000] {
            let mut limit = Limit::new();
            let (mut on, mut taken) = (true, [0_u32; 10]);
            for now_ms in 0..1000_u64 {
                for _ in 0..in_a_ms {
                    let window = usize::try_from(now_ms / 100).expect("below ten");
                    if on {
                        taken[window] += 1;
                        on = !limit.take(now_ms);
                    }
                }
                // Root asks twice a second.
                if now_ms % 500 == 499 {
                    assert!(limit.ask(), "it was off");
                    on = true;
                }
            }
            // One more than the limit is what shows that there are too many.
            let mut wanted = [0; 10];
            (wanted[0], wanted[5]) = (33, 33);
            // At the end of its window root switches it on for a moment.
            if in_a_ms == 1 {
                assert_eq!(taken, wanted);
            } else {
                assert!(taken.iter().all(|n| *n <= 33), "{taken:?}");
            }
        }
    }

    #[test]
    fn d2_few_events_never_switch_the_line_off() {
        let mut limit = Limit::new();
        for now_ms in (0..10_000).step_by(4) {
            assert!(!limit.take(now_ms), "25 a window");
        }
        assert!(!limit.ask());
    }
}
