//! What a client sees: every route, in words.

use super::support::{World, request};

#[test]
fn the_server_tells_about_itself_and_the_machine() {
    let mut world = World::new();
    let response = world.get("/v1");
    assert_eq!(response.status, 200);
    let info = response.json();
    assert_eq!(info["name"], "skete");
    assert_eq!(info["machine"]["cpu"]["model"], "Cortex-A72");
    assert_eq!(info["machine"]["ram_bytes"], 4u64 << 30);
    assert_eq!(info["uptime_ns"], 1_000_000_000);
    assert_eq!(info["time"], "2026-11-22T20:00:00.000Z");
    assert_eq!(
        response.header("Date"),
        Some("Sun, 22 Nov 2026 20:00:00 GMT")
    );
}

#[test]
fn two_requests_on_one_connection_get_two_answers() {
    let mut world = World::new();
    let mut connection = world.connect();
    let twice = [
        request("GET", "/v1", "", b""),
        request("GET", "/v1/vms", "", b""),
    ]
    .concat();
    let (output, taken) = world.exchange(&mut connection, &twice, usize::MAX);
    assert_eq!(taken, twice.len());
    let (first, rest) = super::support::split(&output, false).expect("a response");
    let (second, rest) = super::support::split(rest, false).expect("another response");
    assert_eq!((first.status, second.status, rest.len()), (200, 200, 0));
    assert_eq!(second.text(), "{\"vms\":[]}\n");
}

#[test]
fn every_route_wants_the_token_but_two() {
    let mut world = World::new();
    world.vm("a");
    let paths = [
        "/v1",
        "/v1/",
        "/v1/images",
        "/v1/images/flat",
        "/v1/images/flat/data",
        "/v1/vms",
        "/v1/vms/a",
        "/v1/vms/a/actions",
        "/v1/vms/a/console",
        "/v1/vms/a/console/log",
        "/v1/vms/a/console/input",
        "/v1/events",
        "/v1/operations",
        "/v1/operations/op-1",
        "/v1/system/actions",
        "/metrics",
        "/",
        "/v1/vms/none",
        "/nothing",
        "*",
    ];
    let mut answers = Vec::new();
    for path in paths {
        for method in ["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "BREW"] {
            for authorization in [
                "",
                "Authorization: Bearer wrong\r\n",
                "Authorization: Bearer\r\n",
                "Authorization: Bearer \r\n",
                "Authorization: Basic skete_test\r\n",
                "Authorization: skete_test\r\n",
                "Authorization: Bearer skete_tes\r\n",
                "Authorization: Bearer skete_test2\r\n",
                "Authorization: Bearer skete_test\r\nAuthorization: Bearer skete_test\r\n",
            ] {
                let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{authorization}\r\n");
                answers.push(world.send(request.as_bytes()));
            }
        }
    }
    assert_eq!(answers[0].status, 401);
    assert_eq!(
        answers[0].header("WWW-Authenticate"),
        Some("Bearer realm=\"skete\"")
    );
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "every refusal is the same"
    );
    for path in ["/healthz", "/readyz"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(world.send(request.as_bytes()).status, 200);
    }
}

#[test]
fn the_scheme_of_a_token_is_read_in_any_case() {
    let mut world = World::new();
    let request = b"GET /v1 HTTP/1.1\r\nHost: a\r\nAuthorization: bearer skete_test\r\n\r\n";
    assert_eq!(world.send(request).status, 200);
}

