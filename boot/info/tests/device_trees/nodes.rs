//! What each kind of node says, in trees built by hand.

use crate::tree::{Builder, tree};
use boot_info::{BootError, Conduit, Interrupt};

#[test]
fn reservations_of_both_kinds_and_boot_arguments_are_copied() {
    let mut tree = tree()
        .usual()
        .begin("reserved-memory")
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2])
        .prop("ranges", b"")
        .begin("firmware@7ff00000")
        .cells("reg", &[0, 0x7ff0_0000, 0, 0x10_0000])
        .end()
        .begin("dynamic")
        .cells("size", &[0, 0x10_0000])
        .end()
        .end()
        .begin("chosen")
        .prop("bootargs", b"quiet net=10.0.2.15\0")
        .cells("linux,initrd-start", &[0x4800_0000])
        .cells("linux,initrd-end", &[0, 0x4801_0000])
        .end()
        .end();
    tree.reserved.push((0x4000_0000, 0x8_0000));
    let info = tree.read().unwrap();
    let reserved: Vec<_> = info.reserved.iter().map(|r| (r.pa, r.bytes)).collect();
    assert_eq!(
        reserved,
        [(0x4000_0000, 0x8_0000), (0x7ff0_0000, 0x10_0000)]
    );
    assert_eq!(&*info.bootargs, b"quiet net=10.0.2.15");
    let initrd = info.initrd.unwrap();
    assert_eq!((initrd.pa, initrd.bytes), (0x4800_0000, 0x1_0000));
    assert_eq!(info.cpus.get(0), Some(1 << 32));
    assert!(info.uart.is_none() && info.psci.is_none());
}

#[test]
fn the_console_is_the_uart_that_stdout_path_names() {
    let with = |path: &[u8]| {
        let uart = |tree: Builder, name: &str, pa| {
            tree.begin(name)
                .prop("compatible", b"arm,pl011\0")
                .cells("reg", &[0, pa, 0, 0x1000])
                .end()
        };
        let tree = uart(tree().usual(), "uart@1000", 0x1000);
        let tree = uart(tree, "uart@2000", 0x2000)
            .begin("aliases")
            .prop("serial1", b"/uart@2000\0")
            .prop("loop", b"loop\0")
            .prop("/a", b"/a\0")
            .end()
            .begin("chosen")
            .prop("stdout-path", path)
            .end()
            .end();
        tree.read().unwrap().uart.unwrap().registers.pa
    };
    assert_eq!(with(b"/uart@2000\0"), 0x2000);
    assert_eq!(with(b"/uart@2000:115200n8\0"), 0x2000);
    assert_eq!(with(b"serial1:115200\0"), 0x2000);
    for nothing in [&b""[..], b"loop", b"/a", b"/", b"\xff\0", b"serial7"] {
        assert_eq!(with(nothing), 0x1000);
    }
}

#[test]
fn more_reservations_than_there_is_room_for_are_refused_rather_than_forgotten() {
    let mut tree = tree().usual().end();
    tree.reserved = (0..17)
        .map(|n| (0x4000_0000 + n * 0x1000, 0x1000))
        .collect();
    assert!(matches!(
        tree.read().unwrap_err(),
        BootError::TooMany { room: 16, .. }
    ));
}

#[test]
fn a_gic_behind_a_translating_bus_is_refused_rather_than_misplaced() {
    let gic = tree()
        .begin("soc")
        .cells("ranges", &[0, 0x1000_0000, 0x1000_0000])
        .begin("gic@0")
        .prop("compatible", b"arm,gic-v3\0")
        .end()
        .end()
        .end();
    assert_eq!(
        gic.read().unwrap_err(),
        BootError::Translated { what: "GICv3" }
    );
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(tree().end().read().unwrap_err(), BootError::NoMemory);
    let memory = || {
        tree()
            .begin("memory")
            .prop("device_type", b"memory\0")
            .cells("reg", &[0, 0x4000_0000, 0x1000])
            .end()
    };
    assert_eq!(memory().end().read().unwrap_err(), BootError::NoCpus);
    let one_core = memory()
        .begin("cpus")
        .cells("#address-cells", &[1])
        .cells("#size-cells", &[0])
        .begin("cpu@0")
        .cells("reg", &[0])
        .end()
        .end()
        .end();
    assert_eq!(one_core.read().unwrap_err(), BootError::NoGicV3);
}

