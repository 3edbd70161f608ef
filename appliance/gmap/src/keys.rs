//! Storage keys: four bits of access key and fetch protection a page, referenced and changed.
//!
//! The semantics are those of s390 (seed-spec B.9). Access key and fetch protection are
//! words in the sidecar; referenced is what the sidecar remembers or AF, changed what it
//! remembers or the dirty state. The guest's own accesses are not checked; whatever core or
//! root does for somebody is ([`Gmap::key_allows`]).
//!
//! A key operation on a page inside a block splits the block, so that its AF and dirty state
//! are the page's own.

use crate::cache::Cache;
use crate::desc::{Entry, Leaf};
use crate::gather::Flush;
use crate::level::Level;
use crate::machine::Machine;
use crate::range::Budget;
use crate::sidecar::Pgx;
use crate::space::{Gmap, address};
use crate::walk::{Flags, Place, WalkError};
use arch::Ipa;
use core::fmt;

/// A storage key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// Access key, 0 to 15.
    pub access: u8,
    /// Loads need the key too.
    pub fetch: bool,
    /// The page was referenced.
    pub referenced: bool,
    /// The page was changed.
    pub changed: bool,
}

impl Key {
    /// Reads a key byte: access 0xf0, fetch 0x08, referenced 0x04, changed 0x02.
    ///
    /// `None` if the lowest bit, which is reserved, is set.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        if byte & 1 != 0 {
            return None;
        }
        Some(Self {
            access: byte >> 4,
            fetch: byte & 0x08 != 0,
            referenced: byte & 0x04 != 0,
            changed: byte & 0x02 != 0,
        })
    }

    /// Returns the key byte.
    pub fn byte(self) -> u8 {
        let bit = |on: bool, mask: u8| if on { mask } else { 0 };
        (self.access & 0xf) << 4
            | bit(self.fetch, 0x08)
            | bit(self.referenced, 0x04)
            | bit(self.changed, 0x02)
    }
}

/// Whether keys are in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum KeyState {
    /// Never asked for: every page has key 0, and reading keys says that there are none.
    #[default]
    Off,
    /// Being reset, up to this address.
    Starting(u64),
    /// In use.
    On,
}

/// Why a key operation was refused. No key has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// Keys are not in use yet.
    Off,
    /// No RAM there.
    NoRam,
    /// Reserved bits, a bad operation, or a count out of range.
    Invalid,
    /// The cache is empty: top it up to [`crate::CACHE_PAGES`] and come again.
    NoMemory,
    /// The VM has as many tables as it may.
    Limit,
    /// Another CPU is changing the page's entry: come again.
    Again,
    /// Frames are shared: [`Gmap::unshare_all`] comes first.
    Shared,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "storage keys are not in use",
            Self::NoRam => "no RAM there",
            Self::Invalid => "invalid key, operation or count",
            Self::NoMemory => "table cache is empty",
            Self::Limit => "the VM has all its tables",
            Self::Again => "the page is being changed",
            Self::Shared => "frames are shared with other VMs",
        })
    }
}

impl core::error::Error for KeyError {}

impl From<WalkError> for KeyError {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::NoMemory => Self::NoMemory,
            WalkError::TableLimit => Self::Limit,
            WalkError::Busy | WalkError::LargerLeaf | WalkError::NotPresent => Self::Again,
            WalkError::AddressSize | WalkError::Hole(_) | WalkError::BadLevel => Self::NoRam,
        }
    }
}

/// Most keys one call of the control plane may read or write.
pub const KEYS_MAX: usize = 1 << 20;

impl Gmap {
    /// Returns whether references and changes must be kept for keys.
    pub(crate) fn keys_enabled(&self) -> bool {
        self.keys != KeyState::Off
    }

    /// Returns whether keys are in use: every page has one.
    pub fn keys_in_use(&self) -> bool {
        self.keys == KeyState::On
    }

