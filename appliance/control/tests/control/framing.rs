//! HTTP, strictly: one reading of every message, or a refusal, however the bytes arrive.

use proptest::prelude::*;

use super::support::{MS, SECOND, TOKEN, World, request, split};

/// Sends bytes as they are; returns the status of the first answer, 0 if there is none.
fn status(bytes: &[u8]) -> u16 {
    let mut world = World::new();
    let mut connection = world.connect();
    let (output, _) = world.exchange(&mut connection, bytes, usize::MAX);
    split(&output, false).map_or(0, |(response, _)| response.status)
}

fn with_head(head: &str) -> Vec<u8> {
    head.replace('\n', "\r\n").into_bytes()
}

#[test]
fn whatever_two_readers_might_read_differently_is_refused() {
    let authorized = format!("Host: a\nAuthorization: Bearer {TOKEN}\n");
    for (why, head, expected) in [
        (
            "both lengths",
            "Content-Length: 2\nTransfer-Encoding: chunked\n\n{}",
            400,
        ),
        (
            "two lengths",
            "Content-Length: 2\nContent-Length: 2\n\n{}",
            400,
        ),
        ("a list of lengths", "Content-Length: 2, 2\n\n{}", 400),
        ("a signed length", "Content-Length: +2\n\n{}", 400),
        (
            "a length with a space inside",
            "Content-Length: 2 2\n\n{}",
            400,
        ),
        (
            "a huge length",
            "Content-Length: 99999999999999999999\n\n{}",
            400,
        ),
        ("an empty length", "Content-Length:\n\n{}", 400),
        (
            "another coding",
            "Transfer-Encoding: gzip, chunked\n\n",
            400,
        ),
        (
            "chunked twice",
            "Transfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n",
            400,
        ),
        ("a folded field", "X-A: b\n c\n\n", 400),
        ("a second Host", "Host: b\n\n", 400),
        ("a space before the colon", "X-A : b\n\n", 400),
        ("a field without a colon", "nonsense\n\n", 400),
        (
            "an expectation",
            "Expect: a-miracle\nContent-Length: 2\n\n{}",
            417,
        ),
    ] {
        let bytes = with_head(&format!("PUT /v1/images/a HTTP/1.1\n{authorized}{head}"));
        assert_eq!(status(&bytes), expected, "{why}");
    }
}

#[test]
fn request_lines_are_checked() {
    for (line, expected) in [
        ("GET /healthz HTTP/1.1", 200),
        ("GET http://skete/healthz HTTP/1.1", 200),
        ("GET http://skete:8080/healthz?a=b HTTP/1.1", 200),
        ("GET /healthz HTTP/2.0", 505),
        ("GET /healthz HTTP/1.2", 505),
        ("GET  /healthz HTTP/1.1", 400),
        ("GET healthz HTTP/1.1", 400),
        ("GET /healthz", 400),
        ("BREW /healthz HTTP/1.1", 501),
        ("get /healthz HTTP/1.1", 501),
        ("POST /healthz HTTP/1.1", 405),
        ("\0", 400),
    ] {
        let bytes = with_head(&format!("{line}\nHost: a\n\n"));
        assert_eq!(status(&bytes), expected, "{line}");
    }
}

