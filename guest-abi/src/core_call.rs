//! Core calls: what root asks of core, by HVC #0.
//!
//! Numbers are SMCCC fast HVC64 calls of owner 6, vendor-specific hypervisor (DEN 0028,
//! 6.2), from 0x8000 up: below are the calls any guest may make. Only root's vCPU may
//! make these; for anyone else they do not exist.
//!
//! x0 holds the call and, on return, a [`Status`]; x1 to x7 hold arguments, and x1 to x3
//! results where a call has any. Every address is physical and must lie in frames granted to
//! root. Core copies what it reads before it looks at it.

/// A core call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CoreCall {
    /// `(order) -> (pa)`: grants `4096 << order` zeroed, aligned bytes to root.
    /// [`Status::Again`] while memory is taken from what guests can do without.
    FramesGrant = CoreCall::id(0x01),
    /// `(pa, order) -> ()`: gives a granted block back; core scrubs it. [`Status::Again`] while
    /// it still scrubs the one before.
    FramesRelease = CoreCall::id(0x02),
    /// `(cursor) -> (block, next)`: finds the first granted block at or after physical address
    /// `cursor`, for a root that was started anew: `block` is its address, with its order in
    /// bits 3:0, and `next` where to go on. Blocks are as large as they are mapped, which is
    /// never larger than they were granted. A `block` of 0: there is none up to `next`.
    /// [`Status::Invalid`]: there is none any more.
    FramesList = CoreCall::id(0x03),
    /// `(n, source_pa, bytes) -> ()`: has core keep up to [`crate::notes::NOTE_BYTES_MAX`]
    /// bytes as note `n`, below [`crate::notes::NOTES_MAX`], in place of what it was; none
    /// forgets it. Core never looks at a note. Whole or not at all: root may end at any time.
    NoteWrite = CoreCall::id(0x04),
    /// `(n, out_pa, room) -> (bytes)`: reads note `n`, of which there is room for `room`
    /// bytes; `bytes` is how many it has, 0 if there is none.
    NoteRead = CoreCall::id(0x05),
    /// `(config_pa) -> (vm, shared_pa)`: builds a VM from a [`VmConfig`]; maps no guest RAM.
    /// [`Status::Again`] as for [`Self::FramesGrant`].
    VmCreate = CoreCall::id(0x10),
    /// `(vm, ipa, source_pa, bytes) -> (copied)`: copies into the RAM of a VM not yet
    /// started. May copy less than asked: call again for the rest. [`Status::Again`] as for
    /// [`Self::FramesGrant`]: nothing is copied yet, or not to be relied on.
    VmCopyIn = CoreCall::id(0x11),
    /// `(vm, pc, x0) -> ()`: sets where vCPU 0 starts and what it finds in x0.
    VmEntry = CoreCall::id(0x12),
    /// `(vm) -> ()`: starts vCPU 0.
    VmStart = CoreCall::id(0x13),
    /// `(vm) -> ()`: stops every vCPU; the state becomes [`VmState::Killed`].
    VmStop = CoreCall::id(0x14),
    /// `(vm) -> ()`: frees a VM that does not run. [`Status::Again`] means: not finished.
    VmDestroy = CoreCall::id(0x15),
    /// `(vm, out_pa) -> ()`: writes a [`VmInfo`].
    VmInfo = CoreCall::id(0x16),
    /// `(vm) -> ()`: says that root put bytes into, or took bytes from, the console rings.
    VmConsole = CoreCall::id(0x17),
    /// `(vm, weight, percent) -> ()`: a VM's share, 1 to 10,000 (100 is the default), and the
    /// most it may run, in per cent of one core (0: no limit). At any time.
    VmShare = CoreCall::id(0x18),
    /// `(vm, vcpu, cores) -> ()`: the cores a vCPU may run on, a bit each; one that takes part
    /// must be among them. At any time: it leaves any other at once.
    VcpuAffinity = CoreCall::id(0x19),
    /// `(vm, vcpu, iss) -> ()`: makes a virtual SError pending in a vCPU of a VM that runs, with
    /// this syndrome where the cores have FEAT_RAS. It stays pending until the guest takes it; a
    /// second one before that is none.
    VcpuSerror = CoreCall::id(0x1a),
    /// `(vm, vcpu, out_pa) -> ()`: writes a [`crate::vcpu_info::VcpuInfo`].
    VcpuInfo = CoreCall::id(0x1b),
    /// `(slot, out_pa) -> ()`: writes a [`VmEntry`] of the VM in `slot`, below
    /// [`crate::root_boot::VMS_MAX`]; [`Status::NoVm`] if none is there. So a root that was
    /// started anew finds the VMs of the one before.
    VmList = CoreCall::id(0x1c),
    /// `(out_pa) -> ()`: writes a [`HostInfo`].
    HostInfo = CoreCall::id(0x20),
    /// `() -> never`: resets the machine, as its operator asked. (PSCI SYSTEM_RESET by root
    /// means that root has ended, and starts it anew.)
    MachineReset = CoreCall::id(0x21),
    /// `(after_ns) -> ()`: ends root once so much time has passed, wherever it is then, and
    /// starts it anew; 0 for at once. VMs run on.
    RootRestart = CoreCall::id(0x22),
    /// `(vm, out_pa) -> ()`: writes a [`crate::memory_call::VmMemory`].
    VmMemory = CoreCall::id(0x30),
    /// `(vm, policy_pa) -> ()`: sets a [`crate::memory_call::MemoryPolicy`].
    VmMemoryPolicy = CoreCall::id(0x31),
    /// `(vm, scan, ipa, bytes, bitmap_pa, cursor) -> (cursor, found_bytes)`: looks for pages
    /// as [`crate::memory_call::Scan`] says, in `bytes` (at most
    /// [`crate::memory_call::SCAN_BYTES_MAX`]) from `ipa`, and sets bit n of the bitmap for
    /// page `ipa + 4096 * n`. Bits are only set, never cleared. The bitmap is a multiple of 8
    /// bytes, at a multiple of 8; without one (`bitmap_pa` 0) pages are only counted.
    VmMemoryScan = CoreCall::id(0x32),
    /// `(vm, what, ipa, bytes, cursor, most_bytes, log_pa) -> (cursor, freed_bytes)`: takes
    /// memory back, as the bits of [`crate::memory_call::reclaim`] say; ends early once about
    /// `most_bytes` (0 for no limit) are freed. Whoever keeps a log of dirty pages for the
    /// range gives its bitmap, as of [`Self::VmMemoryScan`], else 0: in it are set the pages
    /// that hold zeroes from now on and that a scan, were they still there, would not find.
    VmReclaim = CoreCall::id(0x33),
    /// `(vm, op, ipa, key) -> (old)`: one [`crate::memory_call::KeyOp`] on the key of a page.
    /// Setting and resetting put keys into use ([`Status::Again`] until that is done).
    VmKey = CoreCall::id(0x34),
    /// `(vm, ipa, pages, out_pa) -> (done)`: reads the keys of pages, a byte each.
    /// [`Status::KeysOff`] while no key was ever used.
    VmKeysRead = CoreCall::id(0x35),
    /// `(vm, ipa, pages, source_pa) -> (done)`: writes the keys of pages, a byte each.
    VmKeysWrite = CoreCall::id(0x36),
    /// `(vm, op, ipa, pages, pa) -> (done, first_ipa, next_ipa)`: one
    /// [`crate::memory_call::StatesOp`]. `first_ipa` is where the states that were read or
    /// written begin; `next_ipa`, if not 0, is where to go on.
    VmPageStates = CoreCall::id(0x37),
    /// `(vm, ipa, bytes, out_pa, access_key) -> (done)`: reads the VM's RAM, with a storage
    /// key. RAM without a frame reads as zero and gets none. Each page is checked before any
    /// of its bytes are copied: [`Status::Protected`].
    VmRead = CoreCall::id(0x38),
    /// `(vm, ipa, bytes, source_pa, access_key) -> (done)`: as [`Self::VmRead`], and writes.
    VmWrite = CoreCall::id(0x39),
    /// `(vm, ipa, bytes, exchange_pa, access_key) -> (swapped)`: compares 1, 2, 4, 8 or 16
    /// bytes at a multiple of `bytes` with [`crate::memory_call::Exchange::old`], and if they
    /// are equal replaces them, all in one atomic access; `old` becomes what was there.
    VmExchange = CoreCall::id(0x3a),
    /// `(out_pa) -> ()`: writes a [`crate::memory_call::HostMemory`].
    HostMemory = CoreCall::id(0x3b),
    /// `(vm, vcpu, ipa) -> (before)`: the page at `ipa` stays populated and writable while this
    /// vCPU runs; whoever takes it away brings the vCPU out first. 0 ends that. `before` is
    /// the page that was pinned until now, or 0.
    VmPin = CoreCall::id(0x3c),
    /// `(vm, from, ipa, bytes, cursor) -> (cursor, shared_bytes)`: what the RAM of the VM `from`
    /// holds there, the RAM of `vm` holds too, at the same addresses: both use the same frames
    /// until either writes, and then it gets a copy of its own. Pages of `from` without a frame
    /// are passed over. For one moment's state `from` must not run meanwhile.
    /// [`Status::NotShareable`]; [`Status::Populated`] where `vm` has another frame already.
    VmShareMemory = CoreCall::id(0x3d),
    /// `(n, out_pa) -> ()`: writes a [`crate::device::DeviceInfo`] of the machine's function
    /// number `n`, from 0; [`Status::Invalid`] past the last.
    DeviceInfo = CoreCall::id(0x50),
    /// `(vm, config_pa) -> (guest slot)`: gives a VM that is not started what a
    /// [`crate::device::DeviceConfig`] says. [`Status::Again`] while RAM is populated, which a
    /// function that does DMA needs.
    DeviceAssign = CoreCall::id(0x51),
    /// `(function) -> ()`: takes all mappings away and resets it. [`Status::Again`]: not done.
    DeviceReset = CoreCall::id(0x52),
    /// `(function, bar, offset, bytes) -> ()`: takes mappings of at most 2 MiB of a BAR away, in
    /// whole pages; the guest's next touch brings them back.
    DeviceRevoke = CoreCall::id(0x53),
    /// `(function, bar << 56 | offset, out_pa, bytes) -> (done)`: reads a BAR as the guest
    /// would. At most 4096 bytes. [`Status::Again`] while the device is not ready;
    /// [`Status::NotReady`] once it has had its time; [`Status::Off`] with its memory off.
    DeviceRead = CoreCall::id(0x54),
    /// As [`Self::DeviceRead`], writes to the BAR what is at `out_pa`.
    DeviceWrite = CoreCall::id(0x55),
}

