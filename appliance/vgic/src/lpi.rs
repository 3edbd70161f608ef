//! LPIs: what redistributors know of them (IHI 0069H, 5.1).
//!
//! An LPI has no active state: the acknowledgement ends it. So one in a list register is either
//! still pending there or gone, and the priority that the guest runs at is the CPU interface's
//! concern alone.
//!
//! A VM without an ITS has none of this, neither space nor time: [`Lpis`] lies outside
//! [`crate::Vgic`], and is given to it by [`Vgic::attach_lpis`].

use crate::bits::{Bits, bit};
use crate::lr::{LRS_MAX, Lr};
use crate::vcpu::{LPIS_WAIT, mask};
use crate::{Kick, VCPUS_MAX, Vgic, index};

/// INTID of the first LPI.
pub const LPI_FIRST: u32 = 8192;
/// Number of LPIs that a VM may have.
pub const LPIS: u32 = 1024;

/// Words of a bitmap of LPIs.
pub(crate) const WORDS: usize = 32;
/// Bytes of the configuration table that are about these LPIs.
pub(crate) const CONFIG_BYTES: usize = 1024;
/// Bit of a configuration byte: the LPI is enabled.
const CONFIG_ENABLE: u8 = 1;
/// Bits of a configuration byte that are the priority, as far as the CPU interface has them.
const CONFIG_PRIORITY: u8 = 0xf8;

/// The LPIs of one VM, by their number from [`LPI_FIRST`].
#[derive(Debug)]
pub struct Lpis {
    /// What the configuration table said when it was last looked at.
    enabled: [u32; WORDS],
    priority: [u8; CONFIG_BYTES],
    redistributors: [Redistributor; VCPUS_MAX],
}

/// A redistributor's pending LPIs.
#[derive(Clone, Copy, Debug)]
struct Redistributor {
    /// `GICR_CTLR.EnableLPIs`.
    on: bool,
    pending: [u32; WORDS],
    /// Bit n: `pending[n]` is not zero.
    summary: u32,
    /// What is in each of the vCPU's list registers, where `out` says that it is an LPI.
    lent: [Lent; LRS_MAX],
    out: u16,
}

/// An LPI in a list register.
#[derive(Clone, Copy, Debug)]
struct Lent {
    lpi: u16,
    /// The vCPU on which it will pend if the guest has not taken it; none once it was cleared.
    to: Option<u8>,
}

impl Lpis {
    /// Creates the state at reset: nothing is enabled, nothing pends.
    pub const fn new() -> Self {
        Self {
            enabled: [0; WORDS],
            priority: [0; CONFIG_BYTES],
            redistributors: [Redistributor {
                on: false,
                pending: [0; WORDS],
                summary: 0,
                lent: [Lent { lpi: 0, to: None }; LRS_MAX],
                out: 0,
            }; VCPUS_MAX],
        }
    }

    /// Returns the word of `vcpu`'s pending LPIs that may be signalled.
    fn signalled(&self, vcpu: usize, word: u32) -> u32 {
        let enabled = self.enabled.get(index(word)).copied().unwrap_or(0);
        let pending = self
            .redistributors
            .get(vcpu)
            .and_then(|r| r.pending.get(index(word)));
        pending.map_or(0, |pending| pending & enabled)
    }

    /// Returns whether an LPI of `vcpu` may be signalled, groups aside.
    fn any_signalled(&self, vcpu: usize) -> bool {
        let Some(r) = self.redistributors.get(vcpu).filter(|r| r.on) else {
            return false;
        };
        Bits(r.summary).any(|word| self.signalled(vcpu, word) != 0)
    }

    /// Calls `f` with number and priority of each LPI that may be signalled to `vcpu`.
    pub(crate) fn each_signalled(&self, vcpu: usize, mut f: impl FnMut(u16, u8)) {
        let summary = self.redistributors.get(vcpu).map_or(0, |r| r.summary);
        for word in Bits(summary) {
            for n in Bits(self.signalled(vcpu, word)) {
                let lpi = number(word, n);
                f(lpi, self.priority_of(lpi));
            }
        }
    }

    fn priority_of(&self, lpi: u16) -> u8 {
        self.priority.get(usize::from(lpi)).copied().unwrap_or(0)
    }

