//! A VM's console: bytes both ways over one connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use ureq::http::Uri;

use crate::client::{Client, refusal};
use crate::error::Error;

/// How long the appliance may take to hand the connection over.
const HANDOVER: Duration = Duration::from_secs(30);
/// Most bytes of the head of its answer.
const HEAD_MAX: usize = 16 << 10;

/// An attached console. Dropping it detaches; the VM does not notice.
#[derive(Debug)]
pub struct Console {
    stream: TcpStream,
    /// Output that arrived with the head of the answer.
    early: Vec<u8>,
    timeout: Option<Duration>,
}

/// The writing half of a [`Console`], for another thread.
#[derive(Debug)]
pub struct ConsoleWriter(TcpStream);

impl Console {
    pub(crate) fn connect(client: &Client, path: &str) -> Result<Self, Error> {
        let uri: Uri = client
            .url()
            .parse()
            .map_err(|why| Error::Usage(format!("{}: {why}", client.url())))?;
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(80);
        let mut stream = dial(host.trim_matches(['[', ']']), port)
            .and_then(|stream| {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(HANDOVER))?;
                Ok(stream)
            })
            .map_err(|why| client.unreachable(why))?;
        let base = uri.path().trim_end_matches('/');
        let request = format!(
            "GET {base}{path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {}\r\n\
             Connection: Upgrade\r\nUpgrade: {}\r\n\r\n",
            client.token(),
            api::limits::CONSOLE_PROTOCOL
        );
        stream
            .write_all(request.as_bytes())
            .map_err(|why| client.unreachable(why))?;
        let early = handover(client, &mut stream)?;
        Ok(Self {
            stream,
            early,
            timeout: None,
        })
    }

    /// Sets how long [`Self::read`] waits; `None` means for ever.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// Reads output. Returns `Ok(0)` when the console is over (as was asked for, or the
    /// appliance is gone), and an error of kind `TimedOut` when nothing came in time.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.early.is_empty() {
            let bytes = self.early.len().min(buf.len());
            for (to, from) in buf.iter_mut().zip(self.early.drain(..bytes)) {
                *to = from;
            }
            return Ok(bytes);
        }
        self.stream.set_read_timeout(self.timeout)?;
        match self.stream.read(buf) {
            // What a timeout is called differs between systems.
            Err(why) if why.kind() == ErrorKind::WouldBlock => {
                Err(io::Error::from(ErrorKind::TimedOut))
            }
            other => other,
        }
    }

    /// Types all of `input`. Blocks while the guest does not take it.
    pub fn write_all(&mut self, input: &[u8]) -> io::Result<()> {
        self.stream.write_all(input)
    }

    /// Returns a writer for another thread.
    pub fn writer(&self) -> io::Result<ConsoleWriter> {
        self.stream.try_clone().map(ConsoleWriter)
    }
}

impl ConsoleWriter {
    /// Types all of `input`. Blocks while the guest does not take it.
    pub fn write_all(&mut self, input: &[u8]) -> io::Result<()> {
        self.0.write_all(input)
    }

    /// Detaches: the [`Console`]'s reads end.
    pub fn detach(&mut self) -> io::Result<()> {
        self.0.shutdown(std::net::Shutdown::Both)
    }
}

fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::from(ErrorKind::NotFound);
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, HANDOVER) {
            Ok(stream) => return Ok(stream),
            Err(why) => last = why,
        }
    }
    Err(last)
}

/// Reads the head of the answer; returns the bytes after it, which are the console's.
fn handover(client: &Client, stream: &mut TcpStream) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut piece = [0u8; 4096];
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut fields);
        let parsed = response
            .parse(&bytes)
            .map_err(|why| Error::Protocol(why.to_string()))?;
        if let httparse::Status::Complete(end) = parsed {
            let rest = bytes.get(end..).unwrap_or_default().to_vec();
            return match response.code {
                Some(101) => Ok(rest),
                status => Err(refused(status.unwrap_or(0), rest, stream)),
            };
        }
        let read = stream
            .read(&mut piece)
            .map_err(|why| client.unreachable(why))?;
        if read == 0 || bytes.len() > HEAD_MAX {
            return Err(Error::Protocol("the console's answer has no end".into()));
        }
        bytes.extend_from_slice(piece.get(..read).unwrap_or_default());
    }
}

/// Reads a refusal to its end: the appliance closes the connection after one.
fn refused(status: u16, mut body: Vec<u8>, stream: &mut TcpStream) -> Error {
    let limit = u64::try_from(api::limits::JSON_MAX).unwrap_or(u64::MAX);
    // What was read before an error may still hold the whole explanation.
    let _ = stream.take(limit).read_to_end(&mut body);
    refusal(status, &body)
}