/// The usual tree with more in it.
fn with(more: impl FnOnce(Builder) -> Builder) -> Result<boot_info::BootInfo, BootError> {
    more(tree().usual()).end().read()
}

#[test]
fn psci_of_either_version_is_called_as_it_says() {
    let psci = |compatible: &[u8], method: &[u8]| {
        with(|tree| {
            tree.begin("psci")
                .prop("compatible", compatible)
                .prop("method", method)
                .end()
        })
        .map(|info| info.psci)
    };
    assert_eq!(psci(b"arm,psci-1.0\0", b"smc\0"), Ok(Some(Conduit::Smc)));
    assert_eq!(psci(b"arm,psci-0.2\0", b"hvc\0"), Ok(Some(Conduit::Hvc)));
    assert_eq!(psci(b"x\0arm,psci-1.0\0", b"hvc\0"), Ok(Some(Conduit::Hvc)));
    // 0.1 has no numbers of its own, and is not used.
    assert_eq!(psci(b"arm,psci\0", b"smc\0"), Ok(None));
    let what = "psci method";
    let refused = Err(BootError::BadProperty { what });
    assert_eq!(psci(b"arm,psci-1.0\0", b"spin\0"), refused);
}

#[test]
fn timers_are_where_the_tree_puts_them_or_where_every_server_has_them() {
    let timers = |cells: &[u32]| {
        let info = with(|tree| {
            tree.begin("timer")
                .prop("compatible", b"arm,armv8-timer\0")
                .cells("interrupts", cells)
                .end()
        });
        let timers = info.unwrap().timers;
        (timers.physical, timers.virt, timers.hyp_physical)
    };
    let all = [1, 1, 4, 1, 2, 4, 1, 3, 4, 1, 4, 4];
    assert_eq!(timers(&all), (18, 19, 20));
    assert_eq!(timers(&all[..9]), (18, 19, 26));
    assert_eq!(timers(&[]), (30, 27, 26));
    // A PPI past 15 and a type that does not exist are no interrupts.
    assert_eq!(timers(&[1, 1, 4, 1, 16, 4, 2, 3, 4]), (30, 27, 26));
}

#[test]
fn interrupts_have_a_number_and_a_trigger() {
    let uart = |cells: &[u32]| {
        let info = with(|tree| {
            tree.begin("serial@9000000")
                .prop("compatible", b"arm,pl011\0arm,primecell\0")
                .cells("reg", &[0, 0x900_0000, 0, 0x1000])
                .cells("interrupts", cells)
                .end()
        });
        info.unwrap().uart.unwrap().interrupt
    };
    let interrupt = |intid, edge| Some(Interrupt { intid, edge });
    assert_eq!(uart(&[0, 0, 4]), interrupt(32, false));
    assert_eq!(uart(&[0, 1, 8]), interrupt(33, false));
    assert_eq!(uart(&[0, 987, 1]), interrupt(1019, true));
    assert_eq!(uart(&[0, 7, 2]), interrupt(39, true));
    assert_eq!(uart(&[1, 15, 4]), interrupt(31, false));
    for none in [
        &[][..],
        &[0],
        &[0, 1],
        &[0, 988, 4],
        &[1, 16, 4],
        &[2, 1, 4],
    ] {
        assert_eq!(uart(none), None);
    }
}

#[test]
fn what_is_disabled_is_not_there() {
    let rtc = |status: Option<&[u8]>| {
        let info = with(|tree| {
            let tree = tree
                .begin("rtc@9010000")
                .prop("compatible", b"arm,pl031\0")
                .cells("reg", &[0, 0x901_0000, 0, 0x1000]);
            match status {
                Some(status) => tree.prop("status", status).end(),
                None => tree.end(),
            }
        });
        info.unwrap().rtc.map(|rtc| rtc.registers.pa)
    };
    assert_eq!(rtc(None), Some(0x901_0000));
    assert_eq!(rtc(Some(b"okay\0")), Some(0x901_0000));
    assert_eq!(rtc(Some(b"ok\0")), Some(0x901_0000));
    assert_eq!(rtc(Some(b"disabled\0")), None);
    assert_eq!(rtc(Some(b"fail\0")), None);
    assert_eq!(rtc(Some(b"")), None);
}

