//! The last things that happened, numbered.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;

use api::limits::EVENTS_MAX;
use api::{Event, EventType};

/// A bounded ring of events.
#[derive(Debug, Default)]
pub(crate) struct Events {
    ring: VecDeque<Event>,
    last: u64,
}

impl Events {
    /// Adds an event, forgetting the oldest if the ring is full.
    pub(crate) fn push(
        &mut self,
        when: (Option<String>, u64),
        event_type: EventType,
        action: &str,
        resource: String,
        context: BTreeMap<String, String>,
    ) {
        self.last = self.last.saturating_add(1);
        if self.ring.len() >= EVENTS_MAX {
            self.ring.pop_front();
        }
        self.ring.push_back(Event {
            seq: self.last,
            time: when.0,
            uptime_ns: when.1,
            event_type,
            action: action.into(),
            resource,
            context,
        });
    }

    /// Leaves out the numbers up to `last`, which were somebody else's.
    pub(crate) const fn begin_at(&mut self, last: u64) {
        self.last = last;
    }

    /// Returns the number of the last event, 0 if there was none.
    pub(crate) const fn last(&self) -> u64 {
        self.last
    }

    /// Returns the oldest remembered event after number `seq`.
    pub(crate) fn after(&self, seq: u64) -> Option<&Event> {
        let oldest = self.ring.front()?.seq;
        let index = seq.saturating_add(1).saturating_sub(oldest);
        self.ring.get(usize::try_from(index).ok()?)
    }
}
