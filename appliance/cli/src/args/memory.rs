//! The command line of `skete vm memory`.

use clap::{ArgAction, Args, Subcommand, ValueEnum};
use skete_client::api::{MemoryKind, MemoryScan};
use skete_client::size;

use super::{address, name};

#[derive(Debug, Subcommand)]
pub(crate) enum MemoryCommand {
    /// Show what the memory of a running VM is made of.
    Show {
        /// Name of the VM.
        #[arg(value_parser = name)]
        name: String,
    },
    /// Change what the memory of a running VM may be made of.
    Set {
        /// Name of the VM.
        #[arg(value_parser = name)]
        name: String,
        /// Most RAM to give the guest, whatever it touches; a guest that needs more is stopped.
        #[arg(long, value_name = "SIZE", value_parser = size::parse)]
        limit: Option<u64>,
        /// Largest leaf for what is touched from now on: 4KiB, 2MiB or 1GiB.
        #[arg(long, value_name = "SIZE", value_parser = leaf)]
        largest_leaf: Option<u64>,
        /// Scrub frames when they leave the VM, not only before they are used again.
        #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
        wipe: Option<bool>,
        /// Count a page as written only once it is, even where that costs a fault.
        #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
        exact_dirty: Option<bool>,
        /// Show zeroes that all VMs share where memory is read before it is written.
        #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
        share_zeroes: Option<bool>,
    },
    /// Give memory of a running VM back to the machine. Nothing the guest needs is lost.
    Reclaim {
        /// Name of the VM.
        #[arg(value_parser = name)]
        name: String,
        /// What may be taken [default: unused and zero].
        #[arg(long = "kind", value_enum, value_name = "KIND")]
        kinds: Vec<Kind>,
        /// Stop once about this much is free.
        #[arg(long, value_name = "SIZE", value_parser = size::parse)]
        most: Option<u64>,
        #[command(flatten)]
        range: Range,
    },
    /// Let a VM use the frames of another, copied when either writes: the base of a clone.
    Share {
        /// Name of the VM, whose guest has not touched that memory.
        #[arg(value_parser = name)]
        name: String,
        /// The VM whose memory it is.
        #[arg(long, value_name = "VM", value_parser = name)]
        from: String,
        #[command(flatten)]
        range: Range,
    },
    /// Move pages of a running VM to other frames.
    Move {
        /// Name of the VM.
        #[arg(value_parser = name)]
        name: String,
        #[command(flatten)]
        range: Range,
    },
    /// Split leaves larger than --largest-leaf allows.
    Split {
        /// Name of the VM.
        #[arg(value_parser = name)]
        name: String,
        #[command(flatten)]
        range: Range,
    },
    /// Tell which memory was touched or written since the last such scan.
    Scan {
        /// Name of the VM.
        #[arg(value_parser = name)]
        name: String,
        /// What to look for.
        #[arg(value_enum)]
        what: Scan,
        /// List the pages.
        #[arg(short, long)]
        list: bool,
        #[command(flatten)]
        range: Range,
    },
    /// Read and write storage keys.
    #[command(subcommand)]
    Keys(Keys),
    /// Read and write page states.
    #[command(subcommand)]
    States(Keys),
}

/// A part of a VM's RAM.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Range {
    /// First guest-physical address; RAM begins at 0x40000000, which is the default.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) start: Option<u64>,
    /// How much; to the end of RAM if it is left out.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) length: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Read them.
    Get {
        /// Name of the VM.
        #[arg(value_parser = name)]
        name: String,
        /// First guest-physical address.
        #[arg(value_parser = address)]
        start: u64,
        /// How much.
        #[arg(value_parser = size::parse, default_value = "4KiB")]
        length: u64,
    },
    /// Write one value to all.
    Set {
        /// Name of the VM.
        #[arg(value_parser = name)]
        name: String,
        /// First guest-physical address.
        #[arg(value_parser = address)]
        start: u64,
        /// How much.
        #[arg(value_parser = size::parse)]
        length: u64,
        /// The value, such as 0x30.
        #[arg(value_parser = byte)]
        value: u8,
    },
}

/// What may be taken back.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// What the guest said is unused.
    Unused,
    /// What the guest said may be dropped.
    Volatile,
    /// Zeroes: the guest finds them again.
    Zero,
}

impl From<Kind> for MemoryKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Unused => Self::Unused,
            Kind::Volatile => Self::Volatile,
            Kind::Zero => Self::Zero,
        }
    }
}

/// What a scan looks for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Scan {
    /// Touched.
    Young,
    /// Written: migration's log.
    Dirty,
    /// Written: the host's log.
    HostDirty,
}

impl From<Scan> for MemoryScan {
    fn from(scan: Scan) -> Self {
        match scan {
            Scan::Young => Self::Young,
            Scan::Dirty => Self::Dirty,
            Scan::HostDirty => Self::HostDirty,
        }
    }
}

fn byte(text: &str) -> Result<u8, String> {
    let number = address(text).ok().and_then(|n| u8::try_from(n).ok());
    number.ok_or_else(|| format!("'{text}' is no byte: write for example 0x30"))
}

fn leaf(text: &str) -> Result<u64, String> {
    match size::parse(text)? {
        bytes @ (0x1000 | 0x20_0000 | 0x4000_0000) => Ok(bytes),
        _ => Err("a leaf is 4KiB, 2MiB or 1GiB".into()),
    }
}
