//! A few lines of HTTP/1.1, so that the tests do not check the client with itself.

use std::fmt;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Header fields, as they came.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The `code` of a problem document; empty if there is none.
    pub fn code(&self) -> String {
        let json = self.json();
        let code = json.get("code").and_then(Value::as_str);
        code.unwrap_or_default().to_owned()
    }
}

/// The connection was closed without a byte of an answer: nobody acted on the request.
#[derive(Debug)]
pub struct Unheard(String);

impl fmt::Display for Unheard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no HTTP answer ({})", self.0)
    }
}

impl std::error::Error for Unheard {}

/// Sends `request`, a request line and header fields each without its line end, and `body`, to
/// the port on 127.0.0.1. The connection is closed after the answer.
pub fn exchange(port: u16, request: &[&str], body: &[u8], patience: Duration) -> Result<Answer> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let head = request.join("\r\n");
    write!(
        stream,
        "{head}\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
    )
    .map_err(|error| Unheard(format!("sent: {error}")))?;
    // A server may refuse before it has read the body, and close: its answer still counts.
    let sent = stream.write_all(body);
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes);
    if bytes.is_empty() {
        bail!(Unheard(format!("sent: {sent:?}, read: {end:?}")));
    }
    let split = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .with_context(|| format!("half an HTTP answer (sent: {sent:?}, read: {end:?})"))?;
    let (head, rest) = bytes.split_at(split);
    let head = String::from_utf8_lossy(head).into_owned();
    let body = rest.get(4..).unwrap_or(&[]);
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    Ok(Answer {
        status: head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .context("no HTTP status")?,
        body: if chunked {
            unchunk(body)
        } else {
            body.to_owned()
        },
        head,
    })
}

/// Takes the chunks (RFC 9112, 7.1) that are whole.
fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let (line, after) = rest.split_at(end);
        let line = String::from_utf8_lossy(line);
        let size = line.split(';').next().unwrap_or_default().trim();
        let Ok(size) = usize::from_str_radix(size, 16) else {
            break;
        };
        let Some(chunk) = after.get(2..2 + size) else {
            break;
        };
        body.extend_from_slice(chunk);
        rest = after.get(2 + size + 2..).unwrap_or(&[]);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_an_unfinished_one_is_left() {
        let wire = b"4\r\nWiki\r\n6;x=y\r\npedia \r\n0\r\n\r\n";
        assert_eq!(unchunk(wire), b"Wikipedia ");
        assert_eq!(unchunk(b"4\r\nWiki\r\n6\r\nped"), b"Wiki");
    }
}
