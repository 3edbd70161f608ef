//! The server ends at any time, and the next one goes on where it was.

use control::backend::RunState;
use control::fake::RING_BYTES;
use control::heritage::{Drill, Restart};
use control::{Config, Server, auth, kept_token};
use serde_json::Value;

use crate::support::{MS, SECOND, SPEC, TOKEN, World};

/// Ends the server, and starts another one over what is left.
fn reborn(world: &mut World) {
    world.backend.end_of_server();
    let config = Config {
        token_sha256: auth::token_digest(TOKEN),
        seed: [8; 32],
        drills: true,
    };
    world.server = Server::revive(config, &mut world.backend);
}

/// A VM as a client sees it, without what a new life of the server may change.
fn vm(world: &mut World, name: &str) -> Value {
    world.get(&format!("/v1/vms/{name}")).json()
}

fn running(world: &mut World, name: &str) {
    world.vm(name);
    assert_eq!(world.action(name, "start").status, 200);
    assert_eq!(world.state(name), "running");
}

fn event(world: &mut World, action: &str) -> Option<Value> {
    let events = world.get("/v1/events?since=0&follow=false").text();
    let data = events
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    data.filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .find(|event| event["action"] == action)
}

#[test]
fn a_running_vm_is_what_it_was() {
    let mut world = World::new();
    running(&mut world, "web");
    world.backend.print("web", b"hello");
    world.idle(10 * MS);
    let before = vm(&mut world, "web");
    let etag = world.get("/v1/vms/web").header("ETag").map(str::to_owned);
    reborn(&mut world);
    assert_eq!(vm(&mut world, "web"), before);
    let after = world.get("/v1/vms/web").header("ETag").map(str::to_owned);
    assert_eq!(after, etag);
    assert_eq!(world.get("/v1/vms/web/console/log").text(), "hello");
    // And everything can be done to it.
    world.backend.print("web", b", world");
    world.idle(10 * MS);
    assert_eq!(world.get("/v1/vms/web/console/log").text(), "hello, world");
    assert_eq!(world.action("web", "stop").status, 200);
    assert_eq!(world.state("web"), "stopped");
    assert_eq!(world.delete("/v1/vms/web").status, 204);
    assert!(world.backend.runs.is_empty());
}

#[test]
fn output_is_lost_only_beyond_what_the_ring_holds() {
    let mut world = World::new();
    running(&mut world, "web");
    world.backend.print("web", b"0123456789abcdef");
    world.idle(10 * MS);
    // Printed and not read when the server ends.
    world.backend.print("web", b"ghi");
    reborn(&mut world);
    world.idle(10 * MS);
    let log = world.get("/v1/vms/web/console/log");
    assert_eq!(log.text(), "89abcdefghi");
    assert_eq!(log.header("Console-Start"), Some("8"));
    assert_eq!(log.header("Console-End"), Some("19"));
    assert_eq!(RING_BYTES, 8);
}

#[test]
fn images_and_vms_that_do_not_run_are_still_there() {
    let mut world = World::new();
    world.vm("web");
    let images = world.get("/v1/images").json();
    let before = vm(&mut world, "web");
    for _ in 0..3 {
        reborn(&mut world);
        assert_eq!(world.get("/v1/images").json(), images);
        assert_eq!(vm(&mut world, "web"), before);
    }
    assert_eq!(world.action("web", "start").status, 200);
    assert_eq!(world.state("web"), "running");
}

#[test]
fn what_was_uploaded_in_part_is_uploaded_anew_and_takes_no_room() {
    let mut world = World::new();
    let spec = r#"{"kind":"flat","size_bytes":10}"#;
    assert_eq!(world.put("/v1/images/half", spec).status, 201);
    let begun = crate::support::request(
        "PATCH",
        "/v1/images/half/data",
        "Upload-Offset: 0\r\n",
        b"half",
    );
    assert_eq!(world.send(&begun).status, 204);
    reborn(&mut world);
    assert_eq!(world.get("/v1/images/half").status, 404);
    assert!(world.backend.images.is_empty() && world.backend.left_images.is_empty());
    world.image("half", "flat", b"0123456789");
}

