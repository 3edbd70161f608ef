//! The distributor's register frame, GICD (IHI 0069H, 12.8 and 12.9).

use crate::array::Cell;
use crate::bits::bit;
use crate::vcpu::mask;
use crate::{INTIDS, Kick, SPI_BANKS, Vgic, Width, index};

/// `GICD_CTLR` with one security state and affinity routing only: DS and ARE are RAO/WI.
const CTLR_FIXED: u32 = 1 << 6 | 1 << 4;
const CTLR_ENABLE_GRP0: u32 = 1 << 0;
const CTLR_ENABLE_GRP1: u32 = 1 << 1;

/// `GICD_TYPER`: 10 INTID bits, message-based SPIs, 256 INTIDs. No LPIs, no range selector,
/// no Aff3, one security state.
const TYPER: u32 = 9 << 19 | 1 << 16 | (INTIDS / 32 - 1);

/// The same with an ITS: 14 INTID bits, LPIS, and 2^(9+1) LPIs.
const TYPER_LPIS: u32 = 13 << 19 | 1 << 17 | 9 << 11 | 1 << 16 | (INTIDS / 32 - 1);
const _: () = assert!(crate::LPIS == 1 << 10);

/// `GICD_IIDR` and `GICR_IIDR`: product `S`, implementer Arm (JEP106 0x43b).
pub(crate) const IIDR: u32 = 0x53 << 24 | 0x43b;

/// Identification registers, 0xffd0 to 0xfffc: those of a GICv3 (ArchRev 3) by Arm.
const ID: [u8; 12] = [0x44, 0, 0, 0, 0x92, 0xb4, 0x3b, 0, 0x0d, 0xf0, 0x05, 0xb1];

/// Returns the identification register at `offset`, 0xffd0 and up, of either frame.
pub(crate) fn id_register(offset: u32) -> u32 {
    let n = offset.wrapping_sub(0xffd0) >> 2;
    ID.get(index(n)).copied().map_or(0, u32::from)
}

/// `GICD_IROUTER` bits kept: Interrupt_Routing_Mode, Aff2, Aff1, Aff0. Aff3 is RES0.
const ROUTE_KEPT: u32 = 0x80ff_ffff;
const ROUTE_ANY: u32 = 1 << 31;

impl Vgic {
    /// Reads `width` bytes at `offset` of GICD. What the manual reserves reads as zero, and so
    /// does every access of a width or alignment that a register does not support.
    ///
    /// Fold first where [`crate::reads_live_state`] says so.
    pub fn dist_read(&mut self, offset: u64, width: Width) -> u64 {
        let Some(offset) = frame_offset(offset) else {
            return 0;
        };
        if offset >= 0x6000 {
            return self.high_read(offset, width);
        }
        if offset >= 0x80 {
            // Bank 0 belongs to the redistributors.
            return match Cell::find(offset, width) {
                Some(cell) if cell.word != 0 => self
                    .bank(0, cell.word)
                    .map_or(0, |bank| u64::from(bank.read(cell, width))),
                _ => 0,
            };
        }
        u64::from(match (width, offset) {
            (Width::Word, 0x00) => {
                CTLR_FIXED
                    | self.groups.zero & CTLR_ENABLE_GRP0
                    | self.groups.one & CTLR_ENABLE_GRP1
            }
            (Width::Word, 0x04) if self.has_lpis() => TYPER_LPIS,
            (Width::Word, 0x04) => TYPER,
            (Width::Word, 0x08) => IIDR,
            // TYPER2 and STATUSR say nothing; the rest is write-only or reserved.
            _ => 0,
        })
    }

    /// Writes `width` bytes at `offset` of GICD; ignored where [`Self::dist_read`] gives zero
    /// for want of a register.
    pub fn dist_write(&mut self, offset: u64, width: Width, value: u64) -> Kick {
        let Some(offset) = frame_offset(offset) else {
            return Kick::NONE;
        };
        let word = low_word(value & width.mask());
        if offset >= 0x6000 {
            return self.high_write(offset, width, word);
        }
        if offset >= 0x80 {
            return match Cell::find(offset, width) {
                Some(cell) if cell.word != 0 => self.write_cell(0, cell, width, word),
                _ => Kick::NONE,
            };
        }
        match (width, offset) {
            (Width::Word, 0x00) => self.set_groups(word),
            // SETSPI_NSR and CLRSPI_NSR; their secure twins are WI with one security state.
            (Width::Word | Width::Half, 0x40) => self.message(word, true),
            (Width::Word | Width::Half, 0x48) => self.message(word, false),
            _ => Kick::NONE,
        }
    }

