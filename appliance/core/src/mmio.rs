//! Loads and stores of guests that hit a device: the routing, and nothing else.

use core::sync::atomic::Ordering;

use ::vcpu::exit::Access;
use arch::{Ipa, Width};
use guest_abi::core_call::ExitClass;
use guest_abi::map::{
    GICD_BASE, GICD_BYTES, GICR_BASE, GICR_STRIDE, ITS_BASE, ITS_BYTES, PCI_ECAM_BASE,
    PCI_ECAM_BYTES, RTC_BASE, UART_BASE, UART_BYTES, UART_INTID,
};

use vgic::its::Progress;

use crate::guest::Vcpu;
use crate::passthrough::Stored;
use crate::serial::LinePrinter;
use crate::{exits, its, passthrough, root, schedule, timer, world};

/// Where in the guest's map an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Device {
    Distributor(u64),
    Redistributor { vcpu: usize, offset: u64 },
    Uart(u64),
    Clock(u64),
    Its(u64),
    PciConfig(u64),
    Nothing,
}

#[inline(always)]
fn device(ipa: u64, vcpus: usize) -> Device {
    if ipa.wrapping_sub(GICD_BASE) < GICD_BYTES {
        return Device::Distributor(ipa - GICD_BASE);
    }
    if ipa.wrapping_sub(UART_BASE) < UART_BYTES {
        return Device::Uart(ipa - UART_BASE);
    }
    let frame = ipa.wrapping_sub(GICR_BASE);
    if frame < GICR_STRIDE * vcpus as u64 {
        return Device::Redistributor {
            vcpu: (frame / GICR_STRIDE) as usize,
            offset: frame % GICR_STRIDE,
        };
    }
    if ipa.wrapping_sub(RTC_BASE) < UART_BYTES {
        return Device::Clock(ipa - RTC_BASE);
    }
    if ipa.wrapping_sub(ITS_BASE) < ITS_BYTES {
        return Device::Its(ipa - ITS_BASE);
    }
    if ipa.wrapping_sub(PCI_ECAM_BASE) < PCI_ECAM_BYTES {
        return Device::PciConfig(ipa - PCI_ECAM_BASE);
    }
    Device::Nothing
}

/// Performs the access and moves past it.
#[inline(always)]
pub(crate) fn access(vcpu: &mut Vcpu, ipa: Ipa, access: Access, write: bool) {
    let device = device(ipa.raw(), vcpu.vm().vcpus);
    if write {
        let value = vcpu.reg(access.register) & access.width.mask();
        store(vcpu, device, access.width, value);
    } else {
        let value = load(vcpu, device, access.width);
        vcpu.set_reg(access.register, access.extend(value));
    }
    exits::skip(vcpu);
}

/// The same for who comes a longer way: [`access`] is inlined only where it must be quick.
#[inline(never)]
pub(crate) fn access_again(vcpu: &mut Vcpu, ipa: Ipa, access: Access, write: bool) {
    self::access(vcpu, ipa, access, write);
}

#[inline(always)]
fn load(vcpu: &mut Vcpu, device: Device, width: Width) -> u64 {
    let vm = vcpu.vm();
    match device {
        Device::Distributor(offset) => {
            vcpu.count(ExitClass::Gic);
            if vgic::reads_live_state(offset) {
                world::sync(vcpu);
            }
            vm.vgic.lock().dist_read(offset, width)
        }
        Device::Redistributor { vcpu: n, offset } => {
            vcpu.count(ExitClass::Gic);
            if vgic::its::owns(offset) && vm.its.is_some() {
                return its::redist_load(vm, n, offset, width);
            }
            if vgic::reads_live_state(offset) {
                world::sync(vcpu);
                world::sync_timers(vcpu);
            }
            vm.vgic.lock().redist_read(n, offset, width)
        }
        Device::Uart(offset) => {
            vcpu.count(ExitClass::Uart);
            if vm.is_root() {
                return 0;
            }
            let (value, after) = vm.serial.lock().read(vm.shared(), offset);
            uart_line(vcpu, after);
            value
        }
        Device::Clock(offset) => {
            vcpu.count(ExitClass::Unclaimed);
            u64::from(
                vm.clock
                    .lock()
                    .read(offset, u64::from(timer::wall_clock_seconds())),
            )
        }
        Device::Its(offset) if vm.its.is_some() => {
            vcpu.count(ExitClass::Gic);
            its::load(vm, offset, width)
        }
        Device::PciConfig(offset) if vm.devices.load(Ordering::Relaxed) != 0 => {
            passthrough::config_load(vm, offset, width)
        }
        Device::Its(_) | Device::PciConfig(_) | Device::Nothing => {
            vcpu.count(ExitClass::Unclaimed);
            0
        }
    }
}

#[inline(always)]
fn store(vcpu: &mut Vcpu, device: Device, width: Width, value: u64) {
    let vm = vcpu.vm();
    let kick = match device {
        Device::Distributor(offset) => {
            vcpu.count(ExitClass::Gic);
            vm.vgic.lock().dist_write(offset, width, value)
        }
        Device::Redistributor { vcpu: n, offset } => {
            vcpu.count(ExitClass::Gic);
            if vgic::its::owns(offset) && vm.its.is_some() {
                return its::redist_store(vcpu, n, offset, width, value);
            }
            world::sync_timers(vcpu);
            vm.vgic.lock().redist_write(n, offset, width, value)
        }
        Device::Uart(offset) => {
            vcpu.count(ExitClass::Uart);
            if vm.is_root() {
                if offset == 0 {
                    ROOT_CONSOLE.lock().put(value as u8);
                }
                return;
            }
            let after = vm.serial.lock().write(vm.shared(), offset, value);
            uart_line(vcpu, after);
            return;
        }
        Device::Clock(offset) => {
            vcpu.count(ExitClass::Unclaimed);
            vm.clock
                .lock()
                .write(offset, value as u32, u64::from(timer::wall_clock_seconds()));
            return;
        }
        Device::Its(offset) if vm.its.is_some() => {
            vcpu.count(ExitClass::Gic);
            if its::store(vcpu, offset, width, value) == Progress::More {
                // What comes after this moves on to the same store again.
                vcpu.pc = vcpu.pc.wrapping_sub(4);
            }
            return;
        }
        Device::PciConfig(offset) if vm.devices.load(Ordering::Relaxed) != 0 => {
            if passthrough::config_store(vcpu, offset, width, value) == Stored::Again {
                // It has not happened yet: what comes after this moves on to it again.
                vcpu.pc = vcpu.pc.wrapping_sub(4);
            }
            return;
        }
        Device::Its(_) | Device::PciConfig(_) | Device::Nothing => {
            vcpu.count(ExitClass::Unclaimed);
            return;
        }
    };
    schedule::deliver(vm, kick);
}

static ROOT_CONSOLE: spin::Mutex<LinePrinter> = spin::Mutex::new(LinePrinter::new());

/// Ends the line that root has begun, if it has.
pub(crate) fn end_line() {
    ROOT_CONSOLE.lock().end();
}

/// Passes on what an access to the UART changed outside it.
#[inline(always)]
fn uart_line(vcpu: &Vcpu, after: crate::serial::After) {
    let vm = vcpu.vm();
    if after.moved {
        let kick = vm.vgic.lock().set_level(0, UART_INTID, after.line);
        schedule::deliver(vm, kick);
    }
    if after.news {
        root::ring(vm.slot);
    }
}
