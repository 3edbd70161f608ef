//! A08: whatever resets a device takes all of its mappings away first.
//!
//! An NVMe controller plays any PCI function: it has a reset of its own and a power state. The
//! guest touches its registers and no more. `ivshmem` plays one that has neither.

use qemu::{Appliance, Control, Cpu};
use serde_json::{Value, json};

use crate::common::{MIB, Running, appliance_on};
use crate::devices::{Guest, act, device, number};

on_both_cpus!(
    a08_memory_off_takes_all_mappings_away,
    a08_d3_takes_all_mappings_away_and_what_comes_back_was_reset,
    a08_flr_by_the_guest_takes_all_mappings_away,
    a08_a_reset_by_the_control_port_takes_all_mappings_away,
    a08_a_bar_that_moves_takes_its_mappings_along,
    a08_a_device_without_a_reset_of_its_own_loses_its_mappings_and_keeps_its_memory,
);

const DRIVE: &str = "0000:00:03.0";
const SHARED: &str = "0000:00:04.0";
/// Where the guest puts BAR 0.
const BAR: u64 = 0x1000_0000;
/// QEMU's NVMe controller has its power capability at 0x60, Express at 0x80.
const PMCSR: u64 = 0x64;
const DEVICE_CONTROL: u64 = 0x88;
const INITIATE_FLR: u64 = 1 << 15;
/// Registers: the version, 1.4, which no reset changes.
const VERSION: u64 = 0x8;
const NVME_1_4: u64 = 0x1_0400;

fn machine(cpu: Cpu) -> Running {
    let mut board = Appliance::board(cpu);
    let words = [
        "-drive",
        "driver=null-co,size=1M,if=none,id=d",
        "-device",
        "nvme,drive=d,serial=x,addr=3",
        "-object",
        "memory-backend-ram,id=m,size=16M",
        "-device",
        "ivshmem-plain,memdev=m,addr=4",
    ];
    board.more.extend(words.map(str::to_owned));
    appliance_on(board)
}

/// Places BAR 0, switches memory on, and touches two pages; both are mapped then.
fn touch(guest: &mut Guest<'_>, control: &Control) {
    for command in [
        format!("cw 1 10 {BAR:x}"),
        "cw 1 14 0".to_owned(),
        "ch 1 4 2".to_owned(),
    ] {
        guest.run(&command);
    }
    look(guest, control);
}

fn look(guest: &mut Guest<'_>, control: &Control) {
    assert_eq!(guest.run(&format!("r {:x}", BAR + VERSION)), NVME_1_4);
    guest.run(&format!("r {:x}", BAR + 0x1000));
    assert_eq!(number(&device(control, DRIVE), "mapped_bytes"), 2 * 4096);
}

/// What is known once all mappings are gone: checks that they are, and how many resets there were.
fn gone(control: &Control, pci: &str, zaps: u64, resets: u64) -> Value {
    let now = device(control, pci);
    assert_eq!(number(&now, "mapped_bytes"), 0, "{now}");
    assert_eq!(number(&now, "zaps"), zaps, "{now}");
    assert_eq!(number(&now, "generation"), 1 + resets, "{now}");
    now
}

