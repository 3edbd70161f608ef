//! Times as text.

use alloc::format;
use alloc::string::String;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

use crate::Backend;

/// Nanoseconds in a second.
pub(crate) const SECOND_NS: u64 = 1_000_000_000;

/// Writes a time in RFC 3339, to the millisecond.
pub(crate) fn rfc3339(unix_ns: u64) -> Option<String> {
    let ms = i64::try_from(unix_ns / 1_000_000).ok()?;
    Some(format!("{:.3}", Timestamp::from_millisecond(ms).ok()?))
}

/// Returns the time as the `Date` field wants it (RFC 9110, 5.6.7).
pub(crate) fn http_date(backend: &dyn Backend) -> Option<String> {
    let s = i64::try_from(backend.unix_ns()? / SECOND_NS).ok()?;
    let time = Timestamp::from_second(s).ok()?;
    DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&time)
        .ok()
}
