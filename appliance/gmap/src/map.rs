//! Fixed mappings: devices, and root's windows onto frames it was granted.
//!
//! Such leaves are *special*: the frames are somebody else's, so they are neither scrubbed
//! nor freed here, never counted as resident, and never dirty for the host.

use crate::contiguous::{CONTIGUOUS_PAGES, Hint};
use crate::desc::{Attr, Descriptor, Entry, Leaf, Perm};
use crate::level::Level;
use crate::machine::Machine;
use crate::ram::Cut;
use crate::range::{Budget, next};
use crate::space::{Error, Gmap, address, with_cache};
use crate::walk::{Flags, WalkError};
use arch::{Ipa, Pa};

impl Gmap {
    /// Maps `bytes` from `ipa` to `pa` with the largest leaves that alignment allows.
    ///
    /// Device memory is never executable, whatever `perm` says. Fails with
    /// [`Error::Unaligned`], [`Error::OutOfSpace`], [`Error::Occupied`] where a mapping or a
    /// RAM slot is, or [`Error::NoTables`]; then nothing is mapped and all tables are back.
    pub fn map(
        &mut self,
        machine: &mut impl Machine,
        ipa: Ipa,
        pa: Pa,
        bytes: u64,
        attr: Attr,
        perm: Perm,
    ) -> Result<(), Error> {
        self.map_with(machine, (ipa, pa, bytes), attr, perm, Hint::Never)
    }

    /// As [`Self::map`]; pages that fit into groups of sixteen have the Contiguous hint.
    pub fn map_hinted(
        &mut self,
        machine: &mut impl Machine,
        ipa: Ipa,
        pa: Pa,
        bytes: u64,
        attr: Attr,
        perm: Perm,
    ) -> Result<(), Error> {
        self.map_with(machine, (ipa, pa, bytes), attr, perm, Hint::WhereItFits)
    }

    fn map_with(
        &mut self,
        machine: &mut impl Machine,
        (ipa, pa, bytes): (Ipa, Pa, u64),
        attr: Attr,
        perm: Perm,
        hint: Hint,
    ) -> Result<(), Error> {
        let end = self.check_range(ipa, bytes)?;
        if !pa.is_aligned(4096) {
            return Err(Error::Unaligned);
        }
        // The last byte must be an address; the end itself may be 2^48.
        pa.checked_add(bytes.saturating_sub(1))
            .ok_or(Error::OutOfSpace)?;
        self.check_no_slot(ipa.raw(), end)?;
        self.check_unmapped(machine, ipa, end)?;
        let mut done = 0_u64;
        while done < bytes {
            let (at, to) = (ipa.checked_add(done), pa.checked_add(done));
            let (Some(at), Some(to)) = (at, to) else {
                return Err(Error::OutOfSpace);
            };
            let level = largest(at, to, bytes.saturating_sub(done));
            let leaf = Leaf::new(to, level, attr, perm, self.features.fwb).with_special();
            let grouped = level == Level::L3 && hint.fits(ipa, pa, done, bytes);
            // A group lies in one table: `at` is where it begins, as all before it is done.
            let (leaf, pages) = if grouped {
                (leaf.with_contiguous(), CONTIGUOUS_PAGES)
            } else {
                (leaf, 1)
            };
            if let Err(error) = self.install(machine, at, leaf, level, pages) {
                // Of a group that did not get whole, the first pages may be there.
                let reached = at.raw().saturating_add(level.span().saturating_mul(pages));
                let hole = Descriptor::HOLE;
                self.clear(machine, ipa.raw(), reached, Budget::UNBOUNDED, hole);
                return Err(error);
            }
            done = done.saturating_add(level.span().saturating_mul(pages));
        }
        Ok(())
    }

    /// Removes the fixed mappings in `bytes` from `ipa`, splitting leaves that reach out of
    /// the range. Parts with no mapping are passed over. No TLB holds a removed mapping when
    /// this returns.
    ///
    /// Fails with [`Error::Unaligned`], [`Error::OutOfSpace`], [`Error::NotFixed`] where a
    /// RAM slot is, or [`Error::NoTables`] for a split; then nothing is unmapped.
    pub fn unmap(&mut self, machine: &mut impl Machine, ipa: Ipa, bytes: u64) -> Result<(), Error> {
        self.unmap_slice(machine, ipa, bytes, Budget::UNBOUNDED)
            .map(|_| ())
    }

