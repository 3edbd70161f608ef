//! After leaving a guest: what it did with the list registers.

use crate::bits::Bits;
use crate::lr::{Lr, LrSet, hcr};
use crate::vcpu::mask;
use crate::{Kick, Vgic, index};

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
        for n in Bits(u32::from(lrs.used)) {
            if let Some(lr) = lrs.lr.get(index(n)) {
                kick |= self.fold_one(vcpu, *lr);
            }
        }
        kick.without(vcpu)
    }

    /// Merges one list register.
    fn fold_one(&mut self, vcpu: usize, lr: Lr) -> Kick {
        let intid = lr.vintid();
        let Some((bank, bit)) = self.locate(vcpu, intid).filter(|(b, bit)| b.out & bit != 0) else {
            return Kick::NONE;
        };
        bank.out &= !bit;
        if lr.is_pending() {
            bank.latch |= bit & bank.carried & !bank.void_pending;
        }
        let overridden = bank.void_active & bit != 0;
        if lr.is_active() {
            bank.handled |= bit & (!bank.active | bank.void_active);
        } else {
            bank.handled &= !bit;
        }
        if lr.is_hardware() && lr.is_free() {
            // The guest deactivated it, and with it the physical interrupt.
            if bank.refired & bit == 0 {
                bank.held &= !bit;
                bank.line &= !bit;
            }
            if !overridden {
                bank.active &= !bit;
            }
        } else {
            // A list register without HW that is free may have been active in between.
            let ended = if lr.is_active() {
                overridden && bank.active & bit == 0
            } else {
                bank.active & bit != 0 || lr.is_free()
            };
            if !overridden {
                bank.active &= !bit;
                if lr.is_active() {
                    bank.active |= bit;
                }
            }
            if ended && bank.active & bit == 0 {
                bank.give_back(bit);
            }
        }
        bank.handled &= bank.active | !bit;
        bank.carried &= !bit;
        bank.void_pending &= !bit;
        bank.void_active &= !bit;
        bank.refired &= !bit;
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