#[test]
fn a_deletion_that_was_begun_is_finished() {
    for phase in ["stopping", "releasing", "gone"] {
        let mut world = World::new();
        running(&mut world, "web");
        world.backend.release_polls = 100_000;
        let answer = world.ask("DELETE", "/v1/vms/web?force=true", "Prefer: wait=0\r\n", "");
        assert_eq!(answer.status, 202, "{}", answer.text());
        if phase != "stopping" {
            world.idle(5 * MS);
        }
        world.backend.release_polls = 0;
        world.backend.end_of_server();
        if phase == "gone" {
            world.backend.left_runs.clear();
        }
        world.backend.generation -= 1;
        reborn(&mut world);
        world.idle(5 * MS);
        assert_eq!(world.get("/v1/vms/web").status, 404, "{phase}");
        assert!(world.backend.runs.is_empty());
        // Its note went with it.
        reborn(&mut world);
        assert_eq!(world.get("/v1/vms/web").status, 404);
    }
}

#[test]
fn a_start_that_was_begun_is_begun_anew() {
    let mut world = World::new();
    world.vm("web");
    world.backend.loading_polls = 100_000;
    let start = r#"{"action":"start"}"#;
    let answer = world.ask("POST", "/v1/vms/web/actions", "Prefer: wait=0\r\n", start);
    assert_eq!(answer.status, 202, "{}", answer.text());
    world.backend.loading_polls = 3;
    reborn(&mut world);
    assert_eq!(world.backend.left_runs.len(), 0);
    world.idle(20 * MS);
    let vm = vm(&mut world, "web");
    assert_eq!(vm["status"]["state"], "running", "{vm}");
    assert_eq!(world.backend.runs.len(), 1);
}

#[test]
fn what_a_guest_did_meanwhile_is_noticed() {
    for (state, then) in [
        (RunState::Off, "stopped"),
        (RunState::Crashed { esr: 5, pc: 6 }, "crashed"),
        (RunState::Reset, "running"),
    ] {
        let mut world = World::new();
        running(&mut world, "web");
        world.backend.advance(10 * SECOND);
        world.backend.set_state("web", state);
        reborn(&mut world);
        world.idle(20 * MS);
        assert_eq!(world.state("web"), then);
    }
}

#[test]
fn a_vm_that_no_note_is_about_runs_on_under_another_name() {
    let mut world = World::new();
    running(&mut world, "web");
    world.backend.notes.insert(2, b"{ garbage".to_vec());
    world.backend.notes.insert(1, b"{ garbage".to_vec());
    reborn(&mut world);
    let list = world.get("/v1/vms").json();
    assert_eq!(list["vms"][0]["name"], "recovered-1");
    assert_eq!(list["vms"][0]["status"]["state"], "running");
    assert_eq!(list["vms"][0]["spec"]["cpus"], 2);
    assert_eq!(list["vms"][0]["spec"]["memory_bytes"], 67_108_864);
    let recovered = event(&mut world, "vm.recovered").expect("is reported");
    assert_eq!(recovered["context"]["was"], "web");
    let restarted = event(&mut world, "system.control_restarted").expect("is reported");
    assert_eq!(restarted["context"]["notes_lost"], "2");
    // The next server knows it by that name.
    reborn(&mut world);
    assert_eq!(world.state("recovered-1"), "running");
    assert_eq!(world.action("recovered-1", "stop").status, 200);
    assert_eq!(world.delete("/v1/vms/recovered-1").status, 204);
    assert!(world.backend.runs.is_empty());
}

/// The text of the note about VM `name`, and its number.
fn note(world: &World, name: &str) -> (usize, String) {
    let about = format!("\"Vm\":{{\"name\":\"{name}\"");
    world
        .backend
        .notes
        .iter()
        .map(|(number, note)| (*number, String::from_utf8(note.clone()).expect("JSON")))
        .find(|(_, note)| note.contains(&about))
        .expect("it has a note")
}

