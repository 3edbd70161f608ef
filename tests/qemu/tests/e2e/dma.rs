//! Devices that begin transactions: bounded by the SMMU, or not allowed to.
//!
//! `edu` does DMA where it is told; an emulated NVMe drive is what stock Linux uses one for.

use std::fs::File;
use std::path::PathBuf;

use qemu::{Appliance, Control, Cpu, Shell};
use serde_json::json;

use crate::common::{MIB, PATIENCE, Running, appliance_on};
use crate::devices::{Guest, act, device, number};

on_both_cpus!(
    d2_a_device_reaches_its_vm_s_memory_and_nothing_else,
    d2_devices_reach_what_was_declared_and_the_rest_is_reclaimed,
    d2_one_device_that_sees_all_is_enough_for_all_of_its_vm_s,
    d2_without_an_smmu_a_device_begins_nothing,
    d2_without_an_smmu_dma_has_to_be_asked_for_by_name,
    root_reaches_nothing_of_a_device_whoever_has_it,
    c10_what_a_device_does_not_answer_is_an_error_of_who_asked,
    stock_linux_uses_an_nvme_drive_and_resets_it_under_load,
    a_gpu_s_messages_come_by_the_guest_s_its,
);

const EDU: &str = "0000:00:04.0";
const NVME: &str = "0000:00:03.0";
pub(crate) const BAR: u64 = 0x1000_0000;
pub(crate) const RAM: u64 = 0x4000_0000;
/// COMMAND: memory and bus master.
pub(crate) const ON: u64 = 0b110;

pub(crate) fn machine(cpu: Cpu, smmu: bool, devices: &[&str]) -> Running {
    let mut board = Appliance::board(cpu);
    let smmu: &[&str] = if smmu {
        &["-machine", "iommu=smmuv3"]
    } else {
        &[]
    };
    let words = smmu.iter().chain(devices);
    board.more.extend(words.map(|word| (*word).to_owned()));
    appliance_on(board)
}

/// `edu` answers no access to a byte: the bus ends it with an external abort. It is the guest's
/// that made it, and core's own, made for the control port, is not core's end.
fn c10_what_a_device_does_not_answer_is_an_error_of_who_asked(cpu: Cpu) {
    const VERSION: u64 = 0x0100_00ed;
    let skete = machine(cpu, true, &EDU_ARGS);
    let control = &skete.control;
    let mut guest = edu(&skete, false);
    for (command, at) in [("rb", BAR), ("wb", BAR + 4)] {
        let (esr, far) = guest.fails(&format!("{command} {at:x} 5a"));
        assert_eq!((esr >> 26, esr & 0x3f, far), (0x25, 0x10, at), "{command}");
    }
    assert_eq!(guest.run(&format!("r {BAR:x}")), VERSION, "it goes on");
    for (offset, bytes, data) in [(1, 1, "ff"), (0, 4, "ed000001"), (2, 2, "ffff")] {
        let read = json!({ "action": "read", "bar": 0, "offset": offset, "bytes": bytes });
        let seen = act(control, EDU, &read);
        assert_eq!(seen["data"].as_str(), Some(data), "{bytes} at {offset}");
    }
    // Register 4 keeps the complement of what is stored there: a word is, a byte is not.
    for (data, kept) in [("78563412", !0x1234_5678_u32), ("00", !0x1234_5678_u32)] {
        let write = json!({ "action": "write", "bar": 0, "offset": 4, "data": data });
        act(control, EDU, &write);
        assert_eq!(guest.run(&format!("r {:x}", BAR + 4)), u64::from(kept));
    }
    guest.off();
    skete.shut_down();
}

/// Has `edu` copy eight bytes from its own memory to `to`, and waits for the end.
pub(crate) fn copy_out(guest: &mut Guest<'_>, to: u64) {
    copy_out_at(guest, BAR, to);
}