impl CoreCall {
    /// Every call, for dispatch and for the test that pins the numbers.
    pub const ALL: [Self; 41] = [
        Self::FramesGrant,
        Self::FramesRelease,
        Self::FramesList,
        Self::NoteWrite,
        Self::NoteRead,
        Self::VmCreate,
        Self::VmCopyIn,
        Self::VmEntry,
        Self::VmStart,
        Self::VmStop,
        Self::VmDestroy,
        Self::VmInfo,
        Self::VmConsole,
        Self::VmShare,
        Self::VcpuAffinity,
        Self::VcpuSerror,
        Self::VcpuInfo,
        Self::VmList,
        Self::HostInfo,
        Self::MachineReset,
        Self::RootRestart,
        Self::VmMemory,
        Self::VmMemoryPolicy,
        Self::VmMemoryScan,
        Self::VmReclaim,
        Self::VmKey,
        Self::VmKeysRead,
        Self::VmKeysWrite,
        Self::VmPageStates,
        Self::VmRead,
        Self::VmWrite,
        Self::VmExchange,
        Self::HostMemory,
        Self::VmPin,
        Self::VmShareMemory,
        Self::DeviceInfo,
        Self::DeviceAssign,
        Self::DeviceReset,
        Self::DeviceRevoke,
        Self::DeviceRead,
        Self::DeviceWrite,
    ];

