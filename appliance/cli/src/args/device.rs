//! The command line of `skete device`, and `--device` of `skete vm create`.

use clap::{Args, Subcommand, ValueEnum};
use skete_client::api::{BarSize, DeviceProfile, DeviceSpec};
use skete_client::size;

use super::{address, name};

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// List the PCI functions that VMs can have.
    #[command(alias = "list")]
    Ls,
    /// Show a device: who has it, how its memory is mapped, what faults did.
    Show {
        /// The function, as 0000:00:03.0 or 00:03.0.
        #[arg(value_parser = pci)]
        pci: String,
    },
    /// Give a device to a stopped VM: it has it from its next start on.
    Attach(AttachArgs),
    /// Take a device out of the definition of a stopped VM.
    Detach {
        /// Name of the VM.
        #[arg(value_parser = name)]
        vm: String,
        /// The function.
        #[arg(value_parser = pci)]
        pci: String,
    },
    /// Take all mappings of a device away and reset it, under its running VM.
    Reset {
        /// The function.
        #[arg(value_parser = pci)]
        pci: String,
    },
    /// Take mappings of a device away, under its running VM; its next touch brings them back.
    Revoke {
        #[command(flatten)]
        place: Place,
        /// How much, in whole pages.
        #[arg(value_parser = size::parse)]
        length: u64,
    },
    /// Read memory or registers of a device that a VM has, by the rules its VM's touch obeys.
    Read {
        #[command(flatten)]
        place: Place,
        /// How much.
        #[arg(value_parser = size::parse, default_value = "4")]
        length: u64,
        /// Write the bytes themselves, instead of a dump.
        #[arg(long)]
        raw: bool,
    },
    /// Write to memory or registers of a device that a VM has.
    Write {
        #[command(flatten)]
        place: Place,
        /// The bytes in hexadecimal, lowest address first; from standard input if left out.
        #[arg(value_parser = bytes)]
        data: Option<Bytes>,
    },
    /// Show which parts of a device's largest BAR were touched, and how often.
    Touches {
        /// The function.
        #[arg(value_parser = pci)]
        pci: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// Name of the VM.
    #[arg(value_parser = name)]
    pub(crate) vm: String,
    /// The function.
    #[arg(value_parser = pci)]
    pub(crate) pci: String,
    /// What kind of device it is.
    #[arg(long, value_enum, default_value = "generic")]
    pub(crate) profile: Profile,
    /// For nvgrace-gpu: the function whose largest BAR is its memory.
    #[arg(long, value_name = "PCI", value_parser = pci)]
    pub(crate) memory: Option<String>,
    /// For nvgrace-gpu: the BAR with its registers.
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(..6))]
    pub(crate) registers_bar: u32,
    /// Give a BAR that can be resized another size, as 2=16G; `device show` lists them.
    #[arg(long, value_name = "N=SIZE", value_parser = bar_size)]
    pub(crate) bar_size: Vec<BarSize>,
    /// Let it do DMA although no SMMU bounds it: it can then reach all of the machine's memory.
    #[arg(long)]
    pub(crate) unsafe_dma: bool,
    /// Let its DMA reach only pages that the guest declares, so that the rest of the VM's RAM can
    /// be taken back. For guests that know how; else all of it is populated.
    #[arg(long)]
    pub(crate) declared_dma: bool,
}

impl AttachArgs {
    /// Returns the device as the VM's definition has it.
    pub(crate) fn spec(self) -> DeviceSpec {
        DeviceSpec {
            pci: self.pci,
            profile: self.profile.into(),
            unsafe_dma: self.unsafe_dma,
            declared_dma: self.declared_dma,
            memory: self.memory,
            registers_bar: self.registers_bar,
            bar_sizes: self.bar_size,
        }
    }
}

/// A place in a BAR.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The function.
    #[arg(value_parser = pci)]
    pub(crate) pci: String,
    /// The BAR.
    #[arg(value_parser = clap::value_parser!(u32).range(..6))]
    pub(crate) bar: u32,
    /// Offset in it.
    #[arg(value_parser = address)]
    pub(crate) offset: u64,
}

/// What kind of device it is.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Profile {
    /// Any PCI function.
    Generic,
    /// An NVMe controller.
    Nvme,
    /// An NVIDIA Grace-based GPU.
    NvgraceGpu,
}

impl From<Profile> for DeviceProfile {
    fn from(profile: Profile) -> Self {
        match profile {
            Profile::Generic => Self::Generic,
            Profile::Nvme => Self::Nvme,
            Profile::NvgraceGpu => Self::NvgraceGpu,
        }
    }
}

