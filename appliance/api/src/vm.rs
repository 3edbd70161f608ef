//! `/v1/vms`: virtual machines.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::cpu_features::CpuFeatures;
use crate::device::DeviceSpec;
use crate::vcpu::CpuSpec;

/// Where a VM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// Defined, or it switched itself off, or it was stopped.
    Stopped,
    /// Its images are being loaded.
    Starting,
    /// At least one vCPU is on.
    Running,
    /// Being stopped, or its resources are being given back.
    Stopping,
    /// The guest did what cannot be continued; see [`VmStatus::last_error`].
    Crashed,
    /// It could not be started; see [`VmStatus::last_error`].
    Failed,
}

impl VmState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Stopped,
        Self::Starting,
        Self::Running,
        Self::Stopping,
        Self::Crashed,
        Self::Failed,
    ];

    /// Returns the state's name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Crashed => "crashed",
            Self::Failed => "failed",
        }
    }

    /// Returns whether the VM holds resources or is about to.
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Stopping)
    }
}

/// What a VM boots: exactly one of `kernel`, `flat` and `elf`, each the name of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Boot {
    /// An image of kind `kernel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// An image of kind `flat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flat: Option<String>,
    /// An image of kind `elf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elf: Option<String>,
    /// An image of kind `initrd`, only with `kernel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<String>,
    /// The kernel's command line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cmdline: String,
}

/// What a VM is to be: the body of `PUT /v1/vms/{name}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VmSpec {
    /// Number of vCPUs; see [`crate::limits::CPUS_MAX`].
    #[serde(default = "one")]
    pub cpus: u32,
    /// RAM, a multiple of [`crate::limits::MEMORY_STEP_BYTES`].
    pub memory_bytes: u64,
    /// How its vCPUs are to run.
    #[serde(default, skip_serializing_if = "CpuSpec::is_default")]
    pub cpu: CpuSpec,
    /// What it boots.
    pub boot: Boot,
    /// PCI functions of the machine that it has while it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceSpec>,
    /// Features of the CPU that it is to have, or not to have.
    #[serde(default, skip_serializing_if = "CpuFeatures::is_empty")]
    pub cpu_features: CpuFeatures,
}

const fn one() -> u32 {
    1
}

/// What last went wrong with a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LastError {
    /// Stable name of what went wrong, for example `guest_crashed`.
    pub code: String,
    /// One sentence for people.
    pub detail: String,
}

/// What a VM is at the moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VmStatus {
    /// Where it is in its life.
    pub state: VmState,
    /// Why it is there: `created`, `requested`, `guest_poweroff`, `guest_reset`,
    /// `guest_crashed`, `start_failed`.
    pub reason: String,
    /// What last went wrong, until the next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
    /// How often it was started.
    pub starts: u64,
    /// When it last began to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it last ceased to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<String>,
    /// Guest RAM with memory behind it.
    pub resident_bytes: u64,
    /// Memory beyond guest RAM that the VM takes: tables, contexts, shared pages.
    pub overhead_bytes: u64,
    /// Time that its vCPUs spent on a core, since the last start.
    pub run_ns: u64,
    /// Time that its vCPUs wanted to run and did not, since the last start.
    #[serde(default)]
    pub stolen_ns: u64,
    /// Exits by reason, since the last start.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exits: BTreeMap<String, u64>,
    /// Bytes the guest ever wrote to its console; the last 64 KiB can be read.
    pub console_bytes: u64,
    /// Bytes lost because nobody took them in time, since the last start.
    pub console_dropped_bytes: u64,
}

/// A VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Vm {
    /// Its name.
    pub name: String,
    /// Its UUID: another VM of the same name later has another.
    pub id: String,
    /// What it is to be.
    pub spec: VmSpec,
    /// What it is.
    pub status: VmStatus,
    /// When it was defined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
}

/// Answer to `GET /v1/vms`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VmList {
    /// Every VM, by name.
    pub vms: Vec<Vm>,
}

/// What can be done to a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Start it; nothing if it runs.
    Start,
    /// Stop it at once, as if its power were cut; nothing if it does not run.
    Stop,
    /// The same as `stop`.
    Poweroff,
    /// Stop it and start it again.
    Reset,
    /// Make an SError pending in a vCPU, as failing hardware would: what a guest's kernel does
    /// when the machine breaks is tried so.
    Serror,
}

/// Body of `POST /v1/vms/{name}/actions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ActionRequest {
    /// What to do.
    pub action: Action,
    /// For `serror`: which vCPU, from 0; 0 if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpu: Option<u32>,
    /// For `serror`: `ESR_EL1.ISS` as the guest is to find it, 25 bits; 0 if it is left out. A
    /// machine without FEAT_RAS shows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syndrome: Option<u32>,
}

impl ActionRequest {
    /// Asks for an action that says nothing more.
    pub const fn new(action: Action) -> Self {
        Self {
            action,
            vcpu: None,
            syndrome: None,
        }
    }
}

/// What can be done to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PowerAction {
    /// Stop every VM and switch the machine off.
    Shutdown,
    /// Stop every VM and restart the machine.
    Reset,
    /// Start the control plane anew, while VMs run on.
    RestartControl,
}

/// A way in which the control plane is to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Drill {
    /// It gives up, with a report.
    Panic,
    /// It touches memory that is not there.
    Fault,
    /// It does nothing any more.
    Hang,
}

/// Body of `POST /v1/system/actions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PowerRequest {
    /// What to do.
    pub action: PowerAction,
    /// For `restart_control`: the hypervisor ends the control plane so many milliseconds from
    /// now, whatever it does then; at most 60,000. Without it: once this is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u32>,
    /// For `restart_control`: the control plane is not ended but fails in this way. Only where
    /// the appliance was started with the boot argument `drills`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<Drill>,
}

impl PowerRequest {
    /// Asks for an action that says nothing more.
    pub const fn new(action: PowerAction) -> Self {
        Self {
            action,
            after_ms: None,
            drill: None,
        }
    }
}
