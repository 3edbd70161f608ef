//! What the server asks of the machine: [`Backend`], which root implements over core calls.
//!
//! The server decides (names, states, checks, errors); the backend does. No call blocks:
//! what takes long is begun by one call and observed by [`Backend::vm_poll`]. An
//! identifier is never used twice, so a late answer cannot reach the wrong VM.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::heritage::Heritage;
pub use api::{
    CpuFeatures, Device, DeviceAction, DeviceRequest, DeviceSpec, DeviceState, GuestFeature,
    ImageKind, Memory, MemoryAction, MemoryKind, MemoryPolicy, MemoryScan, PowerAction, VcpuState,
};

/// An image in the backend's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(pub u64);

/// One run of a VM: a restart is another run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// What the machine is and how its memory is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// RAM in the machine, in bytes.
    pub ram_bytes: u64,
    /// Bytes that no one uses.
    pub free_bytes: u64,
    /// Bytes of core.
    pub core_bytes: u64,
    /// Bytes of root.
    pub root_bytes: u64,
    /// Bytes granted to root.
    pub granted_bytes: u64,
    /// Cores in use.
    pub cores: u32,
    /// MIDR_EL1 of the boot core.
    pub midr: u64,
    /// Which features the cores have.
    pub cpu_features: CpuFeatures,
    /// VMs that exist in core.
    pub vms: u32,
    /// VMs that can exist in core.
    pub vms_max: u32,
}

/// Everything a run needs. The images are complete and of the right kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunPlan {
    /// The VM's name, for core's reports; at most 63 bytes.
    pub name: String,
    /// Number of vCPUs.
    pub cpus: u32,
    /// How they are to run.
    pub cpu: CpuPlan,
    /// Guest RAM in bytes, a multiple of 2 MiB.
    pub memory_bytes: u64,
    /// What is booted; its kind is `Kernel`, `Flat` or `Elf`.
    pub boot: ImageId,
    /// The kind of `boot`.
    pub kind: ImageKind,
    /// The initial RAM disk, if any.
    pub initrd: Option<ImageId>,
    /// The kernel's command line; no NUL.
    pub cmdline: String,
    /// PCI functions.
    pub devices: Vec<DeviceSpec>,
    /// Features of the CPU: those that it has, as far as the machine has them.
    pub cpu_features: CpuFeatures,
}

/// How the vCPUs of a run are to run; checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuPlan {
    /// Share, 1 to 10,000.
    pub weight: u32,
    /// Most of all vCPUs together, in per cent of one core; 0 for no limit.
    pub limit_percent: u32,
    /// For each vCPU the cores that it may run on, a bit each: one of the machine's at least.
    pub affinity: Vec<u32>,
    /// What the guest is not to find. Decided when the run begins.
    pub hide: Vec<GuestFeature>,
}

/// What became of a vCPU's time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VcpuCounters {
    /// What it does.
    pub state: VcpuState,
    /// The core that it is on, or will be on next.
    pub core: u32,
    /// It wants to run and was switched out against its will.
    pub preempted: bool,
    /// Nanoseconds on a core.
    pub run_ns: u64,
    /// Nanoseconds that it waited for an interrupt.
    pub wait_ns: u64,
    /// Nanoseconds that it wanted to run, in a queue or held back by a limit.
    pub queue_ns: u64,
    /// Nanoseconds in which memory was found for it.
    pub fault_ns: u64,
    /// Nanoseconds that it waited for a device.
    pub device_ns: u64,
    /// How often it was put on another core.
    pub moves: u64,
    /// How often it was put on a core.
    pub switches: u64,
    /// Exits by reason, each reason once.
    pub exits: Vec<(&'static str, u64)>,
}

/// Where a run is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Images are being loaded.
    Loading {
        /// Bytes loaded.
        done: u64,
        /// Bytes to load; 0 if that is not known.
        total: u64,
    },
    /// The guest runs.
    Running,
    /// It could not be started. The run still has to be released.
    Failed(BackendError),
    /// The guest switched itself off.
    Off,
    /// The guest asked for a reset.
    Reset,
    /// The guest did what cannot be continued.
    Crashed {
        /// ESR_EL2 of the exit.
        esr: u64,
        /// The guest's program counter.
        pc: u64,
    },
    /// [`Backend::vm_stop`] took effect.
    Killed,
}

