//! The interrupt translation service (IHI 0069H, chapter 5 and 12.18): what makes an LPI of a
//! device's message.
//!
//! [`Its`] is the ITS of one VM, in fixed space: [`DEVICES`] device IDs, [`EVENTS`] events of all
//! devices together, [`COLLECTIONS`] collections. It keeps its tables itself, so no `GITS_BASER`
//! is implemented and nothing that the guest writes to its memory changes a translation. Of guest
//! memory it reads the commands, each once, and the LPIs' configuration and pending tables when
//! the architecture says so ([`Machine`]).
//!
//! # One owner
//!
//! Commands, `GITS_CTLR` and the redistributors' `GICR_CTLR.EnableLPIs`, `GICR_PROPBASER` and
//! `GICR_PENDBASER` are all methods of [`Its`]: one lock around it serialises them. What they
//! decide they do to the [`Vgic`], whose own lock is taken inside, for one step at a time.
//! Nothing is cached elsewhere: a message is translated by these tables each time
//! ([`Its::signal`]).
//!
//! # Bounded
//!
//! A write handles commands worth [`BUDGET`] reads of guest memory. If there are more it answers
//! [`Progress::More`], and the vCPU makes the same write again: it stays on its instruction, and
//! takes its interrupts in between. A command that is wrong is ignored, which the architecture
//! allows and which cannot stop the queue.

mod command;
mod redist;
mod registers;
mod tables;

use crate::{Kick, VCPUS_MAX, Vgic};
use tables::Tables;

pub use redist::owns;
pub use tables::{COLLECTIONS, DEVICES, EVENTS};

/// What handling the commands of one write may cost, in reads of guest memory.
pub const BUDGET: u32 = 32;

/// Offset of `GITS_TRANSLATER` in the ITS's two frames.
pub const TRANSLATER: u64 = 0x1_0040;
/// Bytes of the two frames.
pub const FRAMES_BYTES: u64 = 0x2_0000;

/// What an ITS needs of the machine.
pub trait Machine {
    /// Reads guest memory into `bytes`, which do not cross a page of 4 KiB; false if there is
    /// no RAM.
    fn read(&mut self, at: u64, bytes: &mut [u8]) -> bool;

    /// Writes guest memory, within a page of 4 KiB; false if there is no RAM.
    fn write(&mut self, at: u64, bytes: &[u8]) -> bool;

    /// Does one step on the VM's interrupt controller, and tells who it concerns.
    fn gic(&mut self, step: impl FnOnce(&mut Vgic) -> Kick);
}

/// Whether a write is done.
#[must_use = "a write that is not done has to be made again"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Yes.
    Done,
    /// There are more commands: make the same write again.
    More,
}

/// The ITS of one VM, and the LPI registers of its redistributors.
#[derive(Debug)]
pub struct Its {
    /// `GITS_CTLR.Enabled`.
    enabled: bool,
    /// `GITS_CBASER`.
    cbaser: u64,
    /// `GITS_CWRITER` and `GITS_CREADR`, as offsets in the queue.
    cwriter: u64,
    creadr: u64,
    /// `GICR_PROPBASER`: one table for all redistributors (`GICR_TYPER.CommonLPIAff` is 0).
    propbaser: u64,
    /// `GICR_PENDBASER` of each redistributor.
    pendbaser: [u64; VCPUS_MAX],
    /// Number of vCPUs.
    vcpus: u8,
    tables: Tables,
}

impl Its {
    /// Creates the ITS at reset, for a VM with `vcpus` vCPUs.
    pub const fn new(vcpus: u32) -> Self {
        let [count, ..] = vcpus.to_le_bytes();
        Self {
            enabled: false,
            cbaser: 0,
            cwriter: 0,
            creadr: 0,
            propbaser: 0,
            pendbaser: [0; VCPUS_MAX],
            vcpus: count,
            tables: Tables::new(),
        }
    }

    /// Says how many vCPUs the VM has, before anybody uses it.
    pub const fn set_vcpus(&mut self, vcpus: u32) {
        [self.vcpus, ..] = vcpus.to_le_bytes();
    }

    /// Makes an LPI of a message: what a write of `event` to `GITS_TRANSLATER` by `device` does.
    ///
    /// What is not mapped is dropped.
    pub fn signal(&self, gic: &mut Vgic, device: u32, event: u32) -> Kick {
        if !self.enabled {
            return Kick::NONE;
        }
        match self.tables.translate(device, event) {
            Some((lpi, vcpu)) => gic.pend_lpi(vcpu, lpi),
            None => Kick::NONE,
        }
    }
}
