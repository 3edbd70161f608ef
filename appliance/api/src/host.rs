//! `GET /v1`: the server and the machine under it.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::cpu_features::CpuFeatures;

/// Answer to `GET /v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServerInfo {
    /// Always `skete`.
    pub name: String,
    /// Version of the appliance, for example `0.1.0`.
    pub version: String,
    /// Version of this API, `v1`.
    pub api_version: String,
    /// What this server can do beyond the first release of its API.
    pub api_extensions: Vec<String>,
    /// Differs after every start of the control plane.
    pub boot_id: String,
    /// Nanoseconds since the hypervisor started.
    pub uptime_ns: u64,
    /// The time, if the appliance knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The machine.
    pub machine: Machine,
}

/// The machine and how its memory is used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Machine {
    /// RAM in the machine.
    pub ram_bytes: u64,
    /// RAM that no one uses.
    pub free_bytes: u64,
    /// RAM of the hypervisor core.
    pub core_bytes: u64,
    /// RAM of the control plane.
    pub root_bytes: u64,
    /// RAM that the control plane was granted beyond its own, mostly for images.
    pub granted_bytes: u64,
    /// Cores in use.
    pub cores: u32,
    /// What the cores are.
    pub cpu: Cpu,
    /// Which of the features that VMs can have the cores have.
    #[serde(default)]
    pub cpu_features: CpuFeatures,
    /// VMs that hold resources in the hypervisor core.
    pub vms: u32,
    /// VMs that can hold resources at a time.
    pub vms_max: u32,
}

/// A processor model, as MIDR_EL1 tells it (DDI 0487, D24.2.122).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cpu {
    /// MIDR_EL1 in hexadecimal.
    pub midr: String,
    /// Name of the model, for example `Cortex-A72`, or `unknown`.
    pub model: String,
    /// Name of the implementer, for example `Arm`, or `unknown`.
    pub implementer: String,
    /// Major revision (`r`) and minor revision (`p`), for example `r0p3`.
    pub revision: String,
}
