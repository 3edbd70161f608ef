//! PCI functions handed to guests: memory by fault, readiness, resets.
//!
//! `ivshmem` plays the devices: its BAR 2 is memory of any size, and a second one backed by a
//! file plays the registers of a GPU that trains its memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use qemu::{Appliance, Control, Cpu};
use serde_json::{Value, json};

use crate::common::{MIB, PATIENCE, Running, appliance_on};

on_both_cpus!(
    a01_memory_of_a_device_is_mapped_by_touch_in_the_largest_leaves,
    a09_memory_waits_for_its_device_and_nothing_else_does,
    a11_a_device_that_is_never_ready_aborts_the_toucher_alone,
    a15_resets_under_access_leave_no_stale_mapping,
);

/// Milliseconds between two looks at a device's registers.
const QUANTUM_MS: u64 = 1000;
const GPU: &str = "0000:00:02.0";
const MEMORY: &str = "0000:00:01.0";
const GIB: u64 = 1 << 30;
/// Where the guest puts the BARs.
const HIGH: u64 = 0x80_0000_0000;
const LOW: u64 = 0x1000_0000;

/// Starts an appliance with `memory` as function 1, and `registers` as function 2.
fn machine(cpu: Cpu, memory: &str, registers: Option<&PathBuf>) -> Running {
    let mut board = Appliance::board(cpu);
    let mut add = |words: &[&str]| board.more.extend(words.iter().map(|&w| w.to_owned()));
    add(&[
        "-object",
        &format!("memory-backend-ram,id=gpu,size={memory}"),
    ]);
    add(&["-device", "ivshmem-plain,memdev=gpu,addr=1"]);
    if let Some(path) = registers {
        let path = path.display();
        let object = format!("memory-backend-file,id=regs,size=1M,share=on,mem-path={path}");
        add(&["-object", &object]);
        add(&["-device", "ivshmem-plain,memdev=regs,addr=2"]);
    }
    appliance_on(board)
}

/// The registers of a GPU, in a file that the machine and the test share.
struct Registers(PathBuf, File);

