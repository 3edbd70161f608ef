//! `Repr-Digest` (RFC 9530) and hexadecimal.

use alloc::string::String;

use api::{Code, Problem};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Returns the SHA-256 that a `Repr-Digest` field carries; `None` if it carries only
/// digests of other kinds, which a recipient may ignore.
pub(crate) fn parse(field: &str) -> Result<Option<[u8; 32]>, Problem> {
    for item in field.split(',') {
        let Some((key, value)) = item.trim().split_once('=') else {
            return Err(bad());
        };
        if !key.eq_ignore_ascii_case("sha-256") {
            continue;
        }
        let inner = value
            .strip_prefix(':')
            .and_then(|v| v.strip_suffix(':'))
            .ok_or_else(bad)?;
        let bytes = STANDARD.decode(inner).map_err(|_| bad())?;
        return bytes.try_into().map(Some).map_err(|_| bad());
    }
    Ok(None)
}

/// Writes a SHA-256 as a `Repr-Digest` field.
pub(crate) fn field(sha256: &[u8; 32]) -> String {
    alloc::format!("sha-256=:{}:", STANDARD.encode(sha256))
}

/// Writes bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0xf])
        .filter_map(|nibble| char::from_digit(u32::from(nibble), 16))
        .collect()
}

fn bad() -> Problem {
    Problem::new(
        Code::BadRequest,
        "Repr-Digest is not of the form sha-256=:BASE64: (RFC 9530)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_rfc_9530_is_read_and_written() {
        // RFC 9530, appendix B.1: the SHA-256 of {"hello": "world"}\n.
        let text = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
        let digest = parse(text).expect("well-formed").expect("a SHA-256");
        assert_eq!(
            hex(&digest),
            "44aff4ab2d7c3250525675a08f0cfa9591168cffe51791c5f5bbc417c15a6c38"
        );
        assert_eq!(field(&digest), text);
        assert_eq!(parse("sha-512=:AAAA:"), Ok(None));
    }

    #[test]
    fn a_digest_that_is_none_is_refused() {
        for bad in [
            "",
            "sha-256",
            "sha-256=abc",
            "sha-256=:!:",
            "sha-256=:AAAA:",
        ] {
            assert_eq!(parse(bad).map_err(|p| p.status), Err(400), "{bad}");
        }
    }
}