fn drive(cpu: Cpu, test: impl FnOnce(&mut Guest<'_>, &Control)) {
    let skete = machine(cpu);
    let control = &skete.control;
    let mut guest = Guest::start(&skete, &json!([{ "pci": DRIVE }]));
    touch(&mut guest, control);
    test(&mut guest, control);
    guest.off();
    assert_eq!(device(control, DRIVE)["state"], "free");
    skete.shut_down();
}

fn refused(guest: &mut Guest<'_>) {
    let at = BAR + VERSION;
    let (esr, far) = guest.fails(&format!("r {at:x}"));
    assert_eq!((esr & 0x3f, far), (0x10, at));
}

fn a08_memory_off_takes_all_mappings_away(cpu: Cpu) {
    drive(cpu, |guest, control| {
        guest.run("ch 1 4 0");
        let now = gone(control, DRIVE, 1, 0);
        assert_eq!(now["memory_on"], false);
        refused(guest);
        guest.run("ch 1 4 2");
        look(guest, control);
    });
}

fn a08_d3_takes_all_mappings_away_and_what_comes_back_was_reset(cpu: Cpu) {
    drive(cpu, |guest, control| {
        guest.run(&format!("ch 1 {PMCSR:x} 3"));
        assert_eq!(guest.run(&format!("cr 1 {PMCSR:x}")) & 3, 3);
        gone(control, DRIVE, 1, 1);
        // Configuration space is there, memory is not, whatever COMMAND says.
        guest.run("ch 1 4 2");
        refused(guest);
        guest.run(&format!("ch 1 {PMCSR:x} 0"));
        let now = device(control, DRIVE);
        assert_eq!(
            (number(&now, "mapped_bytes"), number(&now, "generation")),
            (0, 2)
        );
        assert_eq!(guest.run("cr 1 4") & 0b110, 0, "its configuration is gone");
        assert_eq!(guest.run("cr 1 10") & !0xf, 0);
        touch(guest, control);
    });
}

fn a08_flr_by_the_guest_takes_all_mappings_away(cpu: Cpu) {
    drive(cpu, |guest, control| {
        guest.run(&format!("ch 1 {DEVICE_CONTROL:x} {INITIATE_FLR:x}"));
        let now = device(control, DRIVE);
        assert_eq!(number(&now, "mapped_bytes"), 0, "{now}");
        assert_eq!(
            (number(&now, "generation"), &now["memory_on"]),
            (2, &json!(false))
        );
        assert_eq!(guest.run("cr 1 10") & !0xf, 0, "its configuration is gone");
        // Its BAR is nowhere: what is where it was is what is where no device is.
        assert_eq!(guest.run(&format!("r {:x}", BAR + VERSION)), 0);
        touch(guest, control);
    });
}

fn a08_a_reset_by_the_control_port_takes_all_mappings_away(cpu: Cpu) {
    drive(cpu, |guest, control| {
        act(control, DRIVE, &json!({ "action": "reset" }));
        gone(control, DRIVE, 1, 1);
        // The guest's configuration is given back to it: it goes on where it was.
        look(guest, control);
    });
}

fn a08_a_bar_that_moves_takes_its_mappings_along(cpu: Cpu) {
    drive(cpu, |guest, control| {
        let to = BAR + 0x10_0000;
        guest.run(&format!("cw 1 10 {to:x}"));
        gone(control, DRIVE, 1, 0);
        assert_eq!(guest.run(&format!("r {:x}", to + VERSION)), NVME_1_4);
        assert_eq!(number(&device(control, DRIVE), "mapped_bytes"), 4096);
    });
}

fn a08_a_device_without_a_reset_of_its_own_loses_its_mappings_and_keeps_its_memory(cpu: Cpu) {
    let skete = machine(cpu);
    let control = &skete.control;
    let mut guest = Guest::start(&skete, &json!([{ "pci": SHARED }]));
    assert_eq!(guest.run("size 1 2"), 16 * MIB);
    guest.run(&format!("cw 1 18 {BAR:x}"));
    guest.run("cw 1 1c 0");
    guest.run("ch 1 4 2");
    guest.run(&format!("w {BAR:x} 12345678"));
    let now = device(control, SHARED);
    assert_eq!(now["resettable"], false, "{now}");
    assert_eq!(number(&now, "mapped_bytes"), 2 * MIB);
    act(control, SHARED, &json!({ "action": "reset" }));
    gone(control, SHARED, 1, 1);
    // Nothing in it was reset: that is its owner's to know.
    assert_eq!(guest.run(&format!("r {BAR:x}")), 0x1234_5678);
    guest.off();
    skete.shut_down();
}
