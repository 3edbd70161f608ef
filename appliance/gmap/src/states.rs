//! Page states: what a guest says of its pages' content, so that memory can be taken back
//! (CMMA of s390; seed-spec B.10).
//!
//! A page said to be unused is made clean and remembered in a [`ReleaseRing`]; when the ring
//! is drained its frame goes back to the pool, unless the guest has changed its mind or
//! written to the page since. Migration reads states with [`Gmap::peek_states`] and
//! [`Gmap::take_states`].

use crate::cache::Cache;
use crate::desc::{Entry, Leaf};
use crate::gather::{Flush, Gather};
use crate::keys::KeyError;
use crate::machine::Machine;
use crate::range::Budget;
use crate::sidecar::{Pgx, Usage};
use crate::space::{Error, Gmap, address};
use arch::Ipa;
use core::sync::atomic::Ordering::Relaxed;

/// An operation on a page's state. The numbers are ESSA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StateOp {
    /// Reads it, and nothing else.
    Get = 0,
    /// The content matters.
    Stable = 1,
    /// The content is of no use.
    Unused = 2,
    /// The content may be dropped.
    Volatile = 3,
    /// The content may be dropped while it is unchanged.
    PotentiallyVolatile = 4,
    /// Stable, and the page should be resident. It is not made so.
    StableResident = 5,
    /// Stable, if the page is resident.
    StableIfResident = 6,
    /// Stable, and it holds no translation tables.
    StableNodat = 7,
}

impl StateOp {
    /// Every operation, in the order of the numbers.
    pub const ALL: [Self; 8] = [
        Self::Get,
        Self::Stable,
        Self::Unused,
        Self::Volatile,
        Self::PotentiallyVolatile,
        Self::StableResident,
        Self::StableIfResident,
        Self::StableNodat,
    ];

    /// Reads the number of an operation.
    pub fn from_code(code: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(code).ok()?).copied()
    }

    /// Returns the word after the operation, and whether the page is on the release list: it
    /// is absent and its content will not be asked for.
    ///
    /// `resident` says whether the page has a frame.
    pub const fn apply(self, word: Pgx, resident: bool) -> (Pgx, bool) {
        let (word, listed) = match self {
            Self::Get => return (word, false),
            Self::Stable => (word.with_usage(Usage::Stable).with_nodat(false), false),
            Self::Unused => (word.with_usage(Usage::Unused), !resident),
            Self::Volatile => (word.with_usage(Usage::Volatile), !resident),
            Self::PotentiallyVolatile if resident => {
                (word.with_usage(Usage::PotentiallyVolatile), false)
            }
            Self::PotentiallyVolatile if word.zero() => (word.with_usage(Usage::Volatile), false),
            Self::PotentiallyVolatile if !word.changed() => {
                (word.with_usage(Usage::Volatile), true)
            }
            Self::PotentiallyVolatile | Self::StableResident => {
                (word.with_usage(Usage::Stable), false)
            }
            Self::StableIfResident if resident => (word.with_usage(Usage::Stable), false),
            Self::StableIfResident => (word, false),
            Self::StableNodat => (word.with_usage(Usage::Stable).with_nodat(true), false),
        };
        (word.with_zero(listed).with_state_dirty(true), listed)
    }
}

/// Returns the byte a guest is given: no translation tables 0x20, usage in bits 3:2, content
/// in 1:0 (0 resident, 2 absent, 3 absent and zero).
pub const fn state_byte(word: Pgx, resident: bool) -> u8 {
    let content = match (resident, word.zero()) {
        (true, _) => 0,
        (false, false) => 2,
        (false, true) => 3,
    };
    let nodat = if word.nodat() { 0x20 } else { 0 };
    nodat | word.usage().bits() << 2 | content
}

/// Pages that a vCPU said are unused, until somebody has time to take them.
#[derive(Debug)]
pub struct ReleaseRing {
    pages: [Option<Ipa>; RING],
    len: usize,
}

const RING: usize = 511;

impl Default for ReleaseRing {
    fn default() -> Self {
        Self::new()
    }
}

impl ReleaseRing {
    /// Returns an empty ring.
    pub const fn new() -> Self {
        Self {
            pages: [None; RING],
            len: 0,
        }
    }

    /// Returns whether it must be drained before the next page.
    pub fn is_full(&self) -> bool {
        self.len == RING
    }

    /// Returns the number of pages.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there is no page.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Remembers a page, if there is room. To forget one costs memory, never content.
    fn push(&mut self, ipa: Ipa) {
        if let Some(slot) = self.pages.get_mut(self.len) {
            *slot = Some(ipa);
            self.len = self.len.saturating_add(1);
        }
    }

