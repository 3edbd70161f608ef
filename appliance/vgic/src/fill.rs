//! Before entering a guest: what goes into the list registers.

use crate::bank::{Bank, Groups};
use crate::bits::{Bits, bit};
use crate::lpi::{LPI_FIRST, lpi_of};
use crate::lr::{LRS_MAX, Lr, LrSet, hcr, vmcr};
use crate::vcpu::{LPIS_WAIT, mask};
use crate::{Kick, Vgic, index};

/// An interrupt that wants a list register.
#[derive(Clone, Copy, Debug, Default)]
struct Choice {
    /// Lower is more urgent: the priority byte, with bit 8 set for what pends in a group that
    /// the guest disabled, or is active without being handled.
    key: u16,
    /// Its INTID.
    intid: u32,
}

/// The most urgent interrupts of those offered, in order.
#[derive(Debug)]
struct Best {
    chosen: [Choice; LRS_MAX],
    len: usize,
    /// Number offered.
    offered: usize,
}

impl Best {
    const fn new() -> Self {
        Self {
            chosen: [Choice { key: 0, intid: 0 }; LRS_MAX],
            len: 0,
            offered: 0,
        }
    }

    /// Puts `new` behind everything at least as urgent; what is least urgent may fall out.
    fn offer(&mut self, new: Choice) {
        self.offered = self.offered.wrapping_add(1);
        if self.len < LRS_MAX {
            self.len = self.len.wrapping_add(1);
        } else if self.chosen.last().is_some_and(|last| last.key <= new.key) {
            return;
        }
        let kept = self.chosen.get(..self.len.wrapping_sub(1)).unwrap_or(&[]);
        let at = kept.partition_point(|old| old.key <= new.key);
        let mut moving = new;
        for slot in self.chosen.get_mut(at..self.len).unwrap_or(&mut []) {
            moving = core::mem::replace(slot, moving);
        }
    }

    /// Adds the `n` most urgent ones to `words`, or to `lpis`.
    fn mark(&self, n: usize, words: &mut [u32; 8], lpis: &mut Picked) {
        for choice in self.chosen.iter().take(n.min(self.len)) {
            if let Some(lpi) = lpi_of(choice.intid) {
                lpis.push(lpi);
            } else if let Some(word) = words.get_mut(index(choice.intid >> 5)) {
                *word |= bit(choice.intid & 31);
            }
        }
    }
}

/// LPIs for list registers.
#[derive(Debug)]
struct Picked {
    list: [u16; LRS_MAX],
    /// Number pushed, of which the list keeps the first.
    len: usize,
}

impl Picked {
    const fn new() -> Self {
        Self {
            list: [0; LRS_MAX],
            len: 0,
        }
    }

    fn push(&mut self, lpi: u16) {
        if let Some(place) = self.list.get_mut(self.len) {
            *place = lpi;
        }
        self.len = self.len.wrapping_add(1);
    }
}

/// What may become of an interrupt that is active and pending, once the guest ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    /// It pends in its list register, without an exit.
    InPlace,
    /// It has to be chosen again: something outside may be more urgent.
    ByChoice,
}

impl Vgic {
    /// Chooses what goes into the list registers of `vcpu`, and what `ICH_HCR_EL2` asks for.
    ///
    /// Interrupts still out are folded first, from `lrs` as it is. The result names other
    /// vCPUs only if that was so.
    pub fn fill(&mut self, vcpu: usize, lrs: &mut LrSet) -> Kick {
        let own = mask(vcpu);
        let kick = if self.loaded & own == 0 {
            Kick::NONE
        } else {
            self.fold(vcpu, lrs)
        };
        self.dirty &= !own;
        lrs.write = lrs.used;
        for n in Bits(u32::from(lrs.used)) {
            if let Some(lr) = lrs.lr.get_mut(index(n)) {
                *lr = Lr::FREE;
            }
        }
        lrs.used = 0;
        lrs.hcr = hcr::EN | hcr::TDIR;
        let groups = self.groups;
        let Some(v) = self.vcpu(vcpu) else {
            return kick;
        };
        let words = v.waiting | u16::from(v.holding | u8::from(v.bank.active != 0));
        if words == 0 {
            return kick;
        }
        // Nearly always: private interrupts alone, and room for all of them.
        let private = v.share[0].waiting | v.bank.active;
        let offered = if words == 1 && private.count_ones() <= u32::from(lrs.count) {
            v.set_waiting(0, 0);
            lend_all(&mut v.bank, 0, private, groups, u32::MAX, lrs)
        } else {
            self.fill_words(vcpu, words, lrs)
        };
        if lrs.used != 0 {
            self.loaded |= own;
        }
        if offered {
            self.offered |= own;
        }
        lrs.write |= lrs.used;
        kick
    }

