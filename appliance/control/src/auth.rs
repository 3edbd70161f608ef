//! Who may ask: a bearer token, of which only the SHA-256 is kept.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::http::head::Head;

/// Returns the SHA-256 of a token, as [`crate::Config`] wants it.
pub fn token_digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Returns whether a request carries the token whose digest is `expected`.
///
/// What is compared are digests, in constant time, so the answer's timing says nothing
/// about how much of a guess was right; a request without a token takes the same way.
pub(crate) fn is_authorized(head: &Head, expected: &[u8; 32]) -> bool {
    let token = head
        .header("authorization")
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let same = token_digest(token.unwrap_or_default()).ct_eq(expected);
    bool::from(same) && token.is_some_and(|token| !token.is_empty())
}