    /// Puts keys into use, a slice at a time: every key is reset to zero, and every populated
    /// page gets a word.
    ///
    /// From the first call on no frames are shared; [`KeyError::Shared`] while some are.
    /// Returns the address to go on from. On [`KeyError::NoMemory`] what was done stays done;
    /// calling again goes on.
    pub fn enable_keys(
        &mut self,
        machine: &impl Machine,
        cache: &mut Cache,
        budget: Budget,
    ) -> Result<Option<Ipa>, KeyError> {
        let start = match self.keys {
            KeyState::On => return Ok(None),
            KeyState::Off if self.counters.shared_leaves() > 0 => return Err(KeyError::Shared),
            KeyState::Off => 0,
            KeyState::Starting(at) => at,
        };
        self.keys = KeyState::Starting(start);
        let end = self.slots.end();
        let mut flush = Flush::new(self.vmid);
        let visit = |machine: &_, ipa: Ipa, place: &mut Place| -> Result<(), WalkError> {
            let Entry::Leaf(leaf) = place.entry() else {
                return Ok(());
            };
            if leaf.special() {
                return Ok(());
            }
            let base = ipa.align_down(place.level.span());
            let large = base.align_down(Level::L2.span());
            self.sidecar.ensure(machine, cache, large)?;
            let old = self.alter(machine, base, place, &mut flush, make_fresh);
            let young = old.is_some_and(Leaf::young);
            self.sidecar
                .update_range(machine, base, place.level, |word| {
                    let host = word.host_referenced() || young;
                    word.with_access(0, false)
                        .with_guest(false, false)
                        .with_host_referenced(host)
                });
            Ok(())
        };
        let result = self.range(machine, start, end, true, budget, visit);
        flush.complete(machine);
        let (reached, error) = match result {
            Ok(at) => (at, None),
            Err(crate::Stop::Visitor { at, why }) => (at.raw(), Some(KeyError::from(why))),
            Err(crate::Stop::AddressSize) => (end, None),
        };
        self.keys = KeyState::Starting(reached);
        if let Some(error) = error {
            return Err(error);
        }
        if reached < end {
            return Ok(Some(address(reached)));
        }
        self.keys = KeyState::On;
        Ok(None)
    }

    /// Returns the key of the page at `ipa`.
    pub fn key(&self, machine: &impl Machine, ipa: Ipa) -> Result<Key, KeyError> {
        self.check_keys(ipa)?;
        let word = self.sidecar.get(machine, ipa);
        Ok(combine(word, self.ram_leaf(machine, ipa)))
    }

    /// Sets the key of the page at `ipa`, referenced and changed included.
    ///
    /// The migration log finds a present page dirty.
    pub fn set_key(
        &self,
        machine: &impl Machine,
        cache: &mut Cache,
        ipa: Ipa,
        key: Key,
    ) -> Result<(), KeyError> {
        self.check_keys(ipa)?;
        self.own_page(machine, cache, ipa)?;
        self.make_page_fresh(machine, ipa, make_fresh_and_logged);
        self.sidecar.update(machine, ipa, |word| {
            word.with_access(key.access, key.fetch)
                .with_guest(key.referenced, key.changed)
        });
        Ok(())
    }

    /// Sets the key unless the page has it already, as far as it is asked for; returns the
    /// old key, and whether it was set.
    ///
    /// A present page is passed over if access key and fetch protection are equal, and
    /// referenced and changed are equal or masked by `mask`. An absent one is always set.
    pub fn set_key_if(
        &self,
        machine: &impl Machine,
        cache: &mut Cache,
        ipa: Ipa,
        key: Key,
        mask: Mask,
    ) -> Result<(Key, bool), KeyError> {
        let old = self.key(machine, ipa)?;
        let present = self.ram_leaf(machine, ipa).is_some();
        let same = (old.access, old.fetch) == (key.access & 0xf, key.fetch)
            && (mask.referenced || old.referenced == key.referenced)
            && (mask.changed || old.changed == key.changed);
        if present && same {
            return Ok((old, false));
        }
        self.set_key(machine, cache, ipa, key)?;
        Ok((old, true))
    }

    /// Resets referenced; returns referenced and changed as they were.
    pub fn reset_referenced(
        &self,
        machine: &impl Machine,
        cache: &mut Cache,
        ipa: Ipa,
    ) -> Result<(bool, bool), KeyError> {
        let old = self.key(machine, ipa)?;
        self.own_page(machine, cache, ipa)?;
        self.make_page_fresh(machine, ipa, Leaf::with_old);
        self.sidecar
            .update(machine, ipa, |word| word.with_guest(false, word.changed()));
        Ok((old.referenced, old.changed))
    }

    /// The control plane's key operation: 1 reads (ISKE), 2 resets referenced (RRBE), 3 sets
    /// (SSKE). Returns the old key byte, for 2 its referenced and changed bits only.
    pub fn key_operation(
        &self,
        machine: &impl Machine,
        cache: &mut Cache,
        operation: u8,
        ipa: Ipa,
        key: u8,
    ) -> Result<u8, KeyError> {
        match operation {
            1 => Ok(self.key(machine, ipa)?.byte()),
            2 => {
                let (referenced, changed) = self.reset_referenced(machine, cache, ipa)?;
                let old = Key {
                    referenced,
                    changed,
                    ..Key::default()
                };
                Ok(old.byte())
            }
            3 => {
                let key = Key::from_byte(key).ok_or(KeyError::Invalid)?;
                let mask = Mask::default();
                let (old, _) = self.set_key_if(machine, cache, ipa, key, mask)?;
                Ok(old.byte())
            }
            _ => Err(KeyError::Invalid),
        }
    }