    const fn id(number: u32) -> u32 {
        1 << 31 | 1 << 30 | 6 << 24 | 0x8000 | number
    }

    /// Returns the call whose SMCCC function identifier is `id`.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|call| *call as u32 == id)
    }
}

/// How a core call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// No such call (SMCCC NOT_SUPPORTED).
    NotSupported = -1,
    /// An argument is outside its documented range (SMCCC INVALID_PARAMETER).
    Invalid = -3,
    /// The machine has no memory, VM slot or vCPU slot left for this.
    Exhausted = -4,
    /// No VM has this handle.
    NoVm = -5,
    /// The VM's state does not allow this.
    BadState = -6,
    /// An address is not in memory granted to root.
    NotGranted = -7,
    /// Part of the work is done; make the same call again.
    Again = -8,
    /// An address is not in the VM's RAM.
    OutsideRam = -9,
    /// A storage key does not allow the access; nothing was read or written.
    Protected = -10,
    /// Storage keys, or page states, are not in use in this VM.
    KeysOff = -11,
    /// One of the VMs shares no frames: it has storage keys, devices, or is wiped.
    NotShareable = -12,
    /// The VM has another frame there already.
    Populated = -13,
    /// No function has this number, or it cannot be handed to a VM.
    NoDevice = -20,
    /// Another VM has the function.
    InUse = -21,
    /// The device did not become ready in time (ETIME).
    NotReady = -22,
    /// The device's memory is off, or the device is (EIO).
    Off = -23,
    /// The function begins transactions, and no SMMU bounds them.
    Unprotected = -24,
    /// Another VM has a function that this one may reach without the SMMU's knowledge.
    NotIsolated = -25,
    /// A BAR of the function cannot have the size that was asked for.
    NoSuchSize = -26,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 20] = [
        Self::Ok,
        Self::NotSupported,
        Self::Invalid,
        Self::Exhausted,
        Self::NoVm,
        Self::BadState,
        Self::NotGranted,
        Self::Again,
        Self::OutsideRam,
        Self::Protected,
        Self::KeysOff,
        Self::NotShareable,
        Self::Populated,
        Self::NoDevice,
        Self::InUse,
        Self::NotReady,
        Self::Off,
        Self::Unprotected,
        Self::NotIsolated,
        Self::NoSuchSize,
    ];

    /// Returns the status that x0 holds after a call.
    pub fn from_x0(x0: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|status| (*status as i64).cast_unsigned() == x0)
    }

    /// Returns what x0 holds for this status.
    pub const fn to_x0(self) -> u64 {
        (self as i64).cast_unsigned()
    }
}

