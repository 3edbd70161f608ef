//! Devices handed to guests: what root asks of core about them, and what it gets to know.
//!
//! A device is a PCI function of the machine, named by its requester ID (bus in 15:8, device
//! in 7:3, function in 2:0). Root never reaches its registers.

/// What a VM is to have. Reserved bytes are zero.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct DeviceConfig {
    /// The function.
    pub function: u16,
    /// The function whose largest BAR is the memory of an `nvgrace-gpu`; [`NO_FUNCTION`] for
    /// other profiles.
    pub memory: u16,
    /// One of the `PROFILE_` numbers.
    pub profile: u32,
    /// [`UNSAFE_DMA`], [`DECLARED_DMA`].
    pub flags: u32,
    /// The function's BAR that is BAR 0 of an `nvgrace-gpu`.
    pub registers_bar: u32,
    /// log2 of the bytes that each BAR is to have, of those that can be resized; 0 leaves it.
    pub bar_shift: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}
const _: () = assert!(size_of::<DeviceConfig>() == 24);

/// No function ([`DeviceConfig::memory`]).
pub const NO_FUNCTION: u16 = 0xffff;
/// Any PCI function.
pub const PROFILE_GENERIC: u32 = 0;
/// An NVMe controller.
pub const PROFILE_NVME: u32 = 1;
/// An NVIDIA Grace-based GPU.
pub const PROFILE_NVGRACE_GPU: u32 = 2;
/// The function may be bus master although no SMMU bounds it: with this it can read and write
/// all of the machine's memory.
pub const UNSAFE_DMA: u32 = 1 << 0;
/// The function's DMA reaches only pages that the guest has declared (`dma`); without it, all of
/// the VM's RAM, which is populated for that.
pub const DECLARED_DMA: u32 = 1 << 1;
/// Cells of a touch map.
pub const TOUCH_CELLS: usize = 64;
/// Lines of a trace.
pub const TRACE_LINES: usize = 16;

/// Nobody has the function ([`DeviceInfo::state`]).
pub const DEVICE_FREE: u32 = 0;
/// A VM has it.
pub const DEVICE_ASSIGNED: u32 = 1;
/// It is the memory of another function, which a VM has.
pub const DEVICE_COMPANION: u32 = 2;

/// One fault, as the trace has it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct DeviceFault {
    /// When: milliseconds since core started.
    pub at_ms: u64,
    /// Where the leaf leads, or all ones.
    pub pa: u64,
    /// Bytes of the leaf, or 0.
    pub bytes: u64,
    /// 0 mapped, 1 there already, 2 fell back to a smaller leaf, 3 parked, 4 refused.
    pub outcome: u64,
}

/// What core knows of one function.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DeviceInfo {
    /// Its requester ID.
    pub function: u16,
    /// PCI vendor.
    pub vendor: u16,
    /// PCI device.
    pub device: u16,
    /// Device number on the guest's bus 0.
    pub guest_slot: u16,
    /// PCI class, subclass and interface in 23:0.
    pub class: u32,
    /// One of the `DEVICE_` numbers.
    pub state: u32,
    /// The VM that has it, 0 if none.
    pub vm: u64,
    /// Bytes of the BARs of the function itself.
    pub bar_bytes: [u64; 6],
    /// A `PROFILE_` number.
    pub profile: u32,
    /// Bit 0: COMMAND.MEM. Bit 1: reset, and not found ready since. Bit 2: in D3. Bit 3: may be
    /// bus master. Bit 4: its DMA is bounded by an SMMU. Bit 5: can be reset by itself.
    /// Bit 6: it reaches only what its guest declares.
    pub flags: u32,
    /// How often it was reset, from 1.
    pub generation: u64,
    /// Bytes of its memory that the guest has mapped now.
    pub mapped_bytes: u64,
    /// Leaves of 4 KiB, 2 MiB and 1 GiB that faults have mapped.
    pub mapped: [u64; 3],
    /// Faults that found a leaf there.
    pub present: u64,
    /// Faults that had to take a smaller leaf, because part of a larger one was mapped.
    pub fell_back: u64,
    /// Touches that were made to wait.
    pub parked: u64,
    /// Touches that ended in an external abort.
    pub refused: u64,
    /// Of those, the ones that waited for the whole time.
    pub timeouts: u64,
    /// Accesses that core made for the guest.
    pub emulated: u64,
    /// Times that all mappings were taken away.
    pub zaps: u64,
    /// Faults that are not in the trace because there were too many.
    pub dropped: u64,
    /// Bytes of one cell of `touches`.
    pub cell_bytes: u64,
    /// Faults by place in its largest BAR.
    pub touches: [u32; TOUCH_CELLS],
    /// The last faults, oldest first.
    pub trace: [DeviceFault; TRACE_LINES],
    /// Valid lines of `trace`.
    pub trace_len: u64,
    /// Its transactions that the SMMU aborted.
    pub dma_faults: u64,
    /// The address that the last of them was for.
    pub dma_fault_at: u64,
    /// Bytes of its VM's RAM that it reaches by DMA.
    pub dma_bytes: u64,
    /// Groups of sixteen pages, 64 KiB, that faults have mapped.
    pub mapped_64k: u64,
    /// Sizes that each BAR can have, if it can be resized: bit n stands for 2^n bytes.
    pub bar_sizes: [u64; 6],
}
const _: () = assert!(size_of::<DeviceInfo>() <= 4096);

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    /// Fails when a place that root relies on moves. Do not edit; add lines.
    #[test]
    fn places_are_forever() {
        assert_eq!(offset_of!(DeviceConfig, profile), 4);
        assert_eq!(offset_of!(DeviceConfig, flags), 8);
        assert_eq!(offset_of!(DeviceConfig, registers_bar), 12);
        assert_eq!(offset_of!(DeviceConfig, bar_shift), 16);
        assert_eq!(offset_of!(DeviceInfo, vm), 16);
        assert_eq!(offset_of!(DeviceInfo, bar_bytes), 24);
        assert_eq!(offset_of!(DeviceInfo, profile), 72);
        assert_eq!(offset_of!(DeviceInfo, generation), 80);
        assert_eq!(offset_of!(DeviceInfo, mapped_bytes), 88);
        assert_eq!(offset_of!(DeviceInfo, mapped), 96);
        assert_eq!(offset_of!(DeviceInfo, present), 120);
        assert_eq!(offset_of!(DeviceInfo, timeouts), 152);
        assert_eq!(offset_of!(DeviceInfo, dropped), 176);
        assert_eq!(offset_of!(DeviceInfo, touches), 192);
        assert_eq!(offset_of!(DeviceInfo, trace), 448);
        assert_eq!(offset_of!(DeviceInfo, trace_len), 960);
        assert_eq!(offset_of!(DeviceInfo, dma_faults), 968);
        assert_eq!(offset_of!(DeviceInfo, dma_fault_at), 976);
        assert_eq!(offset_of!(DeviceInfo, dma_bytes), 984);
        assert_eq!(offset_of!(DeviceInfo, mapped_64k), 992);
        assert_eq!(offset_of!(DeviceInfo, bar_sizes), 1000);
    }
}
