//! Names for MIDR_EL1 (DDI 0487, D24.2.122).

use alloc::format;

use api::Cpu;

/// Implementer codes, as the register's description lists them.
const IMPLEMENTERS: [(u64, &str); 12] = [
    (0x41, "Arm"),
    (0x42, "Broadcom"),
    (0x43, "Cavium"),
    (0x46, "Fujitsu"),
    (0x48, "HiSilicon"),
    (0x4e, "NVIDIA"),
    (0x50, "Applied Micro"),
    (0x51, "Qualcomm"),
    (0x53, "Samsung"),
    (0x56, "Marvell"),
    (0x61, "Apple"),
    (0xc0, "Ampere"),
];

/// Part numbers of Arm's own cores, from their reference manuals.
const ARM_PARTS: [(u64, &str); 21] = [
    (0xd03, "Cortex-A53"),
    (0xd04, "Cortex-A35"),
    (0xd05, "Cortex-A55"),
    (0xd07, "Cortex-A57"),
    (0xd08, "Cortex-A72"),
    (0xd09, "Cortex-A73"),
    (0xd0a, "Cortex-A75"),
    (0xd0b, "Cortex-A76"),
    (0xd0c, "Neoverse-N1"),
    (0xd0d, "Cortex-A77"),
    (0xd40, "Neoverse-V1"),
    (0xd41, "Cortex-A78"),
    (0xd44, "Cortex-X1"),
    (0xd46, "Cortex-A510"),
    (0xd47, "Cortex-A710"),
    (0xd48, "Cortex-X2"),
    (0xd49, "Neoverse-N2"),
    (0xd4b, "Cortex-A78C"),
    (0xd4d, "Cortex-A715"),
    (0xd4f, "Neoverse-V2"),
    (0xd8e, "Neoverse-N3"),
];

/// Says what a MIDR_EL1 means.
pub(crate) fn describe(midr: u64) -> Cpu {
    let implementer = midr >> 24 & 0xff;
    let part = midr >> 4 & 0xfff;
    let name = |table: &[(u64, &'static str)], key: u64| {
        table
            .iter()
            .find_map(|(k, name)| (*k == key).then_some(*name))
    };
    let model = match implementer {
        0x41 => name(&ARM_PARTS, part),
        // QEMU's `max` has implementer 0 and part 0x051.
        0 if part == 0x051 => Some("QEMU max"),
        _ => None,
    };
    Cpu {
        midr: format!("{midr:#010x}"),
        model: model.unwrap_or("unknown").into(),
        implementer: match implementer {
            0 => "software",
            code => name(&IMPLEMENTERS, code).unwrap_or("unknown"),
        }
        .into(),
        revision: format!("r{}p{}", midr >> 20 & 0xf, midr & 0xf),
    }
}

#[cfg(test)]
mod tests {
    use super::describe;

    #[test]
    fn a_cortex_a72_is_recognised() {
        // Cortex-A72 TRM, 4.3.1: MIDR_EL1 of r0p3 is 0x410FD083.
        let cpu = describe(0x410f_d083);
        assert_eq!(cpu.model, "Cortex-A72");
        assert_eq!(cpu.implementer, "Arm");
        assert_eq!(cpu.revision, "r0p3");
        assert_eq!(cpu.midr, "0x410fd083");
    }

    #[test]
    fn an_unheard_of_core_is_unknown_and_not_an_error() {
        let cpu = describe(u64::MAX);
        assert_eq!(
            (cpu.model.as_str(), cpu.implementer.as_str()),
            ("unknown", "unknown")
        );
    }
}
