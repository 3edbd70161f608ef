//! Responses, written whole; and the heads of streams.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use api::{Code, Problem, problem};
use serde::Serialize;

/// What every response says of the server.
pub(crate) const SERVER: &str = concat!("skete/", env!("CARGO_PKG_VERSION"));

/// Media type of JSON.
pub(crate) const JSON: &str = "application/json";
/// Media type of plain text.
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";

/// A response with all of its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The HTTP status.
    pub(crate) status: u16,
    /// Header fields beyond the usual ones.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// Media type of the body; `None` means that there is no body.
    pub(crate) media_type: Option<&'static str>,
    /// The body.
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// A response without body.
    pub(crate) const fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            media_type: None,
            body: Vec::new(),
        }
    }

    /// A response of text.
    pub(crate) fn text(media_type: &'static str, body: impl Into<String>) -> Self {
        Self {
            media_type: Some(media_type),
            body: body.into().into_bytes(),
            ..Self::empty(200)
        }
    }

    /// A response of JSON, ending in a newline for those who read it in a terminal.
    pub(crate) fn json(status: u16, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(mut body) => {
                body.push(b'\n');
                Self {
                    media_type: Some(JSON),
                    body,
                    ..Self::empty(status)
                }
            }
            Err(why) => Self::problem(&Problem::new(
                Code::Internal,
                format!("the answer could not be written: {why}"),
            )),
        }
    }

    /// A refusal.
    pub(crate) fn problem(problem: &Problem) -> Self {
        let body = serde_json::to_vec(problem).unwrap_or_default();
        let reply = Self {
            media_type: Some(problem::MEDIA_TYPE),
            body,
            ..Self::empty(problem.status)
        };
        match problem.status {
            401 => reply.header("WWW-Authenticate", r#"Bearer realm="skete""#),
            503 => reply.header("Retry-After", "1"),
            _ => reply,
        }
    }

    /// Adds a header field.
    #[must_use]
    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Returns whether this refuses something, after which the connection is closed.
    pub(crate) const fn is_refusal(&self) -> bool {
        self.status >= 400
    }

    /// Writes the response. `with_body` is false in answer to HEAD.
    pub(crate) fn encode(
        &self,
        out: &mut Vec<u8>,
        date: Option<&str>,
        keep_alive: bool,
        with_body: bool,
    ) {
        begin(out, self.status, date);
        for (name, value) in &self.headers {
            field(out, name, value);
        }
        if let Some(media_type) = self.media_type {
            field(out, "Content-Type", media_type);
        }
        if self.status != 204 {
            field(out, "Content-Length", &format!("{}", self.body.len()));
        }
        if !keep_alive {
            field(out, "Connection", "close");
        }
        out.extend_from_slice(b"\r\n");
        if with_body {
            out.extend_from_slice(&self.body);
        }
    }
}

/// Writes the head of a response whose body has no end yet: in chunks, or, for HTTP/1.0,
/// until the connection closes.
pub(crate) fn stream_head(out: &mut Vec<u8>, media_type: &str, date: Option<&str>, chunked: bool) {
    begin(out, 200, date);
    field(out, "Content-Type", media_type);
    if chunked {
        field(out, "Transfer-Encoding", "chunked");
    }
    field(out, "Connection", "close");
    out.extend_from_slice(b"\r\n");
}

/// Writes the head that hands the connection over to `protocol`.
pub(crate) fn switch_head(
    out: &mut Vec<u8>,
    protocol: &str,
    date: Option<&str>,
    more: &[(&str, &str)],
) {
    begin(out, 101, date);
    field(out, "Upgrade", protocol);
    field(out, "Connection", "Upgrade");
    for (name, value) in more {
        field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes one chunk; nothing for no bytes, because that would end the body.
pub(crate) fn chunk(out: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
}

/// Writes the end of a chunked body.
pub(crate) fn last_chunk(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n\r\n");
}

fn begin(out: &mut Vec<u8>, status: u16, date: Option<&str>) {
    out.extend_from_slice(format!("HTTP/1.1 {status} {}\r\n", reason(status)).as_bytes());
    field(out, "Server", SERVER);
    if let Some(date) = date {
        field(out, "Date", date);
    }
    field(out, "Cache-Control", "no-store");
    field(out, "X-Content-Type-Options", "nosniff");
}

fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    // A value never comes from a client unchecked; a line break in one would split the
    // response, so it is dropped here whatever the reason it got so far.
    let safe = value
        .bytes()
        .filter(|byte| *byte != b'\r' && *byte != b'\n');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(safe);
    out.extend_from_slice(b"\r\n");
}

const fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Unknown",
    }
}
