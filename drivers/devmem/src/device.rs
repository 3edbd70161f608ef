//! One device: whether its memory may be reached, and what has to happen before it may again.

use crate::ready::{ReadyPolicy, Waiter};

/// Power state, as PMCSR has it (PCI PM 1.2, 3.2.4). D1 and D2 count as D3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// On.
    D0,
    /// Off, but for configuration space.
    D3,
}

/// Why all mappings of a device go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A reset: by the control port, or FLR by the guest. The device has to become ready again.
    Reset,
    /// COMMAND.MEM was cleared.
    MemoryOff,
    /// It goes to D3. When it comes back it has lost its state, as after a reset.
    PowerDown,
    /// A BAR moves: its old window leads nowhere.
    Moved,
    /// An operator takes it away for a moment; the next touch brings it back.
    Revoked,
    /// The VM gives it back.
    Closed,
}

/// Why a touch was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// COMMAND.MEM is off (EIO).
    MemoryOff,
    /// It is in D3 (EIO).
    LowPower,
    /// It did not become ready in time (ETIME).
    NotReady,
    /// Nobody has it.
    Closed,
}

/// The answer to a touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be mapped, now, under the lock that is held.
    Map,
    /// Not yet: touch again at this time, in milliseconds. Only the toucher waits.
    Park {
        /// When.
        until_ms: u64,
    },
    /// Its mappings are being taken away: touch again.
    Again,
    /// It cannot be reached.
    Refuse(Refusal),
}

/// The duty to take every mapping of the device away, and then to say so.
///
/// While one exists [`Device::touch`] maps nothing.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "no mapping comes back before the duty is done: Device::taken"]
pub struct Taken(Why);

impl Taken {
    /// Why they go.
    pub fn why(&self) -> Why {
        self.0
    }
}

/// The state of a device that belongs to a VM. Guarded by a lock of core's.
#[derive(Debug)]
pub struct Device {
    policy: ReadyPolicy,
    generation: u64,
    /// A reset happened, and no poll has found the device ready since.
    pending: bool,
    memory: bool,
    power: Power,
    taking: bool,
    closed: bool,
    /// It must not be accessed before then, in milliseconds.
    quiet_until_ms: u64,
}

impl Device {
    /// A device as it is after its assignment: reset, memory off, D0.
    pub const fn new(policy: ReadyPolicy) -> Self {
        Self {
            policy,
            generation: 1,
            pending: true,
            memory: false,
            power: Power::D0,
            taking: false,
            closed: false,
            quiet_until_ms: 0,
        }
    }

    /// How often it was reset, from 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a reset happened that no poll has answered yet.
    pub fn pending(&self) -> bool {
        self.pending
    }

    /// COMMAND.MEM.
    pub fn memory(&self) -> bool {
        self.memory
    }

    /// Whether mappings may exist, so that they have to be taken away before its windows move or
    /// close. True until the duty of the one who closes them is done.
    pub fn may_be_mapped(&self) -> bool {
        self.memory || self.taking
    }

    /// Its power state.
    pub fn power(&self) -> Power {
        self.power
    }

    /// Whether mappings are being taken away.
    pub fn taking(&self) -> bool {
        self.taking
    }

    /// COMMAND.MEM was set. Only a touch maps something.
    pub fn memory_on(&mut self) {
        self.memory = true;
    }

    /// It is back in D0.
    pub fn power_up(&mut self) {
        self.power = Power::D0;
    }

    /// Begins to take every mapping away. From now on nothing is mapped.
    ///
    /// `None` if that is going on already: its duty comes first, then ask again.
    pub fn begin(&mut self, why: Why) -> Option<Taken> {
        if self.taking {
            return None;
        }
        self.taking = true;
        match why {
            Why::Reset => self.was_reset(),
            Why::PowerDown => {
                self.power = Power::D3;
                self.was_reset();
            }
            Why::MemoryOff => self.memory = false,
            Why::Closed => self.closed = true,
            Why::Moved | Why::Revoked => {}
        }
        Some(Taken(why))
    }

    /// Every mapping is gone, and what came after was begun. After a reset that was started in
    /// the device now, it is left alone until `quiet_until_ms`; otherwise that is `now_ms`.
    pub fn taken(&mut self, duty: Taken, quiet_until_ms: u64) {
        let Taken(_) = duty;
        self.taking = false;
        self.quiet_until_ms = self.quiet_until_ms.max(quiet_until_ms);
    }

    /// It is left alone until then, since its reset ended later than was known.
    pub fn rest(&mut self, until_ms: u64) {
        self.quiet_until_ms = self.quiet_until_ms.max(until_ms);
    }

    /// A reset happened that nobody announced. Its mappings have to go: [`Device::begin`].
    fn was_reset(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.pending = true;
    }

    /// Answers a touch of registers, which may be reached although the device is not ready: it
    /// is by them that its driver finds out.
    pub fn touch_registers(&self, now_ms: u64) -> Verdict {
        if let Some(refusal) = self.refusal() {
            Verdict::Refuse(refusal)
        } else if self.taking {
            Verdict::Again
        } else if now_ms < self.quiet_until_ms {
            Verdict::Park {
                until_ms: self.quiet_until_ms,
            }
        } else {
            Verdict::Map
        }
    }

    fn refusal(&self) -> Option<Refusal> {
        if self.closed {
            Some(Refusal::Closed)
        } else if self.power != Power::D0 {
            Some(Refusal::LowPower)
        } else if !self.memory {
            Some(Refusal::MemoryOff)
        } else {
            None
        }
    }

    /// Answers a touch at `now_ms`, the lock held. `waiter` is the toucher's own.
    ///
    /// Registers are read, by `read(bar, offset)`, only after a reset, with memory on, in D0,
    /// and at most once each quantum. The first poll of a wait is at once.
    pub fn touch(
        &mut self,
        now_ms: u64,
        waiter: &mut Option<Waiter>,
        read: impl FnMut(u8, u64) -> u32,
    ) -> Verdict {
        match self.touch_registers(now_ms) {
            Verdict::Map if self.pending => {}
            Verdict::Park { until_ms } => return Verdict::Park { until_ms },
            Verdict::Again => return Verdict::Again,
            verdict => {
                *waiter = None;
                return verdict;
            }
        }
        let generation = self.generation;
        let mut wait = waiter
            .filter(|wait| wait.generation == generation)
            .unwrap_or(Waiter {
                generation,
                deadline_ms: now_ms.saturating_add(self.policy.timeout_ms),
                next_poll_ms: now_ms,
            });
        if now_ms < wait.next_poll_ms {
            *waiter = Some(wait);
            return Verdict::Park {
                until_ms: wait.next_poll_ms,
            };
        }
        if self.policy.poll(read) {
            self.pending = false;
            *waiter = None;
            return Verdict::Map;
        }
        if now_ms >= wait.deadline_ms {
            *waiter = None;
            return Verdict::Refuse(Refusal::NotReady);
        }
        wait.next_poll_ms = now_ms.saturating_add(self.policy.quantum_ms);
        *waiter = Some(wait);
        Verdict::Park {
            until_ms: wait.next_poll_ms,
        }
    }
}
