//! The state of 32 interrupts, as bitmaps.

use crate::bits::{Bits, bit};

/// Which groups the distributor forwards, as masks of all interrupts or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Groups {
    /// `GICD_CTLR.EnableGrp0`: zero or all ones.
    pub(crate) zero: u32,
    /// `GICD_CTLR.EnableGrp1`: zero or all ones.
    pub(crate) one: u32,
}

/// 32 interrupts: the private ones of one vCPU, or 32 consecutive SPIs.
///
/// Bit n of each word is about interrupt n of the bank. An interrupt that is `out` lies
/// in the list registers of a vCPU, so the guest may have acknowledged or deactivated
/// it meanwhile; what is said here is then what the guest was given, and
/// what happened since is merged by `fold`.
#[derive(Debug)]
pub(crate) struct Bank {
    /// `ISENABLER`.
    pub(crate) enabled: u32,
    /// `IGROUPR`: set for group 1.
    pub(crate) group: u32,
    /// Pended by an edge, an SGI or `ISPENDR`; ends with the acknowledgement.
    pub(crate) latch: u32,
    /// Level of the wire.
    pub(crate) line: u32,
    /// Asserted by `SETSPI`, until `CLRSPI` (level-sensitive message-based SPIs).
    pub(crate) message: u32,
    /// `ICFGR`: set for edge-triggered.
    pub(crate) edge: u32,
    /// Acknowledged and not deactivated.
    pub(crate) active: u32,
    /// Of `active`: acknowledged, as far as known. The rest was made active by `ISACTIVER`, and
    /// no end of interrupt is due for it.
    pub(crate) handled: u32,
    /// In a list register now.
    pub(crate) out: u32,
    /// Of `out`: active in the list register from the start, so nobody acknowledged it there.
    pub(crate) lent_active: u32,
    /// Of `out`: the latch went into the list register.
    pub(crate) carried: u32,
    /// Of `out`: the pending state in the list register was cleared by the guest.
    pub(crate) void_pending: u32,
    /// Of `out`: `active` here was written by the guest and overrides the list register.
    pub(crate) void_active: u32,
    /// Backed by a physical interrupt.
    pub(crate) hardware: u32,
    /// Of `hardware`: the physical interrupt is active, on behalf of the guest.
    pub(crate) held: u32,
    /// Of `held` and `out`: it fired again, so the guest deactivated it.
    pub(crate) refired: u32,
    /// Physical interrupts that core has to deactivate.
    pub(crate) release: u32,
    /// `IPRIORITYR`, four to a word.
    pub(crate) priority: [u32; 8],
    /// Physical INTID of each interrupt in `hardware` or `release`.
    pub(crate) pintid: [u16; 32],
}

impl Bank {
    /// Priority bits kept: five, so 32 levels.
    pub(crate) const PRIORITY_KEPT: u32 = 0xf8f8_f8f8;

    /// Creates a bank at reset whose interrupts in `edge` are edge-triggered.
    pub(crate) const fn new(edge: u32) -> Self {
        Self {
            enabled: 0,
            group: 0,
            latch: 0,
            line: 0,
            message: 0,
            edge,
            active: 0,
            handled: 0,
            out: 0,
            lent_active: 0,
            carried: 0,
            void_pending: 0,
            void_active: 0,
            hardware: 0,
            held: 0,
            refired: 0,
            release: 0,
            priority: [0; 8],
            pintid: [0; 32],
        }
    }

    /// Returns the level-sensitive interrupts whose input is asserted.
    pub(crate) const fn asserted(&self) -> u32 {
        (self.line | self.message) & !self.edge
    }

    /// Returns the pending interrupts, list registers aside.
    pub(crate) const fn pending(&self) -> u32 {
        self.latch | self.asserted()
    }

    /// Returns the pending interrupts as `ISPENDR` shows them.
    pub(crate) const fn pending_shown(&self) -> u32 {
        self.pending() | self.carried & !self.void_pending
    }

    /// Returns the interrupts that are enabled and whose group is.
    pub(crate) const fn forwarded(&self, groups: Groups) -> u32 {
        self.enabled & (self.group & groups.one | !self.group & groups.zero)
    }

    /// Returns the interrupts that wait for a list register to be signalled.
    pub(crate) const fn deliverable(&self, groups: Groups) -> u32 {
        self.pending() & self.forwarded(groups) & !self.active & !self.out
    }

    /// Returns the priority byte of interrupt `n` of this bank.
    pub(crate) fn priority_of(&self, n: u32) -> u8 {
        let word = self.priority.get(index(n >> 2)).copied().unwrap_or(0);
        let [byte, ..] = (word >> ((n & 3) << 3)).to_le_bytes();
        byte
    }

    /// Returns the order in which active interrupts are kept in list registers, lowest first:
    /// what the guest must end first, and last what it must not end at all.
    pub(crate) fn rank(&self, n: u32) -> u16 {
        let rank = u16::from(self.priority_of(n));
        if self.handled & bit(n) == 0 {
            rank | 0x100
        } else {
            rank
        }
    }

    /// Makes the interrupts in `mask` inactive because software deactivated them.
    ///
    /// For those backed by hardware the level is known again only once the physical
    /// interrupt is deactivated and had the chance to fire, so the line counts as low.
    pub(crate) const fn deactivate(&mut self, mask: u32) {
        let mask = mask & self.active;
        self.active &= !mask;
        self.handled &= !mask;
        self.give_back(mask);
    }

    /// Moves the physical interrupts behind `mask` from `held` to `release`.
    pub(crate) const fn give_back(&mut self, mask: u32) {
        let mask = mask & self.held;
        self.held &= !mask;
        self.line &= !mask;
        self.release |= mask;
    }

    /// Gives back physical interrupts that are neither pending nor active any more.
    pub(crate) const fn settle(&mut self) {
        self.give_back(!(self.active | self.out | self.pending()));
    }

    /// Takes one physical interrupt that core has to deactivate.
    pub(crate) fn take_release(&mut self) -> Option<u32> {
        let n = Bits(self.release).next()?;
        self.release &= self.release.wrapping_sub(1);
        self.pintid.get(index(n)).map(|id| u32::from(*id))
    }
}

/// Returns `n` as an index. Nothing in this crate counts beyond 32 bits.
pub(crate) const fn index(n: u32) -> usize {
    const _: () = assert!(size_of::<usize>() >= size_of::<u32>());
    let [a, b, c, d] = n.to_le_bytes();
    let mut wide = [0; size_of::<usize>()];
    (wide[0], wide[1], wide[2], wide[3]) = (a, b, c, d);
    usize::from_le_bytes(wide)
}
