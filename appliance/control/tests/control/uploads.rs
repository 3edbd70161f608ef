//! Images going up: whole, cut, wrong, resumed, overtaken.

use control::backend::ImageId;
use proptest::prelude::*;

use super::support::{Response, SECOND, World, request, split};

/// SHA-256 of "0123456789" as `Repr-Digest`, from `sha256sum | xxd -r -p | base64`.
const DIGEST: &str = "Repr-Digest: sha-256=:hNiYd/DUBB77a/kaFvAkjy/Vc+avBcGflr7bn4gveII=:\r\n";
const DATA: &[u8] = b"0123456789";

/// A world with image `a` defined.
fn world() -> World {
    let mut world = World::new();
    let answer = world.put("/v1/images/a", r#"{"kind":"flat"}"#);
    assert_eq!(answer.status, 201);
    world
}

fn upload(world: &mut World, method: &str, more: &str, data: &[u8]) -> Response {
    world.send(&request(method, "/v1/images/a/data", more, data))
}

/// Sends only a part of an upload, then cuts the connection.
fn cut(world: &mut World, method: &str, more: &str, data: &[u8], at: usize) {
    let bytes = request(method, "/v1/images/a/data", more, data);
    let end = bytes.len() - data.len() + at;
    let mut connection = world.connect();
    world.exchange(&mut connection, &bytes[..end], 3);
    connection.eof(&world.backend);
}

fn offset(world: &mut World) -> String {
    let answer = world.ask("HEAD", "/v1/images/a/data", "", "");
    answer
        .header("Upload-Offset")
        .unwrap_or_default()
        .to_owned()
}

fn state(world: &mut World) -> String {
    let image = world.get("/v1/images/a").json();
    image["state"].as_str().unwrap_or_default().to_owned()
}

/// What the backend holds of image `a`.
fn stored(world: &World) -> Option<&[u8]> {
    let (_, image) = world.backend.images.iter().next()?;
    Some(&image.bytes)
}

#[test]
fn an_upload_arrives_and_is_known_by_its_digest() {
    let mut world = world();
    let answer = upload(&mut world, "PUT", DIGEST, DATA);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        answer.json()["sha256"],
        "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"
    );
    assert_eq!(
        answer.header("Repr-Digest"),
        DIGEST.trim().strip_prefix("Repr-Digest: ")
    );
    assert_eq!(stored(&world), Some(DATA));
    assert_eq!(
        (state(&mut world).as_str(), offset(&mut world).as_str()),
        ("ready", "10")
    );
}

#[test]
fn an_upload_that_is_not_what_was_sent_leaves_nothing() {
    let mut world = world();
    let answer = upload(&mut world, "PUT", DIGEST, b"0123456780");
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (422, "wrong_digest")
    );
    assert_eq!(state(&mut world), "empty");
    assert_eq!(offset(&mut world), "0");
    assert!(world.backend.images.is_empty());
    assert_eq!(upload(&mut world, "PUT", DIGEST, DATA).status, 200);
}

#[test]
fn a_cut_upload_keeps_what_came_and_goes_on_there() {
    let mut world = world();
    cut(&mut world, "PUT", DIGEST, DATA, 4);
    assert_eq!(
        (state(&mut world).as_str(), offset(&mut world).as_str()),
        ("uploading", "4")
    );
    let wrong = upload(&mut world, "PATCH", "Upload-Offset: 5\r\n", &DATA[5..]);
    assert_eq!(
        (wrong.status, wrong.code().as_str()),
        (409, "upload_offset")
    );
    let missing = upload(&mut world, "PATCH", "", &DATA[4..]);
    assert_eq!(missing.status, 400);
    let too_long = upload(&mut world, "PATCH", "Upload-Offset: 4\r\n", b"4567890");
    assert_eq!(too_long.status, 422);
    cut(&mut world, "PATCH", "Upload-Offset: 4\r\n", &DATA[4..], 3);
    assert_eq!(offset(&mut world), "7");
    let piece = upload(&mut world, "PATCH", "Upload-Offset: 7\r\n", b"7");
    assert_eq!(
        (piece.status, piece.header("Upload-Offset")),
        (204, Some("8"))
    );
    let rest = upload(&mut world, "PATCH", "Upload-Offset: 8\r\n", b"89");
    assert_eq!(rest.status, 200, "{}", rest.text());
    assert_eq!(stored(&world), Some(DATA));
}

#[test]
fn the_digest_of_a_resumed_upload_is_that_of_the_whole() {
    let mut world = world();
    cut(&mut world, "PUT", DIGEST, b"01x3456789", 4);
    let rest = upload(&mut world, "PATCH", "Upload-Offset: 4\r\n", &DATA[4..]);
    assert_eq!((rest.status, rest.code().as_str()), (422, "wrong_digest"));
    assert_eq!(state(&mut world), "empty");
}

#[test]
fn a_cut_upload_may_also_begin_again() {
    let mut world = world();
    cut(&mut world, "PUT", "", b"something else, and longer", 12);
    assert_eq!(upload(&mut world, "PUT", DIGEST, DATA).status, 200);
    assert_eq!(stored(&world), Some(DATA));
}

