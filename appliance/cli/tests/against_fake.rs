//! `skete`, the program, against the real control server over a fake machine.

#[path = "../../control/examples/fake_appliance/serve.rs"]
mod serve;

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

const TOKEN: &str = "skete_cli_test";

/// An appliance on a port of its own; it ends when it is told to shut down.
struct Appliance {
    url: String,
    server: Option<thread::JoinHandle<()>>,
    dir: PathBuf,
}

impl Appliance {
    fn new(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let server = thread::spawn(move || {
            serve::serve(&listener, TOKEN).expect("the appliance serves");
        });
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&dir).expect("a directory");
        Self {
            url,
            server: Some(server),
            dir,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skete"));
        command
            .args(args)
            .env("SKETE_URL", &self.url)
            .env("SKETE_TOKEN", TOKEN)
            .current_dir(&self.dir)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("skete runs")
    }

    /// Runs a command that has to succeed; returns what it printed.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs a command that has to fail with `code`; returns what it complained.
    fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).expect("text")
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        serde_json::from_str(&self.ok(&args)).expect("JSON")
    }

    fn file(&self, name: &str, data: &[u8]) -> String {
        std::fs::write(self.dir.join(name), data).expect("a file");
        name.into()
    }

    fn vm(&self, name: &str) {
        let file = self.file("program.bin", b"a flat program");
        self.ok(&["image", "push", &file, "--name", "flat"]);
        self.ok(&["vm", "create", name, "--flat", "flat", "--memory", "64MiB"]);
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        // Already shut down, in one of the tests.
        let _ = self.run(&["shutdown"]);
        if let Some(server) = self.server.take() {
            let ended = server.join();
            assert!(ended.is_ok() || thread::panicking());
        }
    }
}

#[test]
fn a_vm_lives_from_upload_to_deletion() {
    let skete = Appliance::new("life");
    let mut kernel = vec![0u8; 300_000];
    kernel[56..60].copy_from_slice(b"ARM\x64");
    let kernel = skete.file("vmlinuz", &kernel);
    let initrd = skete.file("initrd.img", b"whatever");
    let pushed = skete.ok(&["image", "push", &kernel, "--name", "linux"]);
    assert!(
        pushed.starts_with("linux: kernel of 292.9 KiB, sha256 "),
        "{pushed}"
    );
    skete.ok(&["image", "push", &initrd, "--name", "initrd"]);
    assert_eq!(skete.ok(&["image", "ls", "-q"]), "initrd\nlinux\n");
    let created = skete.json(&[
        "vm",
        "create",
        "web",
        "--kernel",
        "linux",
        "--initrd",
        "initrd",
        "--cmdline",
        "console=ttyAMA0 quiet",
        "--cpus",
        "2",
        "--memory",
        "512MiB",
    ]);
    assert_eq!(created["spec"]["memory_bytes"], 536_870_912);
    assert_eq!(created["spec"]["boot"]["cmdline"], "console=ttyAMA0 quiet");
    assert_eq!(skete.ok(&["vm", "start", "web"]), "web: running\n");
    assert_eq!(
        skete.ok(&["vm", "start", "web"]),
        "web: running\n",
        "again is no error"
    );
    let list = skete.ok(&["ls"]);
    assert!(
        list.lines()
            .any(|line| line.starts_with("web") && line.contains("running")),
        "{list}"
    );
    assert_eq!(skete.json(&["vm", "show", "web"])["status"]["starts"], 1);
    assert!(
        skete
            .ok(&["vm", "show", "web"])
            .contains("state      running (requested)")
    );
    skete.fails(4, &["image", "rm", "linux"]);
    skete.fails(4, &["vm", "rm", "web"]);
    assert_eq!(
        skete.ok(&["vm", "stop", "web", "--force"]),
        "web: stopped\n"
    );
    assert_eq!(skete.ok(&["vm", "rm", "web"]), "web: deleted\n");
    skete.ok(&["image", "rm", "linux", "initrd"]);
    assert_eq!(skete.ok(&["image", "ls", "--json"]).trim(), "[]");
    let events = skete.ok(&["events", "--no-follow"]);
    assert_eq!(events.lines().count(), 10, "{events}");
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let skete = Appliance::new("codes");
    skete.vm("a");
    let missing = skete.fails(3, &["vm", "show", "nobody"]);
    assert_eq!(
        missing,
        "error: no VM is named 'nobody'\nhint: GET /v1/vms lists the VMs there are\n"
    );
    skete.fails(3, &["console", "nobody"]);
    skete.fails(3, &["image", "rm", "nothing"]);
    skete.fails(
        4,
        &["vm", "create", "a", "--flat", "flat", "--memory", "128MiB"],
    );
    skete.fails(4, &["vm", "reset", "a"]);
    skete.fails(4, &["vm", "serror", "a"]);
    skete.fails(5, &["--token", "wrong", "host"]);
    skete.fails(5, &["--token", "wrong", "console", "a"]);
    skete.fails(5, &["--token", "", "ls"]);
    let unreachable = skete.fails(6, &["--url", "http://127.0.0.1:1", "host"]);
    assert!(unreachable.contains("--url"), "{unreachable}");
    skete.fails(6, &["--url", "http://127.0.0.1:1", "console", "a"]);
    for url in [
        "127.0.0.1:8080",
        "https://127.0.0.1",
        "ftp://x",
        "http://",
        "",
        "http://a b",
    ] {
        let usage = skete.fails(2, &["--url", url, "host"]);
        assert!(usage.contains("--url"), "{usage}");
    }
    let usage = skete.fails(2, &["vm", "create", "b"]);
    assert!(usage.contains("--kernel"), "{usage}");
    let usage = skete.fails(
        2,
        &[
            "image",
            "push",
            "program.bin",
            "--name",
            "x",
            "--kind",
            "iso",
        ],
    );
    assert!(usage.contains("--kind"), "{usage}");
    let usage = skete.fails(2, &["vm", "create", "b", "--flat", "flat", "--cpus", "99"]);
    assert!(usage.contains("--cpus"), "{usage}");
    skete.fails(1, &["image", "push", "no-such-file", "--name", "x"]);
    let memory = skete.fails(
        1,
        &["vm", "create", "b", "--flat", "flat", "--memory", "5GiB"],
    );
    assert!(
        memory.contains("5368709120") && memory.contains("4294967296"),
        "{memory}"
    );
    let kind = skete.file("mystery", b"?");
    let usage = skete.fails(2, &["image", "push", &kind, "--name", "x"]);
    assert!(usage.contains("--kind"), "{usage}");
    let bad = skete.fails(
        1,
        &["image", "push", &kind, "--name", "x", "--kind", "kernel"],
    );
    assert!(bad.contains("not an arm64 Linux Image"), "{bad}");
    skete.ok(&["image", "push", &kind, "--name", "x", "--kind", "flat"]);
}