    /// Leads what would pend on `vcpu` if it were not taken, in whichever vCPU's list registers it
    /// is and of which `which` holds, to `to`; returns the vCPUs that have it, a bit each.
    fn redirect(&mut self, vcpu: usize, mut which: impl FnMut(u16) -> bool, to: Option<u8>) -> u8 {
        let from = u8::try_from(vcpu).ok();
        let (mut own, mut holders) = (1u8, 0u8);
        for r in &mut self.redistributors {
            if r.out != 0 {
                for lent in r.lent() {
                    if lent.to == from && which(lent.lpi) {
                        lent.to = to;
                        holders |= own;
                    }
                }
            }
            own = own.wrapping_shl(1);
        }
        holders
    }

    /// Takes `lpi` of `vcpu` for list register `n`.
    pub(crate) fn lend(&mut self, vcpu: usize, lpi: u16, n: u32) -> Lr {
        let lr = Lr::new(intid(lpi), self.priority_of(lpi)).group1().pend();
        if let Some(r) = self.redistributors.get_mut(vcpu) {
            r.clear(lpi);
            r.out |= 1u16.checked_shl(n).unwrap_or(0);
            if let Some(place) = r.lent.get_mut(index(n)) {
                *place = Lent {
                    lpi,
                    to: u8::try_from(vcpu).ok(),
                };
            }
        }
        lr
    }
}

impl Default for Lpis {
    fn default() -> Self {
        Self::new()
    }
}

impl Redistributor {
    /// Makes `lpi` pending; returns whether it was not.
    fn set(&mut self, lpi: u16) -> bool {
        let (word, mask) = place(lpi);
        let Some(pending) = self.pending.get_mut(index(word)) else {
            return false;
        };
        let new = *pending & mask == 0;
        *pending |= mask;
        self.summary |= bit(word);
        new
    }

    /// Makes `lpi` not pending; returns whether it was.
    fn clear(&mut self, lpi: u16) -> bool {
        let (word, mask) = place(lpi);
        let Some(pending) = self.pending.get_mut(index(word)) else {
            return false;
        };
        let was = *pending & mask != 0;
        *pending &= !mask;
        if *pending == 0 {
            self.summary &= !bit(word);
        }
        was
    }

    /// Returns what is in the list registers, and will pend somewhere if it was not taken.
    fn lent(&mut self) -> impl Iterator<Item = &mut Lent> {
        let out = self.out;
        let listed = self.lent.iter_mut().zip(0..);
        listed
            .filter(move |(lent, n)| {
                lent.to.is_some() && out.checked_shr(*n).is_some_and(|out| out & 1 != 0)
            })
            .map(|(lent, _)| lent)
    }
}

/// Returns the INTID of `lpi`.
fn intid(lpi: u16) -> u32 {
    LPI_FIRST | u32::from(lpi)
}

/// Returns the number of the LPI with this INTID, if there is such an LPI.
pub(crate) fn lpi_of(intid: u32) -> Option<u16> {
    let n = intid.checked_sub(LPI_FIRST).filter(|n| *n < LPIS)?;
    u16::try_from(n).ok()
}

/// Returns which word of a bitmap `lpi` is in, and its bit there.
fn place(lpi: u16) -> (u32, u32) {
    (u32::from(lpi >> 5), bit(u32::from(lpi & 31)))
}

/// Returns the LPI at bit `n` of word `word` of a bitmap.
fn number(word: u32, n: u32) -> u16 {
    u16::try_from(word << 5 | n).unwrap_or(u16::MAX)
}

impl Vgic {
    /// Gives the VM LPIs. Before its first vCPU runs.
    pub fn attach_lpis(&mut self, lpis: &'static mut Lpis) {
        self.lpis = Some(lpis);
    }

    /// Returns whether the VM has LPIs.
    pub fn has_lpis(&self) -> bool {
        self.lpis.is_some()
    }

    /// Notes whether `vcpu` has an LPI to signal; names it if it has, and had none.
    pub(crate) fn update_lpis(&mut self, vcpu: usize) -> Kick {
        let waits = self.groups.one != 0
            && self
                .lpis
                .as_ref()
                .is_some_and(|lpis| lpis.any_signalled(vcpu));
        let Some(v) = self.vcpu(vcpu) else {
            return Kick::NONE;
        };
        let waited = v.waiting & LPIS_WAIT != 0;
        v.waiting &= !LPIS_WAIT;
        if waits {
            v.waiting |= LPIS_WAIT;
        }
        self.kick(if waits && !waited { mask(vcpu) } else { 0 })
    }

