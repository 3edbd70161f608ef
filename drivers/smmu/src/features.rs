//! What an SMMU can do, as far as it matters here.

use core::fmt;

/// What an SMMU can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Bits of a StreamID.
    pub stream_bits: u8,
    /// log2 of the most commands.
    pub command_bits: u8,
    /// log2 of the most events.
    pub event_bits: u8,
    /// VMIDs have 16 bits, not 8.
    pub vmid16: bool,
}

/// Why an SMMU cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It has no stage 2 (IDR0.S2P).
    NoStage2,
    /// It has no AArch64 tables (`IDR0.TTF[1]`).
    NoAarch64,
    /// It does not know the 4 KiB granule (IDR5.GRAN4K).
    NoGranule,
    /// Its accesses are not coherent with the cores' (IDR0.COHACC).
    NotCoherent,
    /// Its tables or queues are at fixed places (IDR1.TABLES_PRESET, QUEUES_PRESET).
    Preset,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoStage2 => "no stage 2",
            Self::NoAarch64 => "no AArch64 tables",
            Self::NoGranule => "no 4 KiB granule",
            Self::NotCoherent => "not coherent",
            Self::Preset => "tables at fixed places",
        })
    }
}

impl core::error::Error for Unfit {}

impl Features {
    /// Reads IDR0, IDR1 and IDR5.
    ///
    /// # Errors
    /// See [`Unfit`].
    pub fn read(idr0: u32, idr1: u32, idr5: u32) -> Result<Self, Unfit> {
        let needed = [
            (idr0 & 1 != 0, Unfit::NoStage2),
            (idr0 >> 3 & 1 != 0, Unfit::NoAarch64),
            (idr0 >> 4 & 1 != 0, Unfit::NotCoherent),
            (idr5 >> 4 & 1 != 0, Unfit::NoGranule),
            (idr1 >> 29 & 0b11 == 0, Unfit::Preset),
        ];
        if let Some((_, why)) = needed.into_iter().find(|(present, _)| !present) {
            return Err(why);
        }
        let field = |lsb: u32, mask: u32| u8::try_from(idr1 >> lsb & mask).unwrap_or(0);
        Ok(Self {
            stream_bits: field(0, 0x3f),
            command_bits: field(21, 0x1f),
            event_bits: field(16, 0x1f),
            vmid16: idr0 >> 18 & 1 != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        // QEMU 10: S2P, S1P, TTF 2, COHACC, ASID16, VMID16; SIDSIZE 16, CMDQS and EVENTQS 19.
        let (idr0, idr1, idr5) = (0x0d44_101b, 0x0273_0010, 0x0000_0074);
        let features = Features::read(idr0, idr1, idr5).expect("fit");
        assert_eq!((features.stream_bits, features.vmid16), (16, true));
        assert_eq!((features.command_bits, features.event_bits), (19, 19));
        let read = |n0: u32, n1: u32, n5: u32| Features::read(idr0 ^ n0, idr1 ^ n1, idr5 ^ n5);
        assert_eq!(read(1, 0, 0), Err(Unfit::NoStage2));
        assert_eq!(read(1 << 3, 0, 0), Err(Unfit::NoAarch64));
        assert_eq!(read(1 << 4, 0, 0), Err(Unfit::NotCoherent));
        assert_eq!(read(0, 1 << 30, 0), Err(Unfit::Preset));
        assert_eq!(read(0, 1 << 29, 0), Err(Unfit::Preset));
        assert_eq!(read(0, 0, 1 << 4), Err(Unfit::NoGranule));
    }
}