#[test]
fn a_console_works_through_pipes() {
    let skete = Appliance::new("console");
    skete.vm("a");
    skete.ok(&["vm", "start", "a"]);
    let mut console = skete
        .command(&["console", "a"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("skete runs");
    let mut stdin = console.stdin.take().expect("a pipe");
    stdin.write_all(b"hello\n").expect("it takes input");
    drop(stdin);
    let output = console.wait_with_output().expect("it ends");
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.starts_with("Fake guest 'a', 1 vCPUs.\r\n# hello\n"),
        "{text}"
    );
    assert_eq!(skete.ok(&["console", "a", "--log"]), text);
    let mut typed = skete
        .command(&["console", "a"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("runs");
    typed
        .stdin
        .take()
        .expect("a pipe")
        .write_all(b"poweroff\n")
        .expect("it takes input");
    assert!(typed.wait().expect("it ends").success());
    assert_eq!(
        skete.json(&["vm", "show", "a"])["status"]["reason"],
        "guest_poweroff"
    );
}

#[test]
fn a_vm_is_defined_by_a_file_and_the_command_line_comes_before_it() {
    let skete = Appliance::new("file");
    skete.vm("a");
    let file = skete.file(
        "web.toml",
        b"name = \"web\"\ncpus = 2\nmemory = \"128MiB\"\n[boot]\nflat = \"image:flat\"\n",
    );
    let vm = skete.json(&["vm", "create", "-f", &file]);
    assert_eq!(
        (&vm["name"], &vm["spec"]["cpus"]),
        (&"web".into(), &2.into())
    );
    assert_eq!(vm["spec"]["memory_bytes"], 134_217_728);
    assert_eq!(vm["spec"]["boot"]["flat"], "flat");
    let vm = skete.json(&["vm", "create", "two", "-f", &file, "--cpus", "3"]);
    assert_eq!(
        (&vm["name"], &vm["spec"]["cpus"]),
        (&"two".into(), &3.into())
    );
    let file = skete.file(
        "features.toml",
        b"[boot]\nflat = \"flat\"\n[cpu_features]\npmu = false\nsve = false\n",
    );
    let args = [
        "vm",
        "create",
        "three",
        "-f",
        &file,
        "--cpu-features",
        "pmu=on",
    ];
    let vm = skete.json(&args);
    assert_eq!(vm["spec"]["cpu_features"]["pmu"], true);
    assert_eq!(vm["spec"]["cpu_features"]["sve"], false);
    let show = skete.ok(&["vm", "show", "three"]);
    assert!(show.contains("sve=off,pmu=on"), "{show}");
    for (value, why) in [
        ("sme=on", "'sme'"),
        ("pmu", "NAME=on"),
        ("pmu=maybe", "NAME=on"),
    ] {
        let args = [
            "vm",
            "create",
            "x",
            "--flat",
            "flat",
            "--cpu-features",
            value,
        ];
        let said = skete.fails(2, &args);
        assert!(said.contains(why), "{said}");
    }
    let bad = skete.file("bad.toml", b"cpus = 2\nmemroy = \"128MiB\"\n");
    let why = skete.fails(1, &["vm", "create", "x", "-f", &bad]);
    assert!(why.contains("bad.toml") && why.contains("memroy"), "{why}");
    let bad = skete.file("bad2.toml", b"memory = \"much\"\n");
    let why = skete.fails(1, &["vm", "create", "x", "-f", &bad]);
    assert!(why.contains("'much' is not a size"), "{why}");
    skete.fails(1, &["vm", "create", "x", "-f", "none.toml"]);
}

#[test]
fn a_broken_upload_is_gone_on_with() {
    let skete = Appliance::new("resume");
    let data: Vec<u8> = (0..2_000_000u32)
        .map(|n| n.to_le_bytes()[usize::from(n % 7 == 0)])
        .collect();
    let file = skete.file("big.bin", &data);
    // A connection that dies in the middle of its upload, as an earlier call may have left it.
    let address = skete.url.strip_prefix("http://").expect("a URL").to_owned();
    let mut broken = std::net::TcpStream::connect(&address).expect("it connects");
    let spec = format!("{{\"kind\":\"flat\",\"size_bytes\":{}}}", data.len());
    let head = |method: &str, path: &str, length: usize| {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Length: {length}\r\n\r\n"
        )
    };
    broken
        .write_all(head("PUT", "/v1/images/big", spec.len()).as_bytes())
        .expect("sent");
    broken.write_all(spec.as_bytes()).expect("sent");
    broken
        .write_all(head("PUT", "/v1/images/big/data", data.len()).as_bytes())
        .expect("sent");
    broken.write_all(&data[..700_000]).expect("sent");
    for _ in 0..200 {
        let images = skete.json(&["image", "ls"]);
        if images[0]["received_bytes"] == 700_000 {
            break;
        }
        thread::sleep(std::time::Duration::from_millis(20));
    }
    drop(broken);
    assert_eq!(skete.json(&["image", "ls"])[0]["received_bytes"], 700_000);
    let pushed = skete.json(&["image", "push", &file, "--name", "big"]);
    assert_eq!(
        (&pushed["state"], &pushed["received_bytes"]),
        (&"ready".into(), &2_000_000.into())
    );
    let client = skete_client::Client::new(&skete.url, TOKEN).expect("a client");
    let metrics = client.metrics().expect("metrics");
    let line = "skete_api_requests_total{route=\"/v1/images/{name}/data\",code=\"200\"} 2";
    assert!(metrics.contains(line), "one HEAD and one PATCH:\n{metrics}");
    // The same file again is not sent again.
    skete.ok(&["image", "push", &file, "--name", "big"]);
    let other = skete.file("other.bin", b"something else");
    skete.fails(4, &["image", "push", &other, "--name", "big"]);
}

#[test]
fn completions_are_scripts() {
    let skete = Appliance::new("completions");
    for shell in ["bash", "zsh", "fish"] {
        let script = skete.ok(&["completions", shell]);
        assert!(
            script.contains("skete") && script.contains("console"),
            "{shell}"
        );
    }
}

#[test]
fn shutdown_ends_the_appliance() {
    let mut skete = Appliance::new("shutdown");
    skete.vm("a");
    skete.ok(&["vm", "start", "a"]);
    assert_eq!(skete.ok(&["shutdown"]), "shutting down\n");
    let ended = skete.server.take().expect("it ran").join();
    assert!(ended.is_ok());
    skete.fails(6, &["host"]);
}

#[test]
fn the_control_plane_is_started_anew_and_vms_run_on() {
    let skete = Appliance::new("restart");
    skete.vm("a");
    skete.ok(&["vm", "start", "a"]);
    assert_eq!(skete.ok(&["restart-control"]), "restarted\n");
    let shown = skete.ok(&["--json", "vm", "show", "a"]);
    assert!(shown.contains("\"running\""), "{shown}");
    let said = skete.ok(&["restart-control", "--no-wait"]);
    assert_eq!(said, "restarting the control plane\n");
}

#[test]
fn memory_is_shown_limited_scanned_and_taken_back() {
    let skete = Appliance::new("memory");
    skete.vm("a");
    let off = skete.fails(4, &["vm", "memory", "show", "a"]);
    assert!(off.contains("does not run"), "{off}");
    skete.ok(&["vm", "start", "a"]);
    let shown = skete.ok(&["vm", "memory", "set", "a", "--limit", "48MiB"]);
    assert!(shown.contains("limit         48 MiB"), "{shown}");
    assert!(
        shown.contains("leaves        512 x 4 KiB, 15 x 2 MiB"),
        "{shown}"
    );
    let memory = ["vm", "memory"];
    let run = |rest: &[&str]| skete.ok(&[&memory, rest].concat());
    let taken = run(&["reclaim", "a", "--length", "12KiB"]);
    assert_eq!(taken, "a: 4 KiB given back\n");
    let found = run(&["scan", "a", "dirty", "--list", "--length", "16KiB"]);
    assert!(found.contains("0x40002000"), "{found}");
    assert!(found.ends_with("a: 8 KiB found\n"), "{found}");
    run(&["keys", "set", "a", "0x40001000", "8KiB", "0x38"]);
    let keys = run(&["keys", "get", "a", "0x40000000", "16KiB"]);
    let words: Vec<&str> = keys
        .lines()
        .nth(2)
        .into_iter()
        .flat_map(str::split_whitespace)
        .collect();
    let expected = [
        "0x40001000",
        "8",
        "KiB",
        "0x38:",
        "key",
        "3",
        "fetch-protected",
    ];
    assert_eq!(words, expected, "{keys}");
    skete.fails(1, &["vm", "memory", "states", "get", "a", "0x40000001"]);
    skete.fails(4, &["vm", "memory", "states", "get", "a", "0x40000000"]);
    skete.fails(2, &["vm", "memory", "set", "a", "--largest-leaf", "8KiB"]);
}

#[test]
fn a_device_is_attached_used_and_detached() {
    let skete = Appliance::new("device");
    skete.vm("a");
    assert_eq!(
        skete.ok(&["device", "ls", "-q"]),
        "0000:00:03.0\n0000:00:04.0\n"
    );
    let attach = ["device", "attach", "a", "00:03.0"];
    skete.ok(&attach);
    // Said again it is said anew, not twice.
    let done = skete.ok(&[&attach[..], &["--profile", "nvme"]].concat());
    assert_eq!(done, "a: has 0000:00:03.0 from its next start on\n");
    let spec = &skete.json(&["vm", "show", "a"])["spec"]["devices"];
    assert_eq!(spec.as_array().map(Vec::len), Some(1), "{spec}");
    assert_eq!(spec[0]["profile"], "nvme");
    let reset = ["device", "reset", "00:03.0"];
    let off = skete.fails(4, &reset);
    assert!(off.contains("no running VM has device"), "{off}");

    skete.ok(&["vm", "start", "a"]);
    let list = skete.ok(&["device", "list"]);
    let line = list.lines().find(|line| line.starts_with("0000:00:03.0"));
    assert!(
        line.is_some_and(|line| line.contains("assigned to a")),
        "{list}"
    );
    skete.fails(4, &["device", "attach", "a", "00:04.0"]);
    skete.ok(&reset);
    let shown = skete.ok(&["device", "show", "00:03.0"]);
    assert!(
        shown.contains("resets       1, all mappings taken away 1 times"),
        "{shown}"
    );
    assert!(
        shown.contains("dma          bounded by the SMMU"),
        "{shown}"
    );

    // More than one request may hold, so that the pieces have to fit together.
    let bytes: Vec<u8> = (0..3000_u32).map(|n| (n % 251) as u8).collect();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    skete.ok(&["device", "write", "00:03.0", "2", "0x1001", &hex]);
    let read = ["device", "read", "00:03.0", "2", "0x1001", "3000"];
    let raw = skete.run(&[&read[..], &["--raw"]].concat());
    assert_eq!(raw.stdout, bytes);
    assert_eq!(skete.json(&read)["data"], hex);
    let dumped = skete.ok(&["device", "read", "00:03.0", "2", "0x1001", "3"]);
    assert!(dumped.starts_with("00001001  00 01 02"), "{dumped}");
    // To the end of the BAR, which lies where a request ends.
    let end = skete.run(&["device", "read", "00:03.0", "0", "0x3c00", "4KiB", "--raw"]);
    assert_eq!((end.status.success(), end.stdout.len()), (true, 1024));

    let revoke = ["device", "revoke", "00:03.0", "2", "0"];
    skete.ok(&[&revoke[..], &["4MiB"]].concat());
    skete.fails(1, &[&revoke[..], &["100"]].concat());
    skete.fails(1, &[&revoke[..], &["5MiB"]].concat());
    skete.fails(3, &["device", "show", "00:09.0"]);
    skete.fails(2, &["device", "show", "9"]);
    skete.fails(2, &["device", "write", "00:03.0", "0", "0", "abc"]);
    assert!(
        skete
            .ok(&["device", "touches", "00:03.0"])
            .contains("nothing was touched")
    );

    skete.ok(&["vm", "stop", "a"]);
    skete.fails(2, &["device", "detach", "a", "00:04.0"]);
    skete.ok(&["device", "detach", "a", "00:03.0"]);
    assert!(
        skete.json(&["vm", "show", "a"])["spec"]
            .get("devices")
            .is_none_or(|d| d == &serde_json::json!([]))
    );
    let made = [
        "vm",
        "create",
        "b",
        "--flat",
        "flat",
        "--device",
        "00:04.0,unsafe-dma",
    ];
    let made = skete.json(&made);
    assert_eq!(made["spec"]["devices"][0]["unsafe_dma"], true);
}

#[test]
fn a_vms_share_is_set_and_shown_and_its_vcpus_are_pinned() {
    let skete = Appliance::new("cpu");
    let file = skete.file("program.bin", b"a flat program");
    skete.ok(&["image", "push", &file, "--name", "flat"]);
    let spec = skete.file(
        "web.toml",
        b"name = \"web\"\ncpus = 2\n[boot]\nflat = \"flat\"\n[cpu]\nweight = 50\nlimit_percent = 150\n",
    );
    let made = skete.json(&[
        "vm",
        "create",
        "-f",
        &spec,
        "--weight",
        "200",
        "--pin",
        "1=0,2-3",
        "--hide",
        "stolen-time",
    ]);
    let expected = serde_json::json!({
        "weight": 200, "limit_percent": 150,
        "pins": [{"vcpu": 1, "cores": [0, 2, 3]}], "hide": ["stolen-time"],
    });
    assert_eq!(made["spec"]["cpu"], expected);
    let shown = skete.ok(&["vm", "show", "web"]);
    for line in [
        "weight     200",
        "cpu limit  150 % of one core",
        "pinned     vCPU 1 to 0,2-3",
        "hidden     stolen-time",
    ] {
        assert!(shown.lines().any(|found| found == line), "{line}\n{shown}");
    }
    skete.ok(&["vm", "start", "web"]);
    let pinned = skete.ok(&["vm", "cpu", "pin", "web", "0", "1"]);
    let first = pinned.lines().find(|line| line.starts_with("0 "));
    let words: Vec<&str> = first.expect("a row").split_whitespace().collect();
    assert_eq!(
        words[..6],
        ["0", "running", "1", "1", "1500", "ms"],
        "{pinned}"
    );
    let set = skete.ok(&["vm", "cpu", "set", "web", "--cpu-limit", "none"]);
    assert!(set.contains("limit   none"), "{set}");
    let refused = skete.fails(1, &["vm", "cpu", "pin", "web", "0", "9"]);
    assert!(
        refused.contains("9 is not one of the machine's cores"),
        "{refused}"
    );
    skete.fails(4, &["vm", "cpu", "set", "web", "--hide", "none"]);
    assert_eq!(skete.ok(&["vm", "restart", "web"]), "web: running\n");
    assert_eq!(skete.json(&["vm", "show", "web"])["status"]["starts"], 2);
    skete.ok(&["vm", "stop", "web"]);
    assert_eq!(skete.ok(&["vm", "restart", "web"]), "web: running\n");
    skete.fails(2, &["vm", "cpu", "set", "web"]);
    let wrong = skete.file("wrong.toml", b"[cpu]\nwheight = 1\n");
    let why = skete.fails(1, &["vm", "create", "x", "-f", &wrong]);
    assert!(why.contains("wheight"), "{why}");
}
