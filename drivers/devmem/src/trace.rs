//! What faults did: counted always, written down at a bounded rate.

use crate::order::Order;
use arch::Pa;

/// How a fault ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A leaf was mapped.
    Mapped,
    /// Another vCPU had mapped it meanwhile.
    Present,
    /// A smaller leaf was needed than alignment asked for: part of it was mapped.
    FellBack,
    /// The toucher waits.
    Parked,
    /// The toucher was refused.
    Refused,
}

/// A line of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceEntry {
    /// When, in milliseconds.
    pub at_ms: u64,
    /// Size of the leaf, if it came to one.
    pub order: Option<Order>,
    /// Where it leads, if it came to one.
    pub pa: Option<Pa>,
    /// How it ended.
    pub outcome: Outcome,
}

/// Counters of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Leaves mapped: 4 KiB, 64 KiB, 2 MiB, 1 GiB.
    pub mapped: [u64; 4],
    /// Faults that found the leaf there.
    pub present: u64,
    /// Faults that took a smaller leaf because of what was mapped already.
    pub fell_back: u64,
    /// Touches that were made to wait.
    pub parked: u64,
    /// Touches refused.
    pub refused: u64,
    /// Accesses that core made for a guest, where no page can be mapped.
    pub emulated: u64,
    /// Times all mappings were taken away.
    pub zaps: u64,
    /// Lines the trace left out.
    pub dropped: u64,
}

/// Lines kept.
pub const TRACE_LEN: usize = 16;
/// Lines written in one window of a second.
const LINES_PER_SECOND: u32 = 16;

/// The last faults of a device.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    lines: [Option<TraceEntry>; TRACE_LEN],
    next: usize,
    window_ms: u64,
    in_window: u32,
    counters: Counters,
}

impl Trace {
    /// An empty trace.
    pub const fn new() -> Self {
        Self {
            lines: [None; TRACE_LEN],
            next: 0,
            window_ms: 0,
            in_window: 0,
            counters: Counters {
                mapped: [0; 4],
                present: 0,
                fell_back: 0,
                parked: 0,
                refused: 0,
                emulated: 0,
                zaps: 0,
                dropped: 0,
            },
        }
    }

    /// Notes a fault.
    pub fn note(&mut self, entry: TraceEntry) {
        let counters = &mut self.counters;
        let counter = match entry.outcome {
            Outcome::Mapped => entry
                .order
                .and_then(|order| counters.mapped.get_mut(order.index())),
            Outcome::Present => Some(&mut counters.present),
            Outcome::FellBack => Some(&mut counters.fell_back),
            Outcome::Parked => Some(&mut counters.parked),
            Outcome::Refused => Some(&mut counters.refused),
        };
        if let Some(counter) = counter {
            *counter = counter.wrapping_add(1);
        }
        let window = entry.at_ms / 1000;
        if window != self.window_ms {
            self.window_ms = window;
            self.in_window = 0;
        }
        if self.in_window >= LINES_PER_SECOND {
            self.counters.dropped = self.counters.dropped.wrapping_add(1);
            return;
        }
        self.in_window = self.in_window.saturating_add(1);
        if let Some(line) = self.lines.get_mut(self.next) {
            *line = Some(entry);
        }
        self.next = self.next.saturating_add(1) % TRACE_LEN;
    }

    /// Counts an access that core made itself.
    pub fn emulated(&mut self) {
        self.counters.emulated = self.counters.emulated.wrapping_add(1);
    }

    /// Counts a zap.
    pub fn zapped(&mut self) {
        self.counters.zaps = self.counters.zaps.wrapping_add(1);
    }

    /// Returns the counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns the lines kept, oldest first.
    pub fn lines(&self) -> impl Iterator<Item = TraceEntry> + '_ {
        let (newer, older) = self.lines.split_at(self.next.min(TRACE_LEN));
        older.iter().chain(newer).filter_map(|line| *line)
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}
