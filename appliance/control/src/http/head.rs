//! The head of a request: scanned byte by byte, parsed by `httparse`, then checked.
//!
//! [`Scanner`] finds the end of the head and refuses what `httparse` would let through
//! (bare LF or CR, folded lines) at the byte where it appears, so that the answer does not
//! depend on how the bytes were cut into segments. [`Head::parse`] turns a whole head into
//! values and decides the one framing of the body ([`BodyLength`]).

use alloc::string::String;
use alloc::vec::Vec;

use api::limits::{HEAD_MAX, HEADERS_MAX, REQUEST_LINE_MAX};
use api::{Code, Problem};

/// A request method that the server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// PUT.
    Put,
    /// POST.
    Post,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
    /// OPTIONS.
    Options,
}

impl Method {
    /// Every method, in the order in which `Allow` lists them.
    pub(crate) const ALL: [Self; 7] = [
        Self::Get,
        Self::Head,
        Self::Put,
        Self::Post,
        Self::Patch,
        Self::Delete,
        Self::Options,
    ];

    /// Returns the method's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
        }
    }
}

/// How a request's body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// No body.
    None,
    /// This many bytes.
    Bytes(u64),
    /// Chunks.
    Chunked,
}

/// A request's head, checked.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// The method; `None` for one that the server does not know.
    pub(crate) method: Option<Method>,
    /// The path, without query.
    pub(crate) path: String,
    /// The query, without `?`; empty if there is none.
    pub(crate) query: String,
    /// How the body is delimited.
    pub(crate) body: BodyLength,
    /// Whether the connection may serve another request after this one.
    pub(crate) keep_alive: bool,
    /// Whether the client waits for `100 Continue`.
    pub(crate) expects_continue: bool,
    /// Whether this is HTTP/1.1, so that chunks may be sent.
    pub(crate) http11: bool,
    headers: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// Returns the value of field `name` (lower case), if it occurs once and is ASCII.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name);
        let (_, value) = found.next()?;
        if found.next().is_some() {
            return None;
        }
        core::str::from_utf8(value).ok().filter(|v| v.is_ascii())
    }

    /// Returns whether a comma-separated field lists `token`, in any case.
    pub(crate) fn lists(&self, name: &str, token: &str) -> bool {
        self.headers
            .iter()
            .filter(|(n, _)| n == name)
            .filter_map(|(_, value)| core::str::from_utf8(value).ok())
            .flat_map(|value| value.split(','))
            .any(|item| item.trim().eq_ignore_ascii_case(token))
    }

    /// Returns how often field `name` occurs.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.headers.iter().filter(|(n, _)| n == name).count()
    }

    /// Returns the value of query parameter `name`; the empty string if it has none.
    pub(crate) fn query_value(&self, name: &str) -> Option<&str> {
        self.query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find_map(|(key, value)| (key == name).then_some(value))
    }

    /// Reads a head that a [`Scanner`] found complete.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(bytes) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(bad("the head is incomplete")),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(Problem::new(
                    Code::HeadersTooLarge,
                    alloc::format!("the request has more than {HEADERS_MAX} header fields"),
                ));
            }
            Err(httparse::Error::Version) => {
                return Err(Problem::new(
                    Code::VersionNotSupported,
                    "the request line ends in neither HTTP/1.1 nor HTTP/1.0",
                ));
            }
            Err(why) => return Err(bad(&alloc::format!("{why}"))),
        }
        let http11 = request.version == Some(1);
        let (path, query) = split_target(request.path.unwrap_or_default())?;
        let headers: Vec<(String, Vec<u8>)> = request
            .headers
            .iter()
            .map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec()))
            .collect();
        let mut head = Self {
            method: Method::ALL
                .into_iter()
                .find(|method| Some(method.name()) == request.method),
            path,
            query,
            body: BodyLength::None,
            keep_alive: false,
            expects_continue: false,
            http11,
            headers,
        };
        head.check_host()?;
        head.body = head.framing()?;
        head.keep_alive = http11 && !head.lists("connection", "close");
        if let Some(expect) = head.header("expect") {
            if !expect.eq_ignore_ascii_case("100-continue") {
                return Err(Problem::new(
                    Code::ExpectationFailed,
                    "the only expectation that can be met is 100-continue",
                ));
            }
            head.expects_continue = http11 && head.body != BodyLength::None;
        }
        Ok(head)
    }

    fn check_host(&self) -> Result<(), Problem> {
        match self.count("host") {
            1 => Ok(()),
            0 if !self.http11 => Ok(()),
            0 => Err(bad("there is no Host field")),
            _ => Err(bad("there is more than one Host field")),
        }
    }

    /// Decides how the body is delimited. Whatever another reader of the same bytes might
    /// understand otherwise is refused: that is how requests are smuggled.
    fn framing(&self) -> Result<BodyLength, Problem> {
        let lengths = self.count("content-length");
        let encodings = self.count("transfer-encoding");
        if lengths != 0 && encodings != 0 {
            return Err(bad("there are both Content-Length and Transfer-Encoding"));
        }
        if lengths > 1 {
            return Err(bad("there is more than one Content-Length"));
        }
        if encodings != 0 {
            let chunked = self
                .header("transfer-encoding")
                .is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
            return match (chunked, self.http11) {
                (true, true) => Ok(BodyLength::Chunked),
                (true, false) => Err(bad("HTTP/1.0 has no Transfer-Encoding")),
                (false, _) => Err(bad("the only Transfer-Encoding understood is 'chunked'")),
            };
        }
        if lengths == 0 {
            return Ok(BodyLength::None);
        }
        // 18 digits hold any size there is, and cannot overflow.
        let digits = self.header("content-length").unwrap_or_default();
        let number = !digits.is_empty()
            && digits.len() <= 18
            && digits.bytes().all(|byte| byte.is_ascii_digit());
        match digits.parse() {
            Ok(0) if number => Ok(BodyLength::None),
            Ok(bytes) if number => Ok(BodyLength::Bytes(bytes)),
            _ => Err(bad("Content-Length is not a decimal number below 10^18")),
        }
    }
}

