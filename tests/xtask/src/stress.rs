//! `cargo xtask stress`: what wears core out, as often as one likes.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use qemu::stress::{self, Outcome};
use qemu::{Cpu, paths};

use crate::{build, guest, setup};

/// The exit code of what could not be done: neither passed nor failed.
const SKIPPED: u8 = 4;

/// What to do.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Stress {
    /// Moves a running vCPU from core to core, and checks that all of it comes along (D02,
    /// D03); exit code 4 with one core
    Migrate {
        /// CPU model
        #[arg(long, default_value = "max")]
        cpu: Cpu,
        /// Number of cores
        #[arg(long, default_value_t = 2)]
        smp: u32,
        /// How often it finds itself on another core
        #[arg(long, default_value_t = 5_000)]
        moves: u32,
        /// The vCPU may have looked less than half as often as it was moved
        #[arg(long)]
        no_sanity: bool,
    },
    /// Two VMs on one core write every register and look again, over and over: each finds its
    /// own (C3, C4)
    Registers {
        /// CPU model
        #[arg(long, default_value = "max")]
        cpu: Cpu,
        /// How often the tests of both write and look
        #[arg(long, default_value_t = 30_000)]
        rounds: u32,
        /// How often vCPUs must have been put on the core
        #[arg(long, default_value_t = 100_000)]
        switches: u64,
    },
    /// Four vCPUs on two cores switch one another on and off, and end their VM all at once: one
    /// wins, each time (S6)
    Power {
        /// CPU model
        #[arg(long, default_value = "max")]
        cpu: Cpu,
        /// How often; each time three ask for the fourth
        #[arg(long, default_value_t = 35_000)]
        rounds: u32,
        /// In how many VMs all four end it at once
        #[arg(long, default_value_t = 5_000)]
        lives: u32,
    },
    /// Kills root at random instants while it is kept busy: a guest computes on, its VM is found
    /// again, nothing leaks (R3)
    Rebirth {
        /// CPU model
        #[arg(long, default_value = "max")]
        cpu: Cpu,
        /// How often
        #[arg(long, default_value_t = 1_000)]
        rounds: u32,
        /// Where the random instants begin
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Timer interrupts at odd times on four vCPUs on two cores: none early, none lost
    Timers {
        /// CPU model
        #[arg(long, default_value = "max")]
        cpu: Cpu,
        /// How many runs, one after the other
        #[arg(long, default_value_t = 100)]
        runs: u32,
        /// Where the odd times begin
        #[arg(long, default_value_t = 1)]
        seed: u32,
    },
}

/// Does it, and says how it went.
pub(crate) fn stress(what: Stress) -> Result<ExitCode> {
    setup::emulator()?;
    guest::fetch()?;
    build::appliance()?;
    build::guests()?;
    let patience = Duration::from_secs(3600);
    let logs = paths::logs("stress");
    let outcome = match what {
        Stress::Migrate {
            cpu,
            smp,
            moves,
            no_sanity,
        } => stress::migrations(cpu, smp, moves, !no_sanity, &logs, patience)?,
        Stress::Registers {
            cpu,
            rounds,
            switches,
        } => stress::registers(cpu, rounds, switches, &logs, patience)?,
        Stress::Power { cpu, rounds, lives } => stress::power(cpu, rounds, lives, &logs, patience)?,
        Stress::Rebirth { cpu, rounds, seed } => qemu::rebirth::kills(cpu, rounds, seed, &logs)?,
        Stress::Timers { cpu, runs, seed } => stress::timers(cpu, runs, seed, &logs, patience)?,
    };
    Ok(match outcome {
        Outcome::Passed(facts) => {
            println!("stress: passed: {facts}");
            ExitCode::SUCCESS
        }
        Outcome::Skipped(why) => {
            println!("stress: skipped: {why}");
            ExitCode::from(SKIPPED)
        }
    })
}
