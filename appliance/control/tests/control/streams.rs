//! Consoles, logs and events: streams that never end, for readers that may be slow.

use control::Connection;
use control::backend::RunState;

use super::support::{MS, Response, SECOND, World, request};

fn world() -> World {
    let mut world = World::new();
    world.vm("a");
    world.action("a", "start");
    world
}

/// Takes the head of a stream and its chunks apart; returns what they carry and whether
/// the last one has come.
fn dechunk(bytes: &[u8]) -> (Vec<u8>, bool) {
    let end = bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .expect("a head")
        + 4;
    let (mut rest, mut data) = (&bytes[end..], Vec::new());
    while !rest.is_empty() {
        let line = rest.windows(2).position(|w| w == b"\r\n").expect("a size");
        let size = std::str::from_utf8(&rest[..line]).expect("text");
        let size = usize::from_str_radix(size, 16).expect("a number");
        if size == 0 {
            assert_eq!(&rest[line..], b"\r\n\r\n");
            return (data, true);
        }
        data.extend_from_slice(&rest[line + 2..line + 2 + size]);
        assert_eq!(&rest[line + 2 + size..line + 4 + size], b"\r\n");
        rest = &rest[line + 4 + size..];
    }
    (data, false)
}

/// Opens a stream; returns it with what came at once.
fn open(world: &mut World, path: &str, more: &str) -> (Connection, Vec<u8>) {
    let mut connection = world.connect();
    let (output, _) = world.exchange(&mut connection, &request("GET", path, more, b""), 999);
    (connection, output)
}

const UPGRADE: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: skete-console\r\n";

fn attach(world: &mut World) -> (Connection, Vec<u8>) {
    let (connection, output) = open(world, "/v1/vms/a/console", UPGRADE);
    assert!(
        output.starts_with(b"HTTP/1.1 101 "),
        "{}",
        String::from_utf8_lossy(&output)
    );
    let end = output
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .expect("a head")
        + 4;
    (connection, output[end..].to_vec())
}

#[test]
fn a_console_shows_what_was_said_before_and_carries_bytes_both_ways() {
    let mut world = world();
    world.backend.print("a", b"boot\n");
    world.idle(MS);
    let (mut console, before) = attach(&mut world);
    assert_eq!(before, b"boot\n");
    world.exchange(&mut console, b"ls\xff\x00\r\n", 2);
    assert_eq!(
        world.backend.run("a").expect("a run").typed,
        b"ls\xff\x00\r\n"
    );
    let mut output = Vec::new();
    world.run(&mut console, 2 * MS, &mut output);
    assert_eq!(
        output, b"ls\xff\x00\r\n",
        "it echoes, and nothing is changed on the way"
    );
}

#[test]
fn a_console_outlives_its_guest_and_ends_with_its_vm() {
    let mut world = world();
    let (mut console, _) = attach(&mut world);
    world.backend.print("a", b"bye");
    world.backend.set_state("a", RunState::Off);
    let mut output = Vec::new();
    world.run(&mut console, 5 * MS, &mut output);
    assert_eq!(output, b"bye");
    let (_, taken) = world.exchange(&mut console, b"anybody?", 3);
    assert_eq!(
        taken, 8,
        "what is typed at a machine that is off goes nowhere"
    );
    world.action("a", "start");
    world.backend.print("a", b"hello again");
    world.run(&mut console, 5 * MS, &mut output);
    assert_eq!(output, b"byehello again");
    world.delete("/v1/vms/a?force=true");
    world.run(&mut console, 5 * MS, &mut output);
    assert!(console.wants_fin());
}

#[test]
fn a_console_may_end_with_its_guest_once_its_last_words_are_sent() {
    for (path, how) in [
        ("console?until=stopped", UPGRADE),
        ("console/log?follow=true&until=stopped", ""),
    ] {
        let mut world = world();
        world.action("a", "stop");
        // Attached before the VM runs, it waits for that.
        let (mut stream, mut output) = open(&mut world, &format!("/v1/vms/a/{path}"), how);
        world.run(&mut stream, 5 * MS, &mut output);
        assert!(!stream.wants_fin(), "{path}");
        world.action("a", "start");
        // A guest that restarts itself has not stopped.
        world.backend.set_state("a", RunState::Reset);
        world.run(&mut stream, 2 * SECOND, &mut output);
        assert!(!stream.wants_fin(), "{path}");
        let words = "last words ".repeat(3000);
        world.backend.print("a", words.as_bytes());
        world.backend.set_state("a", RunState::Off);
        world.run(&mut stream, 20 * MS, &mut output);
        assert!(stream.wants_fin(), "{path}");
        let said = String::from_utf8_lossy(&output).into_owned();
        let heard = said.matches("last words").count();
        assert!(heard >= 2990, "{path}: {heard}");
        let wrong = world.ask(
            "GET",
            "/v1/vms/a/console/log?follow=true&until=noon",
            "",
            "",
        );
        assert_eq!(wrong.code(), "bad_query");
    }
}

