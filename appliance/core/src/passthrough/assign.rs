//! Giving a function to a VM, and taking it back. All steps or none (`devmem::open`).

use arch::Pa;
use core::sync::atomic::Ordering;
use devmem::profile::{Profile, nvgrace_gpu};
use devmem::{Memory, Step, Steps, TouchMap, Trace, Why};
use guest_abi::core_call::{Status, VmState};
use guest_abi::device::{
    DECLARED_DMA, DeviceConfig, NO_FUNCTION, PROFILE_GENERIC, PROFILE_NVGRACE_GPU, PROFILE_NVME,
    UNSAFE_DMA,
};
use guest_abi::map::PCI_INTX_INTID;
use pci::{Address, BARS, Bar, Emulated, Function, Kind, MsiX};

use super::config::settle;
use super::ecam::Ecam;
use super::zap::{self, Slice};
use super::{Assigned, Dma, FUNCTIONS, Shown, Slot, msix, now_ms, reset, smmu};
use crate::guest::Vm;
use crate::{gic, per_cpu, schedule};

/// Finds a function by its requester ID.
pub(super) fn find(function: u64) -> Result<usize, Status> {
    let wanted = u16::try_from(function).map_err(|_| Status::NoDevice)?;
    let is = |slot: &Slot| slot.address == Address::from_raw(wanted);
    FUNCTIONS
        .iter()
        .position(|slot| slot.lock().as_ref().is_some_and(is))
        .ok_or(Status::NoDevice)
}

/// Gives `vm` what `wanted` says; returns its device number on the guest's bus.
pub(super) fn assign(vm: &Vm, wanted: &DeviceConfig) -> Result<u64, Status> {
    if vm.state() != VmState::Built {
        return Err(Status::BadState);
    }
    let profile = match wanted.profile {
        PROFILE_GENERIC => Profile::Generic,
        PROFILE_NVME => Profile::Nvme,
        PROFILE_NVGRACE_GPU => Profile::NvgraceGpu,
        _ => return Err(Status::Invalid),
    };
    if wanted.flags & !(UNSAFE_DMA | DECLARED_DMA) != 0 || wanted.registers_bar as usize >= BARS {
        return Err(Status::Invalid);
    }
    let index = find(u64::from(wanted.function))?;
    let companion = match (profile, wanted.memory) {
        (Profile::NvgraceGpu, NO_FUNCTION) => return Err(Status::Invalid),
        (Profile::NvgraceGpu, memory) => Some(find(u64::from(memory))?),
        (Profile::Generic | Profile::Nvme, NO_FUNCTION) => None,
        (Profile::Generic | Profile::Nvme, _) => return Err(Status::Invalid),
    };
    if companion == Some(index) {
        return Err(Status::Invalid);
    }
    let mut opening = Opening {
        vm,
        wanted,
        profile,
        index,
        companion,
        bars: [None; BARS],
        config: None,
        dma: Dma::Never,
        wire: None,
        messages: false,
        number: 0,
    };
    devmem::open(&mut opening).map_err(|failed| failed.error)?;
    Ok(u64::from(opening.number))
}

/// A function on its way to a VM.
struct Opening<'a> {
    vm: &'a Vm,
    wanted: &'a DeviceConfig,
    profile: Profile,
    index: usize,
    companion: Option<usize>,
    bars: [Option<Shown>; BARS],
    config: Option<Emulated>,
    dma: Dma,
    wire: Option<(u32, boot_info::Interrupt)>,
    messages: bool,
    number: u16,
}

