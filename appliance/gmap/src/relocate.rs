//! Frames that move under a running guest: to make room for large extents, and to prove that
//! nothing depends on where a page lies.
//!
//! While a page is copied its entry is busy: a vCPU that touches it faults and comes again. A
//! block is copied a part at a time, and can be read meanwhile: module `half`.

use crate::desc::{Entry, Leaf};
use crate::gather::Gather;
use crate::half::Part;
use crate::level::Level;
use crate::machine::Machine;
use crate::range::{Budget, next};
use crate::space::{Error, Gmap, address, with_cache};
use crate::walk::Place;
use arch::{Ipa, Pa};

/// What [`Gmap::move_frames`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "it may have to be called again"]
pub struct Moved {
    /// Where to go on; `None` if all of the range was seen.
    pub next: Option<Ipa>,
    /// Bytes that lie elsewhere now.
    pub bytes: u64,
    /// The slice ended because the pool had no frame to move to.
    pub short: bool,
}

impl Gmap {
    /// Moves every leaf of `start..end` for whose frame and order `wanted` says so to another
    /// frame, a slice at a time; its content, state and dirty state stay.
    ///
    /// Fixed mappings, shared frames and what a device may reach stay where they are. A vCPU that has a page pinned is
    /// told ([`crate::Event::PinLost`]).
    pub fn move_frames(
        &mut self,
        machine: &mut impl Machine,
        (start, end): (u64, u64),
        budget: Budget,
        mut wanted: impl FnMut(Pa, u8) -> bool,
    ) -> Moved {
        let end = end.min(self.limit());
        let mut done = Moved::default();
        let (mut at, mut budget) = (start, budget);
        self.sequence.begin(start, end);
        while at < end && !budget.spent() {
            let ipa = address(at);
            let mut place = self.place(machine, ipa);
            budget.pay(machine, place.entry());
            if let Entry::Leaf(leaf) = place.entry()
                && !leaf.special()
                && !leaf.shared()
                && !machine.holds(ipa.align_down(place.level.span()), place.level)
                && wanted(leaf.base(), place.level.order())
            {
                let base = ipa.align_down(place.level.span());
                let span = place.level.span();
                match self.relocate(machine, base, &mut place) {
                    Part::More => continue,
                    // Its pages move one by one.
                    Part::Lost => {
                        at = base.raw().max(start);
                        continue;
                    }
                    Part::Short => {
                        done.short = true;
                        break;
                    }
                    Part::Whole => done.bytes = done.bytes.saturating_add(span),
                }
            }
            at = next(at, place.level);
        }
        done.next = (at < end).then(|| address(at));
        self.end_half_before(machine, (!done.short).then_some(at).filter(|at| *at < end));
        self.sequence.end();
        done
    }

    /// Moves the page at `place`, or a part of the block. [`Part::Lost`] once a block has become
    /// pages, since the guest does not let go of it.
    fn relocate(&mut self, machine: &mut impl Machine, ipa: Ipa, place: &mut Place) -> Part {
        let (level, wipe) = (place.level, self.wipes());
        if level < Level::L3 {
            let part = self.move_part(machine, ipa, place);
            if part != Part::Lost {
                return part;
            }
            place.reread(machine);
            let split = with_cache(machine, |machine, cache| {
                cache.topup(machine, 1)?;
                self.split(machine, cache, ipa, place).map_err(Error::from)
            });
            return if split.is_ok() {
                Part::Lost
            } else {
                Part::Short
            };
        }
        let Some(frame) = machine.alloc(level.order()) else {
            return Part::Short;
        };
        let old = self.remake(machine, ipa, place, |machine, old: Leaf| {
            machine.copy(frame, old.base(), level.order());
            old.with_base(frame)
                .with_own()
                .with_no_notice()
                .descriptor()
        });
        let Some(old) = old else {
            machine.free(frame, level.order());
            return Part::Whole;
        };
        let mut gather = Gather::new(self.vmid, wipe);
        gather.frame(machine, old, level);
        gather.complete(machine);
        self.counters.moved();
        Part::Whole
    }

    /// Returns the first address that is not in the space.
    pub(crate) fn limit(&self) -> u64 {
        if self.dead { 0 } else { self.shape.limit() }
    }
}