/// [`VmConfig::flags`]: the VM has no stolen time, and so no preempt hint.
pub const VM_NO_PV_TIME: u32 = 1 << 0;
/// [`VmConfig::flags`]: the VM has no preempt hint.
pub const VM_NO_PREEMPT_HINT: u32 = 1 << 1;
/// Every flag there is.
pub const VM_FLAGS: u32 = VM_NO_PV_TIME
    | VM_NO_PREEMPT_HINT
    | VM_NO_PAGE_STATES
    | VM_NO_STORAGE_KEYS
    | VM_NO_YIELD_TO
    | VM_NO_CORE_NUMBER
    | VM_ITS
    | VM_CPU_FLAGS;
/// In [`VmConfig::flags`]: the guest has no SVE, whatever the machine has.
pub const VM_NO_SVE: u32 = 1 << 8;
/// In [`VmConfig::flags`]: the guest has no pointer authentication.
pub const VM_NO_PAUTH: u32 = 1 << 9;
/// In [`VmConfig::flags`]: the guest has no performance monitors.
pub const VM_NO_PMU: u32 = 1 << 10;
/// Every flag that hides a feature of the CPU. Without it a guest has what the machine has.
pub const VM_CPU_FLAGS: u32 = VM_NO_SVE | VM_NO_PAUTH | VM_NO_PMU;
/// In [`VmConfig::flags`]: the guest has no calls of [`crate::page_state`].
pub const VM_NO_PAGE_STATES: u32 = 1 << 2;
/// In [`VmConfig::flags`]: the guest has no calls of [`crate::storage_key`]; root may use keys.
pub const VM_NO_STORAGE_KEYS: u32 = 1 << 3;
/// In [`VmConfig::flags`]: the guest cannot hand its turn to another vCPU.
pub const VM_NO_YIELD_TO: u32 = 1 << 5;
/// In [`VmConfig::flags`]: the guest is not told which core its vCPUs are on, neither by call
/// nor in [`crate::pv::PvLine`].
pub const VM_NO_CORE_NUMBER: u32 = 1 << 6;

/// In [`VmConfig::flags`]: the guest has an ITS. One with devices needs it for their messages.
pub const VM_ITS: u32 = 1 << 4;