impl Steps for Opening<'_> {
    type Error = Status;

    fn run(&mut self, step: Step) -> Result<(), Status> {
        match step {
            Step::Claim => self.claim(),
            Step::PowerUp => self.slot(|slot, _| {
                let mut config = Ecam::of(slot.address);
                slot.function.set_command(&mut config, Function::QUIET);
                slot.function.set_power(&mut config, true);
                Ok(())
            }),
            Step::MapRegisters => {
                self.resize()?;
                self.show()?;
                self.read_config()
            }
            Step::Reset => self.slot(|slot, _| {
                slot.rests_until_ms = reset::begin(slot, now_ms());
                Ok(())
            }),
            Step::Dma => self.dma(),
            Step::Interrupt => {
                self.interrupt()?;
                self.messages()
            }
            Step::Publish => self.publish(),
        }
    }

    fn undo(&mut self, step: Step) {
        match step {
            Step::Claim => {
                let _ = self.slot(|slot, _| {
                    slot.companion_of = None;
                    Ok(())
                });
                self.free_companion();
            }
            Step::PowerUp | Step::Reset => {
                let _ = self.slot(|slot, _| {
                    let mut config = Ecam::of(slot.address);
                    slot.function.set_command(&mut config, Function::QUIET);
                    Ok(())
                });
            }
            Step::MapRegisters => {
                self.bars = [None; BARS];
                let _ = self.slot(|slot, _| {
                    found_sizes(slot);
                    Ok(())
                });
            }
            Step::Dma => {
                if self.dma == Dma::Bounded {
                    smmu::attach(self.wanted.function, None);
                }
                self.dma = Dma::Never;
            }
            Step::Interrupt => {
                untie(self.vm, self.wire.take());
                msix::close(self.index);
            }
            Step::Publish => {}
        }
    }
}