#[test]
fn devices_below_a_bus_without_translation_are_found_and_below_another_left_alone() {
    let rtc = |ranges: Option<&[u32]>| {
        let info = with(|tree| {
            let bus = tree
                .begin("soc")
                .cells("#address-cells", &[2])
                .cells("#size-cells", &[2]);
            let bus = match ranges {
                Some(ranges) => bus.cells("ranges", ranges),
                None => bus,
            };
            bus.begin("rtc@9010000")
                .prop("compatible", b"arm,pl031\0")
                .cells("reg", &[0, 0x901_0000, 0, 0x1000])
                .end()
                .end()
        });
        info.unwrap().rtc.map(|rtc| rtc.registers.pa)
    };
    assert_eq!(rtc(Some(&[])), Some(0x901_0000));
    assert_eq!(rtc(Some(&[0, 0, 1, 0, 0, 0x1000_0000])), None);
    assert_eq!(rtc(None), None);
}

#[test]
fn a_gic_may_have_several_regions_and_a_stride() {
    let gic = |count: &[u32], reg: &[u32]| {
        tree()
            .usual_without_gic()
            .begin("gic@8000000")
            .prop("compatible", b"arm,gic-v3\0")
            .cells("#redistributor-regions", count)
            .cells("redistributor-stride", &[0, 0x4_0000])
            .cells("reg", reg)
            .end()
            .end()
            .read()
            .map(|info| {
                let regions: Vec<_> = info.gic.redistributors.iter().map(|r| r.pa).collect();
                (regions, info.gic.redistributor_stride)
            })
    };
    let three = [
        0, 0x800_0000, 0, 0x1_0000, 0, 0x10, 0, 0x1000, 0, 0x20, 0, 0x1000, 0, 0x30, 0, 0x1000,
    ];
    let stride = Some(0x4_0000);
    assert_eq!(gic(&[2], &three), Ok((vec![0x10, 0x20], stride)));
    assert_eq!(gic(&[3], &three), Ok((vec![0x10, 0x20, 0x30], stride)));
    assert_eq!(gic(&[1], &three), Ok((vec![0x10], stride)));
    let what = "GICv3 reg";
    let malformed = Err(BootError::BadProperty { what });
    assert_eq!(gic(&[0], &three), malformed);
    assert_eq!(gic(&[1], &three[..4]), malformed);
    assert_eq!(gic(&[1], &[]), malformed);
    let nine: Vec<u32> = (0..10).flat_map(|n| [0, n, 0, 1]).collect();
    let too_many = Err(BootError::TooMany {
        what: "redistributor regions",
        room: 8,
    });
    assert_eq!(gic(&[9], &nine), too_many);
    assert!(gic(&[8], &nine).is_ok());
}

#[test]
fn memory_that_is_empty_or_past_48_bits_is_left_out() {
    let info = with(|tree| {
        tree.begin("memory@0")
            .prop("device_type", b"memory\0")
            .cells("reg", &[0, 0, 0, 0, 0xffff, 0xffff_f000, 0, 0x1000])
            .end()
            .begin("memory@1")
            .prop("device_type", b"memory\0")
            .cells(
                "reg",
                &[0xffff, 0xffff_f000, 0, 0x2000, u32::MAX, 0, u32::MAX, 0],
            )
            .end()
    });
    let ram: Vec<_> = info.unwrap().ram.iter().map(|r| (r.pa, r.bytes)).collect();
    assert_eq!(
        ram,
        [(0x4000_0000, 0x4000_0000), (0xffff_ffff_f000, 0x1000)]
    );
}

