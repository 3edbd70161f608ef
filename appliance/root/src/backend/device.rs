//! PCI functions, by core calls.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use api::{
    Device, DeviceAction, DeviceFaults, DeviceProfile, DeviceRequest, DeviceSpec, DeviceState,
};
use control::backend::DeviceError;
use guest_abi::core_call::{CoreCall, Status};
use guest_abi::device::{
    DECLARED_DMA, DEVICE_ASSIGNED, DEVICE_COMPANION, DeviceConfig, DeviceInfo, NO_FUNCTION,
    PROFILE_GENERIC, PROFILE_NVGRACE_GPU, PROFILE_NVME, UNSAFE_DMA,
};
use pci::Address;

use crate::calls::call;
use crate::frames::Scratch;

/// More than core keeps.
const FUNCTIONS_MAX: u64 = 64;
/// Slices of a reset that one request does; a device of many pages needs another.
const SLICES: usize = 256;

/// Gives a VM that is not started its devices.
pub(super) fn assign(scratch: &Scratch, vm: u64, devices: &[DeviceSpec]) -> Result<(), Status> {
    for device in devices {
        let memory = match &device.memory {
            Some(name) => address(name).ok_or(Status::NoDevice)?,
            None => NO_FUNCTION,
        };
        let config = DeviceConfig {
            function: address(&device.pci).ok_or(Status::NoDevice)?,
            memory,
            profile: match device.profile {
                DeviceProfile::Generic => PROFILE_GENERIC,
                DeviceProfile::Nvme => PROFILE_NVME,
                DeviceProfile::NvgraceGpu => PROFILE_NVGRACE_GPU,
            },
            flags: flag(device.unsafe_dma, UNSAFE_DMA) | flag(device.declared_dma, DECLARED_DMA),
            registers_bar: device.registers_bar,
            bar_shift: shifts(device).ok_or(Status::NoSuchSize)?,
            reserved: [0; 2],
        };
        // Again while core populates RAM, a piece at a time.
        while let Err(status) = scratch.tell_about(CoreCall::DeviceAssign, vm, config) {
            if status != Status::Again {
                return Err(status);
            }
        }
    }
    Ok(())
}

/// log2 of the size of each BAR that is to have another.
fn shifts(device: &DeviceSpec) -> Option<[u8; 6]> {
    let mut shifts = [0; 6];
    for wanted in &device.bar_sizes {
        let place = shifts.get_mut(usize::try_from(wanted.bar).ok()?)?;
        let exact = wanted.bytes.is_power_of_two() && wanted.bytes > 1;
        let [shift, ..] = wanted.bytes.trailing_zeros().to_le_bytes();
        *place = exact.then_some(shift)?;
    }
    Some(shifts)
}

const fn flag(on: bool, bit: u32) -> u32 {
    if on { bit } else { 0 }
}

/// Puts a refusal of [`assign`] into words.
pub(super) fn refusal(status: Status) -> Option<&'static str> {
    match status {
        Status::NoDevice => Some("the machine has no such PCI function"),
        Status::InUse => Some("another VM has the device"),
        Status::Unprotected => {
            Some("the device does DMA, no SMMU bounds it, and unsafe_dma is not set")
        }
        Status::NoSuchSize => Some(
            "a BAR of the device cannot have the size that bar_sizes asks for; its sizes are in \
             /v1/devices",
        ),
        Status::NotIsolated => Some(
            "another VM has a device that this one can reach past the SMMU: the ports above them \
             have no access control; give both to one VM",
        ),
        _ => None,
    }
}

fn address(name: &str) -> Option<u16> {
    name.parse().ok().map(Address::raw)
}

/// Returns every function, `name_of` being the name of the VM with a handle.
pub(super) fn list(scratch: &Scratch, name_of: impl Fn(u64) -> Option<String>) -> Vec<Device> {
    (0..FUNCTIONS_MAX)
        .map_while(|n| {
            scratch
                .ask::<DeviceInfo>(CoreCall::DeviceInfo, Some(n))
                .ok()
        })
        .map(|info| view(&info, name_of(info.vm)))
        .collect()
}