/// Splits a request target (RFC 9112, 3.2) into path and query.
fn split_target(target: &str) -> Result<(String, String), Problem> {
    let origin = match target.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            rest.get(end..).unwrap_or_default()
        }
        _ => target,
    };
    let (path, query) = origin.split_once('?').unwrap_or((origin, ""));
    let path = if path.is_empty() { "/" } else { path };
    if path != "*" && !path.starts_with('/') {
        return Err(bad("the request target is not a path"));
    }
    Ok((path.into(), query.into()))
}

fn bad(why: &str) -> Problem {
    Problem::new(Code::BadRequest, why)
}

/// Finds the end of a head, one byte at a time.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    bytes: Vec<u8>,
    in_first_line: bool,
    after_cr: bool,
    line_start: bool,
    line_bytes: usize,
}

impl Scanner {
    /// Returns whether a request has begun to arrive.
    pub(crate) fn has_begun(&self) -> bool {
        !self.bytes.is_empty() || self.after_cr
    }

    /// Takes bytes up to and including the end of the head. Returns how many were taken,
    /// and the head once it is whole; the scanner is then empty again.
    pub(crate) fn take(&mut self, input: &[u8]) -> (usize, Option<Result<Vec<u8>, Problem>>) {
        let mut taken = 0usize;
        for byte in input {
            taken = taken.saturating_add(1);
            match self.push(*byte) {
                Ok(false) => {}
                Ok(true) => {
                    let done = core::mem::take(self);
                    return (taken, Some(Ok(done.bytes)));
                }
                Err(problem) => {
                    *self = Self::default();
                    return (taken, Some(Err(problem)));
                }
            }
        }
        (taken, None)
    }

    /// Takes one byte; true if it ends the head.
    fn push(&mut self, byte: u8) -> Result<bool, Problem> {
        if self.bytes.is_empty() {
            // RFC 9112, 2.2: empty lines before the request line are skipped.
            match (byte, self.after_cr) {
                (b'\r', false) => {
                    self.after_cr = true;
                    return Ok(false);
                }
                (b'\n', true) => {
                    self.after_cr = false;
                    self.line_bytes = self.line_bytes.saturating_add(2);
                    return if self.line_bytes > HEAD_MAX {
                        Err(bad("there are only empty lines"))
                    } else {
                        Ok(false)
                    };
                }
                (_, true) => return Err(bad("a CR is not followed by LF")),
                (_, false) => {
                    self.in_first_line = true;
                    self.line_bytes = 0;
                }
            }
        }
        self.bytes.push(byte);
        if self.bytes.len() > HEAD_MAX {
            return Err(Problem::new(
                Code::HeadersTooLarge,
                alloc::format!("the head is larger than {HEAD_MAX} bytes"),
            ));
        }
        match (byte, self.after_cr) {
            (b'\n', true) => {
                let end = self.line_bytes == 0;
                self.after_cr = false;
                self.in_first_line = false;
                self.line_start = true;
                self.line_bytes = 0;
                return Ok(end);
            }
            (b'\n', false) => return Err(bad("a line ends in LF without CR")),
            (_, true) => return Err(bad("a CR is not followed by LF")),
            (b'\r', false) => {
                self.after_cr = true;
                return Ok(false);
            }
            (b' ' | b'\t', false) if self.line_start => {
                return Err(bad("a header field is folded over two lines"));
            }
            (_, false) => {}
        }
        self.line_start = false;
        self.line_bytes = self.line_bytes.saturating_add(1);
        if self.in_first_line && self.line_bytes > REQUEST_LINE_MAX {
            return Err(Problem::new(
                Code::UriTooLong,
                alloc::format!("the request line is longer than {REQUEST_LINE_MAX} bytes"),
            ));
        }
        Ok(false)
    }
}