/// What a run has used. All zero for a run that does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunCounters {
    /// Bytes of guest RAM with a frame behind them.
    pub resident_bytes: u64,
    /// Bytes used beyond guest RAM.
    pub overhead_bytes: u64,
    /// Nanoseconds that vCPUs spent on a core.
    pub run_ns: u64,
    /// Nanoseconds that vCPUs wanted to run and did not.
    pub stolen_ns: u64,
    /// Console bytes lost because the ring was full.
    pub console_dropped_bytes: u64,
    /// Exits by reason, each reason once. Reasons are `[a-z_]+`.
    pub exits: Vec<(&'static str, u64)>,
}

/// Why the backend could not do what it was asked. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendError {
    /// Memory is short.
    NoMemory {
        /// Bytes that were asked for.
        needed_bytes: u64,
        /// Bytes that there are.
        free_bytes: u64,
    },
    /// The machine has no VM slot or vCPU slot left.
    NoSlots,
    /// The image cannot be booted.
    BadImage {
        /// Which image.
        image: ImageId,
        /// Why, in words that follow "the image …", for example "is not an arm64 Image".
        why: String,
    },
    /// Nothing has this identifier: the server's mistake.
    Unknown,
    /// Anything else, in words for the operator.
    Other(String),
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory {
                needed_bytes,
                free_bytes,
            } => write!(
                f,
                "{needed_bytes} bytes of memory are needed and {free_bytes} are free"
            ),
            Self::NoSlots => f.write_str("the machine can hold no more virtual machines or CPUs"),
            Self::BadImage { why, .. } => write!(f, "the image {why}"),
            Self::Unknown => f.write_str("the backend does not know this identifier"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

impl core::error::Error for BackendError {}

/// Why a device was left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// The machine has no such function.
    Unknown,
    /// No VM has it.
    Free,
    /// A BAR, an offset or a length is not one of the device's.
    Range,
    /// It, or its memory, is off.
    Off,
    /// It is being reset, or becoming ready: the same may succeed soon.
    Busy,
    /// It did not become ready in time.
    NotReady,
}

/// Something to do to the memory of a run; checked as far as that is possible without the
/// machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryJob {
    /// What to do.
    pub action: MemoryAction,
    /// First address, a multiple of 4096.
    pub start: u64,
    /// Bytes from there, a multiple of 4096, at least one page.
    pub bytes: u64,
    /// What a scan looks for.
    pub scan: MemoryScan,
    /// Tell which pages; `bytes` is at most 4 GiB then.
    pub bitmap: bool,
    /// What may be taken; never empty for a `Reclaim`.
    pub kinds: Vec<MemoryKind>,
    /// Stop once as many bytes are free; 0 for no limit.
    pub most_bytes: u64,
    /// Keys or states to write, one for each page.
    pub values: Vec<u8>,
    /// For a `Share`: the other run, which is not this one.
    pub from: Option<RunId>,
}

/// What became of a [`MemoryJob`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryResult {
    /// Bytes found, given back, read or written.
    pub bytes: u64,
    /// Where to go on, if it is not done.
    pub next: Option<u64>,
    /// One bit a page from the start on.
    pub bitmap: Vec<u8>,
    /// Keys or states that were read.
    pub values: Vec<u8>,
}

/// Why a [`MemoryJob`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// The run has no guest, or no longer.
    NotRunning,
    /// The range is not in its RAM.
    OutsideRam,
    /// A value is not one that a key, a state or a policy can have.
    Invalid,
    /// The guest does not use keys, or states.
    Off,
    /// The guest keeps getting in the way: the same may succeed soon.
    Busy,
    /// The machine has no memory for it.
    NoMemory,
    /// One of two runs shares no frames.
    NotShareable,
    /// The run has frames of its own where another's were to be.
    Populated,
}

