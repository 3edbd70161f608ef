//! The guest's device tree, read back by another crate.

use fdt::Fdt;
use loader::Tree;

fn tree(cpus: u32) -> Vec<u8> {
    Tree {
        ram_bytes: 512 << 20,
        cpus,
        cmdline: "console=ttyAMA0 quiet",
        pci: false,
        pmu: true,
        initrd: Some((0x4440_0000, 0x12_3456)),
        seed: std::array::from_fn(|n| u8::try_from(n).expect("40 numbers")),
    }
    .write()
    .expect("well formed")
}

fn cells(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks_exact(4)
        .map(|cell| u32::from_be_bytes(cell.try_into().expect("four bytes")))
        .collect()
}

#[test]
fn a_guest_finds_its_memory_and_its_command_line() {
    let bytes = tree(1);
    let fdt = Fdt::new(&bytes).expect("a device tree");
    let memory = fdt.memory();
    let region = memory.regions().next().expect("one bank");
    assert_eq!(region.starting_address as usize, 0x4000_0000);
    assert_eq!(region.size, Some(0x2000_0000));
    assert_eq!(fdt.chosen().bootargs(), Some("console=ttyAMA0 quiet"));
    let stdout = fdt.chosen().stdout().expect("a console");
    assert!(
        stdout
            .compatible()
            .expect("has one")
            .all()
            .any(|c| c == "arm,pl011")
    );
}

#[test]
fn a_guest_finds_its_initrd_and_its_seeds() {
    let bytes = tree(1);
    let fdt = Fdt::new(&bytes).expect("a device tree");
    let chosen = fdt.find_node("/chosen").expect("exists");
    let number = |name| {
        let value = chosen.property(name).expect(name).value;
        u64::from_be_bytes(value.try_into().expect("eight bytes"))
    };
    assert_eq!(number("linux,initrd-start"), 0x4440_0000);
    assert_eq!(number("linux,initrd-end"), 0x4452_3456);
    assert_eq!(number("kaslr-seed"), 0x0001_0203_0405_0607);
    assert_eq!(chosen.property("rng-seed").expect("exists").value.len(), 32);
}

#[test]
fn each_cpu_is_started_by_psci_and_has_a_redistributor() {
    let bytes = tree(3);
    let fdt = Fdt::new(&bytes).expect("a device tree");
    let ids: Vec<usize> = fdt.cpus().map(|cpu| cpu.ids().first()).collect();
    assert_eq!(ids, [0, 1, 2]);
    for cpu in fdt.cpus() {
        let method = cpu.properties().find(|p| p.name == "enable-method");
        assert_eq!(method.and_then(|p| p.as_str()), Some("psci"));
    }
    let psci = fdt.find_compatible(&["arm,psci-1.0"]).expect("exists");
    assert_eq!(
        psci.property("method").and_then(|p| p.as_str()),
        Some("hvc")
    );
    let gic = fdt.find_compatible(&["arm,gic-v3"]).expect("exists");
    let regions: Vec<_> = gic
        .reg()
        .expect("two regions")
        .map(|r| (r.starting_address as usize, r.size))
        .collect();
    assert_eq!(
        regions,
        [(0x0800_0000, Some(0x1_0000)), (0x080a_0000, Some(0x6_0000))]
    );
}

#[test]
fn the_timer_and_the_uart_have_the_interrupts_of_the_virt_board() {
    let bytes = tree(1);
    let fdt = Fdt::new(&bytes).expect("a device tree");
    let timer = fdt.find_compatible(&["arm,armv8-timer"]).expect("exists");
    assert_eq!(
        cells(timer.property("interrupts").expect("exists").value),
        [1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4]
    );
    let uart = fdt.find_compatible(&["arm,pl011"]).expect("exists");
    assert_eq!(
        cells(uart.property("interrupts").expect("exists").value),
        [0, 1, 4]
    );
    assert_eq!(
        cells(uart.property("reg").expect("exists").value),
        [0, 0x0900_0000, 0, 0x1000]
    );
}

#[test]
fn a_command_line_with_a_nul_is_refused() {
    let tree = Tree {
        ram_bytes: 64 << 20,
        cpus: 1,
        cmdline: "a\0b",
        initrd: None,
        pci: true,
        pmu: false,
        seed: [0; 40],
    };
    assert!(tree.write().is_err());
}

#[test]
fn a_guest_with_devices_finds_the_pci_host_of_the_map() {
    let tree = Tree {
        ram_bytes: 64 << 20,
        cpus: 1,
        cmdline: "",
        initrd: None,
        pci: true,
        pmu: false,
        seed: [0; 40],
    };
    let blob = tree.write().expect("well formed");
    let fdt = Fdt::new(&blob).expect("readable");
    let host = fdt
        .find_compatible(&["pci-host-ecam-generic"])
        .expect("the host");
    let property = |name| cells(host.property(name).expect(name).value);
    assert_eq!(property("reg"), [0, 0x3f00_0000, 0, 0x0100_0000]);
    assert_eq!(property("bus-range"), [0, 0]);
    assert_eq!(
        property("ranges"),
        [
            0x0200_0000,
            0,
            0x1000_0000,
            0,
            0x1000_0000,
            0,
            0x2eff_0000, //
            0x0300_0000,
            0x80,
            0,
            0x80,
            0,
            0x80,
            0,
        ]
    );
    // Its messages go to the ITS, which is inside the GIC's node.
    let its = fdt.find_node("/intc@8000000/its@8080000").expect("the ITS");
    let of_its = |name| cells(its.property(name).expect(name).value);
    assert_eq!(of_its("reg"), [0, 0x0808_0000, 0, 0x2_0000]);
    assert_eq!(of_its("#msi-cells"), [1]);
    assert!(its.property("msi-controller").is_some());
    assert_eq!(
        property("msi-map"),
        [
            0,
            of_its("phandle").first().copied().expect("a number"),
            0,
            0x100
        ]
    );
    let map = property("interrupt-map");
    assert_eq!(map.len(), 160);
    // Device 2, pin B: (2 + 1) mod 4 wires on from SPI 3, level-sensitive.
    let entry = map.chunks(10).find(|e| e[0] == 2 << 11 && e[3] == 2);
    assert_eq!(entry, Some(&[2 << 11, 0, 0, 2, 1, 0, 0, 0, 6, 4][..]));
    assert!(
        Fdt::new(&self::tree(1))
            .expect("readable")
            .find_compatible(&["pci-host-ecam-generic", "arm,gic-v3-its"])
            .is_none()
    );
}
