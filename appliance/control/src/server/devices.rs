//! `/v1/devices`: PCI functions, and what is done to them.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use api::limits::DEVICES_MAX;
use api::{
    Code, DeviceAction, DeviceData, DeviceList, DeviceProfile, DeviceRequest, DeviceSpec,
    EventType, Problem,
};

use super::Server;
use super::vms::shown;
use crate::backend::{Backend, DeviceError};
use crate::http::reply::Reply;

/// Most bytes that one request reads or writes.
const ACCESS_MAX: usize = 1024;

impl Server {
    pub(super) fn device_list(backend: &dyn Backend) -> Reply {
        let devices = backend.devices();
        Reply::json(200, &DeviceList { devices })
    }

    pub(super) fn device_act(
        &mut self,
        backend: &mut dyn Backend,
        pci: &str,
        request: &DeviceRequest,
    ) -> Result<Reply, Problem> {
        let data = unhex(&request.data);
        let long = request.bytes > ACCESS_MAX as u64 && request.action == DeviceAction::Read;
        let Some(data) = data.filter(|data| data.len() <= ACCESS_MAX && !long) else {
            return Err(
                Problem::new(Code::Invalid, "the access cannot be as asked for")
                    .field("/data", format!("hexadecimal, at most {ACCESS_MAX} bytes"))
                    .field("/bytes", format!("at most {ACCESS_MAX}")),
            );
        };
        let read = backend
            .device_act(pci, request, &data)
            .map_err(|error| refusal(pci, error))?;
        let action = match request.action {
            DeviceAction::Read => {
                let data = hex(&read);
                return Ok(Reply::json(200, &DeviceData { data }));
            }
            DeviceAction::Reset => "device.reset",
            DeviceAction::Revoke => "device.revoked",
            DeviceAction::Write => "device.written",
        };
        let resource = format!("/v1/devices/{}", shown(pci));
        self.event(EventType::Lifecycle, action, resource, &[]);
        Ok(Reply::empty(204))
    }

    /// Reports devices that were not ready in time, or that reached for what is not theirs.
    pub(super) fn poll_devices(&mut self, backend: &dyn Backend) {
        if self.vms.values().all(|vm| vm.spec.devices.is_empty()) {
            return;
        }
        for device in backend.devices() {
            let now = (device.faults.timeouts, device.dma_faults);
            let before = self.device_troubles.insert(device.pci.clone(), now);
            let before = before.unwrap_or((0, 0));
            let resource = format!("/v1/devices/{}", device.pci);
            let vm = device.vm.unwrap_or_default();
            if now.0 > before.0 {
                let context = [("vm", vm.clone())];
                let resource = resource.clone();
                self.event(EventType::Guest, "device.not_ready", resource, &context);
            }
            if now.1 > before.1 {
                let at = format!("{:#x}", device.dma_fault_at);
                let context = [("vm", vm), ("address", at)];
                self.event(EventType::Guest, "device.dma_blocked", resource, &context);
            }
        }
    }
}

/// Checks the devices of a VM as far as that is possible without the machine.
pub(super) fn check_devices(devices: &[DeviceSpec], mut problem: Problem) -> Problem {
    if devices.len() > DEVICES_MAX {
        problem = problem.field("/devices", format!("at most {DEVICES_MAX}"));
    }
    for (n, device) in devices.iter().enumerate() {
        let names = [Some(&device.pci), device.memory.as_ref()];
        for name in names.into_iter().flatten() {
            if !is_address(name) {
                problem = problem.field(
                    format!("/devices/{n}/pci"),
                    format!("'{}' is not like 0000:00:02.0", shown(name)),
                );
            }
        }
        if (device.profile == DeviceProfile::NvgraceGpu) != device.memory.is_some() {
            problem = problem.field(
                format!("/devices/{n}/memory"),
                "an nvgrace-gpu names the function that is its memory, and nothing else does",
            );
        }
        for wanted in &device.bar_sizes {
            if wanted.bar > 5 || !wanted.bytes.is_power_of_two() || wanted.bytes < 1 << 20 {
                problem = problem.field(
                    format!("/devices/{n}/bar_sizes"),
                    "a BAR, 0 to 5, and a power of two from 1 MiB on that GET /v1/devices lists for it",
                );
            }
        }
        if device.registers_bar > 5 {
            problem = problem.field(format!("/devices/{n}/registers_bar"), "0 to 5");
        }
    }
    problem
}

/// Returns whether `name` is a function's address in segment 0, written in full.
fn is_address(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("0000:") else {
        return false;
    };
    let digits = rest.bytes().filter(|byte| byte.is_ascii_hexdigit()).count();
    digits == 5 && rest.len() == 7 && rest.get(2..3) == Some(":") && rest.get(5..6) == Some(".")
}

fn refusal(pci: &str, error: DeviceError) -> Problem {
    let pci = shown(pci);
    match error {
        DeviceError::Unknown => Problem::new(
            Code::DeviceNotFound,
            format!("the machine has no PCI function '{pci}'"),
        )
        .hint("GET /v1/devices lists those there are"),
        DeviceError::Free => {
            Problem::new(Code::DeviceOff, format!("no running VM has device '{pci}'"))
                .hint("start the VM that is to have it")
        }
        DeviceError::Range => Problem::new(
            Code::Invalid,
            format!("device '{pci}' has no such BAR, or it is smaller than that"),
        )
        .field("/offset", "outside the BAR, or not whole pages"),
        DeviceError::Off => Problem::new(
            Code::DeviceOff,
            format!("the guest has switched device '{pci}', or its memory, off"),
        ),
        DeviceError::Busy => Problem::new(
            Code::DeviceBusy,
            format!("device '{pci}' is being reset, or becoming ready"),
        )
        .hint("send the request again"),
        DeviceError::NotReady => Problem::new(
            Code::DeviceNotReady,
            format!("device '{pci}' did not become ready in time"),
        ),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads pairs of hexadecimal digits.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let mut pairs = text.as_bytes().chunks_exact(2);
    let bytes = pairs
        .by_ref()
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
            _ => None,
        })
        .collect();
    pairs.remainder().is_empty().then_some(bytes)?
}
