//! Pages taken back by what the guest said of them, in a range: for whoever knows where to
//! look. [`Gmap::shrink`] looks everywhere.

use crate::desc::{Entry, Leaf};
use crate::gather::Gather;
use crate::level::Level;
use crate::machine::Machine;
use crate::range::{Budget, next};
use crate::shrink::{unused, volatile};
use crate::sidecar::Pgx;
use crate::space::{Gmap, address};
use arch::Ipa;

/// Which pages [`Gmap::sift`] may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sift {
    /// Said to be unused, and not written since.
    pub unused: bool,
    /// Said to be volatile, or volatile while unchanged and unchanged.
    pub volatile: bool,
}

impl Gmap {
    /// Takes the pages of `start..end` whose state is one of `sift`, a slice at a time; the
    /// next touch finds zeroes.
    ///
    /// `report` is told of each page that went: whoever keeps a migration log notes it, since
    /// what it sent of the page is no longer so. Returns the bytes taken and the address to go on from.
    pub fn sift(
        &mut self,
        machine: &mut impl Machine,
        (start, end): (u64, u64),
        sift: Sift,
        budget: Budget,
        mut report: impl FnMut(Ipa, u64),
    ) -> (u64, Option<Ipa>) {
        let end = end.min(self.slots.end()).min(self.limit());
        let mut gather = Gather::new(self.vmid, self.wipes());
        let (mut at, mut budget, mut taken) = (start, budget, 0_u64);
        let may = |word: Pgx, leaf: Leaf| {
            sift.unused && unused(word, leaf) || sift.volatile && volatile(word, leaf)
        };
        self.sequence.begin(start, end);
        while at < end && !budget.spent() {
            let ipa = address(at);
            // Of 2 MiB without a word the guest has said nothing.
            if !self.sidecar.has_words(machine, ipa) {
                budget.pay(machine, Entry::Empty);
                at = next(at, Level::L2);
                continue;
            }
            let place = self.place(machine, ipa);
            budget.pay(machine, place.entry());
            // A page with a state of its own has a leaf of its own.
            if place.level() == Level::L3 && self.drop_page(machine, ipa, &mut gather, may) {
                report(ipa, Level::L3.span());
                taken = taken.saturating_add(Level::L3.span());
            }
            at = next(at, place.level());
        }
        gather.complete(machine);
        self.sequence.end();
        (taken, (at < end).then(|| address(at)))
    }
}
