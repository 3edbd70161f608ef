//! One word a page beside the tables: storage keys, page states, notes.
//!
//! The words lie in a tree of their own, by IPA, with four levels like the widest stage 2 and
//! 512 words in the last. So they outlive unmapping, splitting and pruning; a page without a
//! word has the word 0. Words change by compare-and-swap, under the VM's lock held shared;
//! tree pages come from a [`Cache`] and go only with the whole tree.

use crate::cache::Cache;
use crate::level::Level;
use crate::machine::Machine;
use crate::walk::WalkError;
use arch::{Ipa, Pa};
use core::sync::atomic::{AtomicU64, Ordering};

/// The word of one page.
///
/// Bits: access key 3:0, fetch protection 4, guest referenced 5, guest changed 6, host
/// referenced 7, usage 10:9, zero 11, nodat 12, state dirty 13, nested-guest
/// memory 14, unused hint 15, lock 16 (reserved), value 47:32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Pgx(u64);

/// What a guest says of a page's content (CMMA).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Usage {
    /// In use.
    #[default]
    Stable,
    /// Of no use; may be dropped at once.
    Unused,
    /// Volatile only while unchanged.
    PotentiallyVolatile,
    /// May be dropped; the guest copes.
    Volatile,
}

impl Usage {
    /// Returns the two bits it is kept and reported as.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Stable => 0,
            Self::Unused => 1,
            Self::PotentiallyVolatile => 2,
            Self::Volatile => 3,
        }
    }

    /// Reads the low two bits.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Stable,
            1 => Self::Unused,
            2 => Self::PotentiallyVolatile,
            _ => Self::Volatile,
        }
    }
}

const ACCESS: u64 = 0xf;
const FETCH: u64 = 1 << 4;
const GUEST_REFERENCED: u64 = 1 << 5;
const GUEST_CHANGED: u64 = 1 << 6;
const HOST_REFERENCED: u64 = 1 << 7;
const USAGE_SHIFT: u32 = 9;
const ZERO: u64 = 1 << 11;
const NODAT: u64 = 1 << 12;
const STATE_DIRTY: u64 = 1 << 13;
const HINT: u64 = 1 << 15;
const VALUE_SHIFT: u32 = 32;

impl Pgx {
    /// Takes a word as it lies in memory.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Returns the access key, 0 to 15.
    pub const fn access(self) -> u8 {
        let [low, ..] = (self.0 & ACCESS).to_le_bytes();
        low
    }

    /// Returns whether loads need the key too.
    pub const fn fetch_protected(self) -> bool {
        self.0 & FETCH != 0
    }

    /// Returns whether the guest referenced the page before AF was last harvested.
    pub const fn referenced(self) -> bool {
        self.0 & GUEST_REFERENCED != 0
    }

    /// Returns whether the guest changed the page before dirty was last harvested.
    pub const fn changed(self) -> bool {
        self.0 & GUEST_CHANGED != 0
    }

    /// Returns whether a key operation made the page old that the host would find young.
    pub const fn host_referenced(self) -> bool {
        self.0 & HOST_REFERENCED != 0
    }

    /// Returns what the guest says of the content.
    pub const fn usage(self) -> Usage {
        let [low, ..] = (self.0 >> USAGE_SHIFT & 3).to_le_bytes();
        Usage::from_bits(low)
    }

    /// Returns whether the page was dropped and reads as zero.
    pub const fn zero(self) -> bool {
        self.0 & ZERO != 0
    }

    /// Returns whether the guest promises that the page holds no translation tables.
    pub const fn nodat(self) -> bool {
        self.0 & NODAT != 0
    }

    /// Returns whether the page state changed since migration last asked.
    pub const fn state_dirty(self) -> bool {
        self.0 & STATE_DIRTY != 0
    }

