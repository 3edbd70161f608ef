//! `/v1/devices`: PCI functions of the machine, for guests.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// What is known of a kind of device: when it is ready after a reset, and what its memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DeviceProfile {
    /// Any PCI function.
    #[default]
    Generic,
    /// An NVMe controller.
    Nvme,
    /// An NVIDIA Grace-based GPU.
    NvgraceGpu,
}

/// A device that a VM is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceSpec {
    /// The function, for example `0000:00:02.0`.
    pub pci: String,
    /// What it is.
    #[serde(default)]
    pub profile: DeviceProfile,
    /// It may do DMA although no SMMU bounds it, and so reach all of the machine's memory.
    #[serde(default)]
    pub unsafe_dma: bool,
    /// Its DMA reaches only pages that the guest declares, and the rest of the VM's RAM can be
    /// taken back. Without it, all of the VM's RAM is populated when it starts.
    #[serde(default)]
    pub declared_dma: bool,
    /// Only for `nvgrace-gpu`: the function whose largest BAR is its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Only for `nvgrace-gpu`: the BAR with its registers.
    #[serde(default)]
    pub registers_bar: u32,
    /// Sizes for BARs that can be resized; others, and those not named, keep theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bar_sizes: Vec<BarSize>,
}

/// How large a BAR is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BarSize {
    /// The BAR.
    pub bar: u32,
    /// One of the sizes in `bar_sizes` of the device.
    pub bytes: u64,
}

/// Who has a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// Nobody.
    Free,
    /// A VM.
    Assigned,
    /// It is the memory of another device.
    Companion,
}

/// What faults did to a device's memory since a VM got it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceFaults {
    /// Leaves of 4 KiB mapped.
    pub mapped_4k: u64,
    /// Groups of sixteen pages mapped, 64 KiB, each of which a TLB may hold as one.
    pub mapped_64k: u64,
    /// Leaves of 2 MiB mapped.
    pub mapped_2m: u64,
    /// Leaves of 1 GiB mapped.
    pub mapped_1g: u64,
    /// Faults that found a leaf there.
    pub present: u64,
    /// Faults that took a smaller leaf, because part of a larger one was mapped.
    pub fell_back: u64,
    /// Touches that waited for the device to become ready.
    pub parked: u64,
    /// Touches that ended in an external abort.
    pub refused: u64,
    /// Of those, the ones for which the device was not ready in time.
    pub timeouts: u64,
    /// Accesses that were made for the guest, where no page can be mapped.
    pub emulated: u64,
}

/// A PCI function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Device {
    /// Its address, for example `0000:00:02.0`.
    pub pci: String,
    /// PCI vendor and device, for example `1b36:0010`.
    pub id: String,
    /// PCI class, subclass and interface, six hexadecimal digits.
    pub class: String,
    /// Bytes of each BAR; 0 for none.
    pub bar_bytes: Vec<u64>,
    /// For each BAR the sizes, in bytes, that it can have; none for one that cannot be resized.
    #[serde(default)]
    pub bar_sizes: Vec<Vec<u64>>,
    /// Who has it.
    pub state: DeviceState,
    /// The VM that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// Its device number on the guest's bus 0.
    pub guest_slot: u32,
    /// What it is for its VM.
    pub profile: DeviceProfile,
    /// Its memory is on (COMMAND.MEM).
    pub memory_on: bool,
    /// It was reset and has not been found ready since.
    pub reset_pending: bool,
    /// It may do DMA.
    pub dma: bool,
    /// An SMMU bounds its DMA to its VM's memory.
    pub dma_bounded: bool,
    /// Its guest says which pages it reaches.
    pub dma_declared: bool,
    /// Bytes of its VM's RAM that it reaches by DMA.
    pub dma_bytes: u64,
    /// It has a reset of its own.
    pub resettable: bool,
    /// How often it was reset, from 1 when a VM gets it.
    pub generation: u64,
    /// Times that all mappings were taken away.
    pub zaps: u64,
    /// Bytes of its memory that are mapped in the guest now.
    pub mapped_bytes: u64,
    /// Faults on its memory.
    pub faults: DeviceFaults,
    /// Its transactions that the SMMU aborted.
    pub dma_faults: u64,
    /// The address that the last of them was for.
    pub dma_fault_at: u64,
    /// Bytes of its largest BAR that each number in `touches` is about.
    pub touch_bytes: u64,
    /// Faults by place.
    pub touches: Vec<u32>,
}

/// Every PCI function that a VM can have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceList {
    /// In the order of their addresses.
    pub devices: Vec<Device>,
}

/// What to do to a device that a VM has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DeviceAction {
    /// Take all mappings away and reset it.
    Reset,
    /// Take mappings of part of a BAR away; the next touch brings them back.
    Revoke,
    /// Read from a BAR.
    Read,
    /// Write to a BAR.
    Write,
}

/// The body of `POST /v1/devices/{pci}/actions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceRequest {
    /// What to do.
    pub action: DeviceAction,
    /// The BAR, for all but `reset`.
    #[serde(default)]
    pub bar: u32,
    /// Offset in the BAR, for all but `reset`.
    #[serde(default)]
    pub offset: u64,
    /// Bytes: for `revoke` whole pages, 2 MiB at the most; for `read` at most 1024.
    #[serde(default)]
    pub bytes: u64,
    /// What to write, in hexadecimal; at most 1024 bytes.
    #[serde(default)]
    pub data: String,
}

/// What a `read` read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceData {
    /// The bytes, in hexadecimal. Behind the device's memory they are `ff`.
    pub data: String,
}
