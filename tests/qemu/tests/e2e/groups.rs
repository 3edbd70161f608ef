//! A02: sixteen pages of a device are mapped by one fault, with the Contiguous hint, and can be
//! taken apart again.

use qemu::{Appliance, Cpu};
use serde_json::json;

use crate::common::{MIB, appliance_on};
use crate::devices::{Guest, act, device, number};

on_both_cpus!(a02_a_fault_maps_sixteen_pages_and_one_of_them_can_be_revoked);

const PCI: &str = "0000:00:04.0";
const BAR: u64 = 0x1000_0000;
const GROUP: u64 = 64 << 10;

fn a02_a_fault_maps_sixteen_pages_and_one_of_them_can_be_revoked(cpu: Cpu) {
    let mut board = Appliance::board(cpu);
    let words = [
        "-object",
        "memory-backend-ram,id=m,size=1M",
        "-device",
        "ivshmem-plain,memdev=m,addr=4",
    ];
    board.more.extend(words.map(str::to_owned));
    let skete = appliance_on(board);
    let control = &skete.control;
    let mut guest = Guest::start(&skete, &json!([{ "pci": PCI }]));
    guest.run(&format!("cw 1 18 {BAR:x}"));
    guest.run("cw 1 1c 0");
    guest.run("ch 1 4 2");
    let mapped = || {
        let now = device(control, PCI);
        ["mapped_4k", "mapped_64k", "mapped_2m"].map(|name| number(&now["faults"], name))
    };
    // Too small for a block: a fault each 64 KiB, and every word where it was put.
    guest.run(&format!("fill {BAR:x} {MIB:x} 1000"));
    assert_eq!(mapped(), [0, 16, 0]);
    assert_eq!(guest.run(&format!("check {BAR:x} {MIB:x} 1000")), 0);
    assert_eq!(number(&device(control, PCI), "mapped_bytes"), MIB);
    // One page out of the middle of a group: the other fifteen stay, and it comes back alone.
    let page = 2 * GROUP + 5 * 4096;
    let revoke = json!({ "action": "revoke", "bar": 2, "offset": page, "bytes": 4096 });
    act(control, PCI, &revoke);
    assert_eq!(number(&device(control, PCI), "mapped_bytes"), MIB - 4096);
    assert_eq!(
        guest.run(&format!("check {:x} {GROUP:x} 1000", BAR + 2 * GROUP)),
        0
    );
    assert_eq!(mapped(), [1, 16, 0]);
    assert_eq!(number(&device(control, PCI), "mapped_bytes"), MIB);
    // Off and on: all groups again, that one too.
    guest.run("ch 1 4 0");
    assert_eq!(number(&device(control, PCI), "mapped_bytes"), 0);
    guest.run("ch 1 4 2");
    assert_eq!(guest.run(&format!("check {BAR:x} {MIB:x} 1000")), 0);
    assert_eq!(mapped(), [1, 32, 0]);
    guest.off();
    skete.shut_down();
}
