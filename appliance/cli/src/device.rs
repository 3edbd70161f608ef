//! Requests about devices.

use std::thread;
use std::time::{Duration, Instant};

use api::{Code, Device, DeviceAction, DeviceData, DeviceList, DeviceRequest, Problem, Vm, VmSpec};

use crate::client::Client;
use crate::error::Error;
use crate::hex;

/// How long a device that is being reset, or becoming ready, is waited for. The appliance gives
/// up after 30 s, and says so.
const PATIENCE: Duration = Duration::from_secs(40);
const PAUSE: Duration = Duration::from_millis(50);
/// Most bytes that one request reads or writes.
const ACCESS: usize = 1024;
/// Most bytes that one request revokes.
const REVOKE: u64 = 2 << 20;

/// A place in a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The BAR.
    pub bar: u32,
    /// Offset in it.
    pub offset: u64,
}

impl Client {
    /// Lists the PCI functions that VMs can have.
    pub fn device_list(&self) -> Result<Vec<Device>, Error> {
        Ok(self.get::<DeviceList>("/v1/devices")?.devices)
    }

    /// Returns a PCI function, as `0000:00:03.0`.
    pub fn device_get(&self, pci: &str) -> Result<Device, Error> {
        let mut devices = self.device_list()?.into_iter();
        devices.find(|device| device.pci == pci).ok_or_else(|| {
            let detail = format!("the machine has no PCI function '{pci}' for VMs");
            let problem = Problem::new(Code::DeviceNotFound, detail);
            Error::Refused(problem.hint("`skete device ls` lists those there are"))
        })
    }

    /// Takes all mappings of a device away and resets it.
    pub fn device_reset(&self, pci: &str) -> Result<(), Error> {
        let place = Place { bar: 0, offset: 0 };
        self.device_act(pci, DeviceAction::Reset, place, 0, &[])?;
        Ok(())
    }

    /// Takes mappings of `bytes` bytes from `place` on away, a multiple of 4096.
    pub fn device_revoke(&self, pci: &str, place: Place, bytes: u64) -> Result<(), Error> {
        let mut done = 0_u64;
        // At least one request, so that the appliance says what is wrong with no bytes.
        loop {
            let piece = bytes.saturating_sub(done).min(REVOKE);
            let at = place.further(done);
            self.device_act(pci, DeviceAction::Revoke, at, piece, &[])?;
            done = done.saturating_add(piece);
            if done >= bytes {
                return Ok(());
            }
        }
    }

    /// Reads `bytes` bytes from `place` on, or to the end of the BAR.
    pub fn device_read(&self, pci: &str, place: Place, bytes: u64) -> Result<Vec<u8>, Error> {
        let mut all = Vec::new();
        while let Some(left @ 1..) = bytes.checked_sub(all.len() as u64) {
            let piece = left.min(ACCESS as u64);
            let at = place.further(all.len() as u64);
            let text = match self.device_act(pci, DeviceAction::Read, at, piece, &[]) {
                // The end of the BAR lay where a piece ended.
                Err(why) if !all.is_empty() && why.is(Code::Invalid) => break,
                other => other?,
            };
            let read = hex::parse(&text)
                .ok_or_else(|| Error::Protocol(format!("'{text}' is not hexadecimal")))?;
            let short = (read.len() as u64) < piece;
            all.extend(read);
            if short {
                break;
            }
        }
        Ok(all)
    }

    /// Writes bytes from `place` on.
    pub fn device_write(&self, pci: &str, place: Place, data: &[u8]) -> Result<(), Error> {
        let mut at = place;
        for piece in data.chunks(ACCESS) {
            self.device_act(pci, DeviceAction::Write, at, 0, piece)?;
            at = at.further(piece.len() as u64);
        }
        Ok(())
    }

    /// Changes the definition of a VM that does not run; fails if somebody else changes it
    /// meanwhile.
    pub fn vm_change(
        &self,
        name: &str,
        change: impl FnOnce(&mut VmSpec) -> Result<(), Error>,
    ) -> Result<Vm, Error> {
        let (vm, etag) = self.vm_and_tag(name)?;
        let mut spec = vm.spec;
        change(&mut spec)?;
        self.vm_replace(name, &spec, &etag)
    }

    /// Makes a request again while the device is busy with a reset.
    fn device_act(
        &self,
        pci: &str,
        action: DeviceAction,
        place: Place,
        bytes: u64,
        data: &[u8],
    ) -> Result<String, Error> {
        let request = DeviceRequest {
            action,
            bar: place.bar,
            offset: place.offset,
            bytes,
            data: hex::show(data),
        };
        let path = format!("/v1/devices/{pci}/actions");
        let begin = Instant::now();
        loop {
            match self.post(&path, &request) {
                Err(why) if why.is(Code::DeviceBusy) && begin.elapsed() < PATIENCE => {
                    thread::sleep(PAUSE);
                }
                Err(why) => return Err(why),
                Ok(None) => return Ok(String::new()),
                Ok(Some(DeviceData { data })) => return Ok(data),
            }
        }
    }
}

impl Place {
    fn further(self, bytes: u64) -> Self {
        Self {
            offset: self.offset.saturating_add(bytes),
            ..self
        }
    }
}