impl Opening<'_> {
    fn slot<T>(
        &mut self,
        f: impl FnOnce(&mut Slot, &mut Self) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let mut slot = FUNCTIONS.get(self.index).ok_or(Status::NoDevice)?.lock();
        f(slot.as_mut().ok_or(Status::NoDevice)?, self)
    }

    fn free_companion(&mut self) {
        if let Some(function) = self.companion.and_then(|n| FUNCTIONS.get(n))
            && let Some(slot) = function.lock().as_mut()
        {
            slot.companion_of = None;
        }
    }

    /// Takes the function, and the one that is its memory. Only root's one vCPU gets here, so
    /// nobody comes in between.
    fn claim(&mut self) -> Result<(), Status> {
        for n in [Some(self.index), self.companion].into_iter().flatten() {
            let mut slot = FUNCTIONS.get(n).ok_or(Status::NoDevice)?.lock();
            let slot = slot.as_mut().ok_or(Status::NoDevice)?;
            if slot.assigned.is_some() || slot.companion_of.is_some() {
                return Err(Status::InUse);
            }
            // Its last owner's end reset it.
            let now = now_ms();
            reset::let_go(slot, now);
            if slot.held_until_ms.is_some() || now < slot.rests_until_ms {
                return Err(Status::Again);
            }
        }
        if smmu::is_there() {
            let group = self.slot(|slot, _| Ok(slot.group))?;
            let is_near = |slot: &Slot| {
                let others = slot.assigned.as_ref();
                slot.group == group && others.is_some_and(|device| device.vm != self.vm.handle())
            };
            let mut slots = FUNCTIONS.iter();
            if slots.any(|slot| slot.lock().as_ref().is_some_and(is_near)) {
                return Err(Status::NotIsolated);
            }
        }
        if let Some(function) = self.companion.and_then(|n| FUNCTIONS.get(n))
            && let Some(slot) = function.lock().as_mut()
        {
            slot.companion_of = Some(self.vm.handle());
            // Its memory answers, and it does nothing else.
            let quiet = Function::QUIET | pci::command::MEMORY;
            let mut config = Ecam::of(slot.address);
            slot.function.set_command(&mut config, quiet);
        }
        Ok(())
    }

    /// Gives BARs the sizes that were asked for. Memory is off.
    fn resize(&mut self) -> Result<(), Status> {
        let shifts = self.wanted.bar_shift;
        self.slot(|slot, _| {
            let mut config = Ecam::of(slot.address);
            for (n, (shift, room)) in shifts.into_iter().zip(slot.room).enumerate() {
                if shift == 0 {
                    continue;
                }
                let bytes = 1_u64.checked_shl(shift.into()).unwrap_or(0);
                if bytes > room || !slot.function.resize(&mut config, n, bytes) {
                    found_sizes(slot);
                    return Err(Status::NoSuchSize);
                }
            }
            Ok(())
        })
    }

    /// Decides what each BAR shows.
    fn show(&mut self) -> Result<(), Status> {
        if self.profile == Profile::NvgraceGpu {
            return self.show_gpu();
        }
        self.slot(|slot, this| {
            let found = slot.function.bars.iter().zip(slot.placed);
            for (n, ((bar, pa), place)) in found.zip(&mut this.bars).enumerate() {
                let (Some(bar), Some(pa)) = (*bar, pa) else {
                    continue;
                };
                let memory = if bar.prefetchable {
                    Memory::WriteCombining
                } else {
                    Memory::Device
                };
                *place = Some(Shown {
                    bar,
                    pa,
                    len: bar.size,
                    memory,
                    tells: false,
                    withheld: withheld(&slot.function, n),
                });
            }
            Ok(())
        })
    }

    /// BAR 0 is the function's registers; BAR 4 and perhaps BAR 2 its companion's memory.
    fn show_gpu(&mut self) -> Result<(), Status> {
        let companion = self.companion.and_then(|n| FUNCTIONS.get(n));
        let largest = companion.and_then(|function| {
            let slot = function.lock();
            let slot = slot.as_ref()?;
            let bars = slot.function.bars.iter().zip(slot.placed);
            let placed = bars.filter_map(|(bar, pa)| Some(((*bar)?.size, pa?)));
            placed.max_by_key(|(size, _)| *size)
        });
        let (bytes, base) = largest.ok_or(Status::NoDevice)?;
        self.slot(|slot, this| {
            let n = this.wanted.registers_bar as usize;
            let bar = slot.function.bars.get(n).copied().flatten();
            let pa = slot.placed.get(n).copied().flatten();
            let (bar, pa) = bar.zip(pa).ok_or(Status::NoDevice)?;
            this.bars[0] = Some(Shown {
                bar,
                pa,
                len: bar.size,
                memory: Memory::Device,
                tells: true,
                withheld: withheld(&slot.function, n),
            });
            let word = slot.function.dvsec(
                &mut Ecam::of(slot.address),
                nvgrace_gpu::DVSEC_ID,
                nvgrace_gpu::DVSEC_MIG_OFFSET,
            );
            let mig = nvgrace_gpu::Mig::from_dvsec(word);
            let split = nvgrace_gpu::split(bytes, mig).map_err(|_| Status::Invalid)?;
            this.bars[4] = Some(memory_bar(base, &split.usemem)?);
            if let Some(resmem) = &split.resmem {
                this.bars[2] = Some(memory_bar(base, resmem)?);
            }
            Ok(())
        })
    }

    fn dma(&mut self) -> Result<(), Status> {
        let unsafe_dma = self.wanted.flags & UNSAFE_DMA != 0;
        self.dma = match (smmu::is_there(), unsafe_dma, self.profile) {
            (true, _, _) => {
                let view = &self.vm.gmap.dma;
                let stage2 = view.open(self.vm)?;
                let first = self.vm.devices.load(Ordering::Relaxed) == 0;
                view.set_declared(self.wanted.flags & DECLARED_DMA != 0, first);
                if !smmu::attach(self.wanted.function, Some(stage2)) {
                    return Err(Status::NoDevice);
                }
                Dma::Bounded
            }
            (false, true, _) => Dma::Unbounded,
            // An NVMe controller without DMA is none.
            (false, false, Profile::Nvme) => return Err(Status::Unprotected),
            (false, false, _) => Dma::Never,
        };
        Ok(())
    }

    /// Chooses a device number, and leads the function's wire to the guest's for that number.
    /// A wire that two functions share is given to nobody a second time.
    fn interrupt(&mut self) -> Result<(), Status> {
        let mut taken = 1_u32;
        let mut shared = false;
        let wire = self.slot(|slot, _| Ok(slot.wire))?;
        for slot in &FUNCTIONS {
            let slot = slot.lock();
            let Some(device) = slot.as_ref().and_then(|slot| slot.assigned.as_ref()) else {
                continue;
            };
            if device.vm == self.vm.handle() {
                taken |= 1 << device.number;
            }
            let same = |other: boot_info::Interrupt| Some(other.intid) == wire.map(|w| w.intid);
            shared |= device.wire.is_some_and(|(_, other)| same(other));
        }
        self.number = taken.trailing_ones() as u16;
        if self.number >= 32 {
            return Err(Status::Exhausted);
        }
        let intid = PCI_INTX_INTID + u32::from(self.number % 4);
        let free = taken >> (self.number % 4) & 0x1111_1110 == 0 || self.number < 4;
        if let Some(wire) = wire.filter(|_| !shared && free) {
            let kick = self.vm.vgic.lock().set_hardware(0, intid, Some(wire.intid));
            schedule::deliver(self.vm, kick);
            let home = self.vm.vcpu(0).map_or(0, |vcpu| vcpu.home());
            let mpidr = per_cpu::cpu(home).mpidr.load(Ordering::Relaxed);
            gic::enable_spi(wire, mpidr);
            self.wire = Some((intid, wire));
        }
        Ok(())
    }

    /// Returns MSI-X as the guest is to see it: a GPU's only if table and pending bits are in the
    /// one BAR of the function that it has, which is BAR 0 to it.
    fn offered(&self, function: &Function) -> Option<MsiX> {
        let offered = msix::offered(&function.capabilities)?;
        if self.profile != Profile::NvgraceGpu {
            return Some(offered);
        }
        let only = [offered.table_bar, offered.pba_bar];
        let theirs = only.map(|bar| u32::from(bar) == self.wanted.registers_bar);
        (theirs == [true; 2]).then_some(MsiX {
            table_bar: 0,
            pba_bar: 0,
            ..offered
        })
    }

    /// Gives the guest the function's messages, if the machine can pass them on.
    fn messages(&mut self) -> Result<(), Status> {
        if self
            .config
            .as_ref()
            .is_none_or(|config| config.msi_x().is_none())
        {
            return Ok(());
        }
        self.slot(|slot, this| {
            this.messages = msix::open(this.index, slot, this.vm, this.number, this.dma);
            Ok(())
        })
    }

    /// Reads what the guest is to see of configuration space, while the function can be
    /// accessed: from its reset on it cannot.
    fn read_config(&mut self) -> Result<(), Status> {
        self.slot(|slot, this| {
            let mut function = slot.function;
            for (bar, shown) in function.bars.iter_mut().zip(&this.bars) {
                *bar = shown.map(|shown| shown.bar);
            }
            function.pin = 1;
            function.capabilities.msi_x = this.offered(&function);
            if let Some(express) = function.capabilities.express.as_mut() {
                // To the guest it is its own, by whichever way core does it.
                express.flr = reset::is_possible(slot);
            }
            let mut config = Ecam::of(slot.address);
            this.config = Some(Emulated::new(&mut config, &function, true, true));
            Ok(())
        })
    }

    fn publish(&mut self) -> Result<(), Status> {
        self.slot(|slot, this| {
            let mut emulated = this.config.take().ok_or(Status::NoDevice)?;
            emulated.limit(this.wire.is_some(), this.messages);
            let sizes = this.bars.iter().flatten().map(|shown| shown.bar.size);
            let largest = sizes.max().unwrap_or(4096);
            slot.assigned = Some(Assigned {
                vm: this.vm.handle(),
                index: this.index,
                number: this.number,
                profile: this.profile,
                state: devmem::Device::new(this.profile.policy()),
                config: emulated,
                bars: this.bars,
                zap: None,
                // The reset took its addresses.
                restore: true,
                quiet_until_ms: slot.rests_until_ms,
                dma: this.dma,
                wire: this.wire,
                messages: this.messages,
                vectors_lost: false,
                companion: this.companion,
                trace: Trace::new(),
                touches: TouchMap::new(largest),
                timeouts: 0,
                dma_faults: 0,
                dma_fault_at: 0,
                mapped_bytes: 0,
                waiter: None,
            });
            Ok(())
        })?;
        self.vm.devices.fetch_or(1 << self.index, Ordering::Release);
        Ok(())
    }
}