    /// Puts what waits for or is active on `vcpu` in `words` into list registers, as far as
    /// they go; bit 8 of `words` stands for the LPIs. Returns whether any of it is pending.
    fn fill_words(&mut self, vcpu: usize, words: u16, lrs: &mut LrSet) -> bool {
        let [banks, _] = words.to_le_bytes();
        let (mut chosen, mut wanted) = ([0u32; 8], 0u32);
        for word in Bits(u32::from(banks)) {
            let (waiting, active) = self.wanting(vcpu, index(word));
            if let Some(slot) = chosen.get_mut(index(word)) {
                *slot = waiting | active;
            }
            wanted = wanted.wrapping_add((waiting | active).count_ones());
        }
        if words & LPIS_WAIT == 0 {
            let again = if wanted > u32::from(lrs.count) {
                self.choose(vcpu, words, lrs, &mut chosen, &mut Picked::new())
            } else {
                Again::InPlace
            };
            return self.place(vcpu, banks, &chosen, again, lrs);
        }
        let mut picked = Picked::new();
        if let Some(lpis) = self.lpis.as_ref() {
            lpis.each_signalled(vcpu, |lpi, _| picked.push(lpi));
        }
        let again = if index(wanted).wrapping_add(picked.len) > usize::from(lrs.count) {
            self.choose(vcpu, words, lrs, &mut chosen, &mut picked)
        } else {
            Again::InPlace
        };
        let offered = self.place(vcpu, banks, &chosen, again, lrs);
        self.place_lpis(vcpu, &picked, lrs) || offered
    }

    /// Puts LPIs that wait for `vcpu` into list registers; returns whether there are any.
    fn place_lpis(&mut self, vcpu: usize, picked: &Picked, lrs: &mut LrSet) -> bool {
        let Some(lpis) = self.lpis.as_mut() else {
            return false;
        };
        for lpi in picked.list.iter().take(picked.len) {
            let n = lrs.used.trailing_ones();
            let Some(lr) = lrs.lr.get_mut(index(n)) else {
                break;
            };
            *lr = lpis.lend(vcpu, *lpi, n);
            lrs.used = lrs.used << 1 | 1;
        }
        // What still waits waited before: this names nobody new.
        let _ = self.update_lpis(vcpu);
        picked.len != 0
    }

    /// Returns the interrupts of word `word` that wait for `vcpu`, and those active on it.
    fn wanting(&self, vcpu: usize, word: usize) -> (u32, u32) {
        let Some(v) = self.vcpus.get(vcpu) else {
            return (0, 0);
        };
        let share = v.share(word);
        let active = match word.checked_sub(1) {
            None => v.bank.active,
            Some(n) => self.spi.get(n).map_or(0, |b| b.active & share.holds),
        };
        (share.waiting, active)
    }

    /// Chooses among the interrupts in `words`, too many for the list registers.
    #[cold]
    fn choose(
        &self,
        vcpu: usize,
        words: u16,
        lrs: &mut LrSet,
        chosen: &mut [u32; 8],
        picked: &mut Picked,
    ) -> Again {
        let (mut pending, mut active) = (Best::new(), Best::new());
        // HCR bits for the groups that something pends in: to be told when the guest enables
        // a disabled one or disables an enabled one.
        let mut groups = 0u64;
        let [banks, _] = words.to_le_bytes();
        for word in Bits(u32::from(banks)) {
            let (waiting, busy) = self.wanting(vcpu, index(word));
            let Some(bank) = self.bank_ref(vcpu, index(word)) else {
                continue;
            };
            for n in Bits(busy) {
                let (key, intid) = (bank.rank(n), word << 5 | n);
                active.offer(Choice { key, intid });
            }
            let halves = [
                (
                    waiting & bank.group,
                    vmcr::VENG1,
                    hcr::VGRP1DIE,
                    hcr::VGRP1EIE,
                ),
                (
                    waiting & !bank.group,
                    vmcr::VENG0,
                    hcr::VGRP0DIE,
                    hcr::VGRP0EIE,
                ),
            ];
            for (half, enable, told_off, told_on) in halves {
                let (behind, told) = if lrs.vmcr & enable == 0 {
                    (0x100, told_on)
                } else {
                    (0, told_off)
                };
                if half != 0 {
                    groups |= told;
                }
                for n in Bits(half) {
                    let key = u16::from(bank.priority_of(n)) | behind;
                    let intid = word << 5 | n;
                    pending.offer(Choice { key, intid });
                }
            }
        }
        if let Some(lpis) = self.lpis.as_ref().filter(|_| words & LPIS_WAIT != 0) {
            let (behind, told) = if lrs.vmcr & vmcr::VENG1 == 0 {
                (0x100, hcr::VGRP1EIE)
            } else {
                (0, hcr::VGRP1DIE)
            };
            groups |= told;
            lpis.each_signalled(vcpu, |lpi, priority| {
                let key = u16::from(priority) | behind;
                let intid = LPI_FIRST | u32::from(lpi);
                pending.offer(Choice { key, intid });
            });
        }
        let room = usize::from(lrs.count);
        // Without a place for the most urgent pending interrupt there would be no progress.
        let for_pending = room
            .saturating_sub(active.offered)
            .max(1)
            .min(pending.offered);
        let for_active = room.saturating_sub(for_pending).min(active.offered);
        *chosen = [0; 8];
        *picked = Picked::new();
        pending.mark(for_pending, chosen, picked);
        active.mark(for_active, chosen, picked);
        if for_active < active.offered {
            lrs.hcr |= hcr::LRENPIE;
        }
        if for_pending < pending.offered {
            lrs.hcr |= hcr::NPIE | groups;
            Again::ByChoice
        } else {
            Again::InPlace
        }
    }

