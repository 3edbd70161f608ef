//! Frames with more than one user: read by all, written by none, copied by whoever writes.
//!
//! A shared leaf has neither DBM nor `S2AP[1]`, so a write faults, and [`Gmap::look`] asks for
//! a copy, or takes the frame over if nobody else uses it any more. The copy is linked by
//! break-before-make; then the leaf's use of the shared frame ends ([`Machine::release`]).
//! That needs the VM's lock exclusively, as every end of a frame does.
//!
//! What a shared frame holds is nobody's to change: a leaf becomes shared only once no TLB
//! may write through it.

use crate::access::Access;
use crate::cache::Cache;
use crate::desc::{Entry, Leaf};
use crate::fault::{Fault, FaultError};
use crate::level::Level;
use crate::machine::Machine;
use crate::range::{Budget, next};
use crate::sequence::Ticket;
use crate::space::{Error, Gmap, address, with_cache};
use crate::walk::{Flags, Place};
use crate::want::{LinkError, Look, Want, settle};
use arch::{Ipa, Pa};

/// Looks before it is left to the guest to try again.
const LOOKS: usize = 4;

impl Gmap {
    /// Returns whether frames may be shared with others: not with keys, which say who may
    /// touch a frame's content, nor where frames are wiped.
    pub fn may_share(&self) -> bool {
        self.sharing && !self.keys_enabled() && !self.policy.wipe && !self.dead
    }

    /// Answers a store to a shared page at `ipa`, or any other fault: as [`Self::fault`]
    /// does, but a shared page gets a frame of its own with a copy.
    ///
    /// With the VM's lock held exclusively. Fails as [`Self::fault`] does.
    pub fn unshare(
        &mut self,
        machine: &mut impl Machine,
        cache: &mut Cache,
        ipa: Ipa,
        access: Access,
    ) -> Result<Fault, FaultError> {
        let mut context = (self, machine, cache);
        settle(
            &mut context,
            LOOKS,
            |(gmap, machine, _)| gmap.look(*machine, ipa, access),
            |(gmap, machine, cache), look| match look {
                Look::Shared(want) => gmap.copy(*machine, cache, want, written),
                other => gmap.fill(*machine, cache, other, access),
            },
        )
    }

    /// As [`Self::populate`], and a shared page gets a frame of its own first. With the VM's
    /// lock held exclusively.
    pub fn populate_own(&mut self, machine: &mut impl Machine, ipa: Ipa) -> Result<Pa, FaultError> {
        with_cache(machine, |machine, cache| {
            self.unshare(machine, cache, ipa, Access::WRITE)
        })?;
        self.populate(machine, ipa)
    }

    /// Gives every shared page of `start..end` a frame of its own, a slice at a time, and
    /// shares no more from now on: before keys are used, or a VM becomes confidential.
    ///
    /// What dirty state says does not change. Returns the address to go on from. Fails with
    /// [`Error::NoTables`] if frames or the VM's limit do not suffice; what was done stays.
    pub fn unshare_all(
        &mut self,
        machine: &mut impl Machine,
        start: u64,
        end: u64,
        budget: Budget,
    ) -> Result<Option<Ipa>, Error> {
        self.sharing = false;
        let end = end.min(self.limit());
        let (mut at, mut budget) = (start, budget);
        while at < end && !budget.spent() {
            let place = self.place(machine, address(at));
            budget.pay(machine, place.entry());
            at = match place.entry() {
                Entry::Leaf(leaf) if leaf.shared() => self.make_own(machine, address(at))?,
                _ => next(at, place.level),
            };
        }
        Ok((at < end).then(|| address(at)))
    }

    /// Gives the shared leaf at `ipa`, or as much of it as there is memory for, a frame of
    /// its own. Returns the address that follows.
    fn make_own(&mut self, machine: &mut impl Machine, ipa: Ipa) -> Result<u64, Error> {
        let mut place = self.place(machine, ipa);
        let Entry::Leaf(leaf) = place.entry() else {
            return Ok(next(ipa.raw(), place.level));
        };
        let base = ipa.align_down(place.level.span());
        let room = self.has_room(place.level.span());
        if room && !machine.shared(leaf.base(), place.level.order()) {
            let mut flush = crate::gather::Flush::new(self.vmid);
            let own = |leaf: Leaf| leaf.with_own();
            if let Some(old) = self.alter(machine, base, &mut place, &mut flush, own) {
                self.counters.releaf(old, own(old), place.level);
            }
            flush.complete(machine);
            return Ok(next(ipa.raw(), place.level));
        }
        let ticket = self.sequence.ticket();
        let level = place.level.max(self.policy.copy);
        let want = self.want_of(machine, ipa, place, leaf, ticket);
        let mut want = Some(Want { level, ..want });
        with_cache(machine, |machine, cache| {
            while let Some(now) = want {
                match self.copy(machine, cache, now, |leaf| leaf) {
                    Ok(()) => return Ok(next(ipa.raw(), now.level)),
                    // Nobody competes: the lock is held exclusively.
                    Err(_) => want = now.smaller(),
                }
            }
            Err(Error::NoTables)
        })
    }