    /// Writes `GICD_CTLR`.
    fn set_groups(&mut self, value: u32) -> Kick {
        let all = |on: u32| if value & on == 0 { 0 } else { u32::MAX };
        let new = crate::Groups {
            zero: all(CTLR_ENABLE_GRP0),
            one: all(CTLR_ENABLE_GRP1),
        };
        if new == self.groups {
            return Kick::NONE;
        }
        self.groups = new;
        self.update_all()
    }

    /// Asserts or deasserts a message-based SPI.
    fn message(&mut self, value: u32, assert: bool) -> Kick {
        let intid = value & 0x1fff;
        if !(32..INTIDS).contains(&intid) {
            return Kick::NONE;
        }
        let Some((bank, bit)) = self.locate(0, intid) else {
            return Kick::NONE;
        };
        if assert {
            bank.message |= bit & !bank.edge;
            bank.latch |= bit & bank.edge;
        } else {
            bank.message &= !bit;
            bank.void_pending |= bit & bank.out & bank.edge;
            bank.latch &= !(bit & bank.edge);
        }
        self.update(0, index(intid >> 5), bit)
    }

    /// Reads `GICD_IROUTER` or an identification register.
    fn high_read(&self, offset: u32, width: Width) -> u64 {
        if offset >= 0xffd0 {
            return match width {
                Width::Word if offset & 3 == 0 => u64::from(id_register(offset)),
                _ => 0,
            };
        }
        let route = |n: u32| self.route.get(index(n)).copied().map_or(0, u64::from);
        match router(offset, width) {
            Some((n, true)) => route(n),
            _ => 0,
        }
    }

    /// Writes `GICD_IROUTER`; the upper word is RES0.
    fn high_write(&mut self, offset: u32, width: Width, value: u32) -> Kick {
        let Some((n, true)) = router(offset, width) else {
            return Kick::NONE;
        };
        let Some(route) = self.route.get_mut(index(n)) else {
            return Kick::NONE;
        };
        let new = value & ROUTE_KEPT;
        if *route == new {
            return Kick::NONE;
        }
        *route = new;
        let (bank, spi) = (index(n >> 5), bit(n & 31));
        if let Some(any) = self.any.get_mut(bank) {
            *any = *any & !spi | if new & ROUTE_ANY == 0 { 0 } else { spi };
        }
        let target = match new {
            ROUTE_ANY.. => usize::from(self.taker),
            _ => index(new),
        };
        let word = bank.wrapping_add(1);
        for (vcpu, v) in self.vcpus.iter_mut().enumerate() {
            if let Some(share) = v.share.get_mut(word) {
                share.target &= !spi;
                if vcpu == target {
                    share.target |= spi;
                }
            }
        }
        self.update_spi(word, spi)
    }

    /// Chooses the vCPU that takes SPIs routed to any: the first one awake, or vCPU 0.
    pub(crate) fn choose_taker(&mut self) -> Kick {
        let awake = |v: &crate::vcpu::Vcpu| !v.asleep;
        let mut present = self.vcpus.iter().take(usize::from(self.count));
        let taker = present.position(awake).unwrap_or(0);
        if mask(taker) == mask(usize::from(self.taker)) {
            return Kick::NONE;
        }
        self.taker = u8::try_from(taker).unwrap_or(0);
        let mut kick = Kick::NONE;
        for bank in 0..SPI_BANKS {
            let any = self.any.get(bank).copied().unwrap_or(0);
            let word = bank.wrapping_add(1);
            for (vcpu, v) in self.vcpus.iter_mut().enumerate() {
                if let Some(share) = v.share.get_mut(word) {
                    share.target &= !any;
                    if vcpu == taker {
                        share.target |= any;
                    }
                }
            }
            kick |= self.update_spi(word, any);
        }
        kick
    }
}

/// Returns the offset in a 64 KiB frame, or `None` outside.
pub(crate) fn frame_offset(offset: u64) -> Option<u32> {
    u32::try_from(offset).ok().filter(|o| *o < 0x1_0000)
}

/// Returns the low 32 bits of what was written.
pub(crate) const fn low_word(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Returns which SPI's `GICD_IROUTER` a legal access reaches, counted from INTID 32, and
/// whether its lower word.
fn router(offset: u32, width: Width) -> Option<(u32, bool)> {
    let n = (offset.wrapping_sub(0x6000) >> 3).checked_sub(32)?;
    match (width, offset & 7) {
        (Width::Double | Width::Word, 0) => Some((n, true)),
        (Width::Word, 4) => Some((n, false)),
        _ => None,
    }
}
