//! Before entering a guest: what goes into the list registers.

use crate::bits::{Bits, bit};
use crate::lr::{LRS_MAX, Lr, LrSet, hcr, vmcr};
use crate::vcpu::mask;
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

/// What may become of an interrupt that is active and pending, once the guest ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    /// It pends in its list register, without an exit.
    InPlace,
    /// It has to be chosen again: something outside may be more urgent.
    ByChoice,
}

/// The most urgent interrupts of those offered, in order.
#[derive(Debug)]
struct Best {
    chosen: [Choice; LRS_MAX],
    len: usize,
}

impl Best {
    const fn new() -> Self {
        Self {
            chosen: [Choice { key: 0, intid: 0 }; LRS_MAX],
            len: 0,
        }
    }

    /// Puts `new` behind everything at least as urgent; what is least urgent may fall out.
    fn offer(&mut self, new: Choice) {
        let kept = self.chosen.get(..self.len).unwrap_or(&[]);
        let at = kept.partition_point(|old| old.key <= new.key);
        if self.len < LRS_MAX {
            self.len = self.len.wrapping_add(1);
        }
        // Empty when `new` is the least urgent of more than there is room for.
        let mut moving = new;
        for slot in self.chosen.get_mut(at..self.len).unwrap_or(&mut []) {
            moving = core::mem::replace(slot, moving);
        }
    }

    fn first(&self, n: usize) -> impl Iterator<Item = Choice> {
        self.chosen.iter().copied().take(n.min(self.len))
    }
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
        let Some(v) = self.vcpu(vcpu) else {
            return kick;
        };
        let words = v.waiting | v.holding | u8::from(v.bank.active != 0);
        if words == 0 {
            return kick;
        }
        let mut wanted = 0u32;
        for word in Bits(u32::from(words)) {
            let (waiting, active) = self.wanting(vcpu, index(word));
            wanted = wanted.wrapping_add((waiting | active).count_ones());
        }
        if wanted > u32::from(lrs.count) {
            self.fill_best(vcpu, words, lrs);
        } else {
            for word in Bits(u32::from(words)) {
                let (waiting, active) = self.wanting(vcpu, index(word));
                for n in Bits(waiting | active) {
                    self.place(vcpu, word << 5 | n, Again::InPlace, lrs);
                }
            }
        }
        if lrs.used != 0 {
            self.loaded |= own;
        }
        lrs.write |= lrs.used;
        kick
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

    /// Fills list registers that are too few for all interrupts in `words`.
    #[cold]
    fn fill_best(&mut self, vcpu: usize, words: u8, lrs: &mut LrSet) {
        let (mut pending, mut active) = (Best::new(), Best::new());
        let (mut pendings, mut actives) = (0usize, 0usize);
        // Groups, as HCR bits to set, of which something pends or lies in a list register.
        let (mut asleep, mut awake) = (0u64, 0u64);
        for word in Bits(u32::from(words)) {
            let (waiting, busy) = self.wanting(vcpu, index(word));
            let Some(bank) = self.bank(vcpu, index(word)) else {
                continue;
            };
            for n in Bits(waiting | busy) {
                let intid = word << 5 | n;
                if busy & bit(n) != 0 {
                    let key = bank.rank(n);
                    actives = actives.wrapping_add(1);
                    active.offer(Choice { key, intid });
                    continue;
                }
                let mut key = u16::from(bank.priority_of(n));
                let (enable, on, off) = if bank.group & bit(n) != 0 {
                    (vmcr::VENG1, hcr::VGRP1DIE, hcr::VGRP1EIE)
                } else {
                    (vmcr::VENG0, hcr::VGRP0DIE, hcr::VGRP0EIE)
                };
                if lrs.vmcr & enable == 0 {
                    key |= 0x100;
                    asleep |= off;
                } else {
                    awake |= on;
                }
                pendings = pendings.wrapping_add(1);
                pending.offer(Choice { key, intid });
            }
        }
        let room = usize::from(lrs.count);
        // Without a place for the most urgent pending interrupt there would be no progress.
        let for_pending = room.saturating_sub(actives).max(1).min(pendings);
        let for_active = room.saturating_sub(for_pending).min(actives);
        let again = if for_pending < pendings {
            Again::ByChoice
        } else {
            Again::InPlace
        };
        for choice in pending.first(for_pending).chain(active.first(for_active)) {
            self.place(vcpu, choice.intid, again, lrs);
        }
        if for_pending < pendings {
            // Either group changing may make something outside the most urgent one.
            lrs.hcr |= hcr::NPIE | asleep | awake;
        }
        if for_active < actives {
            lrs.hcr |= hcr::LRENPIE;
        }
    }

    /// Puts interrupt `intid`, which waits for or is active on `vcpu`, into a list register.
    fn place(&mut self, vcpu: usize, intid: u32, again: Again, lrs: &mut LrSet) {
        let slot = (!lrs.used).trailing_zeros();
        let groups = self.groups;
        let here = match intid {
            _ if again == Again::ByChoice => 0,
            0..32 => u32::MAX,
            _ => self.vcpu(vcpu).map_or(0, |v| v.share(index(intid >> 5)).target),
        };
        let Some((bank, bit)) = self.locate(vcpu, intid) else {
            return;
        };
        let Some(lr) = lrs.lr.get_mut(index(slot)) else {
            return;
        };
        let active = bank.active & bit != 0;
        // While the guest handles a hardware interrupt its line counts as seen.
        let seen = bank.held & bank.active & !bank.message;
        let unseen = bank.asserted() & !seen;
        let waiting = (bank.latch | unseen) & bank.forwarded(groups) & bit != 0;
        // Pending again while active, it may be for another vCPU or later at its end.
        let pending = waiting && (!active || here & bit != 0);
        let mut new = Lr::new(intid, bank.priority_of(intid & 31));
        if bank.group & bit != 0 {
            new = new.group1();
        }
        // Pending and active at once is not allowed for hardware (IHI 0069H, 12.4.6), and what
        // still pends at the end needs an exit.
        if bank.held & !bank.message & bit != 0 && !(active && waiting) {
            let id = bank.pintid.get(index(intid & 31)).copied().unwrap_or(0);
            new = new.hardware(u32::from(id));
        } else if (bank.asserted() | bank.held) & bit != 0 || waiting && !pending {
            new = new.notify();
        }
        if active {
            new = new.activate();
        }
        if pending {
            new = new.pend();
            bank.carried |= bank.latch & bit;
            bank.latch &= !bit;
        }
        bank.out |= bit;
        *lr = new;
        lrs.used |= u16::from(1u8.wrapping_shl(slot & 7)).wrapping_shl(slot & 8);
        let (own, word) = (mask(vcpu), index(intid >> 5));
        if pending {
            self.offered |= own;
        }
        let Some(v) = self.vcpu(vcpu) else {
            return;
        };
        let share = v.share(word);
        v.set_waiting(word, share.waiting & !bit);
        if word != 0 && share.holds & bit == 0 {
            v.set_holds(word, share.holds | bit);
        }
    }
}