    fn pop(&mut self) -> Option<Ipa> {
        self.len = self.len.checked_sub(1)?;
        self.pages.get_mut(self.len)?.take()
    }
}

/// What [`Gmap::take_states`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The first page whose state had changed.
    pub first: Ipa,
    /// How many states were written, from that page on.
    pub count: usize,
}

/// Clean pages between two changed ones that are reported with them.
const GAP: usize = 16;

impl Gmap {
    /// Puts page states into use. Refused once the VM has vCPUs.
    pub fn enable_states(&mut self) -> Result<(), Error> {
        if self.vcpus > 0 {
            return Err(Error::HasVcpus);
        }
        self.states = true;
        Ok(())
    }

    /// Returns whether page states are in use.
    pub fn states_in_use(&self) -> bool {
        self.states
    }

    /// Does `op` for the page at `ipa`; returns the byte of [`state_byte`] as it was before.
    ///
    /// A page inside a block gets a leaf of its own first, except for [`StateOp::Get`], which
    /// changes nothing at all. An unused page with a frame is put on `ring`.
    pub fn page_state(
        &self,
        machine: &impl Machine,
        cache: &mut Cache,
        ring: &mut ReleaseRing,
        op: StateOp,
        ipa: Ipa,
    ) -> Result<u8, KeyError> {
        self.check_states(ipa)?;
        let page = ipa.align_down(4096);
        if op == StateOp::Get {
            let resident = self.ram_leaf(machine, page).is_some();
            return Ok(state_byte(self.sidecar.get(machine, page), resident));
        }
        self.own_page(machine, cache, page)?;
        let resident = match op {
            // From now on a write shows.
            StateOp::Unused => self.make_clean(machine, page),
            _ => self.ram_leaf(machine, page).is_some(),
        };
        let apply = |word| op.apply(word, resident).0.with_hint(op == StateOp::Unused);
        let old = self.sidecar.update(machine, page, apply);
        let old = old.unwrap_or_default();
        if !old.state_dirty() {
            self.states_dirty.fetch_add(1, Relaxed);
        }
        if op == StateOp::Unused && resident {
            ring.push(page);
        }
        Ok(state_byte(old, resident))
    }

    /// Gives the frames of the pages on `ring` back to the pool, until an interrupt waits: what is
    /// left stays on the ring. Returns how many.
    ///
    /// A page that is no longer unused, was written since, or is pinned keeps its frame.
    pub fn drain(&mut self, machine: &mut impl Machine, ring: &mut ReleaseRing) -> usize {
        let mut gather = Gather::new(self.vmid, self.wipes());
        let mut count = 0_usize;
        while let Some(ipa) = ring.pop() {
            if self.drop_page(machine, ipa, &mut gather, crate::shrink::unused) {
                count = count.saturating_add(1);
            }
            if machine.interrupted() {
                break;
            }
        }
        gather.complete(machine);
        count
    }

    /// Makes the page at `ipa` clean; returns whether it has a frame.
    fn make_clean(&self, machine: &impl Machine, ipa: Ipa) -> bool {
        let mut place = self.place(machine, ipa);
        let mut flush = Flush::new(self.vmid);
        let clean = |leaf: Leaf| match leaf.special() || leaf.pinned() {
            true => leaf,
            false => leaf.with_clean(),
        };
        let old = self.alter(machine, ipa, &mut place, &mut flush, clean);
        flush.complete(machine);
        old.is_some_and(|leaf| !leaf.special())
    }

    /// Reads the states of the pages from `ipa` into `values`, as usage and, in bit 6, no
    /// translation tables; as many as the slot has. Changes nothing.
    ///
    /// Fails with [`KeyError::NoRam`] if `ipa` is in no slot: then nothing was read.
    pub fn peek_states(
        &self,
        machine: &impl Machine,
        ipa: Ipa,
        values: &mut [u8],
    ) -> Result<usize, KeyError> {
        let slot = self.slots.find(ipa.raw()).ok_or(KeyError::NoRam)?;
        let mut count = 0_usize;
        for (at, value) in (ipa.align_down(4096).raw()..slot.end)
            .step_by(4096)
            .zip(values)
        {
            *value = log_byte(self.sidecar.get(machine, address(at)));
            count = count.saturating_add(1);
        }
        Ok(count)
    }