/// The machine under the control server.
pub trait Backend: Heritage {
    /// Nanoseconds since the hypervisor started; never goes back.
    fn now_ns(&self) -> u64;
    /// Nanoseconds since 1970-01-01T00:00:00Z, if the machine has a clock.
    fn unix_ns(&self) -> Option<u64>;
    /// What the machine is and how its memory is used.
    fn host(&self) -> HostFacts;

    /// Makes room for an image of `bytes` bytes, dropping whatever `id` held.
    fn image_begin(&mut self, id: ImageId, bytes: u64) -> Result<(), BackendError>;
    /// Appends to an image begun and not committed; returns how many bytes were taken.
    /// Taking none means "busy": the sender is made to wait, and the call is made again.
    /// Never more bytes in all than were announced.
    fn image_append(&mut self, id: ImageId, chunk: &[u8]) -> Result<usize, BackendError>;
    /// Says that the image is whole and has this digest; it never changes again.
    fn image_commit(&mut self, id: ImageId, sha256: &[u8; 32]) -> Result<(), BackendError>;
    /// Drops an image, whole or not, that no run uses; nothing if there is none.
    fn image_delete(&mut self, id: ImageId);

    /// Begins a run. Returns at once; [`Self::vm_poll`] tells how it goes. After an error
    /// there is no run `id`.
    fn vm_start(&mut self, id: RunId, plan: &RunPlan) -> Result<(), BackendError>;
    /// Tells where a run is, and may do a bounded piece of its loading.
    fn vm_poll(&mut self, id: RunId) -> RunState;
    /// Stops a run at once, whether loading or running; [`Self::vm_poll`] will say `Killed`
    /// (or that it ended otherwise before).
    fn vm_stop(&mut self, id: RunId);
    /// Gives back what an ended run holds. Returns false if some is left: call again.
    fn vm_release(&mut self, id: RunId) -> bool;
    /// What a run has used so far.
    fn vm_counters(&self, id: RunId) -> RunCounters;
    /// Takes console output out of the run's ring; returns how many bytes.
    /// Also called for an ended run until it is released.
    fn console_read(&mut self, id: RunId, out: &mut [u8]) -> usize;
    /// Puts console input into the run's ring; returns how many bytes fitted.
    fn console_write(&mut self, id: RunId, input: &[u8]) -> usize;

    /// What became of the time of each of a run's vCPUs, in order; nothing without a guest.
    fn vm_vcpus(&self, id: RunId) -> Vec<VcpuCounters>;
    /// Changes how the vCPUs of a run are to run; what it hides stays as it was at the start.
    fn vm_cpu_set(&mut self, id: RunId, plan: &CpuPlan) -> Result<(), BackendError>;
    /// Makes an SError pending in a vCPU of a run, which the guest takes when it lets it in.
    fn vm_serror(&mut self, id: RunId, vcpu: u32, syndrome: u32) -> Result<(), BackendError>;

    /// What the memory of a run is made of, if it has a guest.
    fn vm_memory(&self, id: RunId) -> Option<Memory>;
    /// Changes what the memory of a run may be made of; absent fields stay as they are.
    fn vm_memory_policy(&mut self, id: RunId, policy: &MemoryPolicy) -> Result<(), MemoryError>;
    /// Does something to the memory of a run, or a bounded part of it.
    fn vm_memory_act(&mut self, id: RunId, job: &MemoryJob) -> Result<MemoryResult, MemoryError>;

    /// Every PCI function that a VM can have, with what became of it.
    fn devices(&self) -> Vec<Device> {
        Vec::new()
    }
    /// Does something to a device that a VM has; `data` is what a write writes. Returns what a
    /// read has read.
    fn device_act(
        &mut self,
        pci: &str,
        request: &DeviceRequest,
        data: &[u8],
    ) -> Result<Vec<u8>, DeviceError> {
        let (_, _, _) = (pci, request, data);
        Err(DeviceError::Unknown)
    }

    /// Switches the machine off or restarts it. Every run has been released.
    fn power(&mut self, action: PowerAction);
}
