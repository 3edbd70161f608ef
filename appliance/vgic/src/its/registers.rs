//! The ITS's register frames (IHI 0069H, 12.18).

use super::tables::EVENT_BITS;
use super::{COLLECTIONS, DEVICES, Its, Machine, Progress};
use crate::Width;
use crate::dist::{IIDR, frame_offset, id_register, low_word};

const CTLR_ENABLED: u64 = 1 << 0;
/// Nothing is under way when the ITS is off: what it does it does at once.
const CTLR_QUIESCENT: u64 = 1 << 31;

/// `GITS_TYPER`: physical LPIs; translation table entries of 8 bytes (never looked at); event and
/// device ID bits, less one; targets by processor number; collections, all kept here, and the
/// bits of their IDs, less one (CIL).
const TYPER: u64 = 1
    | 7 << 4
    | (EVENT_BITS as u64 - 1) << 8
    | (DEVICES.trailing_zeros() as u64 - 1) << 13
    | (COLLECTIONS as u64) << 24
    | (COLLECTIONS.trailing_zeros() as u64 - 1) << 32
    | 1 << 36;

const CTLR: u32 = 0x00;
const IIDR_AT: u32 = 0x04;
const TYPER_AT: u32 = 0x08;
const CBASER: u32 = 0x80;
const CWRITER: u32 = 0x88;
const CREADR: u32 = 0x90;

/// `GITS_CBASER`: Valid, the two cacheabilities, address, shareability, Size.
const CBASER_KEPT: u64 = 1 << 63 | 7 << 59 | 7 << 53 | 0x000f_ffff_ffff_f000 | 3 << 10 | 0xff;
const CBASER_PA: u64 = 0x000f_ffff_ffff_f000;
/// `GITS_CWRITER.Offset` and `GITS_CREADR.Offset`.
const OFFSET: u64 = 0x000f_ffe0;

impl Its {
    /// Address of the command queue.
    pub(super) fn queue(&self) -> u64 {
        self.cbaser & CBASER_PA
    }

    /// Bytes of the command queue.
    pub(super) fn queue_bytes(&self) -> u64 {
        (self.cbaser & 0xff).wrapping_add(1) << 12
    }

    /// Reads `width` bytes at `offset` of the ITS's frames. Zero where there is no register, or
    /// none of that width; the translation frame is write-only.
    pub fn read(&self, offset: u64, width: Width) -> u64 {
        let Some(offset) = frame_offset(offset) else {
            return 0;
        };
        if offset >= 0xffd0 {
            return match width {
                Width::Word if offset & 3 == 0 => u64::from(match offset {
                    // GITS_PIDR0 differs from GICD_PIDR0.
                    0xffe0 => 0x94,
                    _ => id_register(offset),
                }),
                _ => 0,
            };
        }
        match (offset, width) {
            (CTLR, Width::Word) if self.enabled => CTLR_ENABLED,
            (CTLR, Width::Word) => CTLR_QUIESCENT,
            (IIDR_AT, Width::Word) => u64::from(IIDR),
            _ => wide(offset, width).map_or(0, |(register, shift)| {
                let value = match register {
                    TYPER_AT => TYPER,
                    CBASER => self.cbaser,
                    CWRITER => self.cwriter,
                    CREADR => self.creadr,
                    // No table lies in guest memory, so every GITS_BASER is of type 0.
                    _ => 0,
                };
                value >> shift & width.mask()
            }),
        }
    }

    /// Writes `width` bytes at `offset` of the ITS's frames.
    ///
    /// A CPU that writes to `GITS_TRANSLATER` is no device: that is ignored, too.
    pub fn write(
        &mut self,
        machine: &mut impl Machine,
        offset: u64,
        width: Width,
        value: u64,
    ) -> Progress {
        let Some(offset) = frame_offset(offset) else {
            return Progress::Done;
        };
        let value = value & width.mask();
        if (offset, width) == (CTLR, Width::Word) {
            self.enabled = value & CTLR_ENABLED != 0;
            return self.run(machine);
        }
        let Some((register, shift)) = wide(offset, width) else {
            return Progress::Done;
        };
        let merge = |old: u64| old & !(width.mask() << shift) | value << shift;
        match register {
            // While the ITS is on these are not to be changed: ignored.
            CBASER if !self.enabled => {
                self.cbaser = merge(self.cbaser) & CBASER_KEPT;
                (self.creadr, self.cwriter) = (0, 0);
                Progress::Done
            }
            // The upper half is RES0.
            CWRITER if shift == 0 => {
                let offset = u64::from(low_word(value)) & OFFSET;
                if offset < self.queue_bytes() {
                    self.cwriter = offset;
                    return self.run(machine);
                }
                Progress::Done
            }
            _ => Progress::Done,
        }
    }
}

/// Returns the 64-bit register that an access reaches, whole or in half, and how far the access
/// is from its start, in bits.
fn wide(offset: u32, width: Width) -> Option<(u32, u32)> {
    match (width, offset & 7) {
        (Width::Double | Width::Word, 0) => Some((offset, 0)),
        (Width::Word, 4) => Some((offset & !7, 32)),
        _ => None,
    }
}