#[test]
fn more_ram_ranges_and_transports_than_there_is_room_for_are_counted() {
    let info = with(|mut tree| {
        for n in 0..20 {
            tree = tree
                .begin(&format!("memory@{n}"))
                .prop("device_type", b"memory\0")
                .cells("reg", &[1, n << 20, 0, 0x10_0000])
                .end();
        }
        for n in (0..40).rev() {
            tree = tree
                .begin(&format!("virtio_mmio@{n}"))
                .prop("compatible", b"virtio,mmio\0")
                .cells("reg", &[0, n << 12, 0, 0x200])
                .end();
        }
        tree
    })
    .unwrap();
    assert_eq!((info.ram.len(), info.ram_dropped), (16, 5));
    assert_eq!((info.virtio.len(), info.virtio_dropped), (32, 8));
    let places: Vec<_> = info.virtio.iter().map(|d| d.registers.pa >> 12).collect();
    assert_eq!(places, (8..40).collect::<Vec<_>>());
}

#[test]
fn a_core_whose_reg_is_no_affinity_is_refused() {
    let core = |reg: &[u32]| {
        tree()
            .usual_without_cpus()
            .begin("cpus")
            .cells("#address-cells", &[2])
            .cells("#size-cells", &[0])
            .begin("l2-cache")
            .end()
            .begin("cpu@0")
            .cells("reg", reg)
            .end()
            .end()
            .end()
            .read()
            .map(|info| info.cpus.get(0))
    };
    assert_eq!(core(&[0xab, 0x01_0203]), Ok(Some(0xab_0001_0203)));
    let what = "cpu reg";
    let refused = Err(BootError::BadProperty { what });
    assert_eq!(core(&[0, 0x8000_0000]), refused);
    assert_eq!(core(&[0x100, 0]), refused);
    assert_eq!(core(&[]), refused);
}

#[test]
fn the_event_queue_s_interrupt_is_found_by_its_name() {
    let smmu = |names: Option<&[u8]>| {
        with(|tree| {
            let tree = tree
                .begin("smmu@9050000")
                .prop("compatible", b"arm,smmu-v3\0")
                .cells("reg", &[0, 0x0905_0000, 0, 0x2_0000])
                .cells("interrupts", &[0, 75, 1, 0, 74, 4, 1, 3, 4]);
            let tree = match names {
                Some(names) => tree.prop("interrupt-names", names),
                None => tree,
            };
            tree.end()
        })
        .map(|info| {
            let events = info.smmu_events.map(|i| (i.intid, i.edge));
            (info.smmu.map(|range| range.pa), events)
        })
    };
    let at = Some(0x0905_0000);
    assert_eq!(smmu(Some(b"eventq\0gerror\0")), Ok((at, Some((107, true)))));
    assert_eq!(
        smmu(Some(b"gerror\0eventq\0")),
        Ok((at, Some((106, false))))
    );
    assert_eq!(smmu(Some(b"a\0b\0combined\0")), Ok((at, Some((19, false)))));
    assert_eq!(smmu(Some(b"gerror\0priq\0")), Ok((at, None)));
    assert_eq!(smmu(Some(b"a\0b\0c\0eventq\0")), Ok((at, None)));
    assert_eq!(smmu(None), Ok((at, None)));
}

#[test]
fn buses_of_the_pci_host_are_as_its_range_says() {
    let pci = |range: Option<&[u32]>| {
        with(|tree| {
            let host = tree
                .begin("pcie@10000000")
                .prop("compatible", b"pci-host-ecam-generic\0")
                .cells("reg", &[0x40, 0x1000_0000, 0, 0x1000_0000]);
            match range {
                Some(range) => host.cells("bus-range", range).end(),
                None => host.end(),
            }
        })
        .map(|info| {
            info.pci
                .map(|pci| (pci.ecam.pa, pci.bus_first, pci.bus_last))
        })
    };
    assert_eq!(pci(None), Ok(Some((0x40_1000_0000, 0, 255))));
    assert_eq!(pci(Some(&[2, 7])), Ok(Some((0x40_1000_0000, 2, 7))));
    let what = "PCI bus-range";
    let refused = Err(BootError::BadProperty { what });
    assert_eq!(pci(Some(&[0])), refused);
    assert_eq!(pci(Some(&[0, 256])), refused);
}