#[test]
fn r4_a_note_that_claims_an_earlier_vm_or_anothers_gets_none() {
    let mut world = World::new();
    running(&mut world, "web");
    running(&mut world, "db");
    let handle = |note: &str| {
        let (_, rest) = note.split_once("\"handle\":").expect("a handle");
        let end = rest.find(',').expect("more");
        rest[..end].to_owned()
    };
    let ((web, web_note), (db, db_note)) = (note(&world, "web"), note(&world, "db"));
    let own = format!("\"handle\":{}", handle(&web_note));
    // A handle that is nobody's any more: the VM is not there, and the one that is runs on.
    let old = web_note.replace(&own, "\"handle\":987654321");
    world.backend.notes.insert(web, old.into_bytes());
    reborn(&mut world);
    world.idle(5 * MS);
    assert_eq!(world.state("web"), "failed");
    assert_eq!(world.state("db"), "running");
    assert_eq!(world.state("recovered-1"), "running");
    assert_eq!(world.backend.runs.len(), 2);
    // The same VM twice: the first has it.
    let mut world = World::new();
    running(&mut world, "web");
    running(&mut world, "db");
    let twice = db_note.replace(
        &format!("\"handle\":{}", handle(&db_note)),
        &format!("\"handle\":{}", handle(&web_note)),
    );
    world.backend.notes.insert(db, twice.into_bytes());
    reborn(&mut world);
    world.idle(5 * MS);
    assert_eq!(world.state("web"), "running");
    assert_eq!(world.state("db"), "failed");
    assert_eq!(world.state("recovered-1"), "running");
    // One of another size is another VM.
    let mut world = World::new();
    running(&mut world, "web");
    let (number, text) = note(&world, "web");
    let larger = text.replace("\"cpus\":2", "\"cpus\":4");
    world.backend.notes.insert(number, larger.into_bytes());
    reborn(&mut world);
    world.idle(5 * MS);
    assert_eq!(world.state("web"), "failed");
    assert_eq!(world.state("recovered-1"), "running");
}

#[test]
fn r4_an_image_is_taken_over_once_and_only_if_it_is_there() {
    let mut world = World::new();
    world.image("one", "flat", b"some bytes");
    let (number, text) = world
        .backend
        .notes
        .iter()
        .map(|(number, note)| (*number, String::from_utf8(note.clone()).expect("JSON")))
        .find(|(_, note)| note.contains("\"Image\""))
        .expect("it has a note");
    let other = text.replace("\"one\"", "\"two\"");
    world.backend.notes.insert(number + 1, other.into_bytes());
    let longer = text
        .replace("\"one\"", "\"three\"")
        .replace("\"bytes\":10", "\"bytes\":11");
    world.backend.notes.insert(number + 2, longer.into_bytes());
    reborn(&mut world);
    let images = world.get("/v1/images").json();
    assert_eq!(images["images"].as_array().map(Vec::len), Some(1));
    assert_eq!(images["images"][0]["name"], "one");
    assert_eq!(world.backend.images.len(), 1);
}

#[test]
fn numbers_are_never_used_again() {
    let mut world = World::new();
    running(&mut world, "web");
    let ids = |world: &mut World| {
        let list = world.get("/v1/operations").json();
        let all = list["operations"].as_array().cloned().unwrap_or_default();
        all.iter().map(|op| op["id"].clone()).collect::<Vec<_>>()
    };
    let before = ids(&mut world);
    reborn(&mut world);
    assert_eq!(ids(&mut world), Vec::<Value>::new());
    assert_eq!(world.action("web", "reset").status, 200);
    let after = ids(&mut world);
    assert!(!after.is_empty() && after.iter().all(|id| !before.contains(id)));
    let seq = event(&mut world, "system.control_restarted").expect("is reported");
    assert!(seq["seq"].as_u64() > Some(1_000_000));
}

#[test]
fn the_token_that_was_made_stays_good() {
    let mut world = World::new();
    let config = Config {
        token_sha256: auth::token_digest("made"),
        seed: [8; 32],
        drills: false,
    };
    world.server = Server::revive(config, &mut world.backend);
    world.backend.end_of_server();
    let kept = kept_token(&mut world.backend);
    assert_eq!(kept, Some(auth::token_digest("made")));
}