/// What a VM is to be. Reserved bytes are zero.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VmConfig {
    /// Bytes of RAM, a multiple of 2 MiB, at [`crate::map::RAM_BASE`].
    pub ram_bytes: u64,
    /// Number of vCPUs, 1 to [`crate::map::VCPUS_MAX`].
    pub vcpus: u32,
    /// Any of [`VM_FLAGS`].
    pub flags: u32,
    /// Name for reports, UTF-8, padded with zeroes.
    pub name: [u8; 64],
}
const _: () = assert!(size_of::<VmConfig>() == 80);

/// A VM that exists, as [`CoreCall::VmList`] finds it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VmEntry {
    /// Its handle.
    pub vm: u64,
    /// Physical address of its [`crate::vm_shared::VmShared`].
    pub shared_pa: u64,
    /// A [`VmState`].
    pub state: u32,
    /// Zero.
    pub reserved: u32,
    /// What it was made from.
    pub config: VmConfig,
}
const _: () = assert!(size_of::<VmEntry>() == 104);

/// Where a VM is in its life. A VM in core lives for one run: a restart is a new VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum VmState {
    /// Created, not started.
    Built = 1,
    /// At least one vCPU is on.
    Running = 2,
    /// The guest switched itself off (PSCI SYSTEM_OFF).
    Off = 3,
    /// The guest asked for a reset (PSCI SYSTEM_RESET).
    Reset = 4,
    /// The guest did what cannot be continued; see [`VmInfo::reason`].
    Crashed = 5,
    /// Stopped by [`CoreCall::VmStop`].
    Killed = 6,
}

impl VmState {
    /// Returns the state with this number.
    pub fn from_u32(raw: u32) -> Option<Self> {
        [
            Self::Built,
            Self::Running,
            Self::Off,
            Self::Reset,
            Self::Crashed,
            Self::Killed,
        ]
        .into_iter()
        .find(|state| *state as u32 == raw)
    }
}

/// Exit classes that core counts per VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum ExitClass {
    /// Stage-2 fault that mapped RAM.
    Fault = 0,
    /// HVC or SMC.
    Call = 1,
    /// Access to a GIC frame.
    Gic = 2,
    /// Access to the UART.
    Uart = 3,
    /// Access below RAM where no device is.
    Unclaimed = 4,
    /// Trapped system register.
    Sysreg = 5,
    /// WFI or WFE.
    Wait = 6,
    /// Physical interrupt.
    Interrupt = 7,
    /// Abort or undefined instruction injected into the guest.
    Injected = 8,
}

/// Number of [`ExitClass`]es.
pub const EXIT_CLASSES: usize = 9;

/// What core knows of one VM.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct VmInfo {
    /// A [`VmState`].
    pub state: u32,
    /// Why the VM crashed: the ESR_EL2 of the exit, 0 if it did not.
    pub reason: u32,
    /// Address that belongs to `reason`: guest PC.
    pub reason_pc: u64,
    /// Bytes of guest RAM with a frame behind them.
    pub resident_bytes: u64,
    /// Bytes core uses for this VM beyond its RAM: tables, contexts, shared pages.
    pub overhead_bytes: u64,
    /// Exits by [`ExitClass`].
    pub exits: [u64; EXIT_CLASSES],
    /// Guest RAM mapped in leaves of 4 KiB, 2 MiB and 1 GiB: number of leaves.
    pub leaves: [u64; 3],
    /// Nanoseconds that vCPUs ran, answering their exits included and waiting by WFI not.
    pub run_ns: u64,
    /// Nanoseconds that vCPUs wanted to run and did not.
    pub stolen_ns: u64,
}