/// Returns the sizes in a set that has bit n for 2^n bytes.
fn sizes(set: u64) -> Vec<u64> {
    (0..64)
        .map(|n| 1 << n)
        .filter(|bytes| set & bytes != 0)
        .collect()
}

fn view(info: &DeviceInfo, vm: Option<String>) -> Device {
    let flag = |n: u32| info.flags >> n & 1 == 1;
    let [mapped_4k, mapped_2m, mapped_1g] = info.mapped;
    Device {
        pci: Address::from_raw(info.function).to_string(),
        id: format!("{:04x}:{:04x}", info.vendor, info.device),
        class: format!("{:06x}", info.class),
        bar_bytes: info.bar_bytes.to_vec(),
        bar_sizes: info.bar_sizes.iter().map(|set| sizes(*set)).collect(),
        state: match info.state {
            DEVICE_ASSIGNED => DeviceState::Assigned,
            DEVICE_COMPANION => DeviceState::Companion,
            _ => DeviceState::Free,
        },
        vm,
        guest_slot: u32::from(info.guest_slot),
        profile: match info.profile {
            PROFILE_NVME => DeviceProfile::Nvme,
            PROFILE_NVGRACE_GPU => DeviceProfile::NvgraceGpu,
            _ => DeviceProfile::Generic,
        },
        memory_on: flag(0),
        reset_pending: flag(1),
        dma: flag(3),
        dma_bounded: flag(4),
        dma_declared: flag(6),
        dma_bytes: info.dma_bytes,
        resettable: flag(5),
        generation: info.generation,
        zaps: info.zaps,
        mapped_bytes: info.mapped_bytes,
        faults: DeviceFaults {
            mapped_4k,
            mapped_64k: info.mapped_64k,
            mapped_2m,
            mapped_1g,
            present: info.present,
            fell_back: info.fell_back,
            parked: info.parked,
            refused: info.refused,
            timeouts: info.timeouts,
            emulated: info.emulated,
        },
        dma_faults: info.dma_faults,
        dma_fault_at: info.dma_fault_at,
        touch_bytes: info.cell_bytes,
        touches: info.touches.to_vec(),
    }
}

/// Does what was asked; returns what was read.
pub(super) fn act(
    scratch: &Scratch,
    pci: &str,
    request: &DeviceRequest,
    data: &[u8],
) -> Result<Vec<u8>, DeviceError> {
    let function = u64::from(address(pci).ok_or(DeviceError::Unknown)?);
    let (bar, offset, bytes) = (u64::from(request.bar), request.offset, request.bytes);
    let place = bar << 56 | offset & 0x00ff_ffff_ffff_ffff;
    let done = match request.action {
        DeviceAction::Reset => reset(function).map(|()| Vec::new()),
        DeviceAction::Revoke => {
            let arguments = [function, bar, offset, bytes];
            call(CoreCall::DeviceRevoke, arguments).map(|_| Vec::new())
        }
        DeviceAction::Read => scratch.read(CoreCall::DeviceRead, function, place, bytes),
        DeviceAction::Write => scratch
            .write(CoreCall::DeviceWrite, function, place, data)
            .map(|()| Vec::new()),
    };
    done.map_err(|status| match status {
        Status::NoDevice => DeviceError::Unknown,
        Status::BadState => DeviceError::Free,
        Status::Off => DeviceError::Off,
        Status::Again => DeviceError::Busy,
        Status::NotReady => DeviceError::NotReady,
        _ => DeviceError::Range,
    })
}

fn reset(function: u64) -> Result<(), Status> {
    for _ in 0..SLICES {
        match call(CoreCall::DeviceReset, [function, 0, 0, 0]) {
            Err(Status::Again) => {}
            other => return other.map(|_| ()),
        }
    }
    Err(Status::Again)
}
