//! `/v1/vms/{name}/cpu`: what share of the machine a VM's vCPUs have, where they may run, what
//! the hypervisor's services tell the guest, and what became of the vCPUs' time.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// A service of the hypervisor that a guest can be kept from finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum GuestFeature {
    /// Stolen time (Arm DEN 0057A), and with it the preempt hint.
    StolenTime,
    /// The hint that a vCPU was switched out against its will.
    PreemptHint,
    /// Page states: the guest says which of its memory it does not need.
    PageStates,
    /// Storage keys.
    StorageKeys,
    /// The call by which a vCPU hands its turn to another one.
    YieldTo,
    /// The number of the core that a vCPU is on.
    CoreNumber,
}

impl GuestFeature {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::StolenTime,
        Self::PreemptHint,
        Self::PageStates,
        Self::StorageKeys,
        Self::YieldTo,
        Self::CoreNumber,
    ];

    /// Returns the name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StolenTime => "stolen-time",
            Self::PreemptHint => "preempt-hint",
            Self::PageStates => "page-states",
            Self::StorageKeys => "storage-keys",
            Self::YieldTo => "yield-to",
            Self::CoreNumber => "core-number",
        }
    }
}

/// Where one vCPU may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pin {
    /// Which vCPU, from 0.
    pub vcpu: u32,
    /// Cores of the machine, from 0; none means any.
    pub cores: Vec<u32>,
}

/// How a VM's vCPUs are to run: part of its definition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CpuSpec {
    /// Share of the machine while others want it too, 1 to 10000; 100 if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Most that the VM may run, all vCPUs together, in per cent of one core: 1 to 10000. 0, or
    /// left out: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_percent: Option<u32>,
    /// Where vCPUs may run; one that is not listed may run anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<Pin>,
    /// What the guest is not to find.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hide: Vec<GuestFeature>,
}

impl CpuSpec {
    /// Returns whether it asks for nothing in particular.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Body of `PATCH /v1/vms/{name}/cpu`. What is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CpuChange {
    /// As in the definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// As in the definition; 0 ends a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_percent: Option<u32>,
    /// Where the vCPUs that are listed may run; others stay as they are. A vCPU leaves a core
    /// that it may no longer run on at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<Pin>,
    /// What the guest is not to find, instead of what was hidden before. A guest has seen the
    /// rest by the time it runs: this changes only while the VM does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hide: Option<Vec<GuestFeature>>,
}

/// What a vCPU is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum VcpuState {
    /// Switched off, or its VM does not run.
    #[default]
    Off,
    /// Waiting for an interrupt (WFI).
    Waiting,
    /// Held until a device that it touched is ready.
    Parked,
    /// Wanting to run: in a core's queue, or held back by the VM's limit.
    Queued,
    /// On a core.
    Running,
}

impl VcpuState {
    /// Returns the name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Waiting => "waiting",
            Self::Parked => "parked",
            Self::Queued => "queued",
            Self::Running => "running",
        }
    }
}

/// What a vCPU did not get of the time in which it wanted to run, by cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Stolen {
    /// In a core's queue, or held back by the VM's limit.
    pub queue_ns: u64,
    /// While the hypervisor found memory for a page that it touched; part of `run_ns` too.
    pub fault_ns: u64,
    /// Until a device that it touched was ready.
    pub device_ns: u64,
}

/// A vCPU. All is since the VM's last start, and zero while it does not run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Vcpu {
    /// Its number, from 0.
    pub vcpu: u32,
    /// What it does.
    pub state: VcpuState,
    /// The core that it runs on, or will run on next; absent while it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<u32>,
    /// The cores that it may run on.
    pub cores: Vec<u32>,
    /// It wants to run and was switched out against its will.
    pub preempted: bool,
    /// On a core, answering its exits included.
    pub run_ns: u64,
    /// Waiting for an interrupt (WFI).
    pub wait_ns: u64,
    /// Wanting to run, and not running.
    pub stolen: Stolen,
    /// How often it was put on another core than the one before.
    pub moves: u64,
    /// How often it was put on a core, the same or another: world switches.
    pub switches: u64,
    /// Exits by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exits: BTreeMap<String, u64>,
}

/// Answer to `GET /v1/vms/{name}/cpu`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VmCpu {
    /// Share of the machine while others want it too; 100 is what a VM has that says nothing.
    pub weight: u32,
    /// Most that the VM may run, in per cent of one core; absent for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_percent: Option<u32>,
    /// What the guest does not find.
    pub hide: Vec<GuestFeature>,
    /// Every vCPU.
    pub vcpus: Vec<Vcpu>,
}
