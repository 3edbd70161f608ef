//! The replace primitive: every change of a live entry that is not a walk's own.
//!
//! It asks [`crate::bbm`] what the change needs, does it, and sees to those who asked to be
//! told: a pinned or shadowed leaf that loses its frame or its right to be written raises an
//! [`Event`] and forgets the notice; a leaf that loses AF or dirty state leaves them in the
//! sidecar for the guest's storage keys.

use crate::bbm::{Change, change};
use crate::desc::{Descriptor, Entry, Leaf};
use crate::gather::Flush;
use crate::level::Level;
use crate::machine::{Event, Machine};
use crate::space::Gmap;
use crate::walk::Place;
use arch::Ipa;

impl Gmap {
    /// Changes the entry at `place`, which begins at `ipa`, to `new`.
    ///
    /// Returns whether it did; if not, the entry had changed and `place` tells what it is
    /// now. What it was is current up to the instant of the change: AF and dirty state that
    /// hardware sets meanwhile make it fail. The caller completes `flush` before it relies
    /// on the change. A valid entry is not given another frame this way, but in two steps.
    pub(crate) fn replace(
        &self,
        machine: &impl Machine,
        ipa: Ipa,
        place: &mut Place,
        new: Descriptor,
        flush: &mut Flush,
    ) -> bool {
        let old = place.found;
        let (new, lost) = notices(old, new, place.level);
        let kind = change(old, new, place.level == Level::L3);
        assert!(kind != Change::Break, "a live entry changed without break");
        if kind != Change::None && !place.swap(machine, new) {
            return false;
        }
        if kind == Change::Invalidate {
            flush.leaf(ipa, place.level);
        }
        if let Entry::Leaf(leaf) = old.decode(place.level) {
            self.harvest(machine, ipa, leaf, new, place.level);
            let stays = matches!(new.decode(place.level), Entry::Leaf(_));
            if !stays && !leaf.special() && machine.holds(ipa, place.level) {
                let level = place.level;
                machine.event(Event::HeldLost { ipa, level });
            }
            if lost && leaf.pinned() {
                let level = place.level;
                machine.event(Event::PinLost { ipa, level });
            }
            if lost && leaf.nested() {
                let level = place.level;
                machine.event(Event::NestedChanged { ipa, level });
            }
        }
        true
    }

    /// Changes a leaf by `f` until it holds, unless `f` has nothing to change or the entry is
    /// no leaf any more. Returns the leaf as it was.
    ///
    /// Hardware and at most the other vCPUs of the VM compete, each for one bit that is set
    /// once; so it ends.
    pub(crate) fn alter(
        &self,
        machine: &impl Machine,
        ipa: Ipa,
        place: &mut Place,
        flush: &mut Flush,
        f: impl Fn(Leaf) -> Leaf,
    ) -> Option<Leaf> {
        for _ in 0..ATTEMPTS {
            let Entry::Leaf(leaf) = place.entry() else {
                return None;
            };
            let new = f(leaf).descriptor();
            if self.replace(machine, ipa, place, new, flush) {
                return Some(leaf);
            }
        }
        panic!("a stage-2 entry does not come to rest");
    }

    /// Takes a leaf out for good, leaving `token`. Needs the VM's lock exclusively.
    pub(crate) fn take(
        &self,
        machine: &impl Machine,
        ipa: Ipa,
        place: &mut Place,
        token: Descriptor,
        flush: &mut Flush,
    ) -> Option<Leaf> {
        for _ in 0..ATTEMPTS {
            let Entry::Leaf(leaf) = place.entry() else {
                return None;
            };
            if self.replace(machine, ipa, place, token, flush) {
                self.counters.unleaf(leaf, place.level);
                return Some(leaf);
            }
        }
        panic!("a stage-2 entry does not come to rest");
    }

    /// Gives the leaf at `place`, which begins at `ipa`, what `make` returns for it, which may
    /// have another frame. Returns the leaf as it was, whose frame nobody reaches any more.
    ///
    /// Break-before-make: `make` runs with the entry busy and no TLB holding it, so that it
    /// sees the last of what was written. Needs the VM's lock exclusively: others may hold
    /// the frame's address as long as they hold the lock.
    pub(crate) fn remake<M: Machine>(
        &mut self,
        machine: &M,
        ipa: Ipa,
        place: &mut Place,
        make: impl FnOnce(&M, Leaf) -> Descriptor,
    ) -> Option<Leaf> {
        let mut flush = Flush::new(self.vmid);
        let old = self.take(machine, ipa, place, Descriptor::BUSY, &mut flush)?;
        flush.complete(machine);
        let new = make(machine, old);
        machine.store(place.table, place.index, new.raw());
        place.found = new;
        if let Entry::Leaf(leaf) = place.entry() {
            self.counters.leaves(leaf, place.level, 1);
        }
        Some(old)
    }

    /// Leaves AF and dirty state that `old` loses to the storage keys and page states, where in use.
    fn harvest(&self, machine: &impl Machine, ipa: Ipa, old: Leaf, new: Descriptor, level: Level) {
        if !(self.keys_enabled() || self.states) || old.special() {
            return;
        }
        let (young, dirty, gone) = match new.decode(level) {
            Entry::Leaf(leaf) => (leaf.young(), leaf.dirty(), false),
            Entry::Empty | Entry::Hole(_) => (false, false, self.keys_enabled()),
            Entry::Busy | Entry::Table(_) | Entry::Reserved => (false, false, false),
        };
        let (young, dirty) = (old.young() && !young, old.dirty() && !dirty);
        if young || dirty || gone {
            self.sidecar.update_range(machine, ipa, level, |word| {
                let word = word.harvest(young, dirty);
                // The host's own mark is of this page, not of the one that comes next.
                word.with_host_referenced(word.host_referenced() && !gone)
            });
        }
    }
}

/// Tries before it is certain that somebody breaks the rules: AF and dirty from hardware,
/// and one fix-up by each other vCPU.
const ATTEMPTS: usize = 64;

/// Returns `new` without notices that it makes void, and whether it does.
fn notices(old: Descriptor, new: Descriptor, level: Level) -> (Descriptor, bool) {
    let (Entry::Leaf(was), becomes) = (old.decode(level), new.decode(level)) else {
        return (new, false);
    };
    match becomes {
        Entry::Leaf(leaf) => {
            let lost = was.perm().write && !leaf.perm().write || was.dirty() && !leaf.dirty();
            let lost = lost && (was.pinned() || was.nested());
            if lost {
                (leaf.with_no_notice().descriptor(), true)
            } else {
                (new, false)
            }
        }
        Entry::Empty | Entry::Hole(_) | Entry::Busy | Entry::Table(_) | Entry::Reserved => {
            (new, true)
        }
    }
}