impl Registers {
    fn new() -> Self {
        let name = std::thread::current()
            .name()
            .unwrap_or("x")
            .replace("::", "-");
        let path = std::env::temp_dir().join(format!("skete-{}-{name}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .expect("a file");
        file.set_len(1 << 20).expect("is written");
        Self(path, file)
    }

    /// Link up, memory trained.
    fn ready(&self) {
        for at in [0x1498, 0x2_00bc] {
            let done = 0xff_u32.to_le_bytes();
            self.1.write_all_at(&done, at).expect("is written");
        }
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A guest that does to its device what it is told.
pub(crate) struct Guest<'a> {
    control: &'a Control,
    seen: usize,
}

impl<'a> Guest<'a> {
    pub(crate) fn start(skete: &'a Running, devices: &Value) -> Self {
        skete.push_payload("device");
        Self::start_with(&skete.control, devices)
    }

    /// As [`Self::start`], for an appliance that has the guest already.
    pub(crate) fn start_with(control: &'a Control, devices: &Value) -> Self {
        let spec = json!({
            "cpus": 1, "memory_bytes": 64 * MIB, "boot": { "flat": "device" }, "devices": devices,
        });
        control
            .json("PUT /v1/vms/guest", &spec)
            .expect("can be defined");
        control.start("guest").expect("starts");
        control
            .wait_for_console("guest", "READY", PATIENCE)
            .expect("boots");
        Self { control, seen: 0 }
    }

    /// Types a command; its answer is awaited with [`Self::answer`].
    fn begin(&mut self, command: &str) {
        self.seen = self.control.console("guest").expect("has a log").len();
        let line = format!("{command}\n");
        self.control.type_text("guest", &line).expect("takes it");
    }

    /// Waits for what follows `= ` or `! `.
    fn answer(&mut self) -> (char, String) {
        let begin = Instant::now();
        loop {
            let log = self.control.console("guest").expect("has a log");
            let new = log.get(self.seen..).unwrap_or("");
            let line = new
                .lines()
                .find(|line| line.contains(" = ") || line.contains(" ! "));
            if let Some(line) = line.filter(|_| new.ends_with('\n')) {
                let at = line
                    .find(" = ")
                    .or_else(|| line.find(" ! "))
                    .expect("found above");
                let kind = line[at + 1..].chars().next().expect("found above");
                return (kind, line[at + 3..].trim().to_owned());
            }
            assert!(begin.elapsed() < PATIENCE, "no answer in {new:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs a command that takes no exception; returns the number it gives.
    pub(crate) fn run(&mut self, command: &str) -> u64 {
        self.begin(command);
        let (kind, text) = self.answer();
        assert_eq!(kind, '=', "{command}: {text}");
        u64::from_str_radix(&text, 16).expect("a number")
    }

    /// Runs a command that takes an exception; returns its syndrome and address.
    pub(crate) fn fails(&mut self, command: &str) -> (u64, u64) {
        self.begin(command);
        let (kind, text) = self.answer();
        assert_eq!(kind, '!', "{command}: {text}");
        let mut words = text
            .split(' ')
            .map(|w| u64::from_str_radix(w, 16).expect("a number"));
        (words.next().expect("ESR"), words.next().expect("FAR"))
    }

    pub(crate) fn off(mut self) {
        self.begin("off");
        self.control
            .wait_for_state("guest", "stopped", PATIENCE)
            .expect("PSCI SYSTEM_OFF ends it");
    }
}

/// What is known of a function.
pub(crate) fn device(control: &Control, pci: &str) -> Value {
    let list = control.get("/v1/devices").expect("answers");
    let devices = list["devices"].as_array().expect("a list");
    let found = devices.iter().find(|device| device["pci"] == pci);
    found
        .unwrap_or_else(|| panic!("no {pci} in {list}"))
        .clone()
}

pub(crate) fn number(of: &Value, key: &str) -> u64 {
    let pointer = format!("/{}", key.replace('.', "/"));
    of.pointer(&pointer)
        .and_then(Value::as_u64)
        .expect("a number")
}

/// Leaves mapped so far: 1 GiB, 2 MiB, 4 KiB.
fn leaves(of: &Value) -> [u64; 3] {
    ["mapped_1g", "mapped_2m", "mapped_4k"].map(|size| number(of, &format!("faults.{size}")))
}

pub(crate) fn act(control: &Control, pci: &str, request: &Value) -> Value {
    let line = format!("POST /v1/devices/{pci}/actions");
    let begin = Instant::now();
    loop {
        match control.json(&line, request) {
            Ok(answer) => return answer,
            Err(error) if error.to_string().contains("device_busy") => {
                assert!(begin.elapsed() < PATIENCE, "{error}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn a01_memory_of_a_device_is_mapped_by_touch_in_the_largest_leaves(cpu: Cpu) {
    let skete = machine(cpu, "2G", None);
    let control = &skete.control;
    let before = device(control, MEMORY);
    assert_eq!(
        (before["state"].as_str(), number(&before, "mapped_bytes")),
        (Some("free"), 0)
    );
    let mut guest = Guest::start(&skete, &json!([{ "pci": MEMORY }]));
    let now = device(control, MEMORY);
    assert_eq!(
        (now["vm"].as_str(), now["state"].as_str()),
        (Some("guest"), Some("assigned"))
    );

    // D3: configuration space says what it is, and sizes.
    assert_eq!(guest.run("cr 1 0"), 0x1110_1af4);
    assert_eq!(guest.run("size 1 0"), 0x100);
    assert_eq!(guest.run("size 1 2"), 2 * GIB);
    assert_eq!(guest.run("cr 1 100"), 0);
    guest.run(&format!("cw 1 10 {LOW:x}"));
    guest.run("cw 1 18 0");
    guest.run("cw 1 1c 80");
    guest.run("ch 1 4 2");
    assert_eq!(number(&device(control, MEMORY), "mapped_bytes"), 0);

    // One touch maps a gibibyte, by an instruction that no syndrome describes, too.
    guest.run(&format!("rd {HIGH:x}"));
    let now = device(control, MEMORY);
    assert_eq!(
        (leaves(&now), number(&now, "mapped_bytes")),
        ([1, 0, 0], GIB)
    );
    guest.run(&format!("fill {HIGH:x} 80000000 200000"));
    assert_eq!(guest.run(&format!("check {HIGH:x} 80000000 200000")), 0);
    let now = device(control, MEMORY);
    assert_eq!(
        (leaves(&now), number(&now, "mapped_bytes")),
        ([2, 0, 0], 2 * GIB)
    );
    let touched: Vec<_> = now["touches"].as_array().expect("a list").iter().collect();
    assert_eq!(
        touched.iter().filter(|n| n.as_u64() == Some(1)).count(),
        2,
        "{touched:?}"
    );

    // Registers smaller than a page are never mapped: the page is not all theirs.
    guest.run(&format!("r {LOW:x}"));
    assert_eq!(number(&device(control, MEMORY), "faults.emulated"), 1);
    assert_eq!(number(&device(control, MEMORY), "mapped_bytes"), 2 * GIB);

    // A page is taken away under the guest. What it touches there comes back by pages, the
    // rest of the gibibyte never went.
    let page = json!({ "action": "revoke", "bar": 2, "offset": 0x20_0000, "bytes": 4096 });
    act(control, MEMORY, &page);
    let now = device(control, MEMORY);
    assert_eq!(number(&now, "mapped_bytes"), 2 * GIB - 4096);
    assert_eq!(guest.run(&format!("check {HIGH:x} 80000000 200000")), 0);
    let now = device(control, MEMORY);
    assert_eq!(
        (leaves(&now), number(&now, "mapped_bytes")),
        ([2, 0, 1], 2 * GIB)
    );

    // A12: the control port sees the guest's word, and what it writes the guest sees.
    let read = json!({ "action": "read", "bar": 2, "offset": 0x4000_0000, "bytes": 4 });
    let seen = act(control, MEMORY, &read);
    let word = guest.run(&format!("r {:x}", HIGH + GIB));
    let bytes = u32::try_from(word).expect("a word").to_le_bytes();
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(seen["data"].as_str(), Some(text.as_str()));
    let write = json!({ "action": "write", "bar": 2, "offset": 0x4000_0000, "data": "78563412" });
    act(control, MEMORY, &write);
    assert_eq!(guest.run(&format!("r {:x}", HIGH + GIB)), 0x1234_5678);

    // A13: with memory off nothing is mapped, and a touch is an external abort (DFSC 0x10).
    guest.run("ch 1 4 0");
    let now = device(control, MEMORY);
    assert_eq!((number(&now, "mapped_bytes"), number(&now, "zaps")), (0, 1));
    let (esr, far) = guest.fails(&format!("r {HIGH:x}"));
    assert_eq!((esr & 0x3f, far), (0x10, HIGH));
    let off = control.json(&format!("POST /v1/devices/{MEMORY}/actions"), &read);
    assert!(
        off.expect_err("memory is off")
            .to_string()
            .contains("device_off")
    );

    // A BAR that moves takes its mappings along.
    guest.run("cw 1 1c c0");
    guest.run("ch 1 4 2");
    assert_eq!(
        guest.run(&format!("r {:x}", 0xc0_0000_0000_u64 + GIB)),
        0x1234_5678
    );
    guest.run("cw 1 1c 80");
    assert_eq!(number(&device(control, MEMORY), "mapped_bytes"), 0);
    let word = guest.run(&format!("r {:x}", HIGH + GIB));
    assert_eq!(word, 0x1234_5678);
    guest.off();
    let now = device(control, MEMORY);
    assert_eq!(
        (now["state"].as_str(), now["vm"].as_str()),
        (Some("free"), None)
    );
    skete.shut_down();
}

/// The GPU and its memory, as a VM is given them.
fn gpu() -> Value {
    json!([{ "pci": GPU, "profile": "nvgrace-gpu", "memory": MEMORY, "registers_bar": 2 }])
}

/// Where its BARs go: registers below, resmem and usemem (A06: 1 GiB each of 2 GiB) above.
fn place_gpu(guest: &mut Guest<'_>) -> (u64, u64) {
    assert_eq!(guest.run("size 1 0"), 1 << 20);
    assert_eq!(guest.run("size 1 2"), GIB);
    assert_eq!(guest.run("size 1 4"), GIB);
    guest.run(&format!("cw 1 10 {LOW:x}"));
    guest.run("cw 1 18 0");
    guest.run("cw 1 1c 80");
    guest.run("cw 1 20 40000000");
    guest.run("cw 1 24 80");
    guest.run("ch 1 4 2");
    (HIGH, HIGH + GIB)
}

fn a09_memory_waits_for_its_device_and_nothing_else_does(cpu: Cpu) {
    let registers = Registers::new();
    let skete = machine(cpu, "2G", Some(&registers.0));
    let control = &skete.control;
    // A16: the guest boots, and uses everything else, while the GPU trains.
    let mut guest = Guest::start(&skete, &gpu());
    let (resmem, usemem) = place_gpu(&mut guest);
    assert_eq!(guest.run(&format!("r {:x}", LOW + 0x1498)), 0);
    let now = device(control, GPU);
    assert!(now["reset_pending"].as_bool().expect("said"));
    // Its first touch waits, and only until the registers say so: they are looked at each second.
    guest.begin(&format!("when {usemem:x}"));
    let begin = Instant::now();
    while number(&device(control, GPU), "faults.parked") < 2 {
        assert!(begin.elapsed() < PATIENCE, "nobody waits");
    }
    assert_eq!(
        leaves(&device(control, GPU))[0],
        0,
        "mapped before it was ready"
    );
    registers.ready();
    let (kind, waited) = guest.answer();
    let waited = u64::from_str_radix(&waited, 16).expect("milliseconds");
    let polls = number(&device(control, GPU), "faults.parked");
    assert_eq!(kind, '=');
    // It was sent back once a quantum at least (A10 has the exact schedule, by a clock of its
    // own): interrupts may have had it look in between.
    assert!(
        waited >= QUANTUM_MS && waited / QUANTUM_MS <= polls,
        "{waited} ms in {polls}"
    );
    // Below one quantum of a second: nobody had it wait, though the machine may be slow.
    assert!(
        guest.run(&format!("when {resmem:x}")) < QUANTUM_MS,
        "the second touch waits for nothing"
    );
    guest.run(&format!("fill {usemem:x} 40000000 100000"));
    assert_eq!(guest.run(&format!("check {usemem:x} 40000000 100000")), 0);
    assert_eq!(leaves(&device(control, GPU))[0], 2);
    guest.off();
    skete.shut_down();
}

fn a11_a_device_that_is_never_ready_aborts_the_toucher_alone(cpu: Cpu) {
    let registers = Registers::new();
    let skete = machine(cpu, "2G", Some(&registers.0));
    let control = &skete.control;
    let mut guest = Guest::start(&skete, &gpu());
    let (_, usemem) = place_gpu(&mut guest);
    let (esr, far) = guest.fails(&format!("r {usemem:x}"));
    assert_eq!((esr >> 26, esr & 0x3f, far), (0x25, 0x10, usemem));
    let now = device(control, GPU);
    // 31 polls: at once, and after each of 30 seconds. The last refuses.
    assert!(number(&now, "faults.parked") >= 30, "{now}");
    assert_eq!(number(&now, "faults.timeouts"), 1);
    assert_eq!(leaves(&now)[0], 0);
    let (_, events) = events(control);
    assert!(events.contains("device.not_ready"), "{events}");
    // A12: so does the control port: busy for as long, and then not ready; the guest runs on.
    let line = format!("POST /v1/devices/{GPU}/actions");
    let read = json!({ "action": "read", "bar": 4, "offset": 0, "bytes": 4 });
    let begin = Instant::now();
    let mut busy = 0;
    let refused = loop {
        let refused = control
            .json(&line, &read)
            .expect_err("is not ready")
            .to_string();
        if !refused.contains("device_busy") {
            break refused;
        }
        busy += 1;
        assert!(begin.elapsed() < PATIENCE, "{refused}");
        assert_eq!(guest.run(&format!("r {:x}", LOW + 0x1498)), 0);
    };
    assert!(
        refused.contains("device_not_ready") && busy >= 30,
        "{busy}: {refused}"
    );
    // The VM lives, and the next touch polls again.
    registers.ready();
    assert!(guest.run(&format!("when {usemem:x}")) < QUANTUM_MS);
    guest.off();
    skete.shut_down();
}

pub(crate) fn events(control: &Control) -> (u16, String) {
    let answer = control
        .raw("GET /v1/events?since=0&follow=false", &[], &[])
        .expect("answers");
    (
        answer.status,
        String::from_utf8_lossy(&answer.body).into_owned(),
    )
}

fn a15_resets_under_access_leave_no_stale_mapping(cpu: Cpu) {
    const RESETS: u64 = 1000;
    let registers = Registers::new();
    registers.ready();
    let skete = machine(cpu, "2G", Some(&registers.0));
    let control = &skete.control;
    let mut guest = Guest::start(&skete, &gpu());
    let (_, usemem) = place_gpu(&mut guest);
    guest.run(&format!("w {usemem:x} 5a"));
    guest.begin(&format!("loop {usemem:x}"));
    for n in 0..RESETS {
        act(control, GPU, &json!({ "action": "reset" }));
        // D1: between reset and readiness nothing is mapped, whoever touches.
        if n % 100 == 0 {
            let now = device(control, GPU);
            let (pending, mapped) = (&now["reset_pending"], number(&now, "mapped_bytes"));
            assert!(pending == false || mapped < GIB, "{now}");
        }
    }
    // A key ends the loop: none of its loads took an exception.
    guest.control.type_text("guest", "x\n").expect("takes it");
    let (kind, faults) = guest.answer();
    assert_eq!((kind, faults.as_str()), ('=', "0"));
    let now = device(control, GPU);
    assert_eq!(number(&now, "generation"), RESETS + 1);
    assert_eq!(number(&now, "zaps"), RESETS);
    assert_eq!(guest.run(&format!("r {usemem:x}")), 0x5a);
    assert!(
        leaves(&device(control, GPU))[0] > 100,
        "it was touched while it was reset"
    );
    guest.off();
    skete.shut_down();
}
