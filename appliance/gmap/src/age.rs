//! Which leaves were touched: age, the dirty log, and what is dirty for the host.
//!
//! All run under the VM's lock held shared, a slice at a time, and change leaves by
//! compare-and-swap; what is reported is exact once a slice has returned, because the TLB
//! entries that could hide a later access are gone by then. A leaf larger than a page is
//! reported whole. Fixed mappings are never reported.

use crate::desc::{Entry, Leaf};
use crate::gather::Flush;
use crate::level::Level;
use crate::machine::Machine;
use crate::range::Budget;
use crate::space::{Gmap, address};
use crate::walk::Place;
use arch::Ipa;

impl Gmap {
    /// Reports, as address and bytes, every leaf of `start..end` that was accessed since this
    /// was last asked, and makes it old.
    ///
    /// A pinned page is reported as long as it is pinned, and stays young: the vCPU that
    /// needs it must not fault. Returns the address to go on from.
    pub fn age<M: Machine>(
        &self,
        machine: &M,
        start: u64,
        end: u64,
        budget: Budget,
        mut report: impl FnMut(Ipa, u64),
    ) -> Option<Ipa> {
        let make_old = |_, _, leaf: Leaf| {
            if leaf.pinned() { leaf } else { leaf.with_old() }
        };
        self.sweep(machine, start, end, budget, make_old, |ipa, level, old| {
            // Evaluated for its effect too: the host's own mark is taken.
            let marked = self.take_host_referenced(machine, ipa, level);
            if old.young() || marked {
                report(ipa, level.span());
            }
        })
    }

    /// Returns whether any page of `start..end` was accessed since [`Self::age`] last ran.
    ///
    /// `None` if the budget did not suffice to tell.
    pub fn any_young(
        &self,
        machine: &impl Machine,
        start: u64,
        end: u64,
        budget: Budget,
    ) -> Option<bool> {
        let result = self.range(
            machine,
            start,
            end,
            true,
            budget,
            |_, ipa, place| match place.entry() {
                Entry::Leaf(leaf) if !leaf.special() && leaf.young() => Err(()),
                Entry::Leaf(leaf) if !leaf.special() => {
                    let word = self.sidecar.get(machine, ipa);
                    if word.host_referenced() {
                        Err(())
                    } else {
                        Ok(())
                    }
                }
                _ => Ok(()),
            },
        );
        match result {
            Ok(reached) => (reached >= end).then_some(false),
            Err(_) => Some(true),
        }
    }

    /// Reports every leaf of `start..end` that was written or is new since this was last
    /// asked, and makes it clean. What the host finds dirty is not affected.
    ///
    /// A pinned page is always reported and stays dirty; so is one that a device may reach,
    /// which writes to it without anybody's knowledge. Returns the address to go on from.
    pub fn sync_dirty<M: Machine>(
        &self,
        machine: &M,
        start: u64,
        end: u64,
        budget: Budget,
        mut report: impl FnMut(Ipa, u64),
    ) -> Option<Ipa> {
        let stays = |ipa, level, leaf: Leaf| leaf.pinned() || machine.holds(ipa, level);
        let log = |ipa, level, leaf: Leaf| match leaf.soft_dirty() && !stays(ipa, level, leaf) {
            true => leaf.with_logged(),
            false => leaf,
        };
        self.sweep(machine, start, end, budget, log, |ipa, level, old| {
            if old.soft_dirty() || stays(ipa, level, old) {
                report(ipa, level.span());
            }
        })
    }

    /// Reports every leaf of `start..end` that was written since its frame was zeroed or the
    /// host last asked, and makes it clean. The migration log is not affected. Pinned pages, and
    /// those that a device may reach, are as for [`Self::sync_dirty`].
    pub fn sync_host_dirty<M: Machine>(
        &self,
        machine: &M,
        start: u64,
        end: u64,
        budget: Budget,
        mut report: impl FnMut(Ipa, u64),
    ) -> Option<Ipa> {
        let stays = |ipa, level, leaf: Leaf| leaf.pinned() || machine.holds(ipa, level);
        let clean = |ipa, level, leaf: Leaf| match leaf.host_dirty() && !stays(ipa, level, leaf) {
            true => leaf.with_host_clean(),
            false => leaf,
        };
        self.sweep(machine, start, end, budget, clean, |ipa, level, old| {
            if old.host_dirty() || stays(ipa, level, old) {
                report(ipa, level.span());
            }
        })
    }

    /// Notes that a running vCPU needs the page at `ipa`: it is made young and dirty, and
    /// whoever takes it away raises [`crate::Event::PinLost`].
    ///
    /// Returns whether it did: the page must be populated and writable.
    pub fn pin(&self, machine: &impl Machine, ipa: Ipa) -> bool {
        self.note(machine, ipa, |leaf| {
            leaf.with_young().with_dirty().with_pin()
        })
    }

    /// Notes that a device wrote to the page at `ipa`, or may have: both who ask for what is
    /// dirty find it. It takes no memory. Returns whether there is a page.
    pub fn mark_written(&self, machine: &impl Machine, ipa: Ipa) -> bool {
        self.note(machine, ipa, |leaf| {
            if leaf.special() {
                leaf
            } else if leaf.held() {
                leaf.with_own().with_dirty()
            } else {
                leaf.with_dirty()
            }
        })
    }

    /// Notes that a shadow table refers to the page at `ipa`: whoever changes it raises
    /// [`crate::Event::NestedChanged`]. Returns whether there was a page.
    pub fn watch(&self, machine: &impl Machine, ipa: Ipa) -> bool {
        self.note(machine, ipa, Leaf::with_nested)
    }

    fn note(&self, machine: &impl Machine, ipa: Ipa, f: impl Fn(Leaf) -> Leaf) -> bool {
        if !self.contains(ipa) {
            return false;
        }
        let mut place = self.place(machine, ipa);
        let base = ipa.align_down(place.level.span());
        let mut flush = Flush::new(self.vmid);
        let pin = |leaf: Leaf| {
            let new = f(leaf);
            if new.pinned() && !new.dirty() {
                leaf
            } else {
                new
            }
        };
        let old = self.alter(machine, base, &mut place, &mut flush, pin);
        flush.complete(machine);
        old.is_some_and(|leaf| pin(leaf) != leaf || f(leaf) == leaf)
    }

    /// Alters every leaf of RAM in `start..end` by `f` and shows `seen` what each was.
    fn sweep<M: Machine>(
        &self,
        machine: &M,
        start: u64,
        end: u64,
        budget: Budget,
        f: impl Fn(Ipa, Level, Leaf) -> Leaf,
        mut seen: impl FnMut(Ipa, Level, Leaf),
    ) -> Option<Ipa> {
        let mut flush = Flush::new(self.vmid);
        let visit = |machine: &M, ipa: Ipa, place: &mut Place| {
            let base = ipa.align_down(place.level.span());
            let level = place.level;
            let only_ram = |leaf: Leaf| match leaf.special() {
                true => leaf,
                false => f(base, level, leaf),
            };
            let old = self.alter(machine, base, place, &mut flush, only_ram);
            if let Some(leaf) = old.filter(|leaf| !leaf.special()) {
                seen(base, place.level, leaf);
            }
        };
        let reached = self.each_leaf(machine, start, end, budget, visit);
        flush.complete(machine);
        (reached < end).then(|| address(reached))
    }
}
