//! Times as text.

use alloc::string::{String, ToString};

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

use crate::Backend;

/// Nanoseconds in a second.
pub(crate) const SECOND_NS: u64 = 1_000_000_000;

/// Returns the time in RFC 3339, to the millisecond, if the machine knows it.
pub(crate) fn rfc3339(backend: &dyn Backend) -> Option<String> {
    let ms = i64::try_from(backend.unix_ns()? / 1_000_000).ok()?;
    Some(Timestamp::from_millisecond(ms).ok()?.to_string())
}

/// Returns the time as the `Date` field wants it (RFC 9110, 5.6.7).
pub(crate) fn http_date(backend: &dyn Backend) -> Option<String> {
    let s = i64::try_from(backend.unix_ns()? / SECOND_NS).ok()?;
    let time = Timestamp::from_second(s).ok()?;
    DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&time)
        .ok()
}