/// Gives BARs the sizes again that they were found with.
fn found_sizes(slot: &mut Slot) {
    let mut config = Ecam::of(slot.address);
    for (n, bytes) in slot.found_bytes.into_iter().enumerate() {
        let now = slot.function.bars.get(n).copied().flatten();
        if now.is_some_and(|bar| bar.size != bytes) {
            slot.function.resize(&mut config, n, bytes);
        }
    }
}

/// Returns first and last byte of what of BAR `n` is never mapped.
fn withheld(function: &Function, n: usize) -> Option<(u64, u64)> {
    let msi_x = function.capabilities.msi_x?;
    let parts = [
        (msi_x.table_bar, msi_x.table_offset, msi_x.table_bytes()),
        (msi_x.pba_bar, msi_x.pba_offset, msi_x.pba_bytes()),
    ];
    parts
        .into_iter()
        .filter(|(bar, ..)| usize::from(*bar) == n)
        .map(|(_, offset, bytes)| (u64::from(offset), u64::from(offset) + bytes))
        .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
        .map(|(from, to)| (from & !0xfff, to.next_multiple_of(4096) - 1))
}

fn memory_bar(base: Pa, part: &nvgrace_gpu::Part) -> Result<Shown, Status> {
    Ok(Shown {
        bar: Bar {
            kind: Kind::Memory64,
            size: part.bar_size,
            prefetchable: true,
        },
        pa: base.checked_add(part.offset).ok_or(Status::Invalid)?,
        len: part.len,
        memory: part.memory,
        tells: false,
        withheld: None,
    })
}