    /// Returns the sixteen bits kept for [`crate::Gmap::back_pointer`].
    const fn value(self) -> u16 {
        let [low, high, ..] = (self.0 >> VALUE_SHIFT & 0xffff).to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    pub(crate) const fn with_access(self, access: u8, fetch: bool) -> Self {
        let fetch = if fetch { FETCH } else { 0 };
        Self(self.0 & !(ACCESS | FETCH) | access as u64 & ACCESS | fetch)
    }

    pub(crate) const fn with_guest(self, referenced: bool, changed: bool) -> Self {
        self.set(GUEST_REFERENCED, referenced)
            .set(GUEST_CHANGED, changed)
    }

    pub(crate) const fn with_host_referenced(self, on: bool) -> Self {
        self.set(HOST_REFERENCED, on)
    }

    pub(crate) const fn with_usage(self, usage: Usage) -> Self {
        Self(self.0 & !(3 << USAGE_SHIFT) | (usage.bits() as u64) << USAGE_SHIFT)
    }

    pub(crate) const fn with_zero(self, on: bool) -> Self {
        self.set(ZERO, on)
    }

    pub(crate) const fn with_nodat(self, on: bool) -> Self {
        self.set(NODAT, on)
    }

    pub(crate) const fn with_state_dirty(self, on: bool) -> Self {
        self.set(STATE_DIRTY, on)
    }

    /// Returns whether the page was not written since the guest said that it is unused, as
    /// far as anybody has looked at its dirty state since.
    pub(crate) const fn hint(self) -> bool {
        self.0 & HINT != 0
    }

    pub(crate) const fn with_hint(self, on: bool) -> Self {
        self.set(HINT, on)
    }

    /// Adds AF and dirty state that a leaf has lost to what the guest's key will say. A write
    /// makes the hint void.
    pub(crate) const fn harvest(self, young: bool, dirty: bool) -> Self {
        let young = if young { GUEST_REFERENCED } else { 0 };
        if dirty {
            Self((self.0 | young | GUEST_CHANGED) & !HINT)
        } else {
            Self(self.0 | young)
        }
    }

    const fn with_value(self, value: u16) -> Self {
        Self(self.0 & !(0xffff << VALUE_SHIFT) | (value as u64) << VALUE_SHIFT)
    }

    const fn set(self, mask: u64, on: bool) -> Self {
        if on {
            Self(self.0 | mask)
        } else {
            Self(self.0 & !mask)
        }
    }
}

/// The tree. Its root is a physical address, or 0 while nothing was ever written.
#[derive(Debug, Default)]
pub(crate) struct Sidecar {
    root: AtomicU64,
    pages: AtomicU64,
}

/// Marks an entry of an inner page as pointing to a page.
const LINK: u64 = 1;

/// Most pages that [`Sidecar::ensure`] takes from a cache.
pub(crate) const SIDECAR_PAGES: usize = 4;

impl Sidecar {
    /// Returns the word of the page at `ipa`; 0 if it has none.
    pub(crate) fn get(&self, machine: &impl Machine, ipa: Ipa) -> Pgx {
        match self.page(machine, ipa) {
            Some(page) => Pgx(machine.load(page, word(ipa))),
            None => Pgx(0),
        }
    }

    /// Changes the word of the page at `ipa` by `f`, if it has one. Returns what it was.
    pub(crate) fn update(
        &self,
        machine: &impl Machine,
        ipa: Ipa,
        f: impl Fn(Pgx) -> Pgx,
    ) -> Option<Pgx> {
        let page = self.page(machine, ipa)?;
        Some(change(machine, page, word(ipa), &f))
    }

    /// Changes every word that exists of a leaf of `level` at `ipa`.
    pub(crate) fn update_range(
        &self,
        machine: &impl Machine,
        ipa: Ipa,
        level: Level,
        f: impl Fn(Pgx) -> Pgx,
    ) {
        let mut offset = 0_u64;
        while offset < level.span() {
            let Some(at) = ipa.checked_add(offset) else {
                return;
            };
            match (self.page(machine, at), level) {
                (None, _) => {}
                (Some(page), Level::L3) => {
                    change(machine, page, word(at), &f);
                }
                (Some(page), _) => {
                    for index in 0..512 {
                        change(machine, page, index, &f);
                    }
                }
            }
            offset = offset.saturating_add(Level::L2.span());
        }
    }

    /// Makes sure that the 2 MiB around `ipa` have words.
    ///
    /// Takes at most [`SIDECAR_PAGES`] pages from `cache`.
    pub(crate) fn ensure(
        &self,
        machine: &impl Machine,
        cache: &mut Cache,
        ipa: Ipa,
    ) -> Result<(), WalkError> {
        if self.page(machine, ipa).is_some() {
            return Ok(());
        }
        let mut at = match self.root() {
            Some(root) => root,
            None => self.link_root(cache)?,
        };
        for level in [Level::L0, Level::L1, Level::L2] {
            at = match inner(machine, at, ipa, level) {
                Some(next) => next,
                None => {
                    let page = cache.take().ok_or(WalkError::NoMemory)?;
                    match machine.compare_exchange(at, index(ipa, level), 0, page.raw() | LINK) {
                        Ok(()) => {
                            self.pages.fetch_add(1, Ordering::Relaxed);
                            page
                        }
                        Err(other) => {
                            cache.put(page);
                            linked(other).ok_or(WalkError::Busy)?
                        }
                    }
                }
            };
        }
        Ok(())
    }

    /// Returns whether the 2 MiB around `ipa` have words.
    pub(crate) fn has_words(&self, machine: &impl Machine, ipa: Ipa) -> bool {
        self.page(machine, ipa).is_some()
    }

    /// Returns the bytes of the tree.
    pub(crate) fn bytes(&self) -> u64 {
        self.pages.load(Ordering::Relaxed).saturating_mul(4096)
    }

    /// Returns whether anything was ever written.
    pub(crate) fn exists(&self) -> bool {
        self.root().is_some()
    }

