//! What may be the name of a VM or an image.

/// Most characters in a name, the length of a DNS label (RFC 1123, 2.1).
pub const NAME_MAX: usize = 63;

/// What a name must be, for error messages.
pub const NAME_RULE: &str =
    "1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit";

/// Returns whether `name` matches `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
pub fn is_valid(name: &str) -> bool {
    let bytes = name.as_bytes();
    let ends_well = |byte: Option<&u8>| byte.is_some_and(|b| *b != b'-');
    bytes.len() <= NAME_MAX
        && ends_well(bytes.first())
        && ends_well(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

#[cfg(test)]
mod tests {
    use super::is_valid;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "0", "web", "web-1", "a-b-c", "x".repeat(63).as_str()] {
            assert!(is_valid(good), "{good}");
        }
        for bad in [
            "",
            "-",
            "-a",
            "a-",
            "A",
            "a_b",
            "a.b",
            "a/b",
            "ä",
            "x".repeat(64).as_str(),
        ] {
            assert!(!is_valid(bad), "{bad}");
        }
    }

    extern crate std;
}
