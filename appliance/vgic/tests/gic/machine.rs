//! The hardware around the model, and what core does with it: virtual CPU interfaces with
//! list registers (IHI 0069H chapter 5 and 12.4, literal bit positions), a physical GIC for
//! hardware-backed interrupts, and the protocol of the crate's documentation.

use std::collections::BTreeMap;

use vgic::its::{self, Its};
use vgic::{Kick, Level, Lpis, Lr, LrSet, Vgic, Width};

use crate::its_spec::Memory;

/// One physical CPU's virtual interface, with the vCPU of the same number on it.
#[derive(Clone, Debug)]
pub(crate) struct Interface {
    /// ICH_LR<n>_EL2 in hardware.
    pub(crate) lr: [u64; 16],
    /// ICH_HCR_EL2 in hardware.
    pub(crate) hcr: u64,
    /// ICH_VMCR_EL2 in hardware.
    pub(crate) vmcr: u64,
    /// Active priorities, the most urgent one last.
    pub(crate) apr: Vec<u8>,
    /// Core's copy.
    pub(crate) saved: LrSet,
    /// The vCPU is on its CPU.
    pub(crate) running: bool,
}

/// A physical interrupt that belongs to the VM.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Physical {
    pub(crate) wire: bool,
    pub(crate) active: bool,
}

#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) gic: Vgic,
    pub(crate) cpu: Vec<Interface>,
    /// By vCPU (0 for SPIs) and INTID.
    pub(crate) physical: BTreeMap<(usize, u32), Physical>,
    /// Entries into guests that had to write list registers.
    pub(crate) refills: u64,
    pub(crate) its: Option<Box<Its>>,
    pub(crate) memory: Memory,
    /// A list register keeps an acknowledged LPI until its end, as QEMU's do.
    pub(crate) keeps_lpis: bool,
    /// Writes that had to be made again.
    pub(crate) again: u64,
}

/// What the ITS sees of the machine.
struct Port<'a> {
    gic: &'a mut Vgic,
    memory: &'a mut Memory,
    kick: Kick,
    /// Accesses to memory so far.
    accesses: u64,
}

impl its::Machine for Port<'_> {
    fn read(&mut self, at: u64, bytes: &mut [u8]) -> bool {
        self.accesses += 1;
        let there = self.memory.slice(at, bytes.len());
        there.map(|from| bytes.copy_from_slice(from)).is_some()
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> bool {
        self.accesses += 1;
        let there = self.memory.slice(at, bytes.len());
        there.map(|to| to.copy_from_slice(bytes)).is_some()
    }

    fn gic(&mut self, step: impl FnOnce(&mut Vgic) -> Kick) {
        self.kick |= step(self.gic);
    }
}

/// Physical INTIDs differ from virtual ones, so that mixing them up shows.
pub(crate) fn pintid(intid: u32) -> u32 {
    if intid < 32 { intid } else { intid + 100 }
}

pub(crate) fn width(bytes: u64) -> Width {
    match bytes {
        1 => Width::Byte,
        2 => Width::Half,
        4 => Width::Word,
        _ => Width::Double,
    }
}

impl Machine {
    pub(crate) fn new(vcpus: usize, lrs: u8, hardware: &[(usize, u32)]) -> Self {
        let mut gic = Vgic::new(u32::try_from(vcpus).unwrap());
        let mut physical = BTreeMap::new();
        for (v, id) in hardware {
            let _ = gic.set_hardware(*v, *id, Some(pintid(*id)));
            physical.insert((*v, *id), Physical::default());
        }
        let interface = Interface {
            lr: [0; 16],
            hcr: 0,
            vmcr: 0xf800_0003,
            apr: Vec::new(),
            saved: LrSet::new(lrs),
            running: false,
        };
        Self {
            gic,
            cpu: vec![interface; vcpus],
            physical,
            refills: 0,
            its: None,
            memory: Memory(Vec::new()),
            keeps_lpis: false,
            again: 0,
        }
    }

    /// Gives the machine an ITS.
    pub(crate) fn with_its(mut self, keeps_lpis: bool) -> Self {
        self.gic.attach_lpis(Box::leak(Box::new(Lpis::new())));
        self.its = Some(Box::new(Its::new(self.gic.vcpus())));
        self.memory = Memory::new();
        self.keeps_lpis = keeps_lpis;
        self
    }

