//! The redistributors' LPI registers (IHI 0069H, 12.11): here, because EnableLPIs has one owner
//! with the commands.

use super::{Its, Machine};
use crate::Width;
use crate::lpi::{LPI_FIRST, WORDS};

const CTLR: u64 = 0x00;
const PROPBASER: u64 = 0x70;
const PENDBASER: u64 = 0x78;

const CTLR_ENABLE_LPIS: u64 = 1 << 0;
/// EnableLPIs can be cleared.
const CTLR_CES: u64 = 1 << 1;

/// OuterCache, address, shareability, InnerCache, IDbits.
const PROPBASER_KEPT: u64 = 7 << 56 | 0x000f_ffff_ffff_f000 | 0xf << 8 | 7 << 7 | 0x1f;
const PROPBASER_PA: u64 = 0x000f_ffff_ffff_f000;
/// OuterCache, address, shareability, InnerCache. PTZ reads as zero.
const PENDBASER_KEPT: u64 = 7 << 56 | 0x000f_ffff_ffff_0000 | 3 << 10 | 7 << 7;
const PENDBASER_PA: u64 = 0x000f_ffff_ffff_0000;
/// The pending table is all zeroes.
const PENDBASER_PTZ: u64 = 1 << 62;

/// Bytes of the pending table that are about these LPIs, and where they are.
const PENDING_BYTES: usize = 4 * WORDS;
const PENDING_OFFSET: u64 = 1024;
const _: () = assert!(LPI_FIRST as u64 == 8 * PENDING_OFFSET);

/// Returns whether an access at `offset` of a redistributor's RD_base frame is for its VM's ITS.
pub const fn owns(offset: u64) -> bool {
    matches!(offset, CTLR..4 | PROPBASER..0x80)
}

impl Its {
    /// One past the last LPI that the configuration table has (`GICR_PROPBASER.IDbits`).
    pub(super) fn lpi_end(&self) -> u32 {
        let [low, ..] = (self.propbaser & 0x1f).to_le_bytes();
        let bits = u32::from(low).wrapping_add(1);
        1u32.checked_shl(bits).unwrap_or(u32::MAX)
    }

    /// Address of the configuration of the first LPI.
    pub(super) fn config_table(&self) -> u64 {
        self.propbaser & PROPBASER_PA
    }

    /// Reads an LPI register of `vcpu`'s redistributor, one for which [`owns`] holds.
    pub fn redist_read(
        &self,
        machine: &mut impl Machine,
        vcpu: usize,
        offset: u64,
        width: Width,
    ) -> u64 {
        if (offset, width) == (CTLR, Width::Word) {
            let on = is_on(machine, vcpu);
            return CTLR_CES | if on { CTLR_ENABLE_LPIS } else { 0 };
        }
        let Some((register, shift)) = wide(offset, width) else {
            return 0;
        };
        let value = match register {
            PROPBASER => self.propbaser,
            PENDBASER => self.pendbaser.get(vcpu).copied().unwrap_or(0) & !PENDBASER_PTZ,
            _ => 0,
        };
        value >> shift & width.mask()
    }

    /// Writes an LPI register of `vcpu`'s redistributor. Before EnableLPIs is cleared, fold it.
    pub fn redist_write(
        &mut self,
        machine: &mut impl Machine,
        vcpu: usize,
        offset: u64,
        width: Width,
        value: u64,
    ) {
        let value = value & width.mask();
        if (offset, width) == (CTLR, Width::Word) {
            self.switch_lpis(machine, vcpu, value & CTLR_ENABLE_LPIS != 0);
            return;
        }
        let Some((register, shift)) = wide(offset, width) else {
            return;
        };
        let merge = |old: u64| old & !(width.mask() << shift) | value << shift;
        match register {
            // The table is in use as soon as one redistributor's LPIs are on.
            PROPBASER if !(0..usize::from(self.vcpus)).any(|v| is_on(machine, v)) => {
                self.propbaser = merge(self.propbaser) & PROPBASER_KEPT;
            }
            PENDBASER if !is_on(machine, vcpu) => {
                if let Some(base) = self.pendbaser.get_mut(vcpu) {
                    *base = merge(*base) & (PENDBASER_KEPT | PENDBASER_PTZ);
                }
            }
            _ => {}
        }
    }

    /// Writes `GICR_CTLR.EnableLPIs`.
    fn switch_lpis(&self, machine: &mut impl Machine, vcpu: usize, on: bool) {
        if on == is_on(machine, vcpu) {
            return;
        }
        let base = self.pendbaser.get(vcpu).copied().unwrap_or(0);
        let table = (base & PENDBASER_PA).wrapping_add(PENDING_OFFSET);
        let mut bytes = [0; PENDING_BYTES];
        let mut pending = [0; WORDS];
        if on {
            let there = base & PENDBASER_PTZ == 0 && machine.read(table, &mut bytes);
            if there {
                for (word, chunk) in pending.iter_mut().zip(bytes.as_chunks().0) {
                    *word = u32::from_le_bytes(*chunk);
                }
            }
            self.configure_all(machine);
            machine.gic(|gic| gic.switch_lpis_on(vcpu, &pending));
            return;
        }
        machine.gic(|gic| {
            let (left, kick) = gic.switch_lpis_off(vcpu);
            pending = left;
            kick
        });
        for (chunk, word) in bytes.as_chunks_mut().0.iter_mut().zip(pending) {
            *chunk = word.to_le_bytes();
        }
        // Without RAM there is nowhere to keep them.
        let _ = machine.write(table, &bytes);
    }
}

/// Returns whether `vcpu` has its LPIs switched on.
fn is_on(machine: &mut impl Machine, vcpu: usize) -> bool {
    let mut on = false;
    machine.gic(|gic| {
        on = gic.lpis_on(vcpu);
        crate::Kick::NONE
    });
    on
}

/// Returns the 64-bit register that an access reaches, and how far it is from its start, in bits.
fn wide(offset: u64, width: Width) -> Option<(u64, u32)> {
    match (width, offset & 7) {
        (Width::Double | Width::Word, 0) => Some((offset, 0)),
        (Width::Word, 4) => Some((offset & !7, 32)),
        _ => None,
    }
}