#[test]
fn methods_that_do_not_apply_are_refused_with_those_that_do() {
    let mut world = World::new();
    for (path, allow) in [
        ("/v1", "GET, HEAD, OPTIONS"),
        ("/v1/images", "GET, HEAD, OPTIONS"),
        ("/v1/images/a", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("/v1/images/a/data", "HEAD, PUT, PATCH, OPTIONS"),
        ("/v1/vms", "GET, HEAD, OPTIONS"),
        ("/v1/vms/a", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("/v1/vms/a/actions", "POST, OPTIONS"),
        ("/v1/vms/a/console", "GET, OPTIONS"),
        ("/v1/vms/a/console/log", "GET, HEAD, OPTIONS"),
        ("/v1/vms/a/console/input", "POST, OPTIONS"),
        ("/v1/events", "GET, HEAD, OPTIONS"),
        ("/v1/operations", "GET, HEAD, OPTIONS"),
        ("/v1/operations/op-1", "GET, HEAD, OPTIONS"),
        ("/v1/system/actions", "POST, OPTIONS"),
        ("/metrics", "GET, HEAD, OPTIONS"),
    ] {
        let options = world.ask("OPTIONS", path, "", "");
        assert_eq!(
            (options.status, options.header("Allow")),
            (204, Some(allow)),
            "{path}"
        );
        for method in ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"] {
            if allow.split(", ").any(|allowed| allowed == method) {
                continue;
            }
            let refused = world.ask(method, path, "", "");
            assert_eq!(
                (refused.status, refused.header("Allow")),
                (405, Some(allow)),
                "{method} {path}"
            );
        }
    }
}

#[test]
fn head_says_what_get_would_and_sends_no_body() {
    let mut world = World::new();
    world.vm("a");
    for path in [
        "/v1",
        "/v1/images",
        "/v1/images/flat",
        "/v1/vms/a",
        "/metrics",
        "/v1/nothing",
    ] {
        let get = world.get(path);
        let head = world.ask("HEAD", path, "", "");
        assert_eq!(head.status, get.status, "{path}");
        assert_eq!(
            head.header("Content-Type"),
            get.header("Content-Type"),
            "{path}"
        );
        if path != "/metrics" {
            assert_eq!(
                head.header("Content-Length"),
                get.header("Content-Length"),
                "{path}"
            );
        }
        assert!(head.body.is_empty());
    }
}

#[test]
fn a_wrong_body_is_explained_field_by_field() {
    let mut world = World::new();
    for (body, status, code, pointer) in [
        ("", 400, "bad_json", None),
        ("{", 400, "bad_json", None),
        (
            r#"{"memory_bytes":16777216,"boot":{}} x"#,
            400,
            "bad_json",
            None,
        ),
        ("[]", 422, "invalid", Some("")),
        ("{}", 422, "invalid", Some("")),
        (
            r#"{"memory_bytes":"512MiB","boot":{}}"#,
            422,
            "invalid",
            Some("/memory_bytes"),
        ),
        (
            r#"{"memory_bytes":16777216,"boot":{"kernal":"a"}}"#,
            422,
            "invalid",
            Some("/boot/kernal"),
        ),
        (
            r#"{"memory_bytes":16777216,"boot":{}}"#,
            422,
            "invalid",
            Some("/boot"),
        ),
        (
            r#"{"memory_bytes":16777216,"boot":{"flat":"a","elf":"b"}}"#,
            422,
            "invalid",
            Some("/boot"),
        ),
        (
            r#"{"memory_bytes":16777216,"boot":{"flat":"none"}}"#,
            422,
            "invalid",
            Some("/boot/flat"),
        ),
        (
            r#"{"memory_bytes":16777216,"boot":{"kernel":"flat"}}"#,
            422,
            "invalid",
            Some("/boot/kernel"),
        ),
        (
            r#"{"memory_bytes":16777216,"boot":{"flat":"flat","initrd":"flat"}}"#,
            422,
            "invalid",
            Some("/boot/initrd"),
        ),
        (
            r#"{"memory_bytes":16777216,"cpus":0,"boot":{"flat":"flat"}}"#,
            422,
            "invalid",
            Some("/cpus"),
        ),
        (
            r#"{"memory_bytes":16777216,"cpus":9,"boot":{"flat":"flat"}}"#,
            422,
            "invalid",
            Some("/cpus"),
        ),
        (
            r#"{"memory_bytes":16777216,"cpus":-1,"boot":{"flat":"flat"}}"#,
            422,
            "invalid",
            Some("/cpus"),
        ),
        (
            r#"{"memory_bytes":16777217,"boot":{"flat":"flat"}}"#,
            422,
            "invalid",
            Some("/memory_bytes"),
        ),
        (
            r#"{"memory_bytes":14680064,"boot":{"flat":"flat"}}"#,
            422,
            "invalid",
            Some("/memory_bytes"),
        ),
        (
            r#"{"memory_bytes":4297064448,"boot":{"flat":"flat"}}"#,
            507,
            "no_memory",
            Some("/memory_bytes"),
        ),
        (
            r#"{"memory_bytes":16777216,"boot":{"flat":"flat"},"disk":[]}"#,
            422,
            "invalid",
            Some("/disk"),
        ),
    ] {
        if world.get("/v1/images/flat").status == 404 {
            world.image("flat", "flat", b"bytes");
        }
        let answer = world.put("/v1/vms/a", body);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{body}"
        );
        assert_eq!(
            answer.header("Content-Type"),
            Some("application/problem+json")
        );
        let problem = answer.json();
        assert_eq!(
            problem["errors"][0]["pointer"].as_str(),
            pointer,
            "{body}: {problem}"
        );
        assert_eq!(world.get("/v1/vms/a").status, 404, "{body}");
    }
    let answer = world.put(
        "/v1/vms/a",
        r#"{"memory_bytes":4297064448,"boot":{"flat":"flat"}}"#,
    );
    let detail = answer.json()["detail"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        detail.contains("4297064448") && detail.contains("4294967296"),
        "{detail}"
    );
}