#[test]
fn windows_and_wires_of_the_pci_host_are_those_that_can_be_used() {
    let host = |name: &str, cells: &[u32]| {
        with(|tree| {
            tree.begin("pcie@10000000")
                .prop("compatible", b"pci-host-ecam-generic\0")
                .cells("reg", &[0x40, 0x1000_0000, 0, 0x1000_0000])
                .cells("interrupt-map-mask", &[0xf800, 0, 0, 7])
                .cells(name, cells)
                .end()
        })
        .expect("legal")
        .pci
        .expect("is there")
    };
    // Ports, memory moved elsewhere, memory past 2^48, half an entry: none of them is a window.
    for useless in [
        [0x100_0000, 0, 0x1000, 0, 0x1000, 0, 0x1000].as_slice(),
        &[0x200_0000, 0, 0x1000, 0, 0x2000, 0, 0x1000],
        &[0x300_0000, 0x1_0000, 0, 0x1_0000, 0, 0, 0x1000],
        &[0x200_0000, 0, 0x1000, 0, 0x1000],
        &[],
    ] {
        let pci = host("ranges", useless);
        assert_eq!((pci.low, pci.high), (None, None), "{useless:x?}");
    }
    let pci = host("ranges", &[0x4300_0000, 8, 0, 8, 0, 1, 0]);
    assert_eq!((pci.low, pci.high.map(|w| w.pa)), (None, Some(8 << 32)));
    // A controller with no address, with one of a cell, with one of two.
    let controllers: [&[u32]; 3] = [&[7], &[7, 0], &[7, 0, 0]];
    for controller in controllers {
        let mut map = Vec::new();
        for device in 0..3 {
            map.extend([device << 11, 0, 0, 1]);
            map.extend(controller);
            map.extend([0, 10 + device, 4]);
        }
        let pci = host("interrupt-map", &map);
        let intids: Vec<_> = pci.wires.iter().map(|wire| wire.interrupt.intid).collect();
        assert_eq!(intids, [42, 43, 44], "{controller:?}");
        assert_eq!(pci.wire(2 << 3 | 5, 1).map(|wire| wire.intid), Some(44));
        map.pop();
        assert_eq!(host("interrupt-map", &map).wires.len(), 0);
    }
}

#[test]
fn what_is_chosen_is_cut_or_refused_when_it_is_too_long() {
    let chosen = |name: &str, value: &[u8]| {
        let chosen = with(|tree| tree.begin("chosen").prop(name, value).end());
        chosen.map(|info| (info.bootargs.to_vec(), info.rng_seed.to_vec()))
    };
    assert_eq!(chosen("bootargs", b"a\0b\0"), Ok((b"a".to_vec(), vec![])));
    assert_eq!(
        chosen("bootargs", &[b'x'; 1024]),
        Ok((vec![b'x'; 1024], vec![]))
    );
    let refused = Err(BootError::TooMany {
        what: "bytes of bootargs",
        room: 1024,
    });
    assert_eq!(chosen("bootargs", &[b'x'; 1025]), refused);
    assert_eq!(chosen("rng-seed", &[7; 63]), Ok((vec![], vec![7; 63])));
    assert_eq!(chosen("rng-seed", &[7; 100]), Ok((vec![], vec![7; 64])));
}

#[test]
fn an_initrd_that_ends_before_it_starts_is_none() {
    let initrd = |start: &[u32], end: &[u32]| {
        let info = with(|tree| {
            tree.begin("chosen")
                .cells("linux,initrd-start", start)
                .cells("linux,initrd-end", end)
                .end()
        });
        info.unwrap().initrd.map(|range| (range.pa, range.bytes))
    };
    assert_eq!(initrd(&[1, 0], &[1, 5]), Some((0x1_0000_0000, 5)));
    assert_eq!(initrd(&[9], &[0, 10]), Some((9, 1)));
    assert_eq!(initrd(&[10], &[9]), None);
    assert_eq!(initrd(&[10], &[10]), None);
    assert_eq!(initrd(&[10], &[0, 0, 11]), None);
    assert_eq!(initrd(&[], &[11]), None);
}
