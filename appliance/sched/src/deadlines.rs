//! When blocked vCPUs want to be woken by their own timers.

use crate::Full;

/// At most `N` vCPUs, each with the counter value at which it is to be woken.
#[derive(Debug)]
pub struct Deadlines<const N: usize> {
    entries: [(u64, u16); N],
    len: usize,
}

impl<const N: usize> Default for Deadlines<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Deadlines<N> {
    /// Creates an empty set.
    pub const fn new() -> Self {
        Self {
            entries: [(0, 0); N],
            len: 0,
        }
    }

    /// Sets the deadline of `vcpu`, replacing an earlier one.
    pub fn set(&mut self, vcpu: u16, deadline: u64) -> Result<(), Full> {
        self.clear(vcpu);
        let entry = self.entries.get_mut(self.len).ok_or(Full)?;
        *entry = (deadline, vcpu);
        self.len = self.len.saturating_add(1);
        Ok(())
    }

    /// Removes the deadline of `vcpu`, if it has one.
    pub fn clear(&mut self, vcpu: u16) {
        self.take(|&(_, id)| id == vcpu);
    }

    /// Returns the earliest deadline.
    pub fn earliest(&self) -> Option<u64> {
        self.live().iter().map(|&(deadline, _)| deadline).min()
    }

    /// Removes and returns a vCPU whose deadline is not after `now`.
    pub fn pop_due(&mut self, now: u64) -> Option<u16> {
        self.take(|&(deadline, _)| deadline <= now)
            .map(|(_, id)| id)
    }

    fn live(&self) -> &[(u64, u16)] {
        self.entries.get(..self.len).unwrap_or(&[])
    }

    fn take(&mut self, wanted: impl Fn(&(u64, u16)) -> bool) -> Option<(u64, u16)> {
        let at = self.live().iter().position(wanted)?;
        let last = self.len.checked_sub(1)?;
        self.entries.swap(at, last);
        self.len = last;
        self.entries.get(last).copied()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Setting, clearing and expiring agree with a map from vCPU to deadline.
        #[test]
        fn deadlines_agree_with_a_map(ops in proptest::collection::vec((0u8..3, 0u16..6, 0u64..50), 0..100)) {
            let mut set = Deadlines::<4>::new();
            let mut model: BTreeMap<u16, u64> = BTreeMap::new();
            for (kind, id, t) in ops {
                match kind {
                    0 => {
                        let fits = model.len() < 4 || model.contains_key(&id);
                        prop_assert_eq!(set.set(id, t).is_ok(), fits);
                        if fits { model.insert(id, t); } else { model.remove(&id); }
                    }
                    1 => { set.clear(id); model.remove(&id); }
                    _ => {
                        while let Some(due) = set.pop_due(t) {
                            let deadline = model.remove(&due);
                            prop_assert!(deadline.is_some_and(|d| d <= t));
                        }
                        prop_assert!(model.values().all(|&d| d > t));
                    }
                }
                prop_assert_eq!(set.earliest(), model.values().copied().min());
            }
        }
    }
}
