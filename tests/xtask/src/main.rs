//! Everything a person or CI does: `cargo xtask <command>`.
//!
//! One file a command. [`setup`] is what all others run first: it installs what is missing and
//! says so; with everything there it prints nothing.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "counts and deadlines of a tool on the developer's own machine"
)]

mod apt;
mod bench;
mod build;
mod check;
mod compiler;
mod debug;
mod demo;
mod guest;
mod initramfs;
mod modules;
mod mutants;
#[cfg(test)]
mod parsing;
mod run;
mod setup;
mod shell;
mod stack;
mod stress;
mod symbols;
mod test;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use qemu::{Board, Cpu};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

/// What a person or CI does with this repository.
#[derive(Subcommand)]
enum Command {
    /// Installs what is missing: target, QEMU, packages
    Setup,
    /// Builds the appliance: target/skete.img
    Build {
        /// And the bare-metal guests of the tests, with the images whose root is one of them
        #[arg(long)]
        guests: bool,
    },
    /// Fetches the guest of tests and demo: Debian's arm64 cloud kernel, busybox, modules for it
    Guest,
    /// Formats, lints and host tests: under a minute when warm
    Check,
    /// Every test: those of the host, then those of the appliance in QEMU
    Test {
        /// Only tests whose name contains this
        filter: Option<String>,
        /// A hundred times as many random sequences: hours
        #[arg(long)]
        long: bool,
    },
    /// Seeds bugs in the pure crates, one at a time, and names those that no test finds
    Mutants {
        /// Part K of N of all bugs, from 0: the whole list takes most of a day
        #[arg(long, value_name = "K/N", default_value = "0/40")]
        shard: String,
        /// Package to seed them in
        #[arg(long, short, default_value = "skete-gmap")]
        package: String,
    },
    /// Wears core out: moves between cores, timer interrupts
    Stress {
        #[command(subcommand)]
        what: stress::Stress,
    },
    /// What operations cost, in instructions; fails above the limits
    Bench {
        /// Only this part
        part: Option<bench::Part>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// How deep the EL2 stack can get, from the program that was built
    Stack,
    /// A Linux shell in a VM of Skete's, from nothing
    Demo {
        #[command(flatten)]
        machine: MachineArgs,
        /// Without a terminal: run commands in the guest, compare what they print, power off
        #[arg(long)]
        check: bool,
        /// Hand the guest an NVMe drive of the machine's; use it, and reset it while it reads
        #[arg(long)]
        device: bool,
    },
    /// Starts the appliance and leaves its control port on 127.0.0.1
    Run(MachineArgs),
    /// Starts the appliance waiting for gdb
    Debug(MachineArgs),
}

/// The machine that QEMU emulates.
#[derive(Args, Clone, Debug)]
struct MachineArgs {
    /// CPU model: max, cortex-a72 or neoverse-n1
    #[arg(long, default_value = "max")]
    cpu: Cpu,
    /// Number of CPUs
    #[arg(long, default_value_t = 2)]
    smp: u32,
    /// RAM, as 512M or 2G
    #[arg(long, default_value = "2G")]
    memory: String,
}

impl MachineArgs {
    /// The appliance's board.
    fn board(&self) -> Board {
        let mut board = qemu::Appliance::board(self.cpu);
        board.smp = self.smp;
        board.memory.clone_from(&self.memory);
        board
    }
}

fn main() -> ExitCode {
    match obey(Line::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn obey(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup => setup::everything()?,
        Command::Build { guests } => {
            build::appliance()?;
            if guests {
                build::guests()?;
            }
        }
        Command::Guest => modules::build()?,
        Command::Check => check::check()?,
        Command::Test { filter, long } => test::everything(filter.as_deref(), long)?,
        Command::Mutants { shard, package } => mutants::hunt(&package, &shard)?,
        Command::Stress { what } => return stress::stress(what),
        Command::Bench { part, json } => bench::bench(json, part)?,
        Command::Stack => stack::check()?,
        Command::Demo {
            machine,
            check,
            device,
        } => demo::demo(&machine, check, device)?,
        Command::Run(machine) => run::run(&machine)?,
        Command::Debug(machine) => debug::debug(&machine)?,
    }
    Ok(ExitCode::SUCCESS)
}