    /// As [`Self::update_lpis`], for every vCPU: the group enables changed. One that has an LPI
    /// in a list register is named, too.
    pub(crate) fn update_all_lpis(&mut self) -> Kick {
        if self.lpis.is_none() {
            return Kick::NONE;
        }
        let mut kick = Kick::NONE;
        for vcpu in 0..usize::from(self.count) {
            kick |= self.update_lpis(vcpu);
            let out = self.redistributor(vcpu).is_some_and(|r| r.out != 0);
            kick |= self.kick(if out { mask(vcpu) } else { 0 });
        }
        kick
    }

    fn redistributor(&mut self, vcpu: usize) -> Option<&mut Redistributor> {
        if vcpu >= usize::from(self.count) {
            return None;
        }
        self.lpis.as_mut()?.redistributors.get_mut(vcpu)
    }

    /// Makes `lpi` pending on `vcpu`, unless that has its LPIs switched off.
    pub(crate) fn pend_lpi(&mut self, vcpu: usize, lpi: u16) -> Kick {
        let Some(r) = self.redistributor(vcpu).filter(|r| r.on) else {
            return Kick::NONE;
        };
        if !r.set(lpi) {
            return Kick::NONE;
        }
        // If it is in a list register, too, only a fold tells whether it has been taken there.
        let (word, bit) = place(lpi);
        let signalled = self
            .lpis
            .as_ref()
            .is_some_and(|lpis| lpis.signalled(vcpu, word) & bit != 0);
        let news = signalled && self.groups.one != 0;
        self.update_lpis(vcpu) | self.kick(if news { mask(vcpu) } else { 0 })
    }

    /// Makes `lpi` not pending on `vcpu`.
    pub(crate) fn clear_lpi(&mut self, vcpu: usize, lpi: u16) -> Kick {
        let Some(r) = self.redistributor(vcpu) else {
            return Kick::NONE;
        };
        r.clear(lpi);
        let holders = self.redirect(vcpu, |other| other == lpi, None);
        self.update_lpis(vcpu) | self.kick(holders)
    }

    /// As [`Lpis::redirect`].
    fn redirect(&mut self, vcpu: usize, which: impl Fn(u16) -> bool, to: Option<usize>) -> u8 {
        let to = to.and_then(|to| u8::try_from(to).ok());
        let lpis = self.lpis.as_mut();
        lpis.map_or(0, |lpis| lpis.redirect(vcpu, which, to))
    }

    /// Moves the pending state of `lpi` from one vCPU to another.
    pub(crate) fn move_lpi(&mut self, lpi: u16, from: usize, to: usize) -> Kick {
        if from == to {
            return Kick::NONE;
        }
        let Some(r) = self.redistributor(from) else {
            return Kick::NONE;
        };
        let moved = r.clear(lpi);
        // Where LPIs are off, what is moved there is dropped.
        let there = self.lpis_on(to).then_some(to);
        let holders = self.redirect(from, |other| other == lpi, there);
        let mut kick = self.kick(holders) | self.update_lpis(from);
        if moved {
            kick |= self.pend_lpi(to, lpi);
        }
        kick
    }

    /// Moves the pending state of all LPIs from one vCPU to another.
    pub(crate) fn move_all_lpis(&mut self, from: usize, to: usize) -> Kick {
        if from == to {
            return Kick::NONE;
        }
        let on = self.redistributor(to).is_some_and(|r| r.on);
        let Some(r) = self.redistributor(from) else {
            return Kick::NONE;
        };
        let (pending, summary) = (r.pending, r.summary);
        (r.pending, r.summary) = ([0; WORDS], 0);
        let holders = self.redirect(from, |_| true, on.then_some(to));
        if let Some(r) = self.redistributor(to).filter(|_| on) {
            for (word, more) in r.pending.iter_mut().zip(pending) {
                *word |= more;
            }
            r.summary |= summary;
        }
        let mut kick = self.kick(holders) | self.update_lpis(from) | self.update_lpis(to);
        if on && summary != 0 {
            // It may have LPIs waiting already, and these are more urgent.
            kick |= self.kick(mask(to));
        }
        kick
    }

