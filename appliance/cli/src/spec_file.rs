//! A VM as a TOML file: the same as the wire's JSON, but sizes as people write them.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Deserializer};
use skete_client::api::{Boot, CpuFeatures, CpuSpec, DeviceSpec, GuestFeature, Pin, VmSpec};
use skete_client::{Error, size};

/// A file that defines a VM. A key that is not known is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SpecFile {
    /// Name of the VM.
    pub(crate) name: Option<String>,
    /// Number of vCPUs.
    pub(crate) cpus: Option<u32>,
    /// RAM in bytes, or as text such as `512MiB`.
    #[serde(default, deserialize_with = "memory")]
    pub(crate) memory: Option<u64>,
    /// What it boots.
    #[serde(default)]
    pub(crate) boot: BootFile,
    /// How its vCPUs are to run.
    #[serde(default)]
    pub(crate) cpu: CpuFile,
    /// PCI functions of the machine that it has.
    #[serde(default)]
    pub(crate) devices: Vec<DeviceSpec>,
    /// Features of the CPU, such as `sve = false`.
    #[serde(default)]
    pub(crate) cpu_features: FeaturesFile,
}

/// Features of the CPU. Left out: as the machine has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FeaturesFile {
    /// The Scalable Vector Extension.
    pub(crate) sve: Option<bool>,
    /// Pointer authentication.
    pub(crate) pauth: Option<bool>,
    /// Performance monitors.
    pub(crate) pmu: Option<bool>,
}

impl FeaturesFile {
    /// Takes over what `other` says.
    pub(crate) fn add(&mut self, other: &CpuFeatures) {
        self.sve = other.sve.or(self.sve);
        self.pauth = other.pauth.or(self.pauth);
        self.pmu = other.pmu.or(self.pmu);
    }
}

/// What a VM boots. Images may be written `image:NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BootFile {
    /// Linux kernel.
    pub(crate) kernel: Option<String>,
    /// Flat image.
    pub(crate) flat: Option<String>,
    /// ELF image.
    pub(crate) elf: Option<String>,
    /// Initial RAM disk.
    pub(crate) initrd: Option<String>,
    /// The kernel's command line.
    pub(crate) cmdline: Option<String>,
}

/// How its vCPUs are to run; the names are the wire's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CpuFile {
    /// Share of the machine.
    pub(crate) weight: Option<u32>,
    /// Most of all vCPUs together, in per cent of one core.
    pub(crate) limit_percent: Option<u32>,
    /// Where vCPUs may run.
    #[serde(default)]
    pub(crate) pins: Vec<Pin>,
    /// What the guest is not to find.
    #[serde(default)]
    pub(crate) hide: Vec<GuestFeature>,
}

/// RAM of a VM that does not say how much it wants, in bytes.
const MEMORY_DEFAULT_BYTES: u64 = 256 << 20;

impl SpecFile {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|why| Error::File {
            path: path.into(),
            why: why.to_string(),
        })?;
        toml::from_str(&text).map_err(|why| Error::File {
            path: path.into(),
            why: why.to_string(),
        })
    }

    /// Writes it as the wire wants it.
    pub(crate) fn into_spec(self) -> VmSpec {
        let image = |name: Option<String>| {
            name.map(|name| {
                name.strip_prefix("image:")
                    .map_or(name.clone(), str::to_owned)
            })
        };
        VmSpec {
            cpus: self.cpus.unwrap_or(1),
            cpu: CpuSpec {
                weight: self.cpu.weight,
                limit_percent: self.cpu.limit_percent,
                pins: self.cpu.pins,
                hide: self.cpu.hide,
            },
            memory_bytes: self.memory.unwrap_or(MEMORY_DEFAULT_BYTES),
            boot: Boot {
                kernel: image(self.boot.kernel),
                flat: image(self.boot.flat),
                elf: image(self.boot.elf),
                initrd: image(self.boot.initrd),
                cmdline: self.boot.cmdline.unwrap_or_default(),
            },
            devices: self.devices,
            cpu_features: CpuFeatures {
                sve: self.cpu_features.sve,
                pauth: self.cpu_features.pauth,
                pmu: self.cpu_features.pmu,
            },
        }
    }
}

fn memory<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Memory {
        Bytes(u64),
        Text(String),
    }
    match Memory::deserialize(from)? {
        Memory::Bytes(bytes) => Ok(Some(bytes)),
        Memory::Text(text) => size::parse(&text)
            .map(Some)
            .map_err(serde::de::Error::custom),
    }
}
