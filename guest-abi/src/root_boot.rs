//! What root finds in x0 when core enters it.
//!
//! Core loads root's flat image at [`ROOT_IMAGE_IPA`], enters its first byte at EL1h with
//! MMU and caches off and DAIF masked, x0 = IPA of a [`RootBoot`] and x1 to x3 zero, just
//! as a guest is entered. Root builds its own stage 1, with all of physical memory at
//! [`PHYSMAP`]` + PA`, which stage 1 translates to [`RootBoot::physmap_ipa`]` + PA`. Stage 2
//! decides what is there: nothing but the devices in [`RootBoot::devices`], the shared
//! pages, and the frames core granted.

/// VA of physical address 0, in core and in root alike.
pub const PHYSMAP: u64 = 0x4000_0000_0000;
/// First byte of root's RAM in root's IPA space.
pub const ROOT_RAM_IPA: u64 = 0x4000_0000;
/// Where root's flat image is loaded and entered.
pub const ROOT_IMAGE_IPA: u64 = 0x4020_0000;
/// Value of [`RootBoot::magic`]: "SKETERB1", little-endian.
pub const ROOT_BOOT_MAGIC: u64 = u64::from_le_bytes(*b"SKETERB1");
/// Most devices root can be given.
pub const ROOT_DEVICES_MAX: usize = 48;
/// Most bytes of boot arguments.
pub const BOOTARGS_MAX: usize = 1024;
/// INTID by which core rings root: something in a [`Doorbell`] changed. Edge-triggered.
pub const DOORBELL_INTID: u32 = 232;
/// Most VMs, and bits of [`Doorbell::vms`].
pub const VMS_MAX: usize = 64;

/// A virtio-mmio transport ([`RootDevice::kind`]).
pub const DEVICE_VIRTIO_MMIO: u32 = 1;
/// The machine's PL031 real-time clock ([`RootDevice::kind`]).
pub const DEVICE_PL031: u32 = 2;

/// A device that is root's.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct RootDevice {
    /// One of the `DEVICE_` numbers.
    pub kind: u32,
    /// Its interrupt as an INTID, the same in root as in the machine; 0 if it has none.
    pub intid: u32,
    /// Physical address of its registers.
    pub pa: u64,
    /// Bytes of its registers.
    pub bytes: u64,
    /// 1 if the interrupt is edge-triggered, 0 if level-sensitive.
    pub edge: u32,
    /// Reserved, zero.
    pub reserved: u32,
}

/// The page that root is entered with.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(4096))]
pub struct RootBoot {
    /// [`ROOT_BOOT_MAGIC`].
    pub magic: u64,
    /// How often root has been started since core was, from 1.
    pub generation: u64,
    /// Bytes of root's RAM, at [`ROOT_RAM_IPA`].
    pub ram_bytes: u64,
    /// First IPA past root's image and its zeroed data.
    pub image_end_ipa: u64,
    /// IPA of physical address 0.
    pub physmap_ipa: u64,
    /// First PA past everything root may ever see (RAM and devices).
    pub physmap_bytes: u64,
    /// PA of the [`Doorbell`].
    pub doorbell_pa: u64,
    /// Bytes of RAM in the machine.
    pub machine_ram_bytes: u64,
    /// MIDR_EL1 of the boot core.
    pub midr: u64,
    /// CNTPCT_EL0 when core was entered after reset.
    pub reset_ticks: u64,
    /// Cores in use.
    pub cores: u32,
    /// CNTFRQ_EL0.
    pub counter_hz: u32,
    /// Valid entries of `devices`.
    pub device_count: u32,
    /// Valid bytes of `bootargs`.
    pub bootargs_len: u32,
    /// Devices that are root's.
    pub devices: [RootDevice; ROOT_DEVICES_MAX],
    /// `/chosen/bootargs` of the machine.
    pub bootargs: [u8; BOOTARGS_MAX],
    /// `/chosen/rng-seed` of the machine, or zeroes.
    pub rng_seed: [u8; 64],
    /// Valid bytes of `rng_seed`.
    pub rng_seed_len: u32,
    /// Why the root before this one ended: a [`RootEnd`], or 0 for the first one.
    pub end: u32,
    /// How many roots in a row ended before they were ready, up to this one.
    pub unready: u32,
}
const _: () = assert!(size_of::<RootBoot>() == 4096);

/// Why a root ended, after which core starts another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RootEnd {
    /// It ended itself, by PSCI: it reported why before.
    Itself = 1,
    /// It did what cannot be continued.
    Crashed = 2,
    /// It gave no sign of life for too long.
    Silent = 3,
    /// It was asked for ([`crate::core_call::CoreCall::RootRestart`]).
    Asked = 4,
}

impl RootEnd {
    /// Returns the reason with this number.
    pub fn from_u32(raw: u32) -> Option<Self> {
        [Self::Itself, Self::Crashed, Self::Silent, Self::Asked]
            .into_iter()
            .find(|end| *end as u32 == raw)
    }
}

/// Where core tells root which VMs changed, and root core that it lives.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Doorbell {
    /// Bit n: something about the VM in slot n changed (state, console). Core sets, root
    /// swaps with zero.
    pub vms: core::sync::atomic::AtomicU64,
    /// Any change of it says that root lives. From the first one on root counts as ready, and
    /// one that is silent for [`LEASE_NS`] is ended and started anew. Root writes.
    pub beat: core::sync::atomic::AtomicU64,
}

/// How long a root that was ready once may give no sign of life.
pub const LEASE_NS: u64 = 20_000_000_000;
