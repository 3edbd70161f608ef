//! The command line.

pub(crate) mod cpu;
pub(crate) mod device;
pub(crate) mod memory;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use skete_client::api::{CpuFeatures, DeviceSpec, ImageKind};
use skete_client::size;

/// Manages virtual machines on a Skete appliance.
#[derive(Debug, Parser)]
#[command(
    name = "skete",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(after_help = "\
Examples:
  skete image push Image --name linux --kind kernel
  skete image push initrd.cpio --name initrd
  skete vm create web --kernel linux --initrd initrd --cmdline console=ttyAMA0 --memory 512MiB
  skete vm start web && skete console web

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 conflict, 5 not authorised, \
6 appliance unreachable.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where the appliance's control port is.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "SKETE_URL",
        default_value = "http://127.0.0.1:8080"
    )]
    pub(crate) url: String,
    /// The appliance's bearer token. Better in the environment, where `ps` does not show it.
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "SKETE_TOKEN",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) token: String,
    /// Print JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print no more than what was asked for: names in lists, no progress.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the appliance and the machine it runs on.
    Host,
    /// Upload, list and delete images: kernels, initial RAM disks, programs.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Define, start, stop, show and delete virtual machines.
    #[command(subcommand)]
    Vm(Box<VmCommand>),
    /// Give PCI devices to VMs; show, reset, revoke, read and write those that VMs have.
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// List the virtual machines; the same as `vm ls`.
    Ls,
    /// Attach to a VM's console, until the VM stops. Ctrl-] detaches.
    Console(ConsoleArgs),
    /// Print events as they happen.
    Events(EventsArgs),
    /// Stop every VM and switch the appliance off.
    Shutdown {
        /// Restart instead of switching off.
        #[arg(long)]
        reset: bool,
    },
    /// Start the appliance's control plane anew, while VMs run on.
    RestartControl {
        /// Return at once instead of when it answers again.
        #[arg(long)]
        no_wait: bool,
    },
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Upload a file as an image. A broken upload is gone on with.
    Push {
        /// The file.
        file: PathBuf,
        /// Name of the image.
        #[arg(short, long, value_parser = name)]
        name: String,
        /// What the image is for; guessed from the file if it is left out.
        #[arg(short, long, value_enum)]
        kind: Option<Kind>,
    },
    /// List the images.
    Ls,
    /// Delete images.
    Rm {
        /// Names of the images.
        #[arg(required = true, value_parser = name)]
        names: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// Define a VM.
    Create(CreateArgs),
    /// Start VMs and wait until they run.
    Start {
        /// Names of the VMs.
        #[arg(required = true, value_parser = name)]
        names: Vec<String>,
    },
    /// Stop VMs at once, as if their power were cut.
    Stop {
        /// Names of the VMs.
        #[arg(required = true, value_parser = name)]
        names: Vec<String>,
        /// Do not ask the guest first. Guests are not asked yet, so this is what happens.
        #[arg(short, long)]
        force: bool,
    },
    /// Stop VMs and start them again.
    Reset {
        /// Names of the VMs.
        #[arg(required = true, value_parser = name)]
        names: Vec<String>,
    },
    /// Make an SError pending in a vCPU, as failing hardware would.
    Serror {
        /// Name of the VM.
        #[arg(value_parser = name)]
        name: String,
        /// Which vCPU, from 0.
        #[arg(long, default_value_t = 0)]
        vcpu: u32,
        /// ESR_EL1.ISS as the guest is to find it; a machine without FEAT_RAS shows none.
        #[arg(long, default_value_t = 0)]
        syndrome: u32,
    },
    /// Restart VMs: those that run are reset, the others started.
    Restart {
        /// Names of the VMs.
        #[arg(required = true, value_parser = name)]
        names: Vec<String>,
    },
    /// List the VMs.
    Ls,
    /// Show a VM.
    Show {
        /// Name of the VM.
        #[arg(value_parser = name)]
        name: String,
    },
    /// Show and change the share of VMs' vCPUs, and where they run.
    #[command(subcommand)]
    Cpu(cpu::CpuCommand),
    /// Show, limit, scan and take back the memory of running VMs.
    #[command(subcommand)]
    Memory(memory::MemoryCommand),
    /// Delete VMs.
    Rm {
        /// Names of the VMs.
        #[arg(required = true, value_parser = name)]
        names: Vec<String>,
        /// Stop those that run.
        #[arg(short, long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Name of the VM; may be left out if the file has one.
    #[arg(value_parser = name)]
    pub(crate) name: Option<String>,
    /// Take the definition from a TOML file. Options on the command line come before it.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Image of the Linux kernel to boot.
    #[arg(long, value_name = "IMAGE", value_parser = name, group = "boot")]
    pub(crate) kernel: Option<String>,
    /// Flat image to boot.
    #[arg(long, value_name = "IMAGE", value_parser = name, group = "boot")]
    pub(crate) flat: Option<String>,
    /// ELF image to boot.
    #[arg(long, value_name = "IMAGE", value_parser = name, group = "boot")]
    pub(crate) elf: Option<String>,
    /// Image of the initial RAM disk.
    #[arg(long, value_name = "IMAGE", value_parser = name)]
    pub(crate) initrd: Option<String>,
    /// The kernel's command line.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) cmdline: Option<String>,
    /// Number of vCPUs [default: 1].
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    pub(crate) cpus: Option<u32>,
    /// RAM, such as 512MiB or 2GiB [default: 256MiB].
    #[arg(short, long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) memory: Option<u64>,
    /// A PCI function that it has; may be given more than once. For example
    /// 00:03.0,profile=nvme; see `skete device attach --help` for what may follow.
    #[arg(long = "device", value_name = "PCI[,…]", value_parser = device::device)]
    pub(crate) devices: Vec<DeviceSpec>,
    /// Features of the CPU that the VM must have, or must not: sve, pauth, pmu. Those left out
    /// it has if the machine has them.
    #[arg(long, value_name = "NAME=on|off,…", value_parser = cpu_features)]
    pub(crate) cpu_features: Option<CpuFeatures>,
    #[command(flatten)]
    pub(crate) cpu: cpu::NewCpu,
}

#[derive(Debug, Args)]
pub(crate) struct ConsoleArgs {
    /// Name of the VM.
    #[arg(value_parser = name)]
    pub(crate) name: String,
    /// Print what the console remembers, and type nothing.
    #[arg(short, long)]
    pub(crate) log: bool,
    /// Stay when the VM stops, and until it is deleted.
    #[arg(short, long)]
    pub(crate) keep: bool,
    /// With --log: go on printing.
    #[arg(short, long, requires = "log")]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Begin after the event with this number; 0 for everything remembered.
    #[arg(long, value_name = "SEQ")]
    pub(crate) since: Option<u64>,
    /// End after the last event there is.
    #[arg(long)]
    pub(crate) no_follow: bool,
}

/// What an image is for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// An arm64 Linux Image, plain or gzip.
    Kernel,
    /// An initial RAM disk.
    Initrd,
    /// A flat binary.
    Flat,
    /// An AArch64 ELF executable.
    Elf,
}

impl From<Kind> for ImageKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Kernel => Self::Kernel,
            Kind::Initrd => Self::Initrd,
            Kind::Flat => Self::Flat,
            Kind::Elf => Self::Elf,
        }
    }
}

/// Reads a number, hexadecimal with `0x`.
fn address(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| format!("'{text}' is no address: write for example 0x40000000"))
}

fn cpu_features(text: &str) -> Result<CpuFeatures, String> {
    let mut features = CpuFeatures::default();
    for word in text.split(',') {
        let (name, on) = match word.split_once('=') {
            Some((name, "on" | "true")) => (name, true),
            Some((name, "off" | "false")) => (name, false),
            _ => return Err(format!("'{word}' is not NAME=on or NAME=off")),
        };
        if !features.set(name, on) {
            let names = CpuFeatures::NAMES.join(", ");
            return Err(format!("there is no feature '{name}'; there are {names}"));
        }
    }
    Ok(features)
}

fn name(text: &str) -> Result<String, String> {
    if skete_client::api::names::is_valid(text) {
        Ok(text.into())
    } else {
        Err(format!(
            "a name has {}",
            skete_client::api::names::NAME_RULE
        ))
    }
}
