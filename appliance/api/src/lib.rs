//! The control port's types: what travels as JSON, for the server and for every client.
//!
//! Sizes are integers in bytes and end in `_bytes`; durations end in `_ns` or `_ms`; times
//! are RFC 3339 in UTC, and absent while the appliance does not know the time. A server
//! refuses request fields that it does not know; a client ignores response fields that it
//! does not know, so these types may grow.
//!
//! [`names`] says what a name may be, [`limits`] what the server bounds, [`problem`] how
//! it says no.
#![no_std]

extern crate alloc;

pub mod cpu_features;
pub mod device;
pub mod event;
pub mod host;
pub mod image;
pub mod limits;
pub mod magic;
pub mod memory;
pub mod names;
#[cfg(feature = "schema")]
pub mod openapi;
pub mod operation;
pub mod problem;
pub mod vcpu;
pub mod vm;

/// The OpenAPI 3.1 document of the API, as `GET /openapi.json` serves it.
pub const OPENAPI_JSON: &str = include_str!("../openapi.json");

pub use cpu_features::CpuFeatures;
pub use device::{
    BarSize, Device, DeviceAction, DeviceData, DeviceFaults, DeviceList, DeviceProfile,
    DeviceRequest, DeviceSpec, DeviceState,
};
pub use event::{Event, EventType};
pub use host::{Cpu, Machine, ServerInfo};
pub use image::{Image, ImageKind, ImageList, ImageSpec, ImageState};
pub use memory::{
    Memory, MemoryAction, MemoryDone, MemoryKind, MemoryPolicy, MemoryRequest, MemoryScan,
};
pub use operation::{Operation, OperationList, OperationStatus, Progress};
pub use problem::{Blame, Code, FieldError, Problem};
pub use vcpu::{CpuChange, CpuSpec, GuestFeature, Pin, Stolen, Vcpu, VcpuState, VmCpu};
pub use vm::{
    Action, ActionRequest, Boot, Drill, LastError, PowerAction, PowerRequest, Vm, VmList, VmSpec,
    VmState, VmStatus,
};