    /// Frees up to `budget` pages of the tree, one at least, and no more once an interrupt waits.
    /// Returns whether all are gone.
    ///
    /// Needs the VM's lock exclusively.
    pub(crate) fn free(&mut self, machine: &mut impl Machine, budget: usize) -> bool {
        for n in 0..budget.max(1) {
            if n > 0 && machine.interrupted() {
                break;
            }
            let Some(root) = self.root() else {
                return true;
            };
            let (mut at, mut parent) = (root, None);
            for _ in [Level::L0, Level::L1, Level::L2] {
                let entries = (0..512).map(|index| (index, machine.load(at, index)));
                let mut links = entries.filter_map(|(index, word)| Some((index, linked(word)?)));
                let Some((index, next)) = links.next() else {
                    break;
                };
                parent = Some((at, index));
                at = next;
            }
            match parent {
                Some((above, index)) => machine.store(above, index, 0),
                None => self.root.store(0, Ordering::Release),
            }
            self.pages.fetch_sub(1, Ordering::Relaxed);
            machine.free(at, 0);
        }
        !self.exists()
    }

    /// Stores `value` in the words of the four pages from `ipa`, sixteen bits each.
    ///
    /// Returns whether they all have words; if not, nothing was stored.
    pub(crate) fn set_value(&self, machine: &impl Machine, ipa: Ipa, value: u64) -> bool {
        let chunks = [value, value >> 16, value >> 32, value >> 48].map(|part| {
            let [low, high, ..] = part.to_le_bytes();
            u16::from_le_bytes([low, high])
        });
        let pages = || (0..4_u64).map(|n| ipa.checked_add(n << 12));
        if pages().any(|at| at.and_then(|at| self.page(machine, at)).is_none()) {
            return false;
        }
        for (at, chunk) in pages().flatten().zip(chunks) {
            self.update(machine, at, |word| word.with_value(chunk));
        }
        true
    }

    /// Reads back what [`Self::set_value`] stored; 0 where it never did.
    pub(crate) fn value(&self, machine: &impl Machine, ipa: Ipa) -> u64 {
        let mut value = 0_u64;
        for n in (0..4_u64).rev() {
            let chunk = ipa
                .checked_add(n << 12)
                .map_or(0, |at| self.get(machine, at).value());
            value = value << 16 | u64::from(chunk);
        }
        value
    }

    fn root(&self) -> Option<Pa> {
        match self.root.load(Ordering::Acquire) {
            0 => None,
            raw => Pa::new(raw),
        }
    }

    fn link_root(&self, cache: &mut Cache) -> Result<Pa, WalkError> {
        let page = cache.take().ok_or(WalkError::NoMemory)?;
        let order = Ordering::AcqRel;
        match self
            .root
            .compare_exchange(0, page.raw(), order, Ordering::Acquire)
        {
            Ok(_) => {
                self.pages.fetch_add(1, Ordering::Relaxed);
                Ok(page)
            }
            Err(other) => {
                cache.put(page);
                Pa::new(other).ok_or(WalkError::Busy)
            }
        }
    }

    /// Returns the page of words for the 2 MiB around `ipa`.
    fn page(&self, machine: &impl Machine, ipa: Ipa) -> Option<Pa> {
        let mut at = self.root()?;
        for level in [Level::L0, Level::L1, Level::L2] {
            at = inner(machine, at, ipa, level)?;
        }
        Some(at)
    }
}

impl crate::Gmap {
    /// Keeps `value` beside the four pages from `ipa`: a note of where a table came from.
    ///
    /// Returns whether the pages have words to keep it in; if not, nothing was kept.
    pub fn set_back_pointer(&self, machine: &impl Machine, ipa: Ipa, value: u64) -> bool {
        self.sidecar.set_value(machine, ipa, value)
    }

    /// Reads back what [`Self::set_back_pointer`] kept; 0 where it never did.
    pub fn back_pointer(&self, machine: &impl Machine, ipa: Ipa) -> u64 {
        self.sidecar.value(machine, ipa)
    }
}

fn inner(machine: &impl Machine, page: Pa, ipa: Ipa, level: Level) -> Option<Pa> {
    linked(machine.load(page, index(ipa, level)))
}

fn linked(word: u64) -> Option<Pa> {
    if word & LINK == 0 {
        return None;
    }
    Pa::new(word & !LINK)
}

fn index(ipa: Ipa, level: Level) -> usize {
    usize::try_from(ipa.raw() >> level.shift() & 511).expect("nine bits fit in a usize")
}

fn word(ipa: Ipa) -> usize {
    index(ipa, Level::L3)
}

/// Changes one word by `f`. Returns what it was.
fn change(machine: &impl Machine, page: Pa, index: usize, f: &impl Fn(Pgx) -> Pgx) -> Pgx {
    let mut old = machine.load(page, index);
    loop {
        let new = f(Pgx(old)).0;
        if new == old {
            return Pgx(old);
        }
        // Only our own fix-ups compete, each of which ends: some one of them always wins.
        match machine.compare_exchange(page, index, old, new) {
            Ok(()) => return Pgx(old),
            Err(found) => old = found,
        }
    }
}
