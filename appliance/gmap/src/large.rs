//! Leaves that have become too large for the policy.

use crate::cache::Cache;
use crate::desc::Entry;
use crate::machine::Machine;
use crate::range::{Budget, Stop};
use crate::space::{Gmap, address};
use crate::walk::{Place, WalkError};
use arch::Ipa;

impl Gmap {
    /// Splits every leaf of RAM in `start..end` that is larger than the policy allows, a slice
    /// at a time. Nothing changes for the guest.
    ///
    /// Each split takes a page from `cache`. Returns the address to go on from, and if the
    /// slice ended for another reason than its budget, why; [`WalkError::NoMemory`] asks
    /// for a topup.
    pub fn split_large(
        &self,
        machine: &impl Machine,
        cache: &mut Cache,
        start: u64,
        end: u64,
        budget: Budget,
    ) -> (Option<Ipa>, Option<WalkError>) {
        let largest = self.largest();
        let visit = |machine: &_, ipa: Ipa, place: &mut Place| -> Result<(), WalkError> {
            while let Entry::Leaf(leaf) = place.entry() {
                if leaf.special() || place.level >= largest {
                    return Ok(());
                }
                self.split(machine, cache, ipa, place)?;
                place.reread(machine);
            }
            Ok(())
        };
        let result = self.range(machine, start, end, true, budget, visit);
        match result {
            Ok(reached) => ((reached < end).then(|| address(reached)), None),
            Err(Stop::Visitor { at, why }) => (Some(at), Some(why)),
            Err(Stop::AddressSize) => (None, None),
        }
    }
}
