//! Just enough HTTP to ask whether anybody answers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

/// Sends `head` (request line and headers, without the empty line) and `body` to the port on
/// 127.0.0.1; returns status and body of the answer. The connection is not kept.
pub fn exchange(port: u16, head: &str, body: &[u8], patience: Duration) -> Result<(u16, Vec<u8>)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    write!(
        stream,
        "{head}\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    // Whoever closes with a reset after a whole answer has still answered.
    let end = stream.read_to_end(&mut answer);
    let split = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .with_context(|| format!("no HTTP answer: {end:?}"))?;
    let (head, body) = answer.split_at(split);
    let status = String::from_utf8_lossy(head)
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .context("no HTTP status")?;
    Ok((status, body.get(4..).unwrap_or(&[]).to_owned()))
}

/// Gets `path` with a bearer token; returns status and JSON body (null if it is none).
pub fn get(port: u16, path: &str, token: &str, patience: Duration) -> Result<(u16, Value)> {
    let head = format!("GET {path} HTTP/1.1\r\nAuthorization: Bearer {token}");
    let (status, body) = exchange(port, &head, &[], patience)?;
    Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}