/// As [`copy_out`], by the device whose registers are at `bar`.
fn copy_out_at(guest: &mut Guest<'_>, bar: u64, to: u64) {
    const OWN: u64 = 0x4_0000;
    for (register, value) in [(0x80, OWN), (0x88, to), (0x90, 8), (0x98, 0b11)] {
        guest.run(&format!("w {:x} {value:x}", bar + register));
    }
    while guest.run(&format!("r {:x}", bar + 0x98)) & 1 != 0 {}
}

/// Starts the guest with `edu`, and puts its BAR where it belongs.
fn edu(skete: &Running, declared: bool) -> Guest<'_> {
    let mut guest = Guest::start(skete, &json!([{ "pci": EDU, "declared_dma": declared }]));
    assert_eq!(guest.run("cr 1 0"), 0x11e8_1234);
    assert_eq!(guest.run("size 1 0"), MIB);
    guest.run(&format!("cw 1 10 {BAR:x}"));
    guest.run(&format!("ch 1 4 {ON:x}"));
    assert_eq!(guest.run("cr 1 4") & ON, ON, "the guest sees what it wrote");
    guest
}

const EDU_ARGS: [&str; 2] = ["-device", "edu,dma_mask=0xffffffff,addr=4"];

fn d2_a_device_reaches_its_vm_s_memory_and_nothing_else(cpu: Cpu) {
    let skete = machine(cpu, true, &EDU_ARGS);
    let control = &skete.control;
    let mut guest = edu(&skete, false);
    let now = device(control, EDU);
    assert_eq!(
        (&now["dma_bounded"], &now["dma_declared"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(
        number(&now, "dma_bytes"),
        64 * MIB,
        "a guest that declares nothing"
    );
    // All of it stays: nothing is taken from under the device, zeroes or not.
    assert_eq!(resident(control), 64 * MIB);
    reclaim(control);
    assert_eq!(resident(control), 64 * MIB);
    let refused = guest.run(&format!("declare {RAM:x} 1"));
    assert_eq!(refused.cast_signed(), -1, "it has no such call");
    // Into the guest's RAM: what was there is overwritten.
    let inside = RAM + 32 * MIB;
    guest.run(&format!("w {inside:x} 12345678"));
    copy_out(&mut guest, inside);
    assert_eq!(guest.run(&format!("r {inside:x}")), 0);
    assert_eq!(number(&device(control, EDU), "dma_faults"), 0);
    // Past its end, where the machine has RAM that is not the guest's; and at its UART.
    // A copy may be more than one transaction.
    let mut before = 0;
    for outside in [RAM + 64 * MIB, 0x0900_0000] {
        copy_out(&mut guest, outside);
        let now = device(control, EDU);
        let faults = number(&now, "dma_faults");
        assert!(faults > before, "{now}");
        assert_eq!(number(&now, "dma_fault_at") & !7, outside);
        before = faults;
    }
    let seen = crate::devices::events(control).1;
    assert!(seen.contains("device.dma_blocked"), "{seen}");
    // The SMMU interrupted core: who only asks says nothing on the serial line.
    let serial = skete.appliance.serial().text();
    let kept = serial
        .lines()
        .find(|line| line.contains("the SMMU kept a device"));
    assert!(
        kept.is_some_and(|line| line.contains("from 0x44000000")),
        "{serial}"
    );
    // It goes on: what is allowed still works.
    guest.run(&format!("w {inside:x} 9abcdef0"));
    copy_out(&mut guest, inside);
    assert_eq!(guest.run(&format!("r {inside:x}")), 0);
    guest.off();
    skete.shut_down();
}

/// Bytes of the guest's RAM that have frames.
fn resident(control: &Control) -> u64 {
    let memory = control.get("/v1/vms/guest/memory").expect("runs");
    number(&memory, "resident_bytes")
}

/// Takes back what holds zeroes.
fn reclaim(control: &Control) {
    let body = json!({ "action": "reclaim", "kinds": ["zero"] });
    let done = control.json("POST /v1/vms/guest/memory/actions", &body);
    let done = done.expect("is done");
    assert!(done["next"].is_null(), "all in one: {done}");
}

fn d2_devices_reach_what_was_declared_and_the_rest_is_reclaimed(cpu: Cpu) {
    const PAGES: u64 = 3;
    let skete = machine(cpu, true, &EDU_ARGS);
    let control = &skete.control;
    let mut guest = edu(&skete, true);
    let now = device(control, EDU);
    assert_eq!(
        (&now["dma_declared"], number(&now, "dma_bytes")),
        (&json!(true), 0)
    );
    let before = resident(control);
    assert!(before < 16 * MIB, "only what it touched: {before}");

    // Not declared, though it is RAM and resident: blocked, reported, unharmed.
    let page = RAM + 32 * MIB;
    guest.run(&format!("w {page:x} 12345678"));
    copy_out(&mut guest, page);
    assert_eq!(guest.run(&format!("r {page:x}")), 0x1234_5678);
    let now = device(control, EDU);
    let blocked = number(&now, "dma_faults");
    assert!(blocked > 0, "{now}");
    assert_eq!(number(&now, "dma_fault_at") & !7, page);
    let seen = crate::devices::events(control).1;
    assert!(seen.contains("device.dma_blocked"), "{seen}");

    // Declared it works, twice declared too; what is next to it is not declared with it.
    for _ in 0..2 {
        assert_eq!(guest.run(&format!("declare {page:x} {PAGES:x}")), PAGES);
        assert_eq!(number(&device(control, EDU), "dma_bytes"), PAGES * 4096);
    }
    copy_out(&mut guest, page + 4096 * PAGES - 8);
    copy_out(&mut guest, page);
    assert_eq!(guest.run(&format!("r {page:x}")), 0);
    assert_eq!(number(&device(control, EDU), "dma_faults"), blocked);
    copy_out(&mut guest, page + 4096 * PAGES);
    assert!(number(&device(control, EDU), "dma_faults") > blocked);

    // While it is in use, the rest of RAM goes back; the block with the declared pages stays,
    // zeroes or not, and where it is.
    let (from, bytes) = (RAM + 16 * MIB, 16 * MIB);
    guest.run(&format!("zero {from:x} {bytes:x}"));
    let full = resident(control);
    reclaim(control);
    let left = resident(control);
    assert!(full - left >= bytes, "{full} then {left}");
    for action in ["move", "split"] {
        let body = json!({ "action": action });
        let done = control.json("POST /v1/vms/guest/memory/actions", &body);
        done.expect("is done");
    }
    guest.run(&format!("w {page:x} 12345678"));
    copy_out(&mut guest, page);
    assert_eq!(guest.run(&format!("r {page:x}")), 0);

    // Nor what its guest says is of no use, as long as it is declared.
    assert_eq!(guest.run(&format!("undeclare {page:x} 1")), 1);
    let before = number(&device(control, EDU), "dma_faults");
    guest.run(&format!("w {page:x} 12345678"));
    copy_out(&mut guest, page);
    assert_eq!(guest.run(&format!("r {page:x}")), 0x1234_5678);
    assert!(number(&device(control, EDU), "dma_faults") > before);
    assert_eq!(
        number(&device(control, EDU), "dma_bytes"),
        (PAGES - 1) * 4096
    );

    // What is no RAM, or no page, cannot be declared.
    for wrong in [RAM + 64 * MIB, 0x0900_0000, page + 1] {
        let refused = guest.run(&format!("declare {wrong:x} 1"));
        assert_eq!(refused.cast_signed(), -3, "{wrong:x}");
    }
    guest.off();
    skete.shut_down();
}

fn d2_one_device_that_sees_all_is_enough_for_all_of_its_vm_s(cpu: Cpu) {
    const OTHER: &str = "0000:00:05.0";
    let more = ["-device", "edu,dma_mask=0xffffffff,addr=5"];
    for declared in [[true, false], [false, true]] {
        let skete = machine(cpu, true, &[&EDU_ARGS[..], &more].concat());
        let control = &skete.control;
        let [first, second] = declared;
        let mut guest = Guest::start(
            &skete,
            &json!([
                { "pci": EDU, "declared_dma": first }, { "pci": OTHER, "declared_dma": second },
            ]),
        );
        for pci in [EDU, OTHER] {
            let now = device(control, pci);
            assert_eq!(now["dma_declared"], json!(false), "{declared:?}: {now}");
            assert_eq!(number(&now, "dma_bytes"), 64 * MIB, "{declared:?}: {now}");
        }
        let refused = guest.run(&format!("declare {RAM:x} 1"));
        assert_eq!(refused.cast_signed(), -1, "there is nothing to declare");
        // Each of them reaches what nobody declared, and nothing else.
        for slot in [1, 2] {
            let bar = BAR * slot;
            guest.run(&format!("cw {slot} 10 {bar:x}"));
            guest.run(&format!("ch {slot} 4 {ON:x}"));
            let inside = RAM + 32 * MIB;
            guest.run(&format!("w {inside:x} 12345678"));
            copy_out_at(&mut guest, bar, inside);
            assert_eq!(guest.run(&format!("r {inside:x}")), 0);
            copy_out_at(&mut guest, bar, RAM + 64 * MIB);
        }
        for pci in [EDU, OTHER] {
            assert!(number(&device(control, pci), "dma_faults") > 0);
        }
        guest.off();
        skete.shut_down();
    }
}

fn d2_without_an_smmu_a_device_begins_nothing(cpu: Cpu) {
    let skete = machine(cpu, false, &EDU_ARGS);
    let control = &skete.control;
    let mut guest = edu(&skete, false);
    let now = device(control, EDU);
    assert_eq!(
        (&now["dma"], &now["dma_bounded"]),
        (&json!(false), &json!(false))
    );
    // Bus mastering is the guest's to set and not the function's to have: nothing arrives.
    let inside = RAM + 32 * MIB;
    guest.run(&format!("w {inside:x} 12345678"));
    copy_out(&mut guest, inside);
    assert_eq!(guest.run(&format!("r {inside:x}")), 0x1234_5678);
    guest.off();

    // An NVMe drive is no use so, and is refused before the guest runs.
    let spec = json!({
        "cpus": 1, "memory_bytes": 64 * MIB, "boot": { "flat": "device" },
        "devices": [{ "pci": EDU, "profile": "nvme" }],
    });
    control
        .json("PUT /v1/vms/unsafe", &spec)
        .expect("can be defined");
    let refused = control.act("unsafe", "start").expect_err("is refused");
    assert!(
        refused.to_string().contains("no SMMU bounds it"),
        "{refused}"
    );
    skete.shut_down();
}

fn d2_without_an_smmu_dma_has_to_be_asked_for_by_name(cpu: Cpu) {
    let mut skete = machine(cpu, false, &EDU_ARGS);
    skete.push_payload("device");
    let spec = json!({
        "cpus": 1, "memory_bytes": 64 * MIB, "boot": { "flat": "device" },
        "devices": [{ "pci": EDU, "profile": "nvme" }],
    });
    let defined = skete.control.json("PUT /v1/vms/careful", &spec);
    defined.expect("can be defined");
    let refused = skete.control.act("careful", "start");
    let refused = refused.expect_err("is refused");
    let text = refused.to_string();
    assert!(
        text.contains("no SMMU bounds it, and unsafe_dma is not set"),
        "{text}"
    );
    assert_eq!(device(&skete.control, EDU)["state"], "free");

    // With the flag it works, and the control port says what that means.
    let devices = json!([{ "pci": EDU, "unsafe_dma": true }]);
    let control = skete.control.clone();
    let mut guest = Guest::start_with(&control, &devices);
    let now = device(&control, EDU);
    assert_eq!(
        (&now["dma"], &now["dma_bounded"]),
        (&json!(true), &json!(false))
    );
    guest.run(&format!("cw 1 10 {BAR:x}"));
    guest.run(&format!("ch 1 4 {ON:x}"));
    // The device has the machine's addresses: where this page is there, only the test can see.
    let inside = RAM + 32 * MIB + 0x128;
    for (at, word) in [(inside, 0x5e_c2e7), (inside + 4, 0x1de_a1ed)] {
        guest.run(&format!("w {at:x} {word:x}"));
    }
    let pa = find(&mut skete, 0x01de_a1ed_005e_c2e7);
    assert_eq!(pa & 0xfff, 0x128);
    copy_out(&mut guest, pa);
    assert_eq!(guest.run(&format!("r {inside:x}")), 0);
    assert_eq!(guest.run(&format!("r {:x}", inside + 4)), 0);
    guest.off();
    skete.shut_down();
}

/// Returns where in the machine's RAM, which stands still meanwhile, there is this one word.
fn find(skete: &mut Running, wanted: u64) -> u64 {
    const FIRST: u64 = 0x4000_0000;
    let file = qemu::paths::target().join(format!("tmp/ram-{}", std::process::id()));
    let qmp = skete.appliance.qmp();
    qmp.run("stop", json!({})).expect("stops");
    let save = json!({ "val": FIRST, "size": 2_u64 << 30, "filename": file });
    qmp.run("pmemsave", save).expect("writes RAM to a file");
    qmp.run("cont", json!({})).expect("goes on");
    let mut ram = std::io::BufReader::new(File::open(&file).expect("was written"));
    let mut chunk = vec![0; 1 << 20];
    let mut places = Vec::new();
    for part in 0..2048_u64 {
        std::io::Read::read_exact(&mut ram, &mut chunk).expect("all of it");
        for (n, word) in (0..).zip(chunk.chunks_exact(8)) {
            if u64::from_le_bytes(word.try_into().expect("8 bytes")) == wanted {
                places.push(FIRST + (part << 20) + n * 8);
            }
        }
    }
    std::fs::remove_file(file).expect("was there");
    assert_eq!(places.len(), 1, "{places:x?}");
    places[0]
}

/// Configuration space and memory of a device are core's, and its VM's while one has it; root, who
/// gives it away, has them at no time. Nor has it what bounds devices.
fn root_reaches_nothing_of_a_device_whoever_has_it(cpu: Cpu) {
    let mut board = qemu::Board::new(cpu, qemu::paths::bare_root("direct"));
    let words = [
        "-machine",
        "iommu=smmuv3",
        "-device",
        "pcie-root-port,id=rp,chassis=1,addr=2",
        "-object",
        "memory-backend-ram,id=m,size=16M",
        "-device",
        "ivshmem-plain,memdev=m,addr=1",
        "-device",
        "edu,bus=rp",
    ];
    board.more.extend(words.map(str::to_owned));
    // QEMU's configuration space: of functions 00:01.0, 00:02.0 and 01:00.0. The windows that
    // BARs are in, high and low; the SMMU; the page of the ITS that devices write to.
    const PLACES: [u64; 7] = [
        0x40_1000_8000,
        0x40_1001_0000,
        0x40_1010_0000,
        0x80_0000_0000,
        0x1000_0000,
        0x0905_0000,
        0x0809_0000,
    ];
    // A transport of virtio is root's: what is in reach is found to be.
    const OWN: u64 = 0x0a00_0000;
    let places: Vec<_> = PLACES.iter().map(|at| format!("{at:x}")).collect();
    board.append = format!(
        "guest=lock mib=64 device=8 probe={},{OWN:x}",
        places.join(",")
    );
    let mut machine = qemu::Machine::start(&board, &crate::common::logs()).expect("QEMU starts");
    let log = machine.output(PATIENCE).expect("root switches off");
    assert!(
        log.contains("DIRECT device 0x8 is the guest's device 1"),
        "{log}"
    );
    for when in ["before", "while", "after"] {
        let own = format!("DIRECT probe {when} {OWN:#x} IS REACHED (None None");
        assert!(log.contains(&own), "no \"{own}\" in {log}");
        for at in PLACES {
            let line = format!("DIRECT probe {when} {at:#x} is out of reach");
            assert!(log.contains(&line), "no \"{line}\" in {log}");
        }
    }
}

/// A drive plays the GPU: its registers, MSI-X table included, are BAR 0, and the memory of another
/// function is BARs 2 and 4. Its driver in stock Linux asks no more of it.
fn a_gpu_s_messages_come_by_the_guest_s_its(cpu: Cpu) {
    let words = [
        "-object",
        "memory-backend-ram,id=m,size=2G",
        "-device",
        "ivshmem-plain,memdev=m,addr=1",
        "-drive",
        "driver=null-co,size=16M,if=none,id=d",
        "-device",
        "nvme,drive=d,serial=x,addr=3",
    ];
    let skete = machine(cpu, true, &words);
    skete.push_linux();
    let control = &skete.control;
    let gpu = json!({
        "pci": NVME, "profile": "nvgrace-gpu", "memory": "0000:00:01.0", "registers_bar": 0,
    });
    let spec = json!({
        "cpus": 1, "memory_bytes": 192 * MIB, "boot": crate::common::linux(), "devices": [gpu],
    });
    control
        .json("PUT /v1/vms/web", &spec)
        .expect("can be defined");
    control.start("web").expect("starts");
    let mut shell = Shell::wait(control, "web", PATIENCE).expect("boots");
    let mut run = |command: &str| shell.run(command, PATIENCE).expect("runs");
    let sizes = run("awk '{print $1, $2}' /sys/bus/pci/devices/0000:00:01.0/resource | head -n 5");
    assert_eq!(sizes.lines().count(), 5, "{sizes}");
    run("dd if=/dev/nvme0n1 of=/dev/null bs=64k count=8 2>/dev/null");
    let lines = run("grep nvme /proc/interrupts");
    let messages = lines.lines().filter(|line| line.contains("ITS-"));
    let taken = messages.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    assert!(taken.sum::<u64>() > 8, "{lines}");
    assert!(!lines.contains("Level"), "the wire is not used: {lines}");
    shell.power_off(PATIENCE).expect("ends as it wishes");
    skete.shut_down();
}

/// A disk in a file.
pub(crate) struct Disk(pub(crate) PathBuf);

impl Disk {
    pub(crate) fn new(bytes: u64) -> Self {
        let name = std::thread::current()
            .name()
            .unwrap_or("x")
            .replace("::", "-");
        let path = std::env::temp_dir().join(format!("skete-{}-{name}.img", std::process::id()));
        let file = File::create(&path).expect("a file");
        file.set_len(bytes).expect("is written");
        Self(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn stock_linux_uses_an_nvme_drive_and_resets_it_under_load(cpu: Cpu) {
    let nvme = "nvme,drive=d,serial=skete,addr=3";
    linux_uses_a_drive(cpu, NVME, &["-device", nvme]);
}

/// Has stock Linux write to the drive `d`, which is the function `pci`, check it, and reset it.
pub(crate) fn linux_uses_a_drive(cpu: Cpu, pci: &str, devices: &[&str]) {
    const RESETS: u64 = 5;
    let disk = Disk::new(64 * MIB);
    let drive = format!("file={},if=none,id=d,format=raw", disk.0.display());
    let skete = machine(cpu, true, &[&["-drive", drive.as_str()], devices].concat());
    skete.push_linux();
    let control = &skete.control;
    let spec = json!({
        "cpus": 1, "memory_bytes": 192 * MIB, "boot": crate::common::linux(),
        "devices": [{ "pci": pci, "profile": "nvme" }],
    });
    control
        .json("PUT /v1/vms/web", &spec)
        .expect("can be defined");
    control.start("web").expect("starts");
    let mut shell = Shell::wait(control, "web", PATIENCE).expect("boots");
    let mut run = |command: &str| shell.run(command, PATIENCE).expect("runs");

    // Its messages are LPIs of the guest's ITS: one for the admin queue, one for the I/O queue.
    let interrupts = "grep nvme /proc/interrupts";
    let lines = run(interrupts);
    let is_message = |line: &&str| line.contains("ITS-") && line.contains("nvme");
    assert!(lines.lines().filter(is_message).count() >= 2, "{lines}");
    assert!(!lines.contains("Level"), "the wire is not used: {lines}");
    let taken = |lines: &str| -> u64 {
        let words = lines.lines().filter(is_message);
        let counts = words.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        counts.sum::<u64>()
    };
    let before = taken(&lines);

    // Partition, write, read back through the drive.
    run(
        "printf 'n\\np\\n1\\n\\n+16M\\nn\\np\\n2\\n\\n\\nw\\n' | fdisk /dev/nvme0n1 >/dev/null 2>&1",
    );
    assert!(run("ls /dev/nvme0n1p2").contains("/dev/nvme0n1p2"));
    run("mke2fs /dev/nvme0n1p1 >/dev/null 2>&1; mount /dev/nvme0n1p1 /root");
    run("dd if=/dev/urandom of=/root/f bs=64k count=64 2>/dev/null");
    let sum = run("sha256sum /root/f");
    assert_eq!(sum.trim().len(), "  /root/f".len() + 64, "{sum}");
    let check = "cd /; umount /root; echo 3 > /proc/sys/vm/drop_caches; \
                 mount /dev/nvme0n1p1 /root; sha256sum /root/f";
    assert_eq!(run(check), sum);

    let lines = run(interrupts);
    assert!(taken(&lines) > before + 8, "first {before}, now {lines}");

    // Function-level resets while it reads; the driver starts it again each time.
    run(
        "n=0; while dd if=/dev/nvme0n1p2 of=/dev/null bs=64k count=16 iflag=direct; do \
         n=$((n+1)); echo $n >>/tmp/read; done >/dev/null 2>&1 & echo $! >/tmp/load",
    );
    for _ in 0..RESETS {
        let goes_on = run(
            "echo 1 > /sys/bus/pci/devices/0000:00:01.0/reset; a=$(tail -n 1 /tmp/read); i=0; \
             while [ $(tail -n 1 /tmp/read) -lt $((a+2)) ] && [ $i -lt 60 ]; do sleep 1; i=$((i+1)); done; \
             [ $i -lt 60 ] && echo goes on",
        );
        assert_eq!(goes_on, "goes on", "{}", run("dmesg | tail -n 20"));
    }
    run("kill $(cat /tmp/load)");
    assert_eq!(run(check), sum);
    let lines = run(interrupts);
    assert!(lines.lines().filter(is_message).count() >= 2, "{lines}");
    run("dd if=/dev/urandom of=/root/g bs=64k count=16 2>/dev/null; sync");
    let now = device(control, pci);
    assert_eq!(number(&now, "generation"), RESETS + 1);
    assert_eq!(number(&now, "dma_faults"), 0);
    // Its registers, but the two pages with the MSI-X table and its pending bits.
    assert_eq!(number(&now, "mapped_bytes"), 2 * 4096);

    // The guest's own reset: drive, ITS and tables are as they were at first, and work again.
    run("sync; umount /root");
    control
        .type_text("web", "reboot -f\n")
        .expect("can be typed");
    let boots = |log: &str| log.matches("skete-guest: ready").count() == 2;
    control
        .wait_for_console_that("web", PATIENCE, boots)
        .expect("boots again");
    let lines = run(interrupts);
    assert!(lines.lines().filter(is_message).count() >= 2, "{lines}");
    let again = run("mount /dev/nvme0n1p1 /root; sha256sum /root/f");
    assert_eq!(again, sum, "what was written is there");
    assert!(taken(&run(interrupts)) > 8);
    shell.power_off(PATIENCE).expect("ends as it wishes");
    skete.shut_down();
}