#[test]
fn a_guest_that_does_not_read_makes_the_typist_wait() {
    let mut world = world();
    let (mut console, _) = attach(&mut world);
    world.backend.echo = false;
    world.backend.input_max = 4;
    let (_, taken) = world.exchange(&mut console, b"0123456789", 99);
    assert_eq!(taken, 4);
    world.backend.input_max = 7;
    let (_, taken) = world.exchange(&mut console, b"456789", 99);
    assert_eq!(taken, 3);
    world.backend.input_max = 1_000;
    let post = request("POST", "/v1/vms/a/console/input", "", b"abcdef");
    let answer = world.send(&post);
    assert_eq!(answer.status, 204);
    assert_eq!(
        world.backend.run("a").expect("a run").typed,
        b"0123456abcdef"
    );
}

#[test]
fn a_console_needs_the_upgrade() {
    let mut world = world();
    for more in [
        "",
        "Upgrade: skete-console\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\n",
    ] {
        let answer = world.ask("GET", "/v1/vms/a/console", more, "");
        assert_eq!(answer.status, 426, "{more}");
        assert!(
            answer
                .header("Upgrade")
                .is_some_and(|upgrade| upgrade.contains("skete-console"))
        );
    }
}

#[test]
fn the_log_is_the_last_64_kib() {
    let mut world = world();
    let text: Vec<u8> = (0..100_000u32).map(|n| b'a' + (n % 23) as u8).collect();
    for piece in text.chunks(5_000) {
        world.backend.print("a", piece);
        world.idle(MS);
    }
    let log = world.get("/v1/vms/a/console/log");
    assert_eq!(log.body, &text[100_000 - 65_536..]);
    assert_eq!(log.header("Console-Start"), Some("34464"));
    assert_eq!(log.header("Console-End"), Some("100000"));
    let tail = world.get("/v1/vms/a/console/log?from=99990");
    assert_eq!(tail.body, &text[99_990..]);
    assert_eq!(world.get("/v1/vms/a/console/log?from=0").body.len(), 65_536);
    assert!(
        world
            .get("/v1/vms/a/console/log?from=100001")
            .body
            .is_empty()
    );
    assert_eq!(
        world.get("/v1/vms/a/console/log?from=x").code(),
        "bad_query"
    );
    world.action("a", "stop");
    assert_eq!(
        world.get("/v1/vms/a/console/log").body.len(),
        65_536,
        "it outlives the run"
    );
}

#[test]
fn a_followed_log_goes_on_and_ends_with_the_vm() {
    let mut world = world();
    world.backend.print("a", b"one ");
    world.idle(MS);
    let (mut log, mut output) = open(&mut world, "/v1/vms/a/console/log?follow=true", "");
    world.backend.print("a", b"two");
    world.run(&mut log, 2 * MS, &mut output);
    assert_eq!(dechunk(&output), (b"one two".to_vec(), false));
    world.run(&mut log, 3_600 * SECOND / 1_000, &mut output);
    world.delete("/v1/vms/a?force=true");
    world.run(&mut log, 2 * MS, &mut output);
    assert_eq!(dechunk(&output), (b"one two".to_vec(), true));
    assert!(log.wants_fin());
}

#[test]
fn http_1_0_gets_a_stream_without_chunks() {
    let mut world = world();
    world.backend.print("a", b"text");
    world.idle(MS);
    let mut connection = world.connect();
    let request = b"GET /v1/vms/a/console/log?follow=1 HTTP/1.0\r\n\
                    Authorization: Bearer skete_test\r\n\r\n";
    let (output, _) = world.exchange(&mut connection, request, 999);
    let text = String::from_utf8(output).expect("text");
    assert!(
        !text.contains("chunked") && text.ends_with("\r\n\r\ntext"),
        "{text}"
    );
}

#[test]
fn events_are_numbered_and_resumed() {
    let mut world = World::new();
    let (mut stream, mut output) = open(&mut world, "/v1/events", "");
    world.vm("a");
    world.action("a", "start");
    world.run(&mut stream, 2 * MS, &mut output);
    let (text, over) = dechunk(&output);
    let text = String::from_utf8(text).expect("text");
    let ids: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .collect();
    assert_eq!((ids, over), (vec!["1", "2", "3", "4"], false));
    assert!(
        text.contains("event: lifecycle\ndata: {\"seq\":4,"),
        "{text}"
    );
    assert!(
        text.contains("\"action\":\"vm.started\",\"resource\":\"/v1/vms/a\"}\n\n"),
        "{text}"
    );
    let resumed = |world: &mut World, path: &str, more: &str| {
        let (_, output) = open(world, path, more);
        let (text, over) = dechunk(&output);
        (
            String::from_utf8(text)
                .expect("text")
                .matches("id: ")
                .count(),
            over,
        )
    };
    assert_eq!(
        resumed(&mut world, "/v1/events", "Last-Event-ID: 1\r\n"),
        (3, false)
    );
    assert_eq!(resumed(&mut world, "/v1/events?since=3", ""), (1, false));
    assert_eq!(
        resumed(&mut world, "/v1/events?since=0&follow=false", ""),
        (4, true)
    );
    assert_eq!(
        resumed(&mut world, "/v1/events?since=99&follow=false", ""),
        (0, true)
    );
    assert_eq!(resumed(&mut world, "/v1/events", ""), (0, false));
    assert_eq!(world.get("/v1/events?since=x").code(), "bad_query");
}