    /// Runs `f` with the ITS and what it sees; it has to be there.
    fn on_its<T>(&mut self, f: impl FnOnce(&mut Its, &mut Port<'_>) -> T) -> T {
        let mut port = Port {
            gic: &mut self.gic,
            memory: &mut self.memory,
            kick: Kick::NONE,
            accesses: 0,
        };
        let its = self.its.as_mut().expect("the machine has an ITS");
        let result = f(its, &mut port);
        let (kick, accesses) = (port.kick, port.accesses);
        assert!(accesses <= 64, "{accesses} accesses at once");
        self.check_kick(kick);
        result
    }

    pub(crate) fn its_read(&mut self, offset: u64, bytes: u64) -> u64 {
        self.on_its(|its, _| its.read(offset, width(bytes)))
    }

    /// Makes a write until it is done, as the vCPU does that stays on its instruction.
    pub(crate) fn its_write(&mut self, offset: u64, bytes: u64, value: u64) {
        for round in 0.. {
            assert!(round <= 0x1_0000, "a queue without end");
            let progress = self.on_its(|its, port| its.write(port, offset, width(bytes), value));
            if progress == its::Progress::Done {
                return;
            }
            self.again += 1;
        }
    }

    pub(crate) fn message(&mut self, device: u32, event: u32) {
        self.on_its(|its, port| port.kick |= its.signal(port.gic, device, event));
    }

    /// Copies hardware to the saved set, as core does before a fold.
    fn save(&mut self, v: usize) {
        let cpu = &mut self.cpu[v];
        for n in 0..16 {
            if cpu.saved.used >> n & 1 == 1 {
                cpu.saved.lr[n] = Lr::from_raw(cpu.lr[n]);
            }
        }
        // EOIcount is bits 31:27; read back when LRENPIE (bit 2) was set.
        if cpu.saved.hcr & 4 != 0 {
            cpu.saved.hcr = cpu.hcr;
        }
        cpu.saved.vmcr = cpu.vmcr;
    }

    /// Leaves the guest and folds.
    pub(crate) fn fold(&mut self, v: usize) {
        self.save(v);
        let kick = self.gic.fold(v, &self.cpu[v].saved);
        self.check_kick(kick);
        self.give_back(v);
    }

    /// Deactivates what the model no longer needs, as core does where it folds and fills.
    fn give_back(&mut self, v: usize) {
        while self.gic.owes_deactivation(v) {
            let Some(p) = self.gic.next_deactivation(v) else {
                continue;
            };
            self.deactivate_physical(v, p);
        }
    }

    /// Fills and writes hardware.
    pub(crate) fn fill(&mut self, v: usize) {
        self.save(v);
        let kick = self.gic.fill(v, &mut self.cpu[v].saved);
        self.check_kick(kick);
        self.refills += 1;
        let cpu = &mut self.cpu[v];
        let count = usize::from(cpu.saved.count);
        for n in 0..16 {
            if cpu.saved.write >> n & 1 == 1 {
                assert!(n < count, "only implemented list registers are written");
                cpu.lr[n] = cpu.saved.lr[n].raw();
            }
            let state = cpu.lr[n] >> 62;
            assert_eq!(cpu.saved.used >> n & 1 == 1, state != 0, "used says which");
            assert!(
                state != 3 || cpu.lr[n] >> 61 & 1 == 0,
                "HW with pending and active"
            );
        }
        let mut ids: Vec<u64> = cpu
            .lr
            .iter()
            .filter(|lr| *lr >> 62 != 0)
            .map(|lr| lr & 0xffff_ffff)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(
            ids.len(),
            cpu.saved.used.count_ones() as usize,
            "an INTID twice"
        );
        cpu.hcr = cpu.saved.hcr;
        self.give_back(v);
    }

    /// Every vCPU named must be marked, or core would not know on the way in.
    pub(crate) fn check_kick(&self, kick: Kick) {
        for v in 0..self.cpu.len() {
            assert!(!kick.contains(v) || self.gic.wants_refill(v));
        }
        assert_eq!(
            kick.bits() >> self.cpu.len(),
            0,
            "a vCPU that does not exist"
        );
    }

    /// Does core's duties until nothing is left: deactivations, kicks, maintenance.
    pub(crate) fn serve(&mut self) {
        for round in 0.. {
            assert!(round < 100, "core never gets back into the guest");
            let mut idle = true;
            for v in 0..self.cpu.len() {
                // Core looks for these only where it folds and fills: a kick has to say so.
                if self.gic.wants_refill(v) && self.gic.owes_deactivation(v) {
                    idle = false;
                    self.give_back(v);
                }
                if self.cpu[v].running && (self.gic.wants_refill(v) || self.maintenance(v)) {
                    idle = false;
                    self.fill(v);
                    // Whatever the reason was must be gone, or the guest never runs.
                    assert!(
                        !self.maintenance(v),
                        "maintenance interrupt at entry: {:?}",
                        self.cpu[v]
                    );
                }
            }
            if idle {
                let owed = (0..self.cpu.len()).any(|v| self.gic.owes_deactivation(v));
                assert!(
                    !owed,
                    "a physical interrupt stays active, and nobody was told"
                );
                return;
            }
        }
    }

    fn deactivate_physical(&mut self, v: usize, p: u32) {
        let (v, id) = if p < 32 { (v, p) } else { (0, p - 100) };
        let physical = self.physical.get_mut(&(v, id)).expect("one of the VM's");
        assert!(physical.active, "deactivated twice: {id}");
        physical.active = false;
        self.fire(v, id);
    }

    /// The physical GIC: an asserted, inactive interrupt goes to core, which leaves it active.
    fn fire(&mut self, v: usize, id: u32) {
        let physical = self.physical.get_mut(&(v, id)).unwrap();
        if physical.wire && !physical.active {
            physical.active = true;
            let kick = self.gic.set_level(v, id, Level::High);
            self.check_kick(kick);
        }
    }

    /// A wire changes.
    pub(crate) fn wire(&mut self, v: usize, id: u32, high: bool) {
        let level = if high { Level::High } else { Level::Low };
        let v = if id < 32 { v } else { 0 };
        if let Some(physical) = self.physical.get_mut(&(v, id)) {
            physical.wire = high;
            let kick = self.gic.sample(v, id, level);
            self.check_kick(kick);
            self.fire(v, id);
        } else {
            let kick = self.gic.set_level(v, id, level);
            self.check_kick(kick);
        }
    }

    /// Whether ICH_MISR_EL2 is not zero.
    pub(crate) fn maintenance(&self, v: usize) -> bool {
        let cpu = &self.cpu[v];
        let hcr = |bit: u32| cpu.hcr >> bit & 1 == 1;
        let count = usize::from(cpu.saved.count);
        let lrs = &cpu.lr[..count];
        let eoi = lrs
            .iter()
            .any(|lr| lr >> 62 == 0 && lr >> 61 & 1 == 0 && lr >> 41 & 1 == 1);
        let valid = lrs.iter().filter(|lr| *lr >> 62 != 0).count();
        let none_pending = !lrs.iter().any(|lr| lr >> 62 == 1);
        let (grp0, grp1) = (cpu.vmcr & 1 == 1, cpu.vmcr >> 1 & 1 == 1);
        eoi || hcr(1) && valid <= 1
            || hcr(2) && cpu.hcr >> 27 & 0x1f != 0
            || hcr(3) && none_pending
            || hcr(4) && grp0
            || hcr(5) && !grp0
            || hcr(6) && grp1
            || hcr(7) && !grp1
    }

    /// ICC_IAR<group>_EL1: returns 1023 if nothing of that group can be acknowledged.
    pub(crate) fn acknowledge(&mut self, v: usize, group1: bool) -> u32 {
        let cpu = &mut self.cpu[v];
        let (grp0, grp1) = (cpu.vmcr & 1 == 1, cpu.vmcr >> 1 & 1 == 1);
        let pmr = (cpu.vmcr >> 24 & 0xff) as u8;
        let running = cpu.apr.last().copied().unwrap_or(0xff);
        let count = usize::from(cpu.saved.count);
        let best = (0..count)
            .filter(|n| cpu.lr[*n] >> 62 == 1)
            .filter(|n| {
                if cpu.lr[*n] >> 60 & 1 == 1 {
                    grp1
                } else {
                    grp0
                }
            })
            .min_by_key(|n| cpu.lr[*n] >> 48 & 0xff);
        let Some(n) = best else { return 1023 };
        let priority = (cpu.lr[n] >> 48 & 0xff) as u8;
        if priority >= pmr || priority >= running || (cpu.lr[n] >> 60 & 1 == 1) != group1 {
            return 1023;
        }
        let id = (cpu.lr[n] & 0xffff_ffff) as u32;
        cpu.lr[n] ^= 3 << 62;
        if id >= 8192 && !self.keeps_lpis {
            cpu.lr[n] &= !(3 << 62);
        }
        cpu.apr.push(priority);
        id
    }

    /// ICC_EOIR_EL1: drops the priority and, unless `VEOIM`, deactivates.
    pub(crate) fn end(&mut self, v: usize, id: u32) {
        if self.cpu[v].apr.pop().is_none() {
            return;
        }
        // An LPI is not deactivated by another write.
        if self.cpu[v].vmcr >> 9 & 1 == 1 && id < 8192 {
            return;
        }
        let cpu = &mut self.cpu[v];
        let count = usize::from(cpu.saved.count);
        let found =
            (0..count).find(|n| cpu.lr[*n] >> 63 == 1 && cpu.lr[*n] & 0xffff_ffff == u64::from(id));
        let Some(n) = found else {
            if id >= 8192 {
                return;
            }
            // EOIcount, bits 31:27.
            cpu.hcr = (cpu.hcr + (1 << 27)) & 0xffff_ffff;
            return;
        };
        cpu.lr[n] &= !(1 << 63);
        if cpu.lr[n] >> 61 & 1 == 1 {
            let p = (cpu.lr[n] >> 32 & 0x1fff) as u32;
            self.deactivate_physical(v, p);
        }
    }

    /// ICC_DIR_EL1, which traps.
    pub(crate) fn deactivate(&mut self, v: usize, id: u32) {
        if self.cpu[v].vmcr >> 9 & 1 == 0 {
            return;
        }
        self.fold(v);
        let kick = self.gic.deactivate(v, id);
        self.check_kick(kick);
    }

    /// The vCPU leaves its CPU.
    pub(crate) fn park(&mut self, v: usize) {
        if self.cpu[v].running {
            self.fold(v);
            self.cpu[v].running = false;
        }
    }

    /// The vCPU gets a CPU.
    pub(crate) fn unpark(&mut self, v: usize) {
        if !self.cpu[v].running {
            self.cpu[v].running = true;
            self.fill(v);
        }
    }

    pub(crate) fn gicd_read(&mut self, offset: u64, bytes: u64) -> u64 {
        self.before_read(offset);
        self.gic.dist_read(offset, width(bytes))
    }

    pub(crate) fn gicr_read(&mut self, v: usize, offset: u64, bytes: u64) -> u64 {
        if self.its.is_some() && its::owns(offset) {
            return self.on_its(|its, port| its.redist_read(port, v, offset, width(bytes)));
        }
        self.before_read(offset);
        self.gic.redist_read(v, offset, width(bytes))
    }

    fn before_read(&mut self, offset: u64) {
        if vgic::reads_live_state(offset) {
            for v in 0..self.cpu.len() {
                if self.cpu[v].running {
                    self.fold(v);
                }
            }
        }
    }

    pub(crate) fn gicd_write(&mut self, offset: u64, bytes: u64, value: u64) {
        let kick = self.gic.dist_write(offset, width(bytes), value);
        self.check_kick(kick);
    }

    pub(crate) fn gicr_write(&mut self, v: usize, offset: u64, bytes: u64, value: u64) {
        if self.its.is_some() && its::owns(offset) {
            if self.cpu[v].running {
                self.fold(v);
            }
            self.on_its(|its, port| its.redist_write(port, v, offset, width(bytes), value));
            return;
        }
        let kick = self.gic.redist_write(v, offset, width(bytes), value);
        self.check_kick(kick);
    }
}
