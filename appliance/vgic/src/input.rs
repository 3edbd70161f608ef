//! What comes in: wires, messages, physical interrupts, and trapped deactivations.

use crate::bits::{Bits, bit};
use crate::vcpu::mask;
use crate::{INTIDS, Kick, SPI_RELEASES, Vgic, index};

/// Level of an interrupt line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Not asserted.
    Low,
    /// Asserted.
    High,
}

impl Vgic {
    /// Sets the line of `intid`; `vcpu` says whose, for a PPI, and is ignored for an SPI.
    ///
    /// For an INTID backed by hardware, `High` means that core took the physical interrupt,
    /// dropped its priority and left it active; use [`Self::sample`] to report only what the
    /// wire looks like. SGIs and INTIDs that do not exist have no line.
    pub fn set_level(&mut self, vcpu: usize, intid: u32, level: Level) -> Kick {
        let Some((bank, bit)) = self.locate(vcpu, intid).filter(|_| has_line(intid)) else {
            return Kick::NONE;
        };
        if let Level::High = level
            && bank.hardware & bit != 0
        {
            if bank.held & bank.out & bit != 0 {
                bank.refired |= bit;
            }
            bank.held |= bit;
            // The physical GIC fires once for each edge.
            bank.line &= !(bit & bank.edge);
        }
        self.sample(vcpu, intid, level)
    }

    /// Sets the line of `intid` as [`Self::set_level`] does, without saying anything about
    /// the physical interrupt behind it.
    ///
    /// That is for core to bring `GICR_ISPENDR0` up to date with a timer.
    pub fn sample(&mut self, vcpu: usize, intid: u32, level: Level) -> Kick {
        let Some((bank, bit)) = self.locate(vcpu, intid).filter(|_| has_line(intid)) else {
            return Kick::NONE;
        };
        let old = bank.line;
        match level {
            Level::Low => bank.line &= !bit,
            Level::High => {
                bank.line |= bit;
                bank.latch |= bit & bank.edge & !old;
            }
        }
        if bank.line == old && bank.refired & bit == 0 {
            return Kick::NONE;
        }
        self.update(vcpu, index(intid >> 5), bit)
    }

    /// Pends `intid` once, as an edge on its wire does; `vcpu` as for [`Self::set_level`].
    ///
    /// On an interrupt that the guest configured as level-sensitive it pends once too, as
    /// a write to `ISPENDR` does, rather than being lost.
    pub fn pulse(&mut self, vcpu: usize, intid: u32) -> Kick {
        let Some((bank, bit)) = self.locate(vcpu, intid) else {
            return Kick::NONE;
        };
        if bank.latch & bit != 0 {
            return Kick::NONE;
        }
        bank.latch |= bit;
        self.update(vcpu, index(intid >> 5), bit)
    }

    /// Ties `intid` to physical interrupt `pintid`, or unties it; `vcpu` as for
    /// [`Self::set_level`].
    ///
    /// A tied interrupt goes into a list register with HW set, so that the guest's
    /// deactivation deactivates the physical one. Untying one whose physical interrupt is
    /// active makes core owe its deactivation. SGIs cannot be tied.
    pub fn set_hardware(&mut self, vcpu: usize, intid: u32, pintid: Option<u32>) -> Kick {
        let Some((bank, bit)) = self.locate(vcpu, intid).filter(|_| has_line(intid)) else {
            return Kick::NONE;
        };
        match pintid.and_then(|id| u16::try_from(id).ok()) {
            Some(id) => {
                if let Some(slot) = bank.pintid.get_mut(index(intid & 31)) {
                    *slot = id;
                }
                bank.hardware |= bit;
                Kick::NONE
            }
            None => {
                bank.hardware &= !bit;
                bank.give_back(bit);
                self.update(vcpu, index(intid >> 5), bit)
            }
        }
    }

