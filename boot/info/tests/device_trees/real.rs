//! Trees that QEMU 10.0 wrote, and what must come out of them, number by number.

use boot_info::{BootError, BootInfo, Conduit, Device, Interrupt, Range, TimerIntids, tree_bytes};

const GICV3: &[u8] = include_bytes!("../data/virt-gicv3-4cpus-2g.dtb");
const GICV2: &[u8] = include_bytes!("../data/virt-gicv2-4cpus-2g.dtb");
const SECURE: &[u8] = include_bytes!("../data/virt-gicv3-secure.dtb");
const MANY: &[u8] = include_bytes!("../data/virt-gicv3-200cpus-2nodes.dtb");

fn range(pa: u64, bytes: u64) -> Range {
    Range { pa, bytes }
}

fn level(intid: u32) -> Option<Interrupt> {
    Some(Interrupt { intid, edge: false })
}

#[test]
fn the_virt_machine_is_read_as_qemu_documents_it() {
    let info = BootInfo::from_fdt(GICV3).unwrap();
    let ram: Vec<_> = info.ram.iter().collect();
    assert_eq!(ram, [range(0x4000_0000, 0x8000_0000)]);
    assert_eq!(info.cpus.iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(info.gic.distributor, range(0x0800_0000, 0x1_0000));
    let regions: Vec<_> = info.gic.redistributors.iter().collect();
    assert_eq!(regions, [range(0x080a_0000, 0xf6_0000)]);
    assert_eq!(info.gic.redistributor_stride, None);
    assert_eq!(info.gic.its, Some(range(0x0808_0000, 0x2_0000)));
    let uart = info.uart.unwrap();
    assert_eq!(uart.registers, range(0x0900_0000, 0x1000));
    assert_eq!(uart.interrupt, level(33));
    let rtc = info.rtc.unwrap();
    assert_eq!(rtc.registers, range(0x0901_0000, 0x1000));
    assert_eq!(rtc.interrupt, level(34));
    assert_eq!(info.psci, Some(Conduit::Smc));
    let timers = TimerIntids {
        physical: 30,
        virt: 27,
        hyp_physical: 26,
    };
    assert_eq!(info.timers, timers);
    let pci = info.pci.unwrap();
    assert_eq!(pci.ecam, range(0x40_1000_0000, 0x1000_0000));
    assert_eq!((pci.bus_first, pci.bus_last), (0, 255));
    assert_eq!(pci.low, Some(range(0x1000_0000, 0x2eff_0000)));
    assert_eq!(pci.high, Some(range(0x80_0000_0000, 0x80_0000_0000)));
    // QEMU's wires: SPI 3 to 6, each device one further on.
    assert_eq!((pci.wires.len(), pci.wire_mask), (16, 0x18));
    let wire = |device: u8, pin| {
        pci.wire(device << 3, pin)
            .map(|wire| (wire.intid, wire.edge))
    };
    assert_eq!(wire(0, 1), Some((35, false)));
    assert_eq!(wire(0, 4), Some((38, false)));
    assert_eq!(wire(1, 1), Some((36, false)));
    assert_eq!(wire(6, 3), Some((35, false)));
    assert_eq!(wire(0, 5), None);
    // Every requester is the ITS's device of the same number.
    let messages = pci.messages.unwrap();
    let numbers = (
        messages.requester_first,
        messages.device_first,
        messages.count,
    );
    assert_eq!(numbers, (0, 0, 0x1_0000));
    assert_eq!(info.rng_seed.len(), 32);
    assert_eq!(&*info.bootargs, b"");
    assert_eq!(info.initrd, None);
    assert_eq!(info.reserved.len(), 0);
    assert_eq!(info.tree_bytes, GICV3.len());
}

#[test]
fn every_virtio_transport_is_found_in_order_and_edge_triggered() {
    let info = BootInfo::from_fdt(GICV3).unwrap();
    assert_eq!((info.virtio.len(), info.virtio_dropped), (32, 0));
    for (n, device) in (0..).zip(info.virtio.iter()) {
        let interrupt = Some(Interrupt {
            intid: 48 + n,
            edge: true,
        });
        let registers = range(0x0a00_0000 + u64::from(n) * 0x200, 0x200);
        let expected = Device {
            registers,
            interrupt,
        };
        assert_eq!(device, expected);
    }
}

#[test]
fn a_machine_with_gicv2_is_refused_with_a_line_that_says_what_to_pass() {
    let refusal = BootInfo::from_fdt(GICV2).unwrap_err();
    assert_eq!(refusal, BootError::NoGicV3);
    assert_eq!(
        refusal.to_string(),
        "the device tree describes no GICv3 (compatible \"arm,gic-v3\"): Skete needs one; \
         with QEMU pass -M virt,gic-version=3"
    );
}

#[test]
fn a_uart_that_only_the_secure_world_may_use_is_not_taken() {
    let info = BootInfo::from_fdt(SECURE).unwrap();
    assert_eq!(info.uart.unwrap().registers.pa, 0x0900_0000);
    assert_eq!(info.ram.iter().count(), 1);
}

#[test]
fn two_memory_nodes_and_more_cores_than_there_is_room_for_are_kept_and_counted() {
    let info = BootInfo::from_fdt(MANY).unwrap();
    let mut ram: Vec<_> = info.ram.iter().collect();
    ram.sort_by_key(|range| range.pa);
    let nodes = [
        range(0x4000_0000, 0x4000_0000),
        range(0x8000_0000, 0x4000_0000),
    ];
    assert_eq!(ram, nodes);
    assert_eq!((info.cpus.len(), info.cpus_dropped), (64, 136));
    // QEMU with GICv3 counts 16 cores to a cluster: the 18th is Aff1 = 1, Aff0 = 1.
    assert_eq!(info.cpus.get(17), Some(0x101));
    let regions: Vec<_> = info.gic.redistributors.iter().collect();
    let expected = [
        range(0x080a_0000, 0xf6_0000),
        range(0x40_0000_0000, 0x0400_0000),
    ];
    assert_eq!(regions[0], expected[0]);
    assert_eq!(regions[1].pa, expected[1].pa);
}

#[test]
fn bytes_past_the_tree_do_not_matter() {
    let mut longer = GICV3.to_vec();
    longer.resize(longer.len() + 70_000, 0xff);
    assert_eq!(BootInfo::from_fdt(&longer).unwrap().cpus.len(), 4);
}

#[test]
fn the_length_is_known_from_eight_bytes() {
    assert_eq!(tree_bytes(*GICV3.first_chunk().unwrap()), Ok(GICV3.len()));
    assert_eq!(tree_bytes([0; 8]), Err(BootError::BadMagic { found: 0 }));
    let huge = [0xd0, 0x0d, 0xfe, 0xed, 0, 0x20, 0, 1];
    assert_eq!(
        tree_bytes(huge),
        Err(BootError::TooLarge { bytes: 0x20_0001 })
    );
}
