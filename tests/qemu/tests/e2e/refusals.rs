//! Bad input: a clear error, and nothing lost.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use qemu::{Appliance, Control, Cpu, Machine, http};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::{MIB, PATIENCE, TOKEN, alone, appliance, logs};

on_both_cpus!(
    the_control_port_refuses_what_it_must,
    a_machine_without_gicv3_is_refused_in_words,
);

/// Sends a request with a JSON body; returns status and problem code.
fn ask(control: &Control, line: &str, body: &Value) -> (u16, String) {
    let fields = ["Content-Type: application/json"];
    let answer = control
        .raw(line, &fields, body.to_string().as_bytes())
        .expect("is answered");
    (answer.status, answer.code())
}

fn the_control_port_refuses_what_it_must(cpu: Cpu) {
    let skete = appliance(cpu);
    let (control, port) = (&skete.control, skete.appliance.port());

    a_wrong_token_opens_nothing(port);
    damaged_uploads_leave_nothing_bootable(control, port);
    impossible_vms_are_not_started(control);

    // After all of it, what was there still is, and more can be done.
    skete.push_payload("hello");
    control
        .define("after", 1, 64 * MIB, &json!({ "flat": "hello" }))
        .expect("defined");
    control.start("after").expect("starts");
    control
        .wait_for_console("after", "BYE", PATIENCE)
        .expect("runs");
    skete.shut_down();
}

fn a_wrong_token_opens_nothing(port: u16) {
    let short = Duration::from_secs(10);
    for token in ["", "x", &TOKEN.replace('0', "1"), &format!("{TOKEN}0")] {
        let control = Control::new(port, token);
        for line in [
            "GET /v1",
            "GET /v1/vms",
            "PUT /v1/vms/x",
            "DELETE /v1/vms/x",
            "GET /metrics",
            "POST /v1/system/actions",
        ] {
            let answer = control.raw(line, &[], b"").expect("is answered");
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (401, "unauthorized"),
                "{line}"
            );
        }
    }
    let answer = http::exchange(port, &["GET /v1 HTTP/1.1"], b"", short).expect("is answered");
    assert_eq!(answer.status, 401);
    let answer = http::exchange(port, &["GET /healthz HTTP/1.1"], b"", short).expect("answered");
    assert_eq!(answer.status, 200);
}

fn damaged_uploads_leave_nothing_bootable(control: &Control, port: u16) {
    let mut image = vec![0xd4; 1 << 20];
    image.extend_from_slice(b"the end");
    let digest = Sha256::digest(&image);
    let state = || {
        let image = control.get("/v1/images/damaged").expect("is listed");
        image["state"].as_str().expect("a state").to_owned()
    };
    let define = json!({ "kind": "flat", "size_bytes": image.len() });
    control
        .json("PUT /v1/images/damaged", &define)
        .expect("defined");

    let answer = control
        .push_data("damaged", &image, &[0; 32])
        .expect("answered");
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (422, "wrong_digest")
    );
    assert_ne!(state(), "ready");

    // Cut off in the middle, as by a pulled plug.
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connects");
    let length = image.len();
    write!(
        stream,
        "PUT /v1/images/damaged/data HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Length: {length}\r\n\r\n"
    )
    .expect("is read");
    stream.write_all(&image[..length / 2]).expect("is read");
    drop(stream);
    std::thread::sleep(Duration::from_millis(500));
    assert_ne!(state(), "ready");
    let boot = json!({ "cpus": 1, "memory_bytes": 64 * MIB, "boot": { "flat": "damaged" } });
    let (status, code) = ask(control, "PUT /v1/vms/early", &boot);
    if status < 300 {
        let (status, code) = ask(
            control,
            "POST /v1/vms/early/actions",
            &json!({ "action": "start" }),
        );
        assert_eq!((status, code.as_str()), (409, "image_incomplete"));
        control.delete("/v1/vms/early").expect("can go");
    } else {
        assert_eq!((status, code.as_str()), (409, "image_incomplete"));
    }

    let answer = control
        .push_data("damaged", &image, &digest)
        .expect("answered");
    assert!(answer.status < 300, "{}", answer.code());
    assert_eq!(state(), "ready");
    control.delete("/v1/images/damaged").expect("can go");

    control
        .json("PUT /v1/images/prose", &json!({ "kind": "kernel" }))
        .expect("defined");
    let prose = b"It was a dark and stormy night. ".repeat(4096);
    let answer = control
        .push_data("prose", &prose, &Sha256::digest(&prose))
        .expect("answered");
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (422, "not_an_image")
    );
    control.delete("/v1/images/prose").expect("can go");
}

fn impossible_vms_are_not_started(control: &Control) {
    let flat = vec![0; 4096];
    control.push("zeroes", "flat", &flat).expect("taken");
    let vm =
        |memory: u64| json!({ "cpus": 1, "memory_bytes": memory, "boot": { "flat": "zeroes" } });

    let (status, code) = ask(control, "PUT /v1/vms/greedy", &vm(64 << 30));
    if status < 300 {
        let start = json!({ "action": "start" });
        let (_, code) = ask(control, "POST /v1/vms/greedy/actions", &start);
        if code != "no_memory" {
            control
                .wait_for_state("greedy", "failed", PATIENCE)
                .expect("cannot be started");
            let vm = control.get("/v1/vms/greedy").expect("is there");
            let code = vm
                .pointer("/status/last_error/code")
                .and_then(Value::as_str);
            assert_eq!(code, Some("no_memory"), "{vm}");
        }
        control.delete("/v1/vms/greedy").expect("can go");
    } else {
        assert_eq!((status, code.as_str()), (507, "no_memory"));
    }

    assert!(ask(control, "PUT /v1/vms/taken", &vm(64 * MIB)).0 < 300);
    let other = json!({ "kind": "kernel" });
    let (status, code) = ask(control, "PUT /v1/images/zeroes", &other);
    assert_eq!((status, code.as_str()), (409, "name_taken"));

    for (line, body, expected) in [
        ("PUT /v1/vms/odd", vm(64 * MIB + 4096), "invalid"),
        ("PUT /v1/vms/none", vm(0), "invalid"),
        ("PUT /v1/vms/UPPER", vm(64 * MIB), "invalid"),
        ("PUT /v1/vms/odd", json!({ "memory": 1 }), "invalid"),
        (
            "POST /v1/vms/nobody/actions",
            json!({ "action": "start" }),
            "vm_not_found",
        ),
        ("PUT /v1/vms", json!({}), "method_not_allowed"),
        ("GET /v1/nothing", Value::Null, "not_found"),
    ] {
        let (status, code) = ask(control, line, &body);
        assert!(
            (400..500).contains(&status),
            "{line} {body}: {status} {code}"
        );
        assert_eq!(code, expected, "{line} {body}");
    }
    control.delete("/v1/vms/taken").expect("can go");
    control.delete("/v1/images/zeroes").expect("can go");
}

fn a_machine_without_gicv3_is_refused_in_words(cpu: Cpu) {
    let _alone = alone();
    let mut board = Appliance::board(cpu);
    board.gic = 2;
    let machine = Machine::start(&board, &logs()).expect("QEMU starts");
    machine
        .serial()
        .wait_for("GICv3", 0, Duration::from_secs(20))
        .expect("says what is missing");
}