    /// Puts the interrupts in `chosen`, which wait for or are active on `vcpu`, into list
    /// registers; `words` says which words of it to look at. Returns whether any is pending.
    fn place(
        &mut self,
        vcpu: usize,
        words: u8,
        chosen: &[u32; 8],
        again: Again,
        lrs: &mut LrSet,
    ) -> bool {
        let groups = self.groups;
        let Some(v) = self.vcpus.get_mut(vcpu) else {
            return false;
        };
        let mut offered = false;
        for word in Bits(u32::from(words)) {
            let n = index(word);
            let (Some(share), Some(mask)) = (v.share.get_mut(n), chosen.get(n).copied()) else {
                continue;
            };
            let (bank, mut here) = match n.checked_sub(1) {
                None => (&mut v.bank, u32::MAX),
                Some(n) => match self.spi.get_mut(n) {
                    Some(bank) => (bank, share.target),
                    None => continue,
                },
            };
            if again == Again::ByChoice {
                here = 0;
            }
            offered |= lend_all(bank, word << 5, mask, groups, here, lrs);
            share.waiting &= !mask;
            if n != 0 {
                share.holds |= mask;
                v.holding |= crate::vcpu::mask(n);
            }
            if share.waiting == 0 {
                v.waiting &= !u16::from(crate::vcpu::mask(n));
            }
        }
        offered
    }
}

/// Puts the interrupts in `mask` of `bank`, INTIDs `first` and up, into the next list
/// registers; returns whether any is pending. `here` is as for [`Bank::lend`].
#[inline]
fn lend_all(
    bank: &mut Bank,
    first: u32,
    mask: u32,
    groups: Groups,
    here: u32,
    lrs: &mut LrSet,
) -> bool {
    let mut offered = false;
    for n in Bits(mask) {
        let Some(lr) = lrs.lr.get_mut(index(lrs.used.trailing_ones())) else {
            break;
        };
        *lr = bank.lend(first, n, groups, here);
        lrs.used = lrs.used << 1 | 1;
        offered |= lr.is_pending();
    }
    offered
}

impl Bank {
    /// Puts interrupt `n`, INTID `first` + n, into a list register.
    ///
    /// `here` has the interrupts that may pend again in the list register once they were
    /// active and ended: an SPI may be for another vCPU by then, or something may be more urgent.
    fn lend(&mut self, first: u32, n: u32, groups: Groups, here: u32) -> Lr {
        let bit = bit(n);
        let intid = first | n;
        let active = self.active & bit != 0;
        // While the guest handles a hardware interrupt its line counts as seen.
        let seen = self.held & self.active & !self.message;
        let unseen = self.asserted() & !seen;
        let waiting = (self.latch | unseen) & self.forwarded(groups) & bit != 0;
        let pending = waiting && (!active || here & bit != 0);
        let mut lr = Lr::new(intid, self.priority_of(n));
        if self.group & bit != 0 {
            lr = lr.group1();
        }
        // Pending and active at once is not allowed for hardware (IHI 0069H, 12.4.6), and what
        // still pends at the end needs an exit.
        if self.held & !self.message & bit != 0 && !(active && waiting) {
            let id = self.pintid.get(index(n)).copied().unwrap_or(0);
            lr = lr.hardware(u32::from(id));
        } else if (self.asserted() | self.held) & bit != 0 || waiting && !pending {
            lr = lr.notify();
        }
        self.lent_active &= !bit;
        if active {
            lr = lr.activate();
            self.lent_active |= bit;
        }
        if pending {
            lr = lr.pend();
            self.carried |= self.latch & bit;
            self.latch &= !bit;
        }
        self.out |= bit;
        lr
    }
}
