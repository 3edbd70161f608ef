//! Bytes in hexadecimal, as the control port has those of devices.

/// Reads pairs of hexadecimal digits; `None` if it is anything else.
pub fn parse(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut pairs = text.as_bytes().chunks_exact(2);
    let bytes: Option<Vec<u8>> = pairs
        .by_ref()
        .map(|pair| match *pair {
            [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
            _ => None,
        })
        .collect();
    bytes.filter(|_| pairs.remainder().is_empty())
}

/// Writes two digits a byte.
pub fn show(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::{parse, show};

    #[test]
    fn bytes_are_pairs_of_digits() {
        assert_eq!(parse("0aF0"), Some(vec![0x0a, 0xf0]));
        assert_eq!(parse(""), Some(Vec::new()));
        assert_eq!((parse("0"), parse("0g"), parse("é")), (None, None, None));
        assert_eq!(show(&[0, 0xa5]), "00a5");
    }
}