/// Reads a BAR and its size, as `2=16G`.
fn bar_size(text: &str) -> Result<BarSize, String> {
    let parts = text.split_once('=');
    let (bar, bytes) = parts.ok_or("a BAR and its size are written as 2=16G")?;
    let bar = bar.parse().ok().filter(|bar| *bar < 6);
    Ok(BarSize {
        bar: bar.ok_or("a BAR is 0 to 5")?,
        bytes: size::parse(bytes)?,
    })
}

/// Bytes, as they were written on the command line.
#[derive(Clone, Debug)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

fn bytes(text: &str) -> Result<Bytes, String> {
    let text: String = text.chars().filter(|c| !matches!(c, ' ' | ':')).collect();
    skete_client::hex::parse(&text)
        .map(Bytes)
        .ok_or_else(|| "bytes are pairs of hexadecimal digits: write for example 7856aa00".into())
}

/// Reads the address of a function; segment 0 may be left out, as `lspci` does.
fn pci(text: &str) -> Result<String, String> {
    let full = if text.matches(':').count() == 1 {
        format!("0000:{text}")
    } else {
        text.to_owned()
    };
    let shape = "0000:hh:hh.d";
    let fits = full.len() == shape.len()
        && full.chars().zip(shape.chars()).all(|(c, s)| match s {
            'h' => c.is_ascii_hexdigit(),
            'd' => matches!(c, '0'..='7'),
            _ => c == s,
        });
    if fits {
        Ok(full.to_ascii_lowercase())
    } else {
        Err(format!(
            "'{text}' is no PCI function of segment 0: write for example 0000:00:03.0 or 00:03.0"
        ))
    }
}

/// Reads what `vm create --device` takes: the function, and after commas what
/// `device attach` has as options.
pub(crate) fn device(text: &str) -> Result<DeviceSpec, String> {
    let mut parts = text.split(',');
    let mut spec = DeviceSpec {
        pci: pci(parts.next().unwrap_or_default())?,
        ..DeviceSpec::default()
    };
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match (key, value) {
            ("profile", value) => spec.profile = Profile::from_str(value, false)?.into(),
            ("memory", value) => spec.memory = Some(pci(value)?),
            ("registers-bar", value) => {
                let bar = value.parse().ok().filter(|bar| *bar < 6);
                spec.registers_bar = bar.ok_or("registers-bar is 0 to 5")?;
            }
            ("bar-size", value) => spec.bar_sizes.push(bar_size(&value.replacen(':', "=", 1))?),
            ("unsafe-dma", "") => spec.unsafe_dma = true,
            ("declared-dma", "") => spec.declared_dma = true,
            _ => {
                return Err(format!(
                    "'{part}' is none of profile=KIND, memory=PCI, registers-bar=N, \
                     bar-size=N:SIZE, unsafe-dma, declared-dma"
                ));
            }
        }
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::{DeviceProfile, device, pci};

    #[test]
    fn a_function_may_be_written_without_its_segment() {
        assert_eq!(pci("00:03.0").as_deref(), Ok("0000:00:03.0"));
        assert_eq!(pci("0000:0A:1f.7").as_deref(), Ok("0000:0a:1f.7"));
        for wrong in [
            "",
            "3",
            "00:03",
            "00:03.8",
            "0001:00:03.0",
            "00:03.0 ",
            "0:3.0",
        ] {
            assert!(pci(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_device_is_written_in_one_word() {
        let spec = device("00:02.0,profile=nvgrace-gpu,memory=00:01.0,registers-bar=2")
            .expect("can be read");
        assert_eq!(spec.pci, "0000:00:02.0");
        assert_eq!(spec.profile, DeviceProfile::NvgraceGpu);
        assert_eq!(spec.memory.as_deref(), Some("0000:00:01.0"));
        assert_eq!((spec.registers_bar, spec.unsafe_dma), (2, false));
        assert!(
            device("00:02.0,unsafe-dma")
                .expect("can be read")
                .unsafe_dma
        );
        let spec = device("00:02.0,bar-size=2:16G,bar-size=4:1M").expect("can be read");
        let sizes: Vec<_> = spec.bar_sizes.iter().map(|s| (s.bar, s.bytes)).collect();
        assert_eq!(sizes, [(2, 16 << 30), (4, 1 << 20)]);
        for wrong in [
            "00:02.0,bar-size=2",
            "00:02.0,bar-size=6:1M",
            "00:02.0,",
            "00:02.0,profile=gpu",
            "00:02.0,unsafe-dma=no",
            "00:02.0,registers-bar=6",
        ] {
            assert!(device(wrong).is_err(), "{wrong}");
        }
    }
}