    /// Takes over the configuration byte of `lpi`.
    pub(crate) fn configure_lpi(&mut self, lpi: u16, config: u8) -> Kick {
        let (word, own) = place(lpi);
        let Some(lpis) = self.lpis.as_mut() else {
            return Kick::NONE;
        };
        let (Some(enabled), Some(priority)) = (
            lpis.enabled.get_mut(index(word)),
            lpis.priority.get_mut(usize::from(lpi)),
        ) else {
            return Kick::NONE;
        };
        let new = if config & CONFIG_ENABLE == 0 { 0 } else { own };
        let rank = config & CONFIG_PRIORITY;
        if *enabled & own == new && *priority == rank {
            return Kick::NONE;
        }
        *enabled = *enabled & !own | new;
        *priority = rank;
        let mut kick = Kick::NONE;
        for vcpu in 0..usize::from(self.count) {
            let Some(r) = self.redistributor(vcpu) else {
                break;
            };
            let pends = r.pending.get(index(word)).is_some_and(|w| w & own != 0);
            if pends || r.lent().any(|lent| lent.lpi == lpi) {
                kick |= self.update_lpis(vcpu) | self.kick(mask(vcpu));
            }
        }
        kick
    }

    /// Returns whether `vcpu` has its LPIs switched on.
    pub(crate) fn lpis_on(&self, vcpu: usize) -> bool {
        let lpis = self.lpis.as_ref();
        lpis.is_some_and(|lpis| lpis.redistributors.get(vcpu).is_some_and(|r| r.on))
    }

    /// Switches the LPIs of `vcpu` on, those in `pending` being so.
    pub(crate) fn switch_lpis_on(&mut self, vcpu: usize, pending: &[u32; WORDS]) -> Kick {
        let Some(r) = self.redistributor(vcpu) else {
            return Kick::NONE;
        };
        r.on = true;
        r.pending = *pending;
        r.summary = 0;
        for (n, word) in (0..).zip(pending) {
            if *word != 0 {
                r.summary |= bit(n);
            }
        }
        self.update_lpis(vcpu) | self.kick(mask(vcpu))
    }

    /// Switches the LPIs of `vcpu` off; returns those that pend. Fold it first: what is still in
    /// a list register, its own or another's, counts as pending.
    pub(crate) fn switch_lpis_off(&mut self, vcpu: usize) -> ([u32; WORDS], Kick) {
        let Some(r) = self.redistributor(vcpu) else {
            return ([0; WORDS], Kick::NONE);
        };
        r.on = false;
        let mut pending = r.pending;
        (r.pending, r.summary) = ([0; WORDS], 0);
        let mut holders = mask(vcpu);
        if let Some(lpis) = self.lpis.as_mut() {
            let note = |lpi| {
                let (word, own) = place(lpi);
                if let Some(word) = pending.get_mut(index(word)) {
                    *word |= own;
                }
                true
            };
            holders |= lpis.redirect(vcpu, note, None);
        }
        let kick = self.update_lpis(vcpu) | self.kick(holders);
        (pending, kick)
    }

    /// Merges list register `n` of `vcpu`, which an LPI was put into.
    pub(crate) fn fold_lpi(&mut self, vcpu: usize, n: u32, lr: Lr) -> Kick {
        let own = 1u16.checked_shl(n).unwrap_or(0);
        let Some(r) = self.redistributor(vcpu).filter(|r| r.out & own != 0) else {
            return Kick::NONE;
        };
        r.out &= !own;
        let Some(Lent { lpi, to }) = r.lent.get(index(n)).copied() else {
            return Kick::NONE;
        };
        let Some(to) = to.map(usize::from).filter(|_| lr.is_pending()) else {
            return Kick::NONE;
        };
        self.pend_lpi(to, lpi)
    }

    /// Returns whether an LPI waits for `vcpu` whose priority is above `limit`.
    pub(crate) fn lpi_signals(&self, vcpu: usize, limit: u8) -> bool {
        let mut found = false;
        if let Some(lpis) = self.lpis.as_ref() {
            lpis.each_signalled(vcpu, |_, priority| found |= priority < limit);
        }
        found
    }
}
