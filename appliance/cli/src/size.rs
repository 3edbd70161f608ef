//! Sizes as people write them.

const UNITS: [(&str, u32); 8] = [
    ("kib", 10),
    ("mib", 20),
    ("gib", 30),
    ("k", 10),
    ("m", 20),
    ("g", 30),
    ("b", 0),
    ("", 0),
];

/// Reads a size: a whole number followed by `KiB`, `MiB` or `GiB` (`K`, `M` and `G` mean
/// the same), or by nothing for bytes.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text.get(digits.len()..).unwrap_or_default().trim();
    let shift = UNITS
        .iter()
        .find_map(|(name, shift)| name.eq_ignore_ascii_case(unit).then_some(*shift));
    let number = digits.parse::<u64>().ok();
    match (number, shift) {
        (Some(number), Some(shift)) => number
            .checked_mul(1 << shift)
            .ok_or_else(|| format!("'{text}' is more than there can be")),
        _ => Err(format!(
            "'{text}' is not a size: write for example 512MiB, 2GiB, or a number of bytes"
        )),
    }
}

/// Writes a size with the largest unit that leaves it exact to a tenth or better.
pub fn show(bytes: u64) -> String {
    let (unit, shift) = match bytes {
        0..=0x3ff => return format!("{bytes} B"),
        0x400..=0xf_ffff => ("KiB", 10u32),
        0x10_0000..=0x3fff_ffff => ("MiB", 20),
        _ => ("GiB", 30),
    };
    let whole = bytes >> shift;
    // The ten bits below the unit are thousand-and-twenty-fourths of it.
    let tenths = (bytes >> shift.saturating_sub(10u32) & 0x3ff).saturating_mul(10) / 1024;
    if tenths == 0 {
        format!("{whole} {unit}")
    } else {
        format!("{whole}.{tenths} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::{parse, show};

    #[test]
    fn sizes_are_read_in_every_usual_way() {
        for (text, bytes) in [
            ("0", 0),
            ("536870912", 536_870_912),
            ("512MiB", 536_870_912),
            ("512 mib", 536_870_912),
            ("512M", 536_870_912),
            ("2GiB", 2_147_483_648),
            ("16k", 16_384),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "MiB",
            "-1",
            "1.5GiB",
            "512MB",
            "1TiB",
            "99999999999GiB",
            "0x10",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_written_short() {
        assert_eq!(show(512), "512 B");
        assert_eq!(show(536_870_912), "512 MiB");
        assert_eq!(show(1_610_612_736), "1.5 GiB");
        assert_eq!(show(40_000), "39 KiB");
    }
}