#[test]
fn forgotten_events_are_said_to_be() {
    let mut world = World::new();
    for n in 0..150 {
        world.put(&format!("/v1/images/i{}", n % 60), r#"{"kind":"flat"}"#);
        world.delete(&format!("/v1/images/i{}", n % 60));
    }
    let (mut stream, mut output) = open(&mut world, "/v1/events?since=0&follow=false", "");
    world.run(&mut stream, 10 * MS, &mut output);
    let (text, over) = dechunk(&output);
    let text = String::from_utf8(text).expect("text");
    assert!(over && stream.wants_fin());
    assert!(
        text.contains(": 44 events forgotten\n\n"),
        "300 happened and 256 are kept"
    );
    assert_eq!(text.matches("id: ").count(), 256);
}

#[test]
fn a_quiet_event_stream_shows_that_it_lives() {
    let mut world = World::new();
    let (mut stream, mut output) = open(&mut world, "/v1/events", "");
    assert!(stream.deadline_ns() <= world.backend.now_ns + 15 * SECOND);
    world.run(&mut stream, 46 * SECOND, &mut output);
    let (text, _) = dechunk(&output);
    assert_eq!(text, b": alive\n\n: alive\n\n: alive\n\n");
}

/// Lets a stream's reader take nothing while the guest prints; returns the most bytes that
/// ever waited to be sent.
fn most_pending(world: &mut World, stream: &mut Connection) -> usize {
    let mut most = 0;
    for _ in 0..200 {
        world.backend.print("a", &[b'x'; 4_000]);
        world.backend.advance(MS);
        world.server.poll(&mut world.backend);
        stream.poll(&mut world.server, &mut world.backend);
        most = most.max(stream.output().len());
    }
    most
}

#[test]
fn a_reader_that_stops_costs_a_bounded_amount_of_memory() {
    let mut world = world();
    let (mut log, _) = open(&mut world, "/v1/vms/a/console/log?follow=true", "");
    let (mut console, _) = attach(&mut world);
    assert!(most_pending(&mut world, &mut log) < 40_000);
    assert!(most_pending(&mut world, &mut console) < 40_000);
    let mut slow = Vec::new();
    for _ in 0..2_000 {
        // A reader that is always behind, but never stops.
        world.backend.print("a", &[b'y'; 400]);
        world.backend.advance(MS);
        world.server.poll(&mut world.backend);
        console.poll(&mut world.server, &mut world.backend);
        let piece = console.output().get(..100).unwrap_or_default().to_vec();
        console.sent(&world.backend, piece.len());
        slow.extend(piece);
        assert!(console.output().len() < 40_000);
    }
    assert!(slow.len() >= 190_000);
}

#[test]
fn a_reader_that_takes_nothing_for_a_minute_is_cut_off() {
    let mut world = world();
    let (mut console, _) = attach(&mut world);
    world.backend.print("a", b"unread");
    for _ in 0..61 {
        world.backend.advance(SECOND);
        world.server.poll(&mut world.backend);
        console.poll(&mut world.server, &mut world.backend);
    }
    assert!(console.is_closed());
}

#[test]
fn a_console_that_is_quiet_is_not_cut_off() {
    let mut world = world();
    let (mut console, _) = attach(&mut world);
    let mut output = Vec::new();
    for _ in 0..7_200 {
        world.backend.advance(SECOND);
        world.server.poll(&mut world.backend);
        console.poll(&mut world.server, &mut world.backend);
        world.drain(&mut console, &mut output);
    }
    world.backend.print("a", b"still here");
    world.run(&mut console, 2 * MS, &mut output);
    assert_eq!(output, b"still here");
}

#[test]
fn streams_leave_room_for_requests() {
    let mut world = world();
    let streams: Vec<_> = (0..24)
        .map(|_| open(&mut world, "/v1/events", "").0)
        .collect();
    let refused = world.ask("GET", "/v1/vms/a/console", UPGRADE, "");
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (503, "too_many_streams")
    );
    assert_eq!(refused.header("Retry-After"), Some("1"));
    assert_eq!(world.get("/v1").status, 200);
    drop(streams);
    attach(&mut world);
}

#[test]
fn head_of_a_stream_is_only_its_head() {
    let mut world = world();
    for path in ["/v1/events", "/v1/vms/a/console/log?follow=true"] {
        let answer: Response = world.ask("HEAD", path, "", "");
        assert_eq!(answer.status, 200);
        assert!(answer.body.is_empty());
    }
}
