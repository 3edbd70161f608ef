//! `GET /v1/events`: what happened, as server-sent events.

use alloc::collections::BTreeMap;
use alloc::string::String;

use serde::{Deserialize, Serialize};

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// A VM or an image came, changed or went.
    Lifecycle,
    /// An operation began or ended.
    Operation,
    /// A guest did something to itself.
    Guest,
    /// The appliance.
    System,
}

impl EventType {
    /// Returns the type's name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lifecycle => "lifecycle",
            Self::Operation => "operation",
            Self::Guest => "guest",
            Self::System => "system",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// Number of the event, from 1, without gaps, since the control plane started.
    pub seq: u64,
    /// When it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Nanoseconds since the hypervisor started.
    pub uptime_ns: u64,
    /// What it is about.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// What happened, for example `vm.started`.
    pub action: String,
    /// Path of what it happened to, for example `/v1/vms/web`.
    pub resource: String,
    /// More about it, for example why a VM crashed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub context: BTreeMap<String, String>,
}
