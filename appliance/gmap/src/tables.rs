//! Table pages taken before a change, so that the change itself cannot fail.

use crate::machine::Machine;
use arch::Pa;

/// Most tables one step may need: a path from level 0, or two splits down to pages.
const MOST: usize = 4;

/// Zeroed table pages that nothing points to yet.
#[derive(Debug, Default)]
pub(crate) struct Spare([Option<Pa>; MOST]);

impl Spare {
    /// Takes `count` tables (at most four), or none if the pool has too few.
    pub(crate) fn take(machine: &mut impl Machine, count: usize) -> Option<Self> {
        let mut spare = Self::default();
        for slot in spare.0.iter_mut().take(count) {
            let Some(table) = machine.alloc(0) else {
                spare.give_back(machine);
                return None;
            };
            machine.scrub(table, 0);
            *slot = Some(table);
        }
        Some(spare)
    }

    /// Takes one table out.
    pub(crate) fn next(&mut self) -> Option<Pa> {
        self.0.iter_mut().find_map(Option::take)
    }

    /// Returns what was not used to the pool.
    pub(crate) fn give_back(mut self, machine: &mut impl Machine) {
        while let Some(table) = self.next() {
            machine.free(table, 0);
        }
    }
}
