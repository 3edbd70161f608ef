//! A redistributor's two register frames, GICR (IHI 0069H, 12.10 and 12.11).

use crate::array::Cell;
use crate::dist::{IIDR, frame_offset, id_register, low_word};
use crate::{Kick, Vgic, Width};

/// First offset of the SGI_base frame.
const SGI_BASE: u64 = 0x1_0000;
const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;
/// `GICR_TYPER.Last`, bit 4.
const TYPER_LAST: u64 = 1 << 4;
/// `GICR_TYPER.PLPIS`: there are physical LPIs (physical, as the guest sees it).
const TYPER_PLPIS: u64 = 1 << 0;

impl Vgic {
    /// Reads `width` bytes at `offset` of the redistributor of `vcpu`: RD_base, and from
    /// 0x1_0000 SGI_base. Zero as for [`Self::dist_read`].
    pub fn redist_read(&mut self, vcpu: usize, offset: u64, width: Width) -> u64 {
        if vcpu >= usize::from(self.count) {
            return 0;
        }
        if let Some(offset) = offset.checked_sub(SGI_BASE) {
            return match frame_offset(offset).and_then(|o| Cell::find(o, width)) {
                Some(cell) if cell.word == 0 => self
                    .bank(vcpu, 0)
                    .map_or(0, |bank| u64::from(bank.read(cell, width))),
                _ => 0,
            };
        }
        let Some(offset) = frame_offset(offset) else {
            return 0;
        };
        match (width, offset) {
            (Width::Word, 0x04) => u64::from(IIDR),
            (Width::Double, 0x08) => self.typer(vcpu),
            (Width::Word, 0x08) => self.typer(vcpu) & 0xffff_ffff,
            (Width::Word, 0x0c) => self.typer(vcpu) >> 32,
            (Width::Word, 0x14) => {
                let asleep = self.vcpu(vcpu).is_some_and(|v| v.asleep);
                let both = WAKER_PROCESSOR_SLEEP | WAKER_CHILDREN_ASLEEP;
                u64::from(if asleep { both } else { 0 })
            }
            (Width::Word, 0xffd0..) if offset & 3 == 0 => u64::from(match offset {
                // GICR_PIDR0 differs from GICD_PIDR0.
                0xffe0 => 0x93,
                _ => id_register(offset),
            }),
            // CTLR is zero without LPIs, whose registers are [`crate::its::Its`]'s; STATUSR does
            // not exist.
            _ => 0,
        }
    }

    /// Writes `width` bytes at `offset` of the redistributor of `vcpu`.
    pub fn redist_write(&mut self, vcpu: usize, offset: u64, width: Width, value: u64) -> Kick {
        let value = low_word(value & width.mask());
        if let Some(offset) = offset.checked_sub(SGI_BASE) {
            return match frame_offset(offset).and_then(|o| Cell::find(o, width)) {
                Some(cell) if cell.word == 0 => self.write_cell(vcpu, cell, width, value),
                _ => Kick::NONE,
            };
        }
        match (frame_offset(offset), width) {
            (Some(0x14), Width::Word) => self.set_waker(vcpu, value),
            _ => Kick::NONE,
        }
    }

    /// Writes `GICR_WAKER`: ChildrenAsleep follows ProcessorSleep at once.
    ///
    /// Sleep only keeps SPIs routed to any vCPU away. A conforming guest has disabled its CPU
    /// interface before it sleeps, and what pends must still wake it.
    fn set_waker(&mut self, vcpu: usize, value: u32) -> Kick {
        let Some(v) = self.vcpu(vcpu) else {
            return Kick::NONE;
        };
        v.asleep = value & WAKER_PROCESSOR_SLEEP != 0;
        self.choose_taker()
    }

    /// Returns `GICR_TYPER`: affinity, processor number, Last.
    fn typer(&self, vcpu: usize) -> u64 {
        let n = u64::try_from(vcpu).unwrap_or(0);
        let last = vcpu.wrapping_add(1) == usize::from(self.count);
        let last = if last { TYPER_LAST } else { 0 };
        let lpis = if self.has_lpis() { TYPER_PLPIS } else { 0 };
        n << 32 | n << 8 | last | lpis
    }
}
