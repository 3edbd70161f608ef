//! Functions behind bridges: root ports, and a switch. QEMU starts the machine without firmware,
//! so that neither bus numbers nor windows are there before core.

use qemu::{Control, Cpu};
use serde_json::json;

use crate::common::{MIB, Running};
use crate::devices::{Guest, act, device, number};
use crate::dma::{BAR, ON, RAM, copy_out, linux_uses_a_drive, machine};

on_both_cpus!(
    memory_behind_a_switch_is_mapped_in_the_largest_leaves,
    d2_a_device_behind_a_switch_is_bounded_and_named_by_its_own_number,
    d2_what_no_port_keeps_apart_goes_to_one_vm,
    a08_a_function_alone_on_its_bus_is_reset_with_the_bus,
    stock_linux_uses_an_nvme_drive_behind_a_root_port_and_resets_it_under_load,
);

const GIB: u64 = 1 << 30;
const HIGH: u64 = 0x80_0000_0000;

/// Buses are numbered as they are found: 1 behind the root port at device 5, 2 behind that at
/// device 6, 3 behind the switch's way up, 4 and 5 behind its ways down.
const SWITCH: [&str; 10] = [
    "-device",
    "pcie-root-port,id=rp1,chassis=1,addr=5",
    "-device",
    "pcie-root-port,id=rp2,chassis=2,addr=6",
    "-device",
    "x3130-upstream,id=up,bus=rp2",
    "-device",
    "xio3130-downstream,id=d1,bus=up,chassis=3,addr=0",
    "-device",
    "xio3130-downstream,id=d2,bus=up,chassis=4,addr=1",
];
const FIRST: &str = "0000:04:00.0";
const SECOND: &str = "0000:05:00.0";
const ALONE: &str = "0000:01:00.0";

fn switch(cpu: Cpu, devices: &[&str]) -> Running {
    machine(cpu, true, &[&SWITCH[..], devices].concat())
}

fn memory_behind_a_switch_is_mapped_in_the_largest_leaves(cpu: Cpu) {
    let memory = "memory-backend-ram,id=m,size=2G";
    let words = [
        "-object",
        memory,
        "-device",
        "ivshmem-plain,memdev=m,bus=d2",
    ];
    let skete = switch(cpu, &words);
    let control = &skete.control;
    let mut guest = Guest::start(&skete, &json!([{ "pci": SECOND }]));
    // On the guest's bus 0, wherever it is in the machine.
    assert_eq!(guest.run("cr 1 0"), 0x1110_1af4);
    assert_eq!(guest.run("size 1 2"), 2 * GIB);
    guest.run("cw 1 18 0");
    guest.run("cw 1 1c 80");
    guest.run("ch 1 4 2");
    assert_eq!(number(&device(control, SECOND), "mapped_bytes"), 0);
    guest.run(&format!("fill {HIGH:x} 80000000 200000"));
    assert_eq!(guest.run(&format!("check {HIGH:x} 80000000 200000")), 0);
    let now = device(control, SECOND);
    assert_eq!(number(&now, "faults.mapped_1g"), 2, "{now}");
    assert_eq!(number(&now, "mapped_bytes"), 2 * GIB, "{now}");
    guest.off();
    skete.shut_down();
}

/// Two devices that do DMA where they are told, behind the two ways down of one switch.
const TWO: [&str; 4] = [
    "-device",
    "edu,dma_mask=0xffffffff,bus=d1",
    "-device",
    "edu,dma_mask=0xffffffff,bus=d2",
];

fn d2_a_device_behind_a_switch_is_bounded_and_named_by_its_own_number(cpu: Cpu) {
    let skete = switch(cpu, &TWO);
    let control = &skete.control;
    // Both are the guest's: devices 1 and 2 on its bus.
    let mut guest = Guest::start(&skete, &json!([{ "pci": FIRST }, { "pci": SECOND }]));
    for slot in [1, 2] {
        assert_eq!(guest.run(&format!("cr {slot} 0")), 0x11e8_1234);
    }
    guest.run(&format!("cw 2 10 {BAR:x}"));
    guest.run(&format!("ch 2 4 {ON:x}"));
    let inside = RAM + 32 * MIB;
    guest.run(&format!("w {inside:x} 12345678"));
    copy_out(&mut guest, inside);
    assert_eq!(guest.run(&format!("r {inside:x}")), 0);
    assert_eq!(number(&device(control, SECOND), "dma_faults"), 0);
    let outside = RAM + 64 * MIB;
    copy_out(&mut guest, outside);
    let now = device(control, SECOND);
    assert!(number(&now, "dma_faults") > 0, "{now}");
    assert_eq!(number(&now, "dma_fault_at") & !7, outside);
    assert_eq!(number(&device(control, FIRST), "dma_faults"), 0);
    guest.off();
    skete.shut_down();
}