    /// As [`Self::unmap`], a slice at a time. Returns the address to go on from.
    pub fn unmap_slice(
        &mut self,
        machine: &mut impl Machine,
        ipa: Ipa,
        bytes: u64,
        budget: Budget,
    ) -> Result<Option<Ipa>, Error> {
        let end = self.check_range(ipa, bytes)?;
        if let Some(slot) = self.slots.overlap(ipa.raw(), end) {
            return Err(Error::NotFixed {
                at: address(slot.start.max(ipa.raw())),
            });
        }
        if self.check_unmapped(machine, ipa, end).is_ok() {
            return Ok(None);
        }
        self.cut(machine, ipa.raw(), end, Cut::Leaves)?;
        self.loosen(machine, ipa.raw());
        self.loosen(machine, end);
        let reached = self.clear(machine, ipa.raw(), end, budget, Descriptor::HOLE);
        let reached = self.clear_group(machine, reached, end);
        Ok((reached < end).then(|| address(reached)))
    }

    /// Links `pages` special leaves in a row from `ipa`, in holes, with the tables on the way.
    /// More than one are pages of one table.
    fn install(
        &self,
        machine: &mut impl Machine,
        ipa: Ipa,
        leaf: Leaf,
        level: Level,
        pages: u64,
    ) -> Result<(), Error> {
        let need = self.tables_missing(machine, ipa, level)?;
        with_cache(machine, |machine, cache| {
            cache.topup(machine, need)?;
            let flags = Flags::ALLOC | Flags::IGN_HOLES;
            let mut place = self.walk(machine, cache, ipa, level, flags)?;
            let mut leaf = leaf;
            for n in 0..pages {
                if n > 0 {
                    place.index = place.index.saturating_add(1);
                    place.reread(machine);
                    leaf = leaf.after(level);
                }
                let hole = matches!(place.entry(), Entry::Hole(_));
                if !hole || !place.swap(machine, leaf.descriptor()) {
                    return Err(Error::Occupied { at: ipa });
                }
            }
            self.counters.leaves(leaf, level, pages);
            Ok(())
        })
    }

    /// Returns the tables on the way to `ipa` that an entry of `level` still needs.
    ///
    /// Fails with [`WalkError::TableLimit`] if the VM may not have so many.
    pub(crate) fn tables_missing(
        &self,
        machine: &impl Machine,
        ipa: Ipa,
        level: Level,
    ) -> Result<usize, WalkError> {
        let place = self.place_to(machine, ipa, level);
        let missing = level.number().saturating_sub(place.level.number());
        let bytes = u64::from(missing).saturating_mul(4096);
        if self.counters.table_bytes().saturating_add(bytes) > self.policy.table_limit {
            return Err(WalkError::TableLimit);
        }
        Ok(usize::from(missing))
    }

    /// Fails at the first address of the range that is mapped.
    pub(crate) fn check_unmapped(
        &self,
        machine: &impl Machine,
        ipa: Ipa,
        end: u64,
    ) -> Result<(), Error> {
        let mut at = ipa.raw();
        while at < end {
            let mut place = self.place(machine, address(at));
            loop {
                if !matches!(place.entry(), Entry::Hole(_)) {
                    return Err(Error::Occupied { at: address(at) });
                }
                at = next(at, place.level);
                if at >= end || !place.advance(machine) {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Returns the level of the largest leaf that may begin at `ipa`, map `pa` and fit.
fn largest(ipa: Ipa, pa: Pa, bytes: u64) -> Level {
    let fits = |level: &Level| {
        let span = level.span();
        ipa.is_aligned(span) && pa.is_aligned(span) && bytes >= span
    };
    Level::LEAVES.into_iter().find(fits).unwrap_or(Level::L3)
}
