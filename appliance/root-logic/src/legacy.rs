//! The memory that was granted to a root that has ended: pages, each of which is taken over once
//! or given back.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

const PAGE: u64 = 4096;

/// What nobody has taken over yet: for the address of each block its end. Blocks do not meet.
#[derive(Debug, Default)]
pub struct Legacy(BTreeMap<u64, u64>);

impl Legacy {
    /// Nothing.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds `4096 << order` bytes at `pa`, which were not there before.
    pub fn add(&mut self, pa: u64, order: u32) {
        let mut start = pa;
        let mut end = pa.saturating_add(PAGE << order.min(40));
        if let Some((&before, &to)) = self.0.range(..=start).next_back()
            && to >= start
        {
            start = before;
            end = end.max(to);
        }
        if let Some(after) = self.0.remove(&end) {
            end = after;
        }
        self.0.insert(start, end);
    }

    /// Takes `4096 << order` bytes at `pa` over, if all of them are there; none otherwise.
    pub fn take(&mut self, pa: u64, order: u32) -> bool {
        let Some(bytes) = PAGE.checked_shl(order).filter(|_| order < 40) else {
            return false;
        };
        let Some(end) = pa.checked_add(bytes).filter(|_| pa.is_multiple_of(bytes)) else {
            return false;
        };
        let Some((&from, &to)) = self.0.range(..=pa).next_back() else {
            return false;
        };
        if to < end {
            return false;
        }
        self.0.remove(&from);
        if from < pa {
            self.0.insert(from, pa);
        }
        if end < to {
            self.0.insert(end, to);
        }
        true
    }

    /// Ends it: returns all that was not taken over, in aligned blocks of an order of at most
    /// `most`.
    pub fn rest(&mut self, most: u32) -> Vec<(u64, u32)> {
        let mut rest = Vec::new();
        for (from, end) in core::mem::take(&mut self.0) {
            let mut at = from;
            while at < end {
                let fits = |order: u32| {
                    let bytes = PAGE << order;
                    at.is_multiple_of(bytes) && at.saturating_add(bytes) <= end
                };
                let order = (0..=most.min(20)).rev().find(|order| fits(*order));
                let order = order.unwrap_or(0);
                rest.push((at, order));
                at = at.saturating_add(PAGE << order);
            }
        }
        rest
    }
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "a test that panics has failed"
)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Against a set of pages: each is taken over once or given back, and none is invented.
        #[test]
        fn every_page_is_taken_over_once_or_given_back(
            granted in prop::collection::btree_set(0..64_u64, 0..50),
            claims in prop::collection::vec((0..70_u64, 0..5_u32), 0..30),
            order in 0..4_u32,
        ) {
            let mut legacy = Legacy::new();
            let mut pages: BTreeSet<u64> = granted;
            for page in &pages {
                legacy.add(page * PAGE, 0);
            }
            for (page, order) in claims {
                let wanted = page..page + (1 << order);
                let good = page % (1 << order) == 0 && wanted.clone().all(|p| pages.contains(&p));
                prop_assert_eq!(legacy.take(page * PAGE, order), good);
                if good {
                    pages.retain(|p| !wanted.contains(p));
                }
            }
            let mut back = BTreeSet::new();
            for (pa, of) in legacy.rest(order) {
                prop_assert!(of <= order && pa % (PAGE << of) == 0);
                for page in pa / PAGE..pa / PAGE + (1 << of) {
                    prop_assert!(back.insert(page), "given back twice");
                }
            }
            prop_assert_eq!(back, pages);
            prop_assert!(legacy.rest(9).is_empty());
        }

        #[test]
        fn absurd_claims_are_refused(pa in any::<u64>(), order in any::<u32>()) {
            let mut legacy = Legacy::new();
            legacy.add(1 << 30, 9);
            let inside = (1 << 30..(1 << 30) + (2 << 20)).contains(&pa);
            prop_assert!(!legacy.take(pa, order) || inside);
        }
    }
}