    /// Finds the first page from `ipa` on whose state changed since migration last asked, and
    /// reads the states from there into `values`, until more than sixteen pages in a row
    /// have not changed. All that is read counts as asked.
    ///
    /// Also returns the address to go on from, if the budget or `values` came to an end.
    pub fn take_states(
        &self,
        machine: &impl Machine,
        ipa: Ipa,
        values: &mut [u8],
        budget: Budget,
    ) -> (Option<Taken>, Option<Ipa>) {
        let (mut at, end) = (ipa.align_down(4096).raw(), self.slots.end());
        let mut budget = budget;
        let (mut first, mut count, mut gap) = (None, 0_usize, 0_usize);
        let mut index = 0_usize;
        while at < end && !budget.spent() {
            budget.pay(machine, Entry::Empty);
            let page = address(at);
            if !self.sidecar.has_words(machine, page) {
                if first.is_some() {
                    break;
                }
                at = crate::range::next(at, crate::Level::L2);
                continue;
            }
            let old = self
                .sidecar
                .update(machine, page, |word| word.with_state_dirty(false));
            let old = old.unwrap_or_default();
            if old.state_dirty() {
                self.states_dirty.fetch_sub(1, Relaxed);
                first.get_or_insert(page);
                gap = 0;
            } else {
                gap = gap.saturating_add(1);
            }
            if first.is_some() {
                if gap > GAP {
                    break;
                }
                let Some(value) = values.get_mut(index) else {
                    break;
                };
                *value = log_byte(old);
                index = index.saturating_add(1);
                if old.state_dirty() {
                    count = index;
                }
            }
            at = at.saturating_add(4096);
            if first.is_some() && index == values.len() {
                break;
            }
        }
        let taken = first.map(|first| Taken { first, count });
        (taken, (at < end).then(|| address(at)))
    }

    /// Returns the number of pages whose state migration has not read.
    pub fn states_dirty(&self) -> u64 {
        self.states_dirty.load(Relaxed)
    }

    /// Writes states as [`Gmap::peek_states`] reads them.
    pub fn write_state(
        &self,
        machine: &impl Machine,
        cache: &mut Cache,
        ipa: Ipa,
        value: u8,
    ) -> Result<(), KeyError> {
        self.check_states(ipa)?;
        if value & !0x43 != 0 {
            return Err(KeyError::Invalid);
        }
        self.sidecar.ensure(machine, cache, ipa)?;
        self.sidecar.update(machine, ipa, |word| {
            word.with_usage(Usage::from_bits(value))
                .with_nodat(value & 0x40 != 0)
        });
        Ok(())
    }

    /// Makes every page that has a word stable, or with `dirty` only unread by migration; a
    /// slice at a time from `ipa`. Returns the address to go on from.
    pub fn reset_states(
        &mut self,
        machine: &impl Machine,
        ipa: Ipa,
        reset: Reset,
        budget: Budget,
    ) -> Option<Ipa> {
        let (mut at, end) = (ipa.align_down(4096).raw(), self.slots.end());
        let mut budget = budget;
        while at < end && !budget.spent() {
            let page = address(at);
            budget.pay(machine, Entry::Empty);
            if self.sidecar.has_words(machine, page) {
                self.reset_one(machine, page, reset);
                at = at.saturating_add(4096);
            } else {
                at = crate::range::next(at, crate::Level::L2);
            }
        }
        (at < end).then(|| address(at))
    }

    fn reset_one(&self, machine: &impl Machine, page: Ipa, reset: Reset) {
        let old = self.sidecar.update(machine, page, |word| match reset {
            Reset::Stable => word
                .with_usage(Usage::Stable)
                .with_nodat(false)
                .with_zero(false)
                .with_state_dirty(false),
            Reset::Unread => word.with_state_dirty(true),
        });
        let was = old.is_some_and(Pgx::state_dirty);
        match (reset, was) {
            (Reset::Stable, true) => self.states_dirty.fetch_sub(1, Relaxed),
            (Reset::Unread, false) => self.states_dirty.fetch_add(1, Relaxed),
            _ => 0,
        };
    }

    fn check_states(&self, ipa: Ipa) -> Result<(), KeyError> {
        if !self.states {
            return Err(KeyError::Off);
        }
        match self.contains(ipa) && self.slots.find(ipa.raw()).is_some() {
            true => Ok(()),
            false => Err(KeyError::NoRam),
        }
    }
}

/// What [`Gmap::reset_states`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// Every page is stable, as after a reset of the guest.
    Stable,
    /// Every page is to be read by migration, which begins.
    Unread,
}

fn log_byte(word: Pgx) -> u8 {
    let nodat = if word.nodat() { 0x40 } else { 0 };
    word.usage().bits() | nodat
}