fn untie(vm: &Vm, wire: Option<(u32, boot_info::Interrupt)>) {
    if let Some((intid, wire)) = wire {
        gic::disable_spi(wire.intid);
        let kick = vm.vgic.lock().set_hardware(0, intid, None);
        schedule::deliver(vm, kick);
    }
}

/// Takes all functions back from a VM that does not run, a slice at a time.
///
/// [`Status::Again`] until it is done. What a function's memory holds stays there: only a
/// device that clears it at its reset hides it from its next owner.
pub(crate) fn release(vm: &Vm) -> Result<(), Status> {
    if vm.state() == VmState::Running {
        return Err(Status::BadState);
    }
    for (n, function) in FUNCTIONS.iter().enumerate() {
        if vm.devices.load(Ordering::Acquire) >> n & 1 == 0 {
            continue;
        }
        let mut slot = function.lock();
        let Some(slot) = slot.as_mut() else { continue };
        let Some(device) = slot.assigned.as_mut() else {
            continue;
        };
        let Slice::Done(duty) = zap::slice(device, Why::Closed) else {
            return Err(Status::Again);
        };
        device.state.taken(duty, 0);
        if now_ms() < device.quiet_until_ms {
            return Err(Status::Again);
        }
        settle(slot, now_ms());
        let Some(device) = slot.assigned.take() else {
            continue;
        };
        vm.devices.fetch_and(!(1 << n), Ordering::Release);
        let mut config = Ecam::of(slot.address);
        slot.function.set_command(&mut config, Function::QUIET);
        slot.function.set_power(&mut config, true);
        found_sizes(slot);
        slot.rests_until_ms = reset::begin(slot, now_ms());
        if device.dma == Dma::Bounded {
            smmu::attach(slot.address.raw(), None);
        }
        untie(vm, device.wire);
        msix::close(n);
        let companion = device.companion.and_then(|n| FUNCTIONS.get(n));
        if let Some(mut other) = companion.map(|function| function.lock())
            && let Some(other) = other.as_mut()
        {
            other.companion_of = None;
            let mut config = Ecam::of(other.address);
            other.function.set_command(&mut config, Function::QUIET);
        }
    }
    vm.gmap.dma.close()
}
