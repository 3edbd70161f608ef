//! After leaving a guest: what it did with the list registers.

use crate::bank::Bank;
use crate::bits::{Bits, bit};
use crate::lr::{Lr, LrSet, hcr};
use crate::vcpu::mask;
use crate::{INTIDS, Kick, Vgic, index};

impl Vgic {
    /// Brings back what the guest on `vcpu` did to the interrupts in its list registers.
    ///
    /// `lrs` holds what was read from hardware: the list registers in [`LrSet::used`], and
    /// `ICH_HCR_EL2` if [`hcr::LRENPIE`] was set. Does nothing if nothing is out. The vCPU
    /// then needs [`Vgic::fill`]; the result names others, to which an SPI moved.
    pub fn fold(&mut self, vcpu: usize, lrs: &LrSet) -> Kick {
        let own = mask(vcpu);
        if self.loaded & own == 0 {
            return Kick::NONE;
        }
        self.loaded &= !own;
        self.offered &= !own;
        self.dirty |= own;
        let mut kick = Kick::NONE;
        if lrs.hcr & hcr::LRENPIE != 0 {
            kick |= self.deactivate_unlisted(vcpu, lrs.hcr);
        }
        let mut private = false;
        for n in Bits(u32::from(lrs.used)) {
            let Some(lr) = lrs.lr.get(index(n)) else {
                continue;
            };
            if let intid @ 32.. = lr.vintid() {
                kick |= if intid < INTIDS {
                    self.fold_spi(vcpu, intid, *lr)
                } else {
                    self.fold_lpi(vcpu, n, *lr)
                };
            } else if let Some(v) = self.vcpus.get_mut(vcpu) {
                v.bank.fold(*lr);
                private = true;
            }
        }
        if private {
            kick |= self.update_private(vcpu, 0);
        }
        kick.without(vcpu)
    }

    /// Merges the list register of SPI `intid`.
    fn fold_spi(&mut self, vcpu: usize, intid: u32, lr: Lr) -> Kick {
        let Some((bank, bit)) = self.locate(vcpu, intid) else {
            return Kick::NONE;
        };
        bank.fold(lr);
        self.drop_idle_holds_of(vcpu, index(intid >> 5), bit);
        self.update(vcpu, index(intid >> 5), 0)
    }

    /// Deactivates as many interrupts as the guest did without finding a list register:
    /// the most urgent active ones outside, for a guest must end those first.
    #[cold]
    fn deactivate_unlisted(&mut self, vcpu: usize, hcr: u64) -> Kick {
        let mut kick = Kick::NONE;
        let [times, ..] = (hcr >> hcr::EOICOUNT_SHIFT & hcr::EOICOUNT_MASK).to_le_bytes();
        for _ in 0..times {
            let Some(intid) = self.most_urgent_unlisted(vcpu) else {
                break;
            };
            kick |= self.deactivate(vcpu, intid);
        }
        kick
    }

    /// Returns the most urgent interrupt that `vcpu` is handling and that is in no list register.
    fn most_urgent_unlisted(&mut self, vcpu: usize) -> Option<u32> {
        let mut best = None;
        for word in 0..8u32 {
            let holds = match word {
                0 => u32::MAX,
                _ => self.vcpu(vcpu)?.share(index(word)).holds,
            };
            let bank = self.bank(vcpu, index(word))?;
            for n in Bits(bank.handled & bank.active & holds & !bank.out) {
                let found = (bank.priority_of(n), word << 5 | n);
                if best.is_none_or(|best| found < best) {
                    best = Some(found);
                }
            }
        }
        best.map(|(_, intid)| intid)
    }

    /// Forgets that `vcpu` holds the SPIs of `word` in `mask` that are neither out nor active.
    fn drop_idle_holds_of(&mut self, vcpu: usize, word: usize, mask: u32) {
        let Some(bank) = word.checked_sub(1).and_then(|n| self.spi.get(n)) else {
            return;
        };
        let idle = mask & !(bank.out | bank.active);
        if let Some(v) = self.vcpu(vcpu) {
            let holds = v.share(word).holds;
            v.set_holds(word, holds & !idle);
        }
    }
}

impl Bank {
    /// Merges a list register that one of these interrupts is in.
    fn fold(&mut self, lr: Lr) {
        let bit = bit(lr.vintid() & 31);
        if self.out & bit == 0 {
            return;
        }
        self.out &= !bit;
        let special = self.active | self.held | self.void_active | self.void_pending;
        if lr.is_free() && (special | self.refired) & bit == 0 && !lr.is_hardware() {
            // Nearly always: the guest took it and ended it.
            self.carried &= !bit;
            self.handled &= !bit;
            return;
        }
        if lr.is_pending() {
            self.latch |= bit & self.carried & !self.void_pending;
        }
        let overridden = self.void_active & bit != 0;
        if lr.is_active() {
            self.handled |= bit & !self.lent_active;
        } else {
            self.handled &= !bit;
        }
        if lr.is_hardware() && lr.is_free() {
            // The guest deactivated it, and with it the physical interrupt.
            if self.refired & bit == 0 {
                self.held &= !bit;
                self.line &= !bit;
            }
            if !overridden {
                self.active &= !bit;
            }
        } else {
            // A list register without HW that is free may have been active in between.
            let ended = if lr.is_active() {
                overridden && self.active & bit == 0
            } else {
                self.active & bit != 0 || lr.is_free()
            };
            if !overridden {
                self.active &= !bit;
                if lr.is_active() {
                    self.active |= bit;
                }
            }
            if ended && self.active & bit == 0 {
                self.give_back(bit);
            }
        }
        self.handled &= self.active | !bit;
        self.carried &= !bit;
        self.void_pending &= !bit;
        self.void_active &= !bit;
        self.refired &= !bit;
    }
}