    /// Reads the keys of the pages from `ipa` as bytes, one to [`KEYS_MAX`].
    pub fn read_keys(
        &self,
        machine: &impl Machine,
        ipa: Ipa,
        keys: &mut [u8],
    ) -> Result<(), KeyError> {
        if keys.is_empty() || keys.len() > KEYS_MAX {
            return Err(KeyError::Invalid);
        }
        for (offset, byte) in (0..).step_by(4096).zip(keys) {
            let at = ipa.checked_add(offset).ok_or(KeyError::NoRam)?;
            *byte = self.key(machine, at)?.byte();
        }
        Ok(())
    }

    /// Returns whether an access with `access_key` may load, or store, the page at `ipa`.
    ///
    /// Key 0 may do everything; a store needs an equal key; a load needs one where fetch
    /// protection is on. Checked by whoever moves bytes on somebody's behalf, each page once
    /// before the first byte.
    pub fn key_allows(
        &self,
        machine: &impl Machine,
        ipa: Ipa,
        access_key: u8,
        access: crate::Access,
    ) -> bool {
        if access_key == 0 || self.keys != KeyState::On {
            return true;
        }
        let word = self.sidecar.get(machine, ipa);
        word.access() == access_key || !access.write && !word.fetch_protected()
    }

    fn check_keys(&self, ipa: Ipa) -> Result<(), KeyError> {
        if self.keys != KeyState::On {
            return Err(KeyError::Off);
        }
        match self.contains(ipa) && self.slots.find(ipa.raw()).is_some() {
            true => Ok(()),
            false => Err(KeyError::NoRam),
        }
    }

    /// Returns the leaf of RAM at `ipa`.
    pub(crate) fn ram_leaf(&self, machine: &impl Machine, ipa: Ipa) -> Option<Leaf> {
        let (leaf, _) = self.leaf(machine, ipa)?;
        (!leaf.special()).then_some(leaf)
    }

    /// Gives the page at `ipa` a word of its own, and if it is populated a leaf of its own.
    ///
    /// Fails before it changes anything if the cache has too few pages.
    pub(crate) fn own_page(
        &self,
        machine: &impl Machine,
        cache: &mut Cache,
        ipa: Ipa,
    ) -> Result<(), WalkError> {
        self.sidecar.ensure(machine, cache, ipa)?;
        let place = self.place(machine, ipa);
        if place.level == Level::L3 || !matches!(place.entry(), Entry::Leaf(_)) {
            return Ok(());
        }
        let page = ipa.align_down(4096);
        let flags = Flags::SPLIT | Flags::ANY | Flags::USES_KEYS;
        self.walk(machine, cache, page, Level::L3, flags)?;
        Ok(())
    }

    /// Alters the page's leaf by `f`; what it loses is kept for the host and in the word.
    fn make_page_fresh(&self, machine: &impl Machine, ipa: Ipa, f: impl Fn(Leaf) -> Leaf) {
        let mut place = self.place(machine, ipa);
        let mut flush = Flush::new(self.vmid);
        let base = ipa.align_down(4096);
        let old = self.alter(machine, base, &mut place, &mut flush, f);
        flush.complete(machine);
        if old.is_some_and(Leaf::young) {
            self.sidecar
                .update(machine, base, |word| word.with_host_referenced(true));
        }
    }

    /// Takes the mark that a key operation left for [`Gmap::age`].
    pub(crate) fn take_host_referenced(
        &self,
        machine: &impl Machine,
        ipa: Ipa,
        level: Level,
    ) -> bool {
        if !self.keys_enabled() {
            return false;
        }
        if level == Level::L3 {
            let clear = |word: Pgx| word.with_host_referenced(false);
            let old = self.sidecar.update(machine, ipa, clear);
            return old.is_some_and(Pgx::host_referenced);
        }
        let word = self.sidecar.get(machine, ipa);
        if word.host_referenced() {
            self.sidecar
                .update_range(machine, ipa, level, |word| word.with_host_referenced(false));
        }
        word.host_referenced()
    }
}

/// Which of referenced and changed a conditional set does not look at (SSKE's MR and MC).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    /// Referenced.
    pub referenced: bool,
    /// Changed.
    pub changed: bool,
}

fn make_fresh(leaf: Leaf) -> Leaf {
    leaf.with_old().with_clean()
}

fn make_fresh_and_logged(leaf: Leaf) -> Leaf {
    make_fresh(leaf).with_soft_dirty()
}

fn combine(word: Pgx, leaf: Option<Leaf>) -> Key {
    Key {
        access: word.access(),
        fetch: word.fetch_protected(),
        referenced: word.referenced() || leaf.is_some_and(Leaf::young),
        changed: word.changed() || leaf.is_some_and(Leaf::dirty),
    }
}