    /// Takes a frame with a copy and links it.
    fn copy(
        &mut self,
        machine: &mut impl Machine,
        cache: &mut Cache,
        want: Want,
        state: impl FnOnce(Leaf) -> Leaf,
    ) -> Result<(), LinkError> {
        cache
            .topup(machine, self.link_cost(machine, want)?)
            .map_err(|_| LinkError::NoMemory)?;
        let frame = want.prepare(machine).ok_or(LinkError::NoMemory)?;
        let result = self.link_own(machine, cache, want, frame, state);
        if result.is_err() {
            machine.free(frame, want.order());
        }
        result
    }

    /// Links `frame`, which holds a copy of what [`Look::Shared`] wanted, where it is wanted;
    /// the page is young and dirty. On failure the frame is still the caller's.
    pub fn link_copy(
        &mut self,
        machine: &mut impl Machine,
        cache: &mut Cache,
        want: Want,
        frame: Pa,
    ) -> Result<(), LinkError> {
        self.link_own(machine, cache, want, frame, written)
    }

    fn link_own(
        &mut self,
        machine: &mut impl Machine,
        cache: &mut Cache,
        want: Want,
        frame: Pa,
        state: impl FnOnce(Leaf) -> Leaf,
    ) -> Result<(), LinkError> {
        let (base, level) = (want.ipa(), want.level);
        assert!(frame.is_aligned(level.span()), "a frame is not aligned");
        let end = base.raw().saturating_add(level.span());
        if !self.sequence.good(want.ticket, base.raw(), end) {
            return Err(LinkError::Again);
        }
        if !self.has_room(level.span()) {
            return Err(LinkError::Limit);
        }
        if cache.len() < self.link_cost(machine, want)? {
            return Err(LinkError::NoMemory);
        }
        let mut place = self.walk(machine, cache, base, level, Flags::SPLIT)?;
        let Entry::Leaf(leaf) = place.entry() else {
            return Err(LinkError::Again);
        };
        if !leaf.shared() || Some(leaf.base()) != want.from() {
            return Err(LinkError::Again);
        }
        let old = self.remake(machine, base, &mut place, |_, old| {
            let own = old.with_own().with_base(frame).with_no_notice();
            state(own).descriptor()
        });
        self.populated(machine, base, level);
        if let Some(old) = old {
            machine.release(old.base(), level.order());
            self.counters.copy();
        }
        Ok(())
    }

    /// Says what copy a store at `ipa` needs, in the shared `leaf` at `place`.
    pub(crate) fn want_copy(
        &self,
        machine: &impl Machine,
        ipa: Ipa,
        place: Place,
        leaf: Leaf,
        ticket: Ticket,
    ) -> Result<Look, FaultError> {
        let want = self.want_of(machine, ipa, place, leaf, ticket);
        let largest = match want.zeroes {
            // No more work than a first touch.
            true => self.policy.largest,
            false => self.policy.copy,
        };
        let level = self.best_level(ipa, place.level.max(largest))?;
        Ok(Look::Shared(Want { level, ..want }))
    }

    /// Returns what stands for a copy of the shared `leaf` at `place`.
    fn want_of(
        &self,
        machine: &impl Machine,
        ipa: Ipa,
        place: Place,
        leaf: Leaf,
        ticket: Ticket,
    ) -> Want {
        let from = source(leaf, place.level, ipa);
        let block = machine.zeroes();
        Want {
            ipa,
            level: place.level,
            ticket,
            from: Some(from),
            zeroes: block.is_some_and(|(pa, order)| from.align_down(4096 << order) == pa),
        }
    }

    /// Returns what a load should show instead of the frame that is wanted, if anything: the
    /// machine's zeroes.
    pub(crate) fn show_zeroes(
        &self,
        machine: &impl Machine,
        want: Want,
        access: Access,
    ) -> Option<Want> {
        if access.write || !self.policy.zeroes || !self.may_share() {
            return None;
        }
        let (pa, order) = machine.zeroes()?;
        let fits = |level: &Level| *level >= want.level && level.order() <= order;
        let level = Level::LEAVES.into_iter().find(fits)?;
        Some(Want {
            level,
            from: Some(pa),
            zeroes: true,
            ..want
        })
    }

    /// Links the machine's zeroes where [`Look::Zeroes`] wants them. Under the VM's lock held
    /// shared.
    pub fn link_zeroes(
        &self,
        machine: &impl Machine,
        cache: &mut Cache,
        want: Want,
    ) -> Result<(), LinkError> {
        let frame = want.from().ok_or(LinkError::Again)?;
        let leaf = self.fresh(frame, want.level).with_shared();
        self.link_leaf(machine, cache, want, leaf, |_| ())
    }
}

fn written(leaf: Leaf) -> Leaf {
    leaf.with_young().with_dirty()
}

/// Returns where the page of `ipa` lies in the frame of `leaf`.
fn source(leaf: Leaf, level: Level, ipa: Ipa) -> Pa {
    let offset = ipa.align_down(4096).raw() & level.span().wrapping_sub(1);
    let page = leaf.base().checked_add(offset);
    page.expect("a frame lies below 2^48")
}