#[test]
fn line_ends_are_crlf_and_nothing_else() {
    assert_eq!(status(b"GET /healthz HTTP/1.1\nHost: a\n\n"), 400);
    assert_eq!(status(b"GET /healthz HTTP/1.1\r\nHost: a\n\r\n"), 400);
    assert_eq!(status(b"GET /healthz HTTP/1.1\rHost: a\r\n\r\n"), 400);
    assert_eq!(
        status(b"\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"),
        200
    );
    assert_eq!(status(b"\rGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
}

#[test]
fn a_host_is_required_of_http_1_1_only() {
    assert_eq!(status(b"GET /healthz HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(status(b"GET /healthz HTTP/1.0\r\n\r\n"), 200);
}

#[test]
fn heads_are_bounded() {
    let start = "GET /healthz HTTP/1.1\r\nHost: a\r\n";
    let fields = |n: usize| "X: y\r\n".repeat(n);
    assert_eq!(status(format!("{start}{}\r\n", fields(63)).as_bytes()), 200);
    assert_eq!(status(format!("{start}{}\r\n", fields(64)).as_bytes()), 431);
    let long = |n: usize| format!("{start}X: {}\r\n\r\n", "y".repeat(n));
    let rest = long(0).len();
    assert_eq!(status(long(8192 - rest).as_bytes()), 200);
    assert_eq!(status(long(8193 - rest).as_bytes()), 431);
    let path = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(n));
    assert_eq!(status(path(4096 - 14).as_bytes()), 401);
    assert_eq!(status(path(4097 - 14).as_bytes()), 414);
    // Nothing is kept of what never ends.
    assert_eq!(status("\r\n".repeat(5000).as_bytes()), 400);
}

#[test]
fn chunked_bodies_are_read() {
    let mut world = World::new();
    let body = "6;name=\"v\"\r\n{\"kind\r\n8\r\n\":\"flat\"\r\n1\r\n}\r\n0\r\nTrailer: x\r\n\r\n";
    let head = format!(
        "PUT /v1/images/a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    let response = world.send(format!("{head}{body}").as_bytes());
    assert_eq!(response.status, 201, "{}", response.text());
    for bad in [
        "x\r\n",
        "\r\n",
        "-1\r\n",
        "0x2\r\n",
        "2\n{}",
        "2\r\n{}}\r\n0\r\n\r\n",
        "2\r\n{}\n",
        "ffffffffffffffff\r\n",
        "0\r\nbad\n\r\n",
        &format!("1;{}\r\n", "x".repeat(300)),
        &format!(
            "0\r\n{}",
            "trailer: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n".repeat(200)
        ),
    ] {
        assert_eq!(status(format!("{head}{bad}").as_bytes()), 400, "{bad:?}");
    }
}

#[test]
fn bodies_are_bounded_before_they_are_sent() {
    let mut world = World::new();
    let head = |length: u64| {
        format!(
            "PUT /v1/images/a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n\
             Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let response =
        world.send(b"PUT /v1/images/a HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n");
    assert_eq!(
        response.status, 401,
        "without a token, not even the length is looked at"
    );
    let response = world.send(head((1 << 20) + 1).as_bytes());
    assert_eq!(response.status, 413);
    let mut connection = world.connect();
    let (output, _) = world.exchange(&mut connection, head(17).as_bytes(), usize::MAX);
    assert_eq!(output, b"HTTP/1.1 100 Continue\r\n\r\n");
    let (output, _) = world.exchange(&mut connection, b"{\"kind\":\"initrd\"}", 3);
    assert!(output.starts_with(b"HTTP/1.1 201 "));
}

#[test]
fn a_refusal_ends_the_connection_and_says_so() {
    let mut world = World::new();
    let mut connection = world.connect();
    let (output, _) = world.exchange(&mut connection, &request("GET", "/v1/no", "", b""), 999);
    let (response, _) = split(&output, false).expect("an answer");
    assert_eq!(response.status, 404);
    assert_eq!(response.header("Connection"), Some("close"));
    assert!(connection.wants_fin() && !connection.is_closed());
    // What the client had sent already is dropped, and is not a request.
    let (output, taken) = world.exchange(&mut connection, &request("GET", "/v1", "", b""), 999);
    assert!(output.is_empty() && taken > 0);
    world.run(&mut connection, 2 * SECOND, &mut Vec::new());
    assert!(connection.is_closed());
}

#[test]
fn a_head_that_trickles_is_cut_after_ten_seconds() {
    let mut world = World::new();
    let mut connection = world.connect();
    let mut output = Vec::new();
    for _ in 0..11 {
        world.exchange(&mut connection, b"G", 1);
        assert!(output.is_empty());
        world.run(&mut connection, SECOND - MS, &mut output);
        if !output.is_empty() {
            break;
        }
    }
    assert!(output.starts_with(b"HTTP/1.1 408 "));
    assert!(world.backend.now_ns >= 10 * SECOND && world.backend.now_ns <= 12 * SECOND);
}

#[test]
fn idle_connections_are_closed() {
    let mut world = World::new();
    let mut silent = world.connect();
    let mut used = world.connect();
    world.exchange(&mut used, &request("GET", "/v1", "", b""), 999);
    let mut output = Vec::new();
    world.run(&mut silent, 11 * SECOND, &mut output);
    assert!(silent.is_closed() && output.is_empty());
    assert!(used.deadline_ns() > world.backend.now_ns + 30 * SECOND);
    world.run(&mut used, 61 * SECOND, &mut output);
    assert!(used.is_closed() && output.is_empty());
}

#[test]
fn one_connection_too_many_is_told_so() {
    let mut world = World::new();
    let mut all: Vec<_> = (0..32).map(|_| world.connect()).collect();
    let mut over = world.connect();
    assert!(over.output().starts_with(b"HTTP/1.1 503 "));
    let mut output = Vec::new();
    world.drain(&mut over, &mut output);
    assert!(over.wants_fin());
    all.pop();
    let mut next = world.connect();
    let (output, _) = world.exchange(&mut next, &request("GET", "/v1", "", b""), 999);
    assert!(output.starts_with(b"HTTP/1.1 200 "));
}

#[test]
fn bodies_in_memory_are_bounded_over_all_connections() {
    let mut world = World::new();
    let head = format!(
        "PUT /v1/images/a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Length: 1048576\r\n\r\n"
    );
    let body = vec![b' '; 1_000_000];
    let mut connections = Vec::new();
    let mut answers = Vec::new();
    for _ in 0..4 {
        let mut connection = world.connect();
        world.exchange(&mut connection, head.as_bytes(), 9999);
        answers.push(world.exchange(&mut connection, &body, 65536).0);
        connections.push(connection);
    }
    assert!(answers[0].is_empty() && answers[1].is_empty());
    assert!(answers[2].starts_with(b"HTTP/1.1 503 "));
    drop(connections);
    world.image("a", "flat", b"and then there is room again");
}

/// What a busy client might send on one connection, good and bad.
fn conversation() -> impl Strategy<Value = Vec<u8>> {
    let good = prop_oneof![
        Just(request("GET", "/v1", "", b"")),
        Just(request("HEAD", "/v1/vms", "", b"")),
        Just(request("OPTIONS", "/v1/vms/a", "", b"")),
        Just(request("PUT", "/v1/images/a", "", br#"{"kind":"flat"}"#)),
        Just(request("PUT", "/v1/images/a/data", "", b"0123456789")),
        Just(request(
            "PUT",
            "/v1/images/a/data",
            "Expect: 100-continue\r\n",
            b"01234"
        )),
        Just(request(
            "PUT",
            "/v1/vms/a",
            "",
            super::support::SPEC.as_bytes()
        )),
        Just(request(
            "POST",
            "/v1/vms/a/actions",
            "",
            br#"{"action":"stop"}"#
        )),
        Just(
            [
                &request("PUT", "/v1/images/b", "Transfer-Encoding: chunked\r\n", b"")[..],
                b"f\r\n{\"kind\":\"flat\"}\r\n0\r\n\r\n",
            ]
            .concat()
        ),
    ];
    let bad = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..40),
        Just(b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
    ];
    let messages = prop::collection::vec(prop_oneof![6 => good, 1 => bad], 1..8);
    messages.prop_map(|messages| messages.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// The answers are the same whether bytes come at once, one by one, or in pieces.
    #[test]
    fn how_bytes_are_cut_makes_no_difference(bytes in conversation(), piece in 2usize..200) {
        let run = |piece: usize| {
            let mut world = World::new();
            let mut connection = world.connect();
            world.exchange(&mut connection, &bytes, piece).0
        };
        let whole = run(usize::MAX);
        prop_assert_eq!(&run(1), &whole);
        prop_assert_eq!(&run(piece), &whole);
    }

    /// Any bytes at all, with and without a good head before them, leave the server whole.
    #[test]
    fn no_bytes_break_the_server(bytes in prop::collection::vec(any::<u8>(), 0..400), good in any::<bool>()) {
        let mut world = World::new();
        let mut connection = world.connect();
        if good {
            world.exchange(&mut connection, &request("GET", "/v1", "", b""), 64);
        }
        world.exchange(&mut connection, &bytes, 7);
        let mut output = Vec::new();
        connection.eof(&world.backend);
        world.run(&mut connection, 3 * SECOND, &mut output);
        prop_assert!(connection.is_closed());
        prop_assert_eq!(world.get("/v1").status, 200);
    }

    /// Heads made of the right pieces in wrong ways: no panic, and an answer or silence.
    #[test]
    fn almost_requests_are_answered_or_awaited(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "GET ", "PUT ", "POST ", "/v1", "/v1/images/a/data", "/v1/vms/a/actions", " HTTP/1.1",
            "\r\n", "\r\n\r\n", "Host: a\r\n", "Content-Length: 5\r\n", "Content-Length: 0\r\n",
            "Transfer-Encoding: chunked\r\n", "Expect: 100-continue\r\n", "Connection: close\r\n",
            "Authorization: Bearer skete_test\r\n", "5\r\nhello\r\n", "0\r\n\r\n", "\n", " ", ":",
            "{\"action\":\"start\"}", "Upload-Offset: 3\r\n", "Repr-Digest: sha-256=:AA==:\r\n",
        ]), 0..24)
    ) {
        let mut world = World::new();
        let mut connection = world.connect();
        let (output, _) = world.exchange(&mut connection, pieces.concat().as_bytes(), 5);
        prop_assert!(output.is_empty() || output.starts_with(b"HTTP/1.1 "));
        prop_assert_eq!(world.get("/healthz").status, 200);
    }
}
