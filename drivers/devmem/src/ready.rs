//! When a device may be touched after a reset.

/// A register that tells, and what it has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// The BAR it is in, 0 to 5.
    pub bar: u8,
    /// Its offset there, a multiple of four.
    pub offset: u64,
    /// The bits that count.
    pub mask: u32,
    /// What they are when the device is ready.
    pub want: u32,
}

/// How to find out that a device is ready after a reset, and how long to wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyPolicy {
    /// All of these, in this order; one that does not hold ends the poll.
    pub checks: &'static [Check],
    /// Milliseconds from one poll to the next.
    pub quantum_ms: u64,
    /// Milliseconds of waiting after which the toucher is refused.
    pub timeout_ms: u64,
}

impl ReadyPolicy {
    /// Polls once: reads registers by `read(bar, offset)` until one says no.
    pub fn poll(&self, mut read: impl FnMut(u8, u64) -> u32) -> bool {
        self.checks
            .iter()
            .all(|check| read(check.bar, check.offset) & check.mask == check.want)
    }
}

/// What a toucher that was told to wait remembers. Times are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    pub(crate) generation: u64,
    pub(crate) deadline_ms: u64,
    pub(crate) next_poll_ms: u64,
}
