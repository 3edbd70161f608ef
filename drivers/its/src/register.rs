//! Registers of the ITS (IHI 0069H, 12.18), and those of redistributors that are about LPIs
//! (12.11), each with the bits that are used.

/// `GITS_CTLR`, 32 bits: Enabled.
pub const CTLR: u64 = 0x00;
/// The ITS works.
pub const CTLR_ENABLED: u32 = 1 << 0;
/// Nothing is under way any more.
pub const CTLR_QUIESCENT: u32 = 1 << 31;
/// `GITS_TYPER`.
pub const TYPER: u64 = 0x08;
/// `GITS_CBASER`.
pub const CBASER: u64 = 0x80;
/// `GITS_CWRITER`.
pub const CWRITER: u64 = 0x88;
/// `GITS_CREADR`.
pub const CREADR: u64 = 0x90;
/// The queue stopped at a command.
pub const CREADR_STALLED: u64 = 1 << 0;
/// `GITS_BASER<n>`, eight of them.
pub const BASER: u64 = 0x100;
/// `GITS_TRANSLATER`, in the second frame.
pub const TRANSLATER: u64 = 0x1_0040;
/// Bytes of both frames.
pub const FRAMES_BYTES: u64 = 0x2_0000;

/// `GICR_CTLR`, 32 bits.
pub const GICR_CTLR: u64 = 0x00;
/// LPIs are on.
pub const GICR_CTLR_ENABLE_LPIS: u32 = 1 << 0;
/// `GICR_TYPER`.
pub const GICR_TYPER: u64 = 0x08;
/// `GICR_PROPBASER`.
pub const GICR_PROPBASER: u64 = 0x70;
/// `GICR_PENDBASER`.
pub const GICR_PENDBASER: u64 = 0x78;

/// Inner shareable, write-back, for each kind of base register: where these bits are differs.
const CACHED_ITS: u64 = 7 << 59 | 1 << 10;
const CACHED_REDISTRIBUTOR: u64 = 7 << 7 | 1 << 10;
const VALID: u64 = 1 << 63;

/// What `GITS_TYPER` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Bits of an event ID.
    pub event_bits: u8,
    /// Bits of a device ID.
    pub device_bits: u8,
    /// Bytes of a translation table entry.
    pub entry_bytes: u64,
    /// A redistributor is named by its address, rather than by its processor number.
    pub by_address: bool,
}

impl Features {
    /// Reads `GITS_TYPER`; nothing if there are no physical LPIs.
    pub fn read(typer: u64) -> Option<Self> {
        let field = |shift: u32, mask: u64| {
            let [low, ..] = (typer >> shift & mask).to_le_bytes();
            low.wrapping_add(1)
        };
        (typer & 1 == 1).then_some(Self {
            event_bits: field(8, 0x1f),
            device_bits: field(13, 0x1f),
            entry_bytes: u64::from(field(4, 0xf)),
            by_address: typer >> 19 & 1 == 1,
        })
    }
}

/// What a `GITS_BASER` is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Devices.
    Devices,
    /// Collections.
    Collections,
    /// Something that is not used, or nothing.
    Other,
}

impl Table {
    /// Reads the type in a `GITS_BASER`.
    pub const fn of(baser: u64) -> Self {
        match baser >> 56 & 7 {
            1 => Self::Devices,
            4 => Self::Collections,
            _ => Self::Other,
        }
    }
}

/// Bytes of an entry of the table that a `GITS_BASER` is for.
pub const fn table_entry_bytes(baser: u64) -> u64 {
    (baser >> 48 & 0x1f).wrapping_add(1)
}

/// Page sizes of a `GITS_BASER`, by their code.
pub const PAGE_BYTES: [u64; 3] = [4 << 10, 16 << 10, 64 << 10];

/// Most pages of a table.
pub const PAGES_MAX: u64 = 256;

/// The value that gives a table its memory: `pages` pages of [`PAGE_BYTES`] at `pa`, 1 to
/// [`PAGES_MAX`] of them.
pub const fn table(pa: u64, page_code: u8, pages: u64) -> u64 {
    VALID | CACHED_ITS | pa | (page_code as u64) << 8 | pages.wrapping_sub(1) & 0xff
}

/// Reads the page size that a `GITS_BASER` took, by its code.
pub const fn page_code(baser: u64) -> u8 {
    match baser >> 8 & 3 {
        0 => 0,
        1 => 1,
        _ => 2,
    }
}

/// The value of `GITS_CBASER` for a queue of one page at `pa`.
pub const fn queue(pa: u64) -> u64 {
    VALID | CACHED_ITS | pa
}

/// The value of `GICR_PROPBASER` for INTIDs of `bits` bits, their configuration at `pa`.
pub const fn configuration(pa: u64, bits: u8) -> u64 {
    pa | CACHED_REDISTRIBUTOR | (bits as u64).wrapping_sub(1) & 0x1f
}

/// The value of `GICR_PENDBASER` for a table of zeroes at `pa`, a multiple of 64 KiB.
pub const fn pending(pa: u64) -> u64 {
    1 << 62 | CACHED_REDISTRIBUTOR | pa
}

/// Returns how commands name the redistributor at `pa` whose `GICR_TYPER` is `typer`.
pub const fn target(features: Features, pa: u64, typer: u64) -> u64 {
    if features.by_address {
        pa & 0x000f_ffff_ffff_0000
    } else {
        (typer >> 8 & 0xffff) << 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_s_its_says_is_understood() {
        // GITS_TYPER of QEMU 10: entries of 12 bytes, 16 bits of each ID, by number.
        let features = Features::read(0x0000_0000_0001_efb1).expect("physical LPIs");
        assert_eq!(
            features,
            Features {
                event_bits: 16,
                device_bits: 16,
                entry_bytes: 12,
                by_address: false
            }
        );
        assert_eq!(Features::read(0x1_efb0), None);
        assert_eq!(target(features, 0x80a_0000, 0x1_0000_0310), 0x3_0000);
        let by_address = Features {
            by_address: true,
            ..features
        };
        assert_eq!(target(by_address, 0x80a_0000, 0x310), 0x80a_0000);
    }

    #[test]
    fn base_registers_are_the_manual_s() {
        assert_eq!(Table::of(0x0107_0000_0000_0000), Table::Devices);
        assert_eq!(Table::of(0x0407_0000_0000_0000), Table::Collections);
        assert_eq!(Table::of(0x0207_0000_0000_0000), Table::Other);
        assert_eq!(table_entry_bytes(0x0107_0000_0000_0000), 8);
        assert_eq!(table(0x4_0000, 2, 1), 0xb800_0000_0004_0600);
        assert_eq!(table(0x4_0000, 0, 16), 0xb800_0000_0004_040f);
        assert_eq!(
            (page_code(0x000), page_code(0x100), page_code(0x200)),
            (0, 1, 2)
        );
        assert_eq!(queue(0x4_1000), 0xb800_0000_0004_1400);
        assert_eq!(configuration(0x4_2000, 14), 0x4_278d);
        assert_eq!(pending(0x5_0000), 0x4000_0000_0005_0780);
    }
}