    /// Deactivates `intid`: what a trapped write of `ICC_DIR_EL1` by `vcpu` does.
    ///
    /// Fold first. Core ignores the write if `ICH_VMCR_EL2.VEOIM` is clear.
    pub fn deactivate(&mut self, vcpu: usize, intid: u32) -> Kick {
        let Some((bank, bit)) = self.locate(vcpu, intid) else {
            return Kick::NONE;
        };
        bank.void_active |= bank.out & bit;
        if bank.active & bit == 0 {
            // It may be active in another vCPU's list register, unseen so far.
            let changed = bank.out & bit;
            return self.update(vcpu, index(intid >> 5), changed);
        }
        if bank.out & bit == 0 {
            bank.deactivate(bit);
        } else {
            bank.active &= !bit;
            bank.handled &= !bit;
        }
        self.drop_idle_holds(index(intid >> 5), bit);
        self.update(vcpu, index(intid >> 5), bit)
    }

    /// Takes the number of a physical interrupt that core must deactivate (`ICC_DIR_EL1`).
    ///
    /// A PPI is deactivated on the physical CPU where it became active for `vcpu`.
    pub fn next_deactivation(&mut self, vcpu: usize) -> Option<u32> {
        let own = self.vcpu(vcpu).map(|v| &mut v.bank);
        let (id, left) = own.map_or((None, false), |bank| {
            (bank.take_release(), bank.release != 0)
        });
        if !left {
            self.releases &= !u16::from(mask(vcpu));
        }
        if id.is_some() || self.releases & SPI_RELEASES == 0 {
            return id;
        }
        let id = self.spi.iter_mut().find_map(|bank| bank.take_release());
        if self.spi.iter().all(|bank| bank.release == 0) {
            self.releases &= !SPI_RELEASES;
        }
        id
    }

    /// Returns the PPIs of `vcpu` whose physical interrupts are active on its behalf, bit n
    /// for INTID n. When the vCPU moves to another physical CPU, so must these states.
    pub fn held_ppis(&self, vcpu: usize) -> u32 {
        self.vcpus.get(vcpu).map_or(0, |v| v.bank.held)
    }

    /// Makes core owe the deactivation of every physical interrupt the VM still holds.
    ///
    /// For a VM that is torn down; fold all its vCPUs first.
    pub fn release_all(&mut self) -> Kick {
        let vcpus = self.vcpus.iter_mut().map(|v| &mut v.bank);
        for bank in vcpus.chain(&mut self.spi) {
            bank.give_back(u32::MAX);
        }
        self.update_all()
    }

    /// Forgets the holder of the SPIs of `word` in `mask` that are neither out nor active.
    pub(crate) fn drop_idle_holds(&mut self, word: usize, mask: u32) {
        let Some(bank) = word.checked_sub(1).and_then(|n| self.spi.get(n)) else {
            return;
        };
        let idle = mask & !(bank.out | bank.active);
        for v in &mut self.vcpus {
            let holds = v.share(word).holds;
            if holds & idle != 0 {
                v.set_holds(word, holds & !idle);
            }
        }
    }

    /// Gives the SPIs of `word` in `mask`, made active by a register write, to a vCPU: the
    /// one that holds it already, or else the one it is routed to, or else vCPU 0.
    pub(crate) fn adopt(&mut self, word: usize, mask: u32) {
        let held = self
            .vcpus
            .iter()
            .fold(0, |all, v| all | v.share(word).holds);
        for n in Bits(mask & !held) {
            let spi = bit(n);
            let found = self
                .vcpus
                .iter()
                .position(|v| v.share(word).target & spi != 0);
            if let Some(v) = self.vcpus.get_mut(found.unwrap_or(0)) {
                let holds = v.share(word).holds;
                v.set_holds(word, holds | spi);
            }
        }
    }
}

/// Returns whether `intid` exists and has a wire: PPIs and SPIs.
const fn has_line(intid: u32) -> bool {
    matches!(intid, 16..INTIDS)
}
