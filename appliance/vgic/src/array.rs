//! The registers that GICD and SGI_base have in common: arrays over 32 interrupts.

use crate::bank::Bank;
use crate::bits::{bit, gather, spread};
use crate::{Kick, Vgic, Width, index};

/// Which array an offset in 0x80..0xe00 is in (IHI 0069H, tables 12-25 and 12-30).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Array {
    /// `IGROUPR`.
    Group,
    /// `ISENABLER`.
    SetEnable,
    /// `ICENABLER`.
    ClearEnable,
    /// `ISPENDR`.
    SetPending,
    /// `ICPENDR`.
    ClearPending,
    /// `ISACTIVER`.
    SetActive,
    /// `ICACTIVER`.
    ClearActive,
    /// `IPRIORITYR`: four interrupts a word.
    Priority,
    /// `ICFGR`: sixteen interrupts a word.
    Config,
}

/// A word of an array, and the bank it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) array: Array,
    /// Bank: 0 for private interrupts, n for SPIs 32n and up.
    pub(crate) word: usize,
    /// First interrupt of the bank that the word is about.
    pub(crate) first: u32,
}

impl Cell {
    /// Finds the register that a legal access reaches: whole words, or bytes of `IPRIORITYR`.
    pub(crate) fn find(offset: u32, width: Width) -> Option<Self> {
        let array = match offset >> 7 {
            1 => Array::Group,
            2 => Array::SetEnable,
            3 => Array::ClearEnable,
            4 => Array::SetPending,
            5 => Array::ClearPending,
            6 => Array::SetActive,
            7 => Array::ClearActive,
            8..16 => Array::Priority,
            24 | 25 => Array::Config,
            _ => return None,
        };
        let (aligned, intid) = match (array, width) {
            (Array::Priority, Width::Byte) => (true, offset & 0x3ff),
            (Array::Priority, _) => (offset & 3 == 0, offset & 0x3ff),
            (Array::Config, _) => (offset & 3 == 0, (offset & 0xff) << 2),
            _ => (offset & 3 == 0, (offset & 0x7f) << 3),
        };
        let legal = aligned
            && (width == Width::Word || array == Array::Priority)
            && !matches!(width, Width::Half | Width::Double);
        legal.then_some(Self {
            array,
            word: index(intid >> 5),
            first: intid & 31,
        })
    }
}

impl Bank {
    /// Reads a register about this bank.
    pub(crate) fn read(&self, cell: Cell, width: Width) -> u32 {
        match cell.array {
            Array::Group => self.group,
            Array::SetEnable | Array::ClearEnable => self.enabled,
            Array::SetPending | Array::ClearPending => self.pending_shown(),
            Array::SetActive | Array::ClearActive => self.active,
            Array::Priority if width == Width::Byte => u32::from(self.priority_of(cell.first)),
            Array::Priority => self
                .priority
                .get(index(cell.first >> 2))
                .copied()
                .unwrap_or(0),
            Array::Config => spread(self.edge >> (cell.first & 16)),
        }
    }

    /// Writes a register about this bank, and returns the interrupts that may have changed.
    ///
    /// `configurable` has the interrupts whose trigger may be changed.
    fn write(&mut self, cell: Cell, width: Width, value: u32, configurable: u32) -> u32 {
        match cell.array {
            Array::Group => replace(&mut self.group, value),
            Array::SetEnable => {
                let new = self.enabled | value;
                replace(&mut self.enabled, new)
            }
            Array::ClearEnable => {
                let new = self.enabled & !value;
                replace(&mut self.enabled, new)
            }
            Array::SetPending => {
                let new = self.latch | value;
                replace(&mut self.latch, new)
            }
            Array::ClearPending => {
                self.void_pending |= self.out & value;
                let new = self.latch & !value;
                replace(&mut self.latch, new) | self.out & value
            }
            Array::SetActive => {
                self.void_active |= self.out & value;
                let new = self.active | value;
                replace(&mut self.active, new) | self.out & value
            }
            Array::ClearActive => {
                self.void_active |= self.out & value;
                let old = self.active;
                self.deactivate(value & !self.out);
                self.active &= !value;
                self.handled &= !value;
                old ^ self.active | self.out & value
            }
            Array::Priority => {
                let (shift, mask) = match width {
                    Width::Byte => ((cell.first & 3) << 3, 0xff),
                    Width::Half | Width::Word | Width::Double => (0, u32::MAX),
                };
                let Some(word) = self.priority.get_mut(index(cell.first >> 2)) else {
                    return 0;
                };
                let field = (mask << shift) & Self::PRIORITY_KEPT;
                let changed = *word ^ (*word & !field | value << shift & field);
                *word ^= changed;
                let base = cell.first & 28;
                let byte = |n: u32| {
                    let hit = changed >> (n << 3) & 0xff != 0;
                    if hit { bit(base | n) } else { 0 }
                };
                byte(0) | byte(1) | byte(2) | byte(3)
            }
            Array::Config => {
                let shift = cell.first & 16;
                let field = 0xffff << shift & configurable;
                let new = self.edge & !field | gather(value) << shift & field;
                replace(&mut self.edge, new)
            }
        }
    }
}

/// Stores `new` in `word` and returns what differs.
fn replace(word: &mut u32, new: u32) -> u32 {
    let changed = *word ^ new;
    *word = new;
    changed
}

impl Vgic {
    /// Writes a register about bank `cell.word` as `vcpu` sees it.
    pub(crate) fn write_cell(&mut self, vcpu: usize, cell: Cell, width: Width, value: u32) -> Kick {
        let configurable = if cell.word == 0 { 0 } else { u32::MAX };
        let Some(bank) = self.bank(vcpu, cell.word) else {
            return Kick::NONE;
        };
        let changed = bank.write(cell, width, value, configurable);
        if changed == 0 {
            return Kick::NONE;
        }
        match cell.array {
            Array::SetActive => self.adopt(cell.word, changed),
            Array::ClearActive => self.drop_idle_holds(cell.word, changed),
            Array::Group
            | Array::SetEnable
            | Array::ClearEnable
            | Array::SetPending
            | Array::ClearPending
            | Array::Priority
            | Array::Config => {}
        }
        self.update(vcpu, cell.word, changed)
    }
}
