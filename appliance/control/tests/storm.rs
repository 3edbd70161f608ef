//! Damaged requests by the thousand, before and after authentication: the server neither
//! falls nor grows. `SKETE_STORM=1000000` makes it a million (RELIABILITY P1).
#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test that is wrong may panic"
)]

use control::fake::FakeBackend;
use control::{Config, Connection, Server, auth};

/// Marsaglia's xorshift64: the same storm every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0)
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() % end.max(1)
    }
}

const SEEDS: [&str; 12] = [
    "GET /v1 HTTP/1.1\r\nHost: a\r\nA\r\n\r\n",
    "GET /v1/vms HTTP/1.1\r\nHost: a\r\nA\r\nConnection: close\r\n\r\n",
    "PUT /v1/images/a HTTP/1.1\r\nHost: a\r\nA\r\nContent-Length: 15\r\n\r\n{\"kind\":\"flat\"}",
    "PUT /v1/images/a/data HTTP/1.1\r\nHost: a\r\nA\r\nContent-Length: 10\r\n\r\n0123456789",
    "PATCH /v1/images/a/data HTTP/1.1\r\nHost: a\r\nA\r\nUpload-Offset: 4\r\nContent-Length: 6\r\n\r\n456789",
    "PUT /v1/images/b HTTP/1.1\r\nHost: a\r\nA\r\nTransfer-Encoding: chunked\r\n\r\n\
     8\r\n{\"kind\":\r\n7;x=y\r\n\"flat\"}\r\n0\r\nT: u\r\n\r\n",
    "PUT /v1/vms/a HTTP/1.1\r\nHost: a\r\nA\r\nContent-Length: 48\r\n\r\n\
     {\"memory_bytes\":16777216,\"boot\":{\"flat\":\"a\"}}   ",
    "POST /v1/vms/a/actions HTTP/1.1\r\nHost: a\r\nA\r\nIdempotency-Key: k\r\nContent-Length: 18\r\n\r\n\
     {\"action\":\"start\"}",
    "POST /v1/vms/a/console/input HTTP/1.1\r\nHost: a\r\nA\r\nContent-Length: 3\r\n\r\nls\n",
    "GET /v1/vms/a/console HTTP/1.1\r\nHost: a\r\nA\r\nConnection: Upgrade\r\nUpgrade: skete-console\r\n\r\nhello",
    "GET /v1/events?since=0 HTTP/1.1\r\nHost: a\r\nA\r\n\r\n",
    "DELETE /v1/vms/a?force=true HTTP/1.1\r\nHost: a\r\nA\r\nPrefer: wait=0\r\n\r\n",
];

/// What is put where it does not belong.
const JUNK: [&str; 14] = [
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    ":",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Host: b\r\n",
    "{",
    "[[[[[[[[",
    "\u{fffd}",
    "%2e%2e/",
    "99999999999999999999",
];

/// Damages a request a few times; one in eight stays as it is.
fn damage(request: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..random.below(8) {
        let at = random.below(request.len());
        match random.below(6) {
            0 => request.truncate(at),
            1 if !request.is_empty() => request[at] ^= 1 << random.below(8),
            2 if !request.is_empty() => {
                request.remove(at);
            }
            3 => {
                let junk = JUNK[random.below(JUNK.len())].bytes();
                request.splice(at..at, junk);
            }
            4 => {
                let end = at + random.below(request.len() - at + 1);
                let copy = request[at..end].to_vec();
                request.splice(at..at, copy);
            }
            _ => {
                let long = vec![b'x'; random.below(12_000)];
                request.splice(at..at, long);
            }
        }
    }
}

/// Bytes of memory this process has in RAM.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

#[test]
fn a_storm_of_damaged_requests_leaves_the_server_as_it_was() {
    let count: usize = std::env::var("SKETE_STORM")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(5_000);
    let token = "the-right-token";
    let mut server = Server::new(Config {
        token_sha256: auth::token_digest(token),
        seed: [3; 32],
        drills: true,
    });
    let mut backend = FakeBackend::default();
    let mut random = Random(0x5eed);
    let (mut early, mut answers) = (0, [0usize; 6]);
    for n in 0..count {
        if n == count / 4 {
            early = resident_bytes();
        }
        let authorization = match random.below(4) {
            0 => "Authorization: Bearer the-wrong-token".to_owned(),
            _ => format!("Authorization: Bearer {token}"),
        };
        let seed = SEEDS[random.below(SEEDS.len())];
        let mut request = seed
            .replacen("\r\nA\r\n", &format!("\r\n{authorization}\r\n"), 1)
            .into_bytes();
        damage(&mut request, &mut random);
        let mut connection = Connection::new(&server, &backend);
        let mut rest = &request[..];
        for _ in 0..64 {
            let piece = &rest[..rest.len().min(1 + random.below(4_000))];
            let taken = connection.feed(&mut server, &mut backend, piece);
            rest = &rest[taken..];
            let output = connection.output();
            if let Some(class) = output.strip_prefix(b"HTTP/1.1 ").and_then(|o| o.first()) {
                answers[usize::from(class - b'0').min(5)] += 1;
            }
            let failed = output.starts_with(b"HTTP/1.1 500 ");
            assert!(!failed, "{}", String::from_utf8_lossy(&request));
            let sent = output.len();
            assert!(sent < 200_000, "an answer of {sent} bytes");
            connection.sent(&backend, sent);
            backend.advance(50_000_000);
            server.poll(&mut backend);
            connection.poll(&mut server, &mut backend);
            if connection.is_closed() || rest.is_empty() {
                break;
            }
        }
        connection.eof(&backend);
    }
    let grown = resident_bytes().saturating_sub(early);
    assert!(
        grown < 4 << 20,
        "{grown} bytes more than after a quarter of the storm"
    );
    assert!(answers[2] > count / 50, "some got through: {answers:?}");
    assert!(answers[4] > count / 5, "most did not: {answers:?}");
    assert_eq!(answers[0], 0);
    let mut connection = Connection::new(&server, &backend);
    let request = format!("GET /v1 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
    connection.feed(&mut server, &mut backend, request.as_bytes());
    assert!(connection.output().starts_with(b"HTTP/1.1 200 "));
    println!("{count} requests; answers by class: {answers:?}; grown by {grown} bytes");
}