#[test]
fn deep_json_is_refused() {
    let mut world = World::new();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!([400, 422].contains(&world.put("/v1/vms/a", &deep).status));
    let hidden = format!(r#"{{"x":{deep}}}"#);
    assert!([400, 422].contains(&world.put("/v1/vms/a", &hidden).status));
}

#[test]
fn what_is_no_json_by_its_media_type_is_refused() {
    let mut world = World::new();
    let body = r#"{"kind":"flat"}"#;
    let ask = |world: &mut World, media_type: &str| {
        let field = format!("Content-Type: {media_type}\r\n");
        world.ask("PUT", "/v1/images/a", &field, body).status
    };
    assert_eq!(ask(&mut world, "application/x-www-form-urlencoded"), 415);
    assert_eq!(ask(&mut world, "text/plain"), 415);
    assert_eq!(ask(&mut world, "application/json; charset=utf-8"), 201);
    assert_eq!(ask(&mut world, "APPLICATION/JSON"), 200);
}

#[test]
fn names_are_checked() {
    let mut world = World::new();
    for name in ["A", "-a", "a-", "a_b", "a%20b", &"a".repeat(64)] {
        let answer = world.put(&format!("/v1/images/{name}"), r#"{"kind":"flat"}"#);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (422, "invalid"),
            "{name}"
        );
    }
    assert_eq!(world.put("/v1/images/", r#"{"kind":"flat"}"#).status, 422);
}

#[test]
fn putting_a_vm_again_changes_nothing_unless_it_says_what_it_replaces() {
    let mut world = World::new();
    world.vm("a");
    let first = world.get("/v1/vms/a");
    let etag = first.header("ETag").expect("an ETag").to_owned();
    assert_eq!(world.put("/v1/vms/a", super::support::SPEC).status, 200);
    assert_eq!(world.get("/v1/vms/a").header("ETag"), Some(etag.as_str()));
    let other = super::support::SPEC.replace("67108864", "134217728");
    let taken = world.put("/v1/vms/a", &other);
    assert_eq!((taken.status, taken.code().as_str()), (409, "name_taken"));
    let ask = |world: &mut World, field: &str| world.ask("PUT", "/v1/vms/a", field, &other);
    assert_eq!(ask(&mut world, "If-Match: \"other\"\r\n").status, 412);
    assert_eq!(ask(&mut world, "If-None-Match: *\r\n").status, 412);
    let changed = ask(&mut world, &format!("If-Match: {etag}\r\n"));
    assert_eq!(changed.status, 200);
    assert_ne!(changed.header("ETag"), Some(etag.as_str()));
    assert_eq!(changed.json()["spec"]["memory_bytes"], 134_217_728);
    assert_eq!(
        ask(&mut world, &format!("If-Match: {etag}\r\n")).status,
        412
    );
    let deleted = world.ask("DELETE", "/v1/vms/a", &format!("If-Match: {etag}\r\n"), "");
    assert_eq!(deleted.status, 412);
}

#[test]
fn tables_have_an_end() {
    let mut world = World::new();
    for n in 0..64 {
        assert_eq!(
            world
                .put(&format!("/v1/images/i{n}"), r#"{"kind":"flat"}"#)
                .status,
            201
        );
    }
    let over = world.put("/v1/images/over", r#"{"kind":"flat"}"#);
    assert_eq!((over.status, over.code().as_str()), (507, "table_full"));
    assert_eq!(world.delete("/v1/images/i0").status, 204);
    world.image("flat", "flat", b"bytes");
    for n in 0..64 {
        assert_eq!(
            world
                .put(&format!("/v1/vms/v{n}"), super::support::SPEC)
                .status,
            201
        );
    }
    let over = world.put("/v1/vms/over", super::support::SPEC);
    assert_eq!((over.status, over.code().as_str()), (507, "table_full"));
    assert_eq!(
        world.get("/v1/vms").json()["vms"].as_array().map(Vec::len),
        Some(64)
    );
}

#[test]
fn a_retry_with_the_same_key_gets_the_first_answer() {
    let mut world = World::new();
    world.vm("a");
    let start = |world: &mut World, key: &str, action: &str| {
        let body = format!(r#"{{"action":"{action}"}}"#);
        let field = format!("Idempotency-Key: {key}\r\n");
        world.ask("POST", "/v1/vms/a/actions", &field, &body)
    };
    let first = start(&mut world, "k1", "start");
    assert_eq!(first.json()["status"]["state"], "running");
    assert_eq!(start(&mut world, "k2", "stop").status, 200);
    let again = start(&mut world, "k1", "start");
    assert_eq!(again.body, first.body, "nothing was started again");
    assert_eq!(world.state("a"), "stopped");
    let reused = start(&mut world, "k1", "stop");
    assert_eq!((reused.status, reused.code().as_str()), (422, "key_reused"));
    world.backend.advance(601 * super::support::SECOND);
    assert_eq!(
        start(&mut world, "k1", "start").json()["status"]["starts"],
        2
    );
}

#[test]
fn a_retry_after_a_cut_waits_for_what_the_first_request_began() {
    let mut world = World::new();
    world.vm("a");
    world.backend.loading_polls = 20;
    let start = request(
        "POST",
        "/v1/vms/a/actions",
        "Idempotency-Key: k\r\n",
        br#"{"action":"start"}"#,
    );
    let mut cut = world.connect();
    world.exchange(&mut cut, &start, 999);
    drop(cut);
    let answer = world.send(&start);
    assert_eq!(answer.json()["status"]["state"], "running");
    assert_eq!(answer.json()["status"]["starts"], 1);
}

#[test]
fn metrics_are_prometheus_text() {
    let mut world = World::new();
    world.vm("web");
    world.action("web", "start");
    let answer = world.get("/metrics");
    assert_eq!(
        answer.header("Content-Type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let text = answer.text();
    for line in [
        "skete_build_info{version=\"0.1.0\"} 1",
        "skete_host_memory_bytes{state=\"total\"} 4294967296",
        "skete_vm_state{vm=\"web\",state=\"running\"} 1",
        "skete_vm_state{vm=\"web\",state=\"stopped\"} 0",
        "skete_vm_memory_bytes{vm=\"web\",kind=\"configured\"} 67108864",
        "skete_vm_exits_total{vm=\"web\",reason=\"fault\"} 16",
        "skete_vm_memory_leaves{vm=\"web\",size=\"2097152\"} 15",
        "skete_vm_stage2_faults_total{vm=\"web\",kind=\"major\"} 520",
        "skete_vm_vcpu_seconds_total{vm=\"web\"} 1.500000000",
        "skete_api_requests_total{route=\"/v1/vms/{name}\",code=\"201\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a sample has a value");
        assert!(
            name.starts_with("skete_") && value.parse::<f64>().is_ok(),
            "{line}"
        );
    }
}

#[test]
fn the_machine_is_switched_off_after_the_answer_and_after_every_vm() {
    let mut world = World::new();
    world.vm("a");
    world.action("a", "start");
    world.backend.release_polls = 500;
    let answer = world.post("/v1/system/actions", r#"{"action":"shutdown"}"#);
    assert_eq!(answer.status, 202);
    world.idle(super::support::MS);
    assert_eq!(world.action("a", "start").status, 409);
    world.idle(300 * super::support::MS);
    assert_eq!(world.backend.powered, None, "a VM still holds memory");
    world.idle(300 * super::support::MS);
    assert_eq!(world.backend.powered, Some(api::PowerAction::Shutdown));
    assert!(world.backend.runs.is_empty());
}

#[test]
fn a_vm_that_cannot_be_released_does_not_keep_the_machine_on() {
    let mut world = World::new();
    world.vm("a");
    world.action("a", "start");
    world.backend.release_polls = u64::MAX;
    world.post("/v1/system/actions", r#"{"action":"reset"}"#);
    world.idle(9 * super::support::SECOND);
    assert_eq!(world.backend.powered, None);
    world.idle(2 * super::support::SECOND);
    assert_eq!(world.backend.powered, Some(api::PowerAction::Reset));
}