#[test]
fn the_operator_restarts_the_control_plane_and_the_answer_comes_first() {
    let mut world = World::new();
    let path = "/v1/system/actions";
    let answer = world.post(path, r#"{"action":"restart_control"}"#);
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(world.backend.restarted, None);
    world.idle(SECOND);
    assert_eq!(world.backend.restarted.take(), Some(Restart::After(0)));
    let answer = world.post(path, r#"{"action":"restart_control","after_ms":70}"#);
    assert_eq!(answer.status, 202);
    assert_eq!(
        world.backend.restarted.take(),
        Some(Restart::After(70 * MS))
    );
    let answer = world.post(path, r#"{"action":"restart_control","drill":"panic"}"#);
    assert_eq!(answer.status, 202);
    world.idle(SECOND);
    let drill = Some(Restart::Drill(Drill::Panic));
    assert_eq!(world.backend.restarted.take(), drill);
    for wrong in [
        r#"{"action":"restart_control","after_ms":60001}"#,
        r#"{"action":"restart_control","after_ms":5,"drill":"panic"}"#,
        r#"{"action":"reset","after_ms":5}"#,
        r#"{"action":"shutdown","drill":"hang"}"#,
    ] {
        assert_eq!(world.post(path, wrong).status, 422, "{wrong}");
    }
    // Who switches the machine off has the last word.
    let answer = world.post(path, r#"{"action":"restart_control"}"#);
    assert_eq!(answer.status, 202);
    assert_eq!(world.post(path, r#"{"action":"shutdown"}"#).status, 202);
    let answer = world.post(path, r#"{"action":"restart_control"}"#);
    assert_eq!(answer.code(), "shutting_down");
    world.idle(SECOND);
    assert_eq!(world.backend.restarted, None);
    assert!(world.backend.powered.take().is_some());
    // Without the boot argument there are no drills.
    let config = Config {
        token_sha256: auth::token_digest(TOKEN),
        seed: [8; 32],
        drills: false,
    };
    world.server = Server::revive(config, &mut world.backend);
    let answer = world.post(path, r#"{"action":"restart_control","drill":"panic"}"#);
    assert_eq!(answer.status, 422);
    assert_eq!(world.backend.powered, None);
}

#[test]
fn as_many_vms_and_images_as_can_be_are_all_found_again() {
    let mut world = World::new();
    for n in 0..64 {
        world.image(&format!("image-{n}"), "flat", b"bytes");
    }
    let spec = SPEC.replace("\"flat\":\"flat\"", "\"flat\":\"image-7\"");
    for n in 0..64 {
        let name = format!("vm-{n}");
        assert_eq!(world.put(&format!("/v1/vms/{name}"), &spec).status, 201);
        if n % 2 == 0 {
            assert_eq!(world.action(&name, "start").status, 200);
        }
    }
    let before = (world.get("/v1/vms").json(), world.get("/v1/images").json());
    reborn(&mut world);
    let after = (world.get("/v1/vms").json(), world.get("/v1/images").json());
    for (list, key) in [(0, "images"), (1, "vms")] {
        let of = |pair: &(Value, Value)| {
            if list == 0 {
                pair.1[key].clone()
            } else {
                pair.0[key].clone()
            }
        };
        let (before, after) = (of(&before), of(&after));
        let all = before.as_array().expect("a list");
        assert_eq!(after.as_array().map(Vec::len), Some(all.len()));
        for (n, one) in all.iter().enumerate() {
            assert_eq!(&after[n], one);
        }
    }
    // Nor does a note stay of what goes.
    for n in 0..64 {
        let gone = world.delete(&format!("/v1/vms/vm-{n}?force=true"));
        assert!(gone.status == 204 || gone.status == 202, "{}", gone.text());
        world.idle(5 * MS);
        let gone = world.delete(&format!("/v1/images/image-{n}")).status;
        assert_eq!(gone, if n == 7 { 409 } else { 204 });
    }
    world.idle(5 * MS);
    assert_eq!(world.delete("/v1/images/image-7").status, 204);
    assert_eq!(world.backend.notes.len(), 1);
}
