//! What one server leaves to the next, and what the next finds: notes that the hypervisor keeps, and
//! the VMs and images that are still in it.

use alloc::string::String;
use alloc::vec::Vec;

pub use api::Drill;

use crate::backend::{ImageId, RunId, RunPlan};

/// Part of an image: `count` blocks of `4096 << order` bytes, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Extent {
    /// Physical address of the first.
    pub pa: u64,
    /// Their order.
    pub order: u32,
    /// How many.
    pub count: u64,
}

/// A VM that is in the hypervisor when the server begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundVm {
    /// What the hypervisor calls it.
    pub handle: u64,
    /// Its name, as it was told then.
    pub name: String,
    /// Number of vCPUs.
    pub cpus: u32,
    /// Guest RAM.
    pub memory_bytes: u64,
    /// It was never started.
    pub built: bool,
}

/// How the control plane ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// The hypervisor ends it after so many nanoseconds, wherever it is then.
    After(u64),
    /// It fails by itself.
    Drill(Drill),
}

/// The part of the machine that outlives the server.
pub trait Heritage {
    /// Ends the control plane; the hypervisor starts another one. Runs go on.
    fn restart(&mut self, how: Restart);
    /// How often the control plane was started since the hypervisor was, from 1.
    fn generation(&self) -> u64;
    /// Why the one before ended.
    fn end_of_last(&self) -> &'static str;
    /// Has the hypervisor keep bytes beyond the server's life, at most
    /// [`crate::notes::NOTE_BYTES_MAX`], in place of what it kept under this number, which is
    /// below [`crate::notes::NOTES`]; none forgets it. Returns whether it does.
    fn note_write(&mut self, number: usize, bytes: &[u8]) -> bool;
    /// What it keeps under this number.
    fn note_read(&mut self, number: usize) -> Option<Vec<u8>>;
    /// Where an image lies.
    fn image_extents(&self, id: ImageId) -> Vec<Extent>;
    /// Takes an image over that the server before stored, if all of it is still there and nobody
    /// has taken any of it. It is whole.
    fn image_adopt(&mut self, id: ImageId, bytes: u64, extents: &[Extent]) -> bool;
    /// What the hypervisor calls the VM of a run.
    fn vm_handle(&self, id: RunId) -> Option<u64>;
    /// The VMs that the server before left in the hypervisor.
    fn vms_found(&mut self) -> Vec<FoundVm>;
    /// Takes such a VM over as run `id`, unless there is none or somebody has it.
    fn vm_adopt(&mut self, id: RunId, handle: u64, plan: &RunPlan) -> bool;
    /// How many bytes were taken out of the run's ring so far, modulo 2^32.
    fn console_taken(&self, id: RunId) -> u32;
    /// The same, and those of them that are still in the ring.
    fn console_backlog(&mut self, id: RunId) -> (u32, Vec<u8>);
    /// All that will be taken over was: the rest goes back.
    fn adopted(&mut self);
}