fn define(control: &Control, name: &str, pci: &str) -> anyhow::Result<()> {
    let spec = json!({
        "cpus": 1, "memory_bytes": 64 * MIB, "boot": { "flat": "device" },
        "devices": [{ "pci": pci }],
    });
    let line = format!("PUT /v1/vms/{name}");
    control.json(&line, &spec).expect("can be defined");
    control.start(name)
}

fn d2_what_no_port_keeps_apart_goes_to_one_vm(cpu: Cpu) {
    // QEMU's switch has no access control; its root ports have.
    let more = ["-device", "edu,dma_mask=0xffffffff,bus=rp1"];
    let skete = switch(cpu, &[&TWO[..], &more].concat());
    let control = &skete.control;
    let guest = Guest::start(&skete, &json!([{ "pci": FIRST }]));
    let refused = define(control, "near", SECOND).expect_err("is refused");
    let text = refused.to_string();
    assert!(text.contains("give both to one VM"), "{text}");
    assert_eq!(device(control, SECOND)["state"], "free");
    define(control, "apart", ALONE).expect("another root port is another matter");
    assert_eq!(device(control, ALONE)["vm"], "apart");
    control.act("apart", "stop").expect("ends");
    guest.off();
    // Once it is given back, the other may have it.
    define(control, "near", SECOND).expect("starts");
    control.act("near", "stop").expect("ends");
    skete.shut_down();
}

fn a08_a_function_alone_on_its_bus_is_reset_with_the_bus(cpu: Cpu) {
    // Status of a virtio device, in its common configuration: it is 0 after a reset only.
    const STATUS: u64 = 0x14;
    let rng = "virtio-rng-pci,bus=rp1,disable-legacy=on,x-pcie-flr-init=off";
    let skete = switch(cpu, &["-device", rng]);
    let control = &skete.control;
    assert_eq!(device(control, ALONE)["resettable"], true);
    let mut guest = Guest::start(&skete, &json!([{ "pci": ALONE }]));
    let status = HIGH + STATUS;
    let place = |guest: &mut Guest<'_>| {
        guest.run("cw 1 20 0");
        guest.run("cw 1 24 80");
        guest.run("ch 1 4 2");
        assert_eq!(guest.run(&format!("r {status:x}")) & 0xff, 0);
        guest.run(&format!("w {status:x} 3"));
        assert_eq!(guest.run(&format!("r {status:x}")) & 0xff, 3);
        assert!(number(&device(control, ALONE), "mapped_bytes") > 0);
    };
    place(&mut guest);
    // By the control port: the guest goes on where it was, and finds the device as new.
    act(control, ALONE, &json!({ "action": "reset" }));
    assert_eq!(number(&device(control, ALONE), "mapped_bytes"), 0);
    assert_eq!(guest.run(&format!("r {status:x}")) & 0xff, 0);
    // By the guest: it has a function-level reset, which this device itself has not.
    guest.run(&format!("w {status:x} 3"));
    let express = capability(&mut guest, 0x10);
    assert_eq!(guest.run(&format!("cr 1 {:x}", express + 4)) >> 28 & 1, 1);
    guest.run(&format!("ch 1 {:x} 8000", express + 8));
    let now = device(control, ALONE);
    assert_eq!(number(&now, "generation"), 3, "{now}");
    assert_eq!(guest.run("cr 1 4") & 0b110, 0, "its configuration is gone");
    place(&mut guest);
    guest.off();
    // Its end resets it too: the next has it as new.
    let mut guest = Guest::start(&skete, &json!([{ "pci": ALONE }]));
    place(&mut guest);
    guest.off();
    skete.shut_down();
}

/// Finds a capability of the guest's device 1.
fn capability(guest: &mut Guest<'_>, id: u64) -> u64 {
    let mut at = guest.run("cr 1 34") & 0xfc;
    while at != 0 {
        let head = guest.run(&format!("cr 1 {at:x}"));
        if head & 0xff == id {
            return at;
        }
        at = head >> 8 & 0xfc;
    }
    panic!("no capability {id:#x}");
}

fn stock_linux_uses_an_nvme_drive_behind_a_root_port_and_resets_it_under_load(cpu: Cpu) {
    let nvme = ["-device", "nvme,drive=d,serial=skete,bus=rp1"];
    linux_uses_a_drive(cpu, ALONE, &[&SWITCH[..], &nvme].concat());
}
