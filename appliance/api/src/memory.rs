//! `/v1/vms/{name}/memory`: what a running VM's memory is made of, what it may have, scans,
//! taking memory back, storage keys and page states. Nobody reads the bytes themselves here.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// The memory of a running VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Memory {
    /// RAM that was promised to the guest, touched or not.
    pub promised_bytes: u64,
    /// RAM that has a frame behind it.
    pub resident_bytes: u64,
    /// RAM whose frames others use too, until somebody writes; it is not part of what is resident.
    pub shared_bytes: u64,
    /// RAM touched between the last two scans of what is young; 0 before.
    pub working_set_bytes: u64,
    /// RAM given back since the VM was started.
    pub reclaimed_bytes: u64,
    /// Stage-2 tables.
    pub table_bytes: u64,
    /// Storage keys and page states.
    pub sidecar_bytes: u64,
    /// What it may have.
    pub policy: MemoryPolicy,
    /// Leaves of 4 KiB, 2 MiB and 1 GiB.
    pub leaves: Vec<u64>,
    /// Stage-2 faults.
    pub faults: u64,
    /// Of these, the ones for which only a flag was missing.
    pub minor_faults: u64,
    /// Large leaves that were split.
    pub splits: u64,
    /// Operations of TLB maintenance: of an address, of a range, of the whole VM.
    pub tlb_invalidations: Vec<u64>,
    /// Storage keys are in use.
    pub keys: bool,
    /// Page states are in use.
    pub states: bool,
}

/// What a VM may have. What it has already is not taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemoryPolicy {
    /// Most bytes of RAM with a frame behind them; absent for no limit but the RAM itself. A
    /// guest that touches more is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// Largest leaf for what is touched from now on: 4096, 2097152 or 1073741824.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub largest_leaf_bytes: Option<u64>,
    /// Frames are scrubbed when they leave the VM, not only before they are used again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wipe: Option<bool>,
    /// Where hardware keeps no dirty state: count a page as written only once it is written,
    /// at the cost of a fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact_dirty: Option<bool>,
    /// What is read before it is written shows zeroes that all VMs share, and gets a frame once
    /// it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_zeroes: Option<bool>,
}

/// What a scan looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum MemoryScan {
    /// Touched since the last such scan.
    Young,
    /// Written, or new, since the last such scan: migration's log.
    Dirty,
    /// Written since the last such scan: the host's log, independent of the other.
    HostDirty,
}

/// What may be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum MemoryKind {
    /// What the guest said is unused.
    Unused,
    /// What the guest said may be dropped.
    Volatile,
    /// Zeroes: the guest finds them again.
    Zero,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum MemoryAction {
    /// Tells which pages were touched or written, and begins anew (`scan`, `bitmap`).
    Scan,
    /// Gives memory back to the machine (`kinds`, `most_bytes`).
    Reclaim,
    /// Moves pages to other frames.
    Move,
    /// Splits leaves larger than the policy allows.
    Split,
    /// Reads storage keys.
    GetKeys,
    /// Writes storage keys (`values`).
    SetKeys,
    /// Reads page states.
    GetStates,
    /// Writes page states (`values`).
    SetStates,
    /// Makes RAM that the guest has not touched hold what another VM's holds at the same
    /// addresses (`from`): both use the same frames, and who writes gets a copy.
    Share,
}

/// Something to do to a part of a running VM's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemoryRequest {
    /// What to do.
    pub action: MemoryAction,
    /// Where it begins: a guest-physical address, a multiple of 4096; RAM begins at
    /// 1073741824, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// How far it goes: a multiple of 4096; to the end of RAM if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// For `scan`: what to look for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan: Option<MemoryScan>,
    /// For `scan`: tell which pages; at most 4 GiB in one request.
    #[serde(default)]
    pub bitmap: bool,
    /// For `reclaim`: what may be taken; `unused` and `zero` if it is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<MemoryKind>,
    /// For `reclaim`: stop once about as many bytes are free; 0 for no limit.
    #[serde(default)]
    pub most_bytes: u64,
    /// For `set-keys` and `set-states`: one byte for each page, in base64. At most 4096 pages.
    ///
    /// A key has its access-control number in bits 7:4, fetch protection in bit 3, referenced
    /// in bit 2, changed in bit 1, and bit 0 clear. A state has its usage in bits 1:0 (0 stable,
    /// 1 unused, 2 potentially volatile, 3 volatile), and 0x40 for "holds no tables".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub values: String,
    /// For `share`: the running VM whose memory it is. What both see is one moment's only if its
    /// guest does not write meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemoryDone {
    /// Bytes that a scan found, that were given back or shared, or whose keys or states follow.
    pub bytes: u64,
    /// Where to go on: the request was too large to be done at once. Absent: all is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// For a scan that was asked for one: a bit for each page from `start` up to `next` or the
    /// end, the first being the lowest bit of the first byte; in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bitmap: String,
    /// Keys or states, a byte for each page, in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub values: String,
}
