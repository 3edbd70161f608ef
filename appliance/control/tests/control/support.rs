//! A client made of values: it feeds requests to a connection and reads what comes back.

use control::fake::FakeBackend;
use control::{Config, Connection, Server, auth};

pub(crate) const TOKEN: &str = "skete_test";
pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MS;

/// A server over a fake machine.
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) backend: FakeBackend,
}

/// A response, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("the body is UTF-8")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or(serde_json::Value::Null)
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let config = Config {
            token_sha256: auth::token_digest(TOKEN),
            seed: [7; 32],
            drills: true,
        };
        Self {
            server: Server::new(config),
            backend: FakeBackend::default(),
        }
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::new(&self.server, &self.backend)
    }

    /// Feeds bytes in pieces of at most `piece` and takes all output, until the
    /// connection takes no more. Returns the output and how much input was taken.
    pub(crate) fn exchange(
        &mut self,
        connection: &mut Connection,
        input: &[u8],
        piece: usize,
    ) -> (Vec<u8>, usize) {
        let mut output = Vec::new();
        let (mut taken, mut offered) = (0usize, 0usize);
        loop {
            offered = offered.saturating_add(piece).min(input.len());
            let bytes =
                connection.feed(&mut self.server, &mut self.backend, &input[taken..offered]);
            taken += bytes;
            let sent = self.drain(connection, &mut output);
            if bytes == 0 && !sent && offered == input.len() {
                return (output, taken);
            }
        }
    }

    pub(crate) fn drain(&mut self, connection: &mut Connection, output: &mut Vec<u8>) -> bool {
        let pending = connection.output().to_vec();
        output.extend_from_slice(&pending);
        connection.sent(&self.backend, pending.len());
        !pending.is_empty()
    }

    /// Lets time pass in steps of a millisecond while everything is polled.
    pub(crate) fn run(&mut self, connection: &mut Connection, ns: u64, output: &mut Vec<u8>) {
        for _ in 0..ns / MS {
            self.backend.advance(MS);
            self.server.poll(&mut self.backend);
            connection.poll(&mut self.server, &mut self.backend);
            self.drain(connection, output);
        }
    }

    pub(crate) fn idle(&mut self, ns: u64) {
        for _ in 0..ns / MS {
            self.backend.advance(MS);
            self.server.poll(&mut self.backend);
        }
    }

    /// Sends one request on a connection of its own and waits up to 61 s for the answer.
    pub(crate) fn send(&mut self, request: &[u8]) -> Response {
        let mut connection = self.connect();
        let (mut output, _) = self.exchange(&mut connection, request, usize::MAX);
        for _ in 0..61_000 {
            if !output.is_empty() {
                break;
            }
            self.run(&mut connection, MS, &mut output);
        }
        let (response, rest) = split(&output, request.starts_with(b"HEAD"))
            .unwrap_or_else(|| panic!("no response: {}", String::from_utf8_lossy(&output)));
        assert!(rest.is_empty(), "more than one response");
        response
    }

    /// Makes a request with the right token.
    pub(crate) fn ask(&mut self, method: &str, path: &str, more: &str, body: &str) -> Response {
        self.send(&request(method, path, more, body.as_bytes()))
    }

    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.ask("GET", path, "", "")
    }

    pub(crate) fn put(&mut self, path: &str, body: &str) -> Response {
        self.ask("PUT", path, "", body)
    }

    pub(crate) fn post(&mut self, path: &str, body: &str) -> Response {
        self.ask("POST", path, "", body)
    }

    pub(crate) fn delete(&mut self, path: &str) -> Response {
        self.ask("DELETE", path, "", "")
    }

    /// Defines and uploads an image.
    pub(crate) fn image(&mut self, name: &str, kind: &str, data: &[u8]) {
        let spec = format!(r#"{{"kind":"{kind}"}}"#);
        assert_eq!(self.put(&format!("/v1/images/{name}"), &spec).status, 201);
        let upload = request("PUT", &format!("/v1/images/{name}/data"), "", data);
        let response = self.send(&upload);
        assert_eq!(response.status, 200, "{}", response.text());
    }

    /// Defines a VM that boots a flat image, which it defines too if need be.
    pub(crate) fn vm(&mut self, name: &str) {
        if self.get("/v1/images/flat").status == 404 {
            self.image("flat", "flat", b"any bytes will do");
        }
        let response = self.put(&format!("/v1/vms/{name}"), SPEC);
        assert_eq!(response.status, 201, "{}", response.text());
    }

    pub(crate) fn action(&mut self, name: &str, action: &str) -> Response {
        self.post(
            &format!("/v1/vms/{name}/actions"),
            &format!(r#"{{"action":"{action}"}}"#),
        )
    }

    pub(crate) fn state(&mut self, name: &str) -> String {
        let vm = self.get(&format!("/v1/vms/{name}")).json();
        vm["status"]["state"].as_str().unwrap_or("none").to_owned()
    }
}

/// A VM that boots image `flat`.
pub(crate) const SPEC: &str = r#"{"cpus":2,"memory_bytes":67108864,"boot":{"flat":"flat"}}"#;

/// Writes a request with the right token.
pub(crate) fn request(method: &str, path: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: skete\r\nAuthorization: Bearer {TOKEN}\r\n{more}"
    );
    if !body.is_empty() {
        request += &format!("Content-Length: {}\r\n", body.len());
    }
    request += "\r\n";
    let mut bytes = request.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Takes the first response off `bytes`.
pub(crate) fn split(bytes: &[u8], to_head: bool) -> Option<(Response, &[u8])> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let status = head.get(9..12)?.parse().ok()?;
    let mut response = Response {
        status,
        head,
        body: Vec::new(),
    };
    if status == 100 {
        return split(&bytes[end..], to_head);
    }
    let length: usize = match response.header("Content-Length") {
        _ if to_head => 0,
        Some(length) => length.parse().ok()?,
        None if status == 204 => 0,
        None => bytes.len() - end,
    };
    response.body = bytes.get(end..end + length)?.to_vec();
    Some((response, &bytes[end + length..]))
}