#[test]
fn a_later_upload_overtakes_an_earlier_one() {
    let mut world = world();
    let bytes = request("PUT", "/v1/images/a/data", "", DATA);
    let mut first = world.connect();
    world.exchange(&mut first, &bytes[..bytes.len() - 6], 999);
    let mut second = world.connect();
    world.exchange(&mut second, &bytes[..bytes.len() - 8], 999);
    let (output, _) = world.exchange(&mut first, &bytes[bytes.len() - 6..], 999);
    let (answer, _) = split(&output, false).expect("an answer");
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (409, "upload_superseded")
    );
    let (output, _) = world.exchange(&mut second, &bytes[bytes.len() - 8..], 999);
    assert!(output.starts_with(b"HTTP/1.1 200 "));
    assert_eq!(stored(&world), Some(DATA));
}

#[test]
fn a_complete_image_never_changes() {
    let mut world = world();
    upload(&mut world, "PUT", "", DATA);
    let again = upload(&mut world, "PUT", "", b"other");
    assert_eq!(
        (again.status, again.code().as_str()),
        (409, "image_complete")
    );
    let patch = upload(&mut world, "PATCH", "Upload-Offset: 10\r\n", b"x");
    assert_eq!(
        (patch.status, patch.code().as_str()),
        (409, "image_complete")
    );
    let retry = upload(&mut world, "PUT", DIGEST, DATA);
    assert_eq!(
        retry.status, 200,
        "a retry whose first answer was lost is no conflict"
    );
    let other = world.put("/v1/images/a", r#"{"kind":"elf"}"#);
    assert_eq!((other.status, other.code().as_str()), (409, "name_taken"));
    let other = world.put("/v1/images/a", r#"{"kind":"flat","size_bytes":11}"#);
    assert_eq!((other.status, other.code().as_str()), (409, "name_taken"));
    assert_eq!(
        world
            .put("/v1/images/a", r#"{"kind":"flat","size_bytes":10}"#)
            .status,
        200
    );
    assert_eq!(stored(&world), Some(DATA));
}

#[test]
fn what_is_incomplete_may_be_defined_anew() {
    let mut world = world();
    cut(&mut world, "PUT", "", DATA, 4);
    assert_eq!(world.put("/v1/images/a", r#"{"kind":"flat"}"#).status, 200);
    assert_eq!(
        offset(&mut world),
        "4",
        "the same definition leaves it alone"
    );
    assert_eq!(
        world
            .put("/v1/images/a", r#"{"kind":"initrd","size_bytes":3}"#)
            .status,
        200
    );
    assert_eq!(offset(&mut world), "0");
    assert!(world.backend.images.is_empty());
    assert_eq!(
        upload(&mut world, "PUT", "", DATA).status,
        422,
        "3 bytes were announced"
    );
    assert_eq!(upload(&mut world, "PUT", "", b"abc").status, 200);
}

#[test]
fn an_upload_says_how_long_it_is_and_that_there_is_room() {
    let mut world = world();
    let chunked = upload(&mut world, "PUT", "Transfer-Encoding: chunked\r\n", b"");
    assert_eq!(
        (chunked.status, chunked.code().as_str()),
        (411, "length_required")
    );
    assert_eq!(upload(&mut world, "PUT", "", b"").status, 411);
    assert_eq!(
        upload(&mut world, "PUT", "Content-Length: 0\r\n", b"").status,
        422
    );
    let huge = upload(&mut world, "PUT", "Content-Length: 9999999999\r\n", b"");
    assert_eq!((huge.status, huge.code().as_str()), (507, "no_memory"));
    let detail = huge.json()["detail"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        detail.contains("9999999999") && detail.contains("3221225472"),
        "{detail}"
    );
    let nothing = world.send(&request("PUT", "/v1/images/b/data", "", DATA));
    assert_eq!(
        (nothing.status, nothing.code().as_str()),
        (404, "image_not_found")
    );
    let encoded = upload(&mut world, "PUT", "Content-Encoding: gzip\r\n", DATA);
    assert_eq!(encoded.status, 415);
    for digest in ["sha-256=abc", "sha-256=:AAAA:", "nonsense"] {
        let answer = upload(
            &mut world,
            "PUT",
            &format!("Repr-Digest: {digest}\r\n"),
            DATA,
        );
        assert_eq!(answer.status, 400, "{digest}");
    }
    let twice = format!("{DIGEST}{DIGEST}");
    assert_eq!(upload(&mut world, "PUT", &twice, DATA).status, 400);
}

#[test]
fn a_client_that_waits_is_told_to_send_only_if_it_may() {
    let mut world = world();
    let head = |path: &str| {
        let bytes = request("PUT", path, "Expect: 100-continue\r\n", DATA);
        bytes[..bytes.len() - DATA.len()].to_vec()
    };
    let mut connection = world.connect();
    let (output, _) = world.exchange(&mut connection, &head("/v1/images/a/data"), 5);
    assert_eq!(output, b"HTTP/1.1 100 Continue\r\n\r\n");
    let mut refused = world.connect();
    let (output, _) = world.exchange(&mut refused, &head("/v1/images/b/data"), 5);
    assert!(output.starts_with(b"HTTP/1.1 404 "));
}

#[test]
fn an_image_is_what_its_kind_says() {
    let mut kernel = vec![0u8; 64];
    kernel[56..60].copy_from_slice(b"ARM\x64");
    let mut zboot = kernel.clone();
    zboot[56..60].fill(0);
    zboot[4..8].copy_from_slice(b"zimg");
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64, 0);
    let mut x86 = elf.clone();
    elf[18] = 183;
    x86[18] = 62;
    for (kind, data, status) in [
        ("kernel", &kernel, 200),
        ("kernel", &vec![0x1f, 0x8b, 8], 200),
        ("kernel", &zboot, 422),
        ("kernel", &elf, 422),
        ("kernel", &b"#!/bin/sh".to_vec(), 422),
        ("elf", &elf, 200),
        ("elf", &x86, 422),
        ("elf", &kernel, 422),
        ("initrd", &b"anything".to_vec(), 200),
        ("flat", &b"anything".to_vec(), 200),
    ] {
        let mut world = World::new();
        world.put("/v1/images/a", &format!(r#"{{"kind":"{kind}"}}"#));
        let answer = upload(&mut world, "PUT", "", data);
        assert_eq!(answer.status, status, "{kind} {data:?}");
        if status == 422 {
            assert_eq!(answer.code(), "not_an_image");
            assert!(world.backend.images.is_empty());
        }
    }
}

#[test]
fn an_image_in_use_is_not_deleted() {
    let mut world = World::new();
    world.vm("a");
    world.action("a", "start");
    let refused = world.delete("/v1/images/flat");
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (409, "image_in_use")
    );
    assert_eq!(world.get("/v1/images/flat").json()["used_by"][0], "a");
    world.action("a", "stop");
    assert_eq!(world.delete("/v1/images/flat").status, 204);
    let answer = world.action("a", "start");
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (409, "image_incomplete")
    );
}

#[test]
fn a_store_that_is_busy_makes_the_sender_wait_and_loses_nothing() {
    let mut world = world();
    let bytes = request("PUT", "/v1/images/a/data", DIGEST, DATA);
    world.backend.append_max = 0;
    let mut connection = world.connect();
    let (output, taken) = world.exchange(&mut connection, &bytes, 999);
    assert!(output.is_empty());
    assert_eq!(taken, bytes.len() - DATA.len());
    world.backend.append_max = 3;
    let (output, rest) = world.exchange(&mut connection, &bytes[taken..], 999);
    assert_eq!(rest, DATA.len());
    assert!(output.starts_with(b"HTTP/1.1 200 "));
    assert_eq!(stored(&world), Some(DATA));
}

#[test]
fn an_upload_that_stalls_is_ended_and_kept() {
    let mut world = world();
    let bytes = request("PUT", "/v1/images/a/data", "", DATA);
    let mut connection = world.connect();
    world.exchange(&mut connection, &bytes[..bytes.len() - 3], 999);
    let mut output = Vec::new();
    world.run(&mut connection, 31 * SECOND, &mut output);
    assert!(output.starts_with(b"HTTP/1.1 408 "));
    assert_eq!(offset(&mut world), "7");
}

#[test]
fn a_deleted_image_takes_its_upload_with_it() {
    let mut world = world();
    let bytes = request("PUT", "/v1/images/a/data", "", DATA);
    let mut connection = world.connect();
    world.exchange(&mut connection, &bytes[..bytes.len() - 3], 999);
    assert_eq!(world.delete("/v1/images/a").status, 204);
    assert_eq!(world.put("/v1/images/a", r#"{"kind":"flat"}"#).status, 201);
    let (output, _) = world.exchange(&mut connection, &bytes[bytes.len() - 3..], 999);
    assert!(
        output.starts_with(b"HTTP/1.1 409 "),
        "{}",
        String::from_utf8_lossy(&output)
    );
    assert!(!world.backend.images.contains_key(&ImageId(0)));
    assert_eq!(offset(&mut world), "0");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// However often and wherever an upload is cut, going on where it ended gives the bytes.
    #[test]
    fn any_number_of_cuts_gives_the_same_image(
        data in prop::collection::vec(any::<u8>(), 1..300),
        cuts in prop::collection::vec(0usize..300, 0..6),
    ) {
        let mut world = world();
        let mut begun = false;
        for at in cuts {
            let from: usize = offset(&mut world).parse().expect("a number");
            let rest = &data[from..];
            let more = format!("Upload-Offset: {from}\r\n");
            if at < rest.len() {
                let method = if begun { "PATCH" } else { "PUT" };
                cut(&mut world, method, &more, rest, at);
                begun = true;
            }
        }
        let from: usize = offset(&mut world).parse().expect("a number");
        let more = format!("Upload-Offset: {from}\r\n");
        let method = if begun { "PATCH" } else { "PUT" };
        prop_assert_eq!(upload(&mut world, method, &more, &data[from..]).status, 200);
        prop_assert_eq!(stored(&world), Some(&data[..]));
    }
}
