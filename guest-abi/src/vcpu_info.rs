//! What core tells root of one vCPU ([`crate::core_call::CoreCall::VcpuInfo`]).

use crate::core_call::EXIT_CLASSES;

/// What a vCPU is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum VcpuPhase {
    /// Switched off.
    Off = 0,
    /// Waiting by WFI: it does not want to run.
    Waiting = 1,
    /// Held until a device is ready.
    Parked = 2,
    /// Wanting to run, and not running.
    Queued = 3,
    /// On a core.
    Running = 4,
}

impl VcpuPhase {
    /// Returns the phase with this number.
    pub fn from_u32(raw: u32) -> Option<Self> {
        [
            Self::Off,
            Self::Waiting,
            Self::Parked,
            Self::Queued,
            Self::Running,
        ]
        .into_iter()
        .find(|phase| *phase as u32 == raw)
    }
}

/// What core knows of one vCPU. Times are nanoseconds and only grow while the VM lives.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct VcpuInfo {
    /// A [`VcpuPhase`].
    pub phase: u32,
    /// The core it is on, or will be on next.
    pub core: u32,
    /// Bit n: it may run on core n. Bits of cores that the machine does not have may be set.
    pub cores: u32,
    /// 1 if it wants to run and was switched out against its will.
    pub preempted: u32,
    /// On a core, answering its exits included.
    pub run_ns: u64,
    /// Waiting by WFI.
    pub wait_ns: u64,
    /// Wanting to run: in a core's queue, or held back by the VM's limit.
    pub queued_ns: u64,
    /// Of its time on cores, what finding memory for pages it touched took.
    pub fault_ns: u64,
    /// Held until a device was ready.
    pub device_ns: u64,
    /// How often it was put on another core than the one it was on before.
    pub moves: u64,
    /// How often it was put on a core.
    pub switches: u64,
    /// Exits by [`crate::core_call::ExitClass`].
    pub exits: [u64; EXIT_CLASSES],
}
const _: () = assert!(size_of::<VcpuInfo>() == 72 + 8 * EXIT_CLASSES);