/// What core knows of the machine.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct HostInfo {
    /// Bytes of RAM in the machine.
    pub ram_bytes: u64,
    /// Bytes that no one uses.
    pub free_bytes: u64,
    /// Bytes of core: image, tables, frame pool records.
    pub core_bytes: u64,
    /// Bytes of root: its RAM that has been touched, and its stage-2 tables.
    pub root_bytes: u64,
    /// Bytes granted to root.
    pub granted_bytes: u64,
    /// Nanoseconds since core started.
    pub uptime_ns: u64,
    /// VMs that exist.
    pub vms: u32,
    /// VMs that can exist.
    pub vms_max: u32,
    /// Which features the cores have: for each the bit of [`VM_CPU_FLAGS`] that hides it.
    pub cpu_features: u32,
    /// Zero.
    pub reserved: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a number that root relies on moves. Do not edit; add lines.
    #[test]
    fn numbers_are_forever() {
        assert_eq!(CoreCall::FramesGrant as u32, 0xc600_8001);
        assert_eq!(CoreCall::FramesRelease as u32, 0xc600_8002);
        assert_eq!(CoreCall::FramesList as u32, 0xc600_8003);
        assert_eq!(CoreCall::NoteWrite as u32, 0xc600_8004);
        assert_eq!(CoreCall::NoteRead as u32, 0xc600_8005);
        assert_eq!(CoreCall::VmCreate as u32, 0xc600_8010);
        assert_eq!(CoreCall::VmCopyIn as u32, 0xc600_8011);
        assert_eq!(CoreCall::VmEntry as u32, 0xc600_8012);
        assert_eq!(CoreCall::VmStart as u32, 0xc600_8013);
        assert_eq!(CoreCall::VmStop as u32, 0xc600_8014);
        assert_eq!(CoreCall::VmDestroy as u32, 0xc600_8015);
        assert_eq!(CoreCall::VmInfo as u32, 0xc600_8016);
        assert_eq!(CoreCall::VmConsole as u32, 0xc600_8017);
        assert_eq!(CoreCall::VmShare as u32, 0xc600_8018);
        assert_eq!(CoreCall::VcpuAffinity as u32, 0xc600_8019);
        assert_eq!(CoreCall::VcpuSerror as u32, 0xc600_801a);
        assert_eq!(CoreCall::VcpuInfo as u32, 0xc600_801b);
        assert_eq!(CoreCall::VmList as u32, 0xc600_801c);
        assert_eq!(CoreCall::HostInfo as u32, 0xc600_8020);
        assert_eq!(CoreCall::MachineReset as u32, 0xc600_8021);
        assert_eq!(CoreCall::RootRestart as u32, 0xc600_8022);
        assert_eq!(CoreCall::VmMemory as u32, 0xc600_8030);
        assert_eq!(CoreCall::VmMemoryPolicy as u32, 0xc600_8031);
        assert_eq!(CoreCall::VmMemoryScan as u32, 0xc600_8032);
        assert_eq!(CoreCall::VmReclaim as u32, 0xc600_8033);
        assert_eq!(CoreCall::VmKey as u32, 0xc600_8034);
        assert_eq!(CoreCall::VmKeysRead as u32, 0xc600_8035);
        assert_eq!(CoreCall::VmKeysWrite as u32, 0xc600_8036);
        assert_eq!(CoreCall::VmPageStates as u32, 0xc600_8037);
        assert_eq!(CoreCall::VmRead as u32, 0xc600_8038);
        assert_eq!(CoreCall::VmWrite as u32, 0xc600_8039);
        assert_eq!(CoreCall::VmExchange as u32, 0xc600_803a);
        assert_eq!(CoreCall::HostMemory as u32, 0xc600_803b);
        assert_eq!(CoreCall::VmPin as u32, 0xc600_803c);
        assert_eq!(CoreCall::VmShareMemory as u32, 0xc600_803d);
        assert_eq!(CoreCall::DeviceInfo as u32, 0xc600_8050);
        assert_eq!(CoreCall::DeviceAssign as u32, 0xc600_8051);
        assert_eq!(CoreCall::DeviceReset as u32, 0xc600_8052);
        assert_eq!(CoreCall::DeviceRevoke as u32, 0xc600_8053);
        assert_eq!(CoreCall::DeviceRead as u32, 0xc600_8054);
        assert_eq!(CoreCall::DeviceWrite as u32, 0xc600_8055);
    }

    #[test]
    fn every_call_and_status_survives_the_round_trip() {
        for call in CoreCall::ALL {
            assert_eq!(CoreCall::from_id(call as u32), Some(call));
        }
        for status in Status::ALL {
            assert_eq!(Status::from_x0(status.to_x0()), Some(status));
        }
        assert_eq!(CoreCall::from_id(0xc600_8000), None);
        assert_eq!(Status::from_x0(1), None);
    }
}
