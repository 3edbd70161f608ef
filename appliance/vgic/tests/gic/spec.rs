//! A GICv3 written naively from the tables of IHI 0069H: one record for each interrupt and
//! literal numbers. It has no list registers: this is what a guest must believe it has.

use crate::its_spec::ItsSpec;

/// One interrupt of one vCPU, or one SPI.
#[derive(Clone, Debug, Default)]
pub(crate) struct Irq {
    pub(crate) enabled: bool,
    pub(crate) group1: bool,
    pub(crate) soft: bool,
    pub(crate) wire: bool,
    pub(crate) message: bool,
    pub(crate) edge: bool,
    pub(crate) active: bool,
    /// Who acknowledged it last.
    pub(crate) taker: usize,
    pub(crate) priority: u8,
    pub(crate) route: u32,
}

impl Irq {
    pub(crate) fn pending(&self) -> bool {
        self.soft || (!self.edge && (self.wire || self.message))
    }
}

/// The part of a CPU interface that decides what is signalled.
#[derive(Clone, Debug)]
pub(crate) struct Cpu {
    pub(crate) pmr: u8,
    pub(crate) enable0: bool,
    pub(crate) enable1: bool,
    pub(crate) split_eoi: bool,
    /// Acknowledged interrupts whose priority was not dropped, last one last.
    pub(crate) running: Vec<(u32, u8)>,
    pub(crate) asleep: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) n: usize,
    pub(crate) enable_grp0: bool,
    pub(crate) enable_grp1: bool,
    pub(crate) private: Vec<Vec<Irq>>,
    pub(crate) spi: Vec<Irq>,
    pub(crate) cpu: Vec<Cpu>,
    /// The ITS, if there is one.
    pub(crate) its: Option<ItsSpec>,
}

/// Where a register array starts, and what its bits are.
const BIT_ARRAYS: [(u64, &str); 7] = [
    (0x080, "group"),
    (0x100, "set enable"),
    (0x180, "clear enable"),
    (0x200, "set pending"),
    (0x280, "clear pending"),
    (0x300, "set active"),
    (0x380, "clear active"),
];

impl Spec {
    pub(crate) fn new(n: usize) -> Self {
        let private = || {
            let irq = |id| Irq {
                edge: id < 16,
                ..Irq::default()
            };
            (0..32).map(irq).collect()
        };
        let cpu = Cpu {
            pmr: 0xf8,
            enable0: true,
            enable1: true,
            split_eoi: false,
            running: Vec::new(),
            asleep: true,
        };
        Self {
            n,
            enable_grp0: false,
            enable_grp1: false,
            private: (0..n).map(|_| private()).collect(),
            spi: vec![Irq::default(); 224],
            cpu: vec![cpu; n],
            its: None,
        }
    }

    pub(crate) fn irq(&mut self, v: usize, id: u32) -> Option<&mut Irq> {
        match id {
            0..32 => self.private.get_mut(v)?.get_mut(id as usize),
            32..256 => self.spi.get_mut(id as usize - 32),
            _ => None,
        }
    }

    fn look(&self, v: usize, id: u32) -> Option<&Irq> {
        match id {
            0..32 => self.private.get(v)?.get(id as usize),
            32..256 => self.spi.get(id as usize - 32),
            _ => None,
        }
    }

    /// Which vCPU an SPI goes to. For 1 of N our choice is the first that is awake, or 0.
    fn target(&self, irq: &Irq) -> Option<usize> {
        if irq.route & 0x8000_0000 != 0 {
            return Some(self.cpu.iter().position(|c| !c.asleep).unwrap_or(0));
        }
        (0..self.n).find(|v| irq.route == *v as u32)
    }

    /// The interrupts the distributor would forward to `v`, with their priorities.
    pub(crate) fn deliverable(&self, v: usize) -> Vec<(u32, u8, bool)> {
        let mut found = Vec::new();
        for (id, irq) in (0..).zip(self.private[v].iter().chain(&self.spi)) {
            if !irq.enabled || irq.active || !irq.pending() {
                continue;
            }
            let here = id < 32 || self.target(irq) == Some(v);
            let group_on = if irq.group1 {
                self.enable_grp1
            } else {
                self.enable_grp0
            };
            if here && group_on {
                found.push((id, irq.priority, irq.group1));
            }
        }
        if let Some(its) = self.its.as_ref().filter(|_| self.enable_grp1) {
            let lpis = its.deliverable(v).into_iter();
            found.extend(lpis.map(|(id, priority)| (id, priority, true)));
        }
        found
    }

    /// The interrupts that an acknowledgement could return: all of the same priority.
    pub(crate) fn acknowledgeable(&self, v: usize) -> Vec<(u32, u8, bool)> {
        let cpu = &self.cpu[v];
        let mut all = self.deliverable(v);
        all.retain(|(_, _, group1)| if *group1 { cpu.enable1 } else { cpu.enable0 });
        let Some(best) = all.iter().map(|(_, priority, _)| *priority).min() else {
            return Vec::new();
        };
        let running = cpu.running.iter().map(|(_, p)| *p).min().unwrap_or(0xff);
        if best >= cpu.pmr || best >= running {
            return Vec::new();
        }
        all.retain(|(_, priority, _)| *priority == best);
        all
    }

    /// Whether anything would be signalled to `v` with nothing running.
    pub(crate) fn signals(&self, v: usize) -> bool {
        let cpu = &self.cpu[v];
        self.deliverable(v).iter().any(|(_, priority, group1)| {
            *priority < cpu.pmr && if *group1 { cpu.enable1 } else { cpu.enable0 }
        })
    }

    pub(crate) fn acknowledge(&mut self, v: usize, id: u32) {
        if id >= 8192 {
            let its = self.its.as_mut().expect("LPIs come from the ITS");
            let priority = its.priority(id);
            its.acknowledge(v, id);
            self.cpu[v].running.push((id, priority));
            return;
        }
        let irq = self.irq(v, id).unwrap();
        irq.active = true;
        irq.taker = v;
        irq.soft = false;
        let priority = irq.priority;
        self.cpu[v].running.push((id, priority));
    }

    pub(crate) fn end(&mut self, v: usize, id: u32) {
        let popped = self.cpu[v].running.pop();
        assert_eq!(popped.map(|(id, _)| id), Some(id), "the test ends in order");
        // Unlike a distributor in hardware: EOIcount does not say which interrupt it was, so one
        // that another vCPU deactivated and took since stays that vCPU's to end.
        let its_own = self.irq(v, id).is_some_and(|irq| irq.taker == v);
        if !self.cpu[v].split_eoi && its_own {
            self.deactivate(v, id);
        }
    }

    pub(crate) fn deactivate(&mut self, v: usize, id: u32) {
        if let Some(irq) = self.irq(v, id) {
            irq.active = false;
        }
    }

    pub(crate) fn wire(&mut self, v: usize, id: u32, high: bool) {
        if id < 16 {
            return;
        }
        if let Some(irq) = self.irq(v, id) {
            if irq.edge && high && !irq.wire {
                irq.soft = true;
            }
            irq.wire = high;
        }
    }

    pub(crate) fn pulse(&mut self, v: usize, id: u32) {
        if let Some(irq) = self.irq(v, id) {
            irq.soft = true;
        }
    }

    /// ICC_SGI1R_EL1 (`any_group`) and ICC_SGI0R_EL1.
    pub(crate) fn sgi(&mut self, sender: usize, value: u64, any_group: bool) {
        let id = (value >> 24 & 0xf) as u32;
        for v in 0..self.n {
            let aff3 = value >> 48 & 0xff;
            let aff2 = value >> 32 & 0xff;
            let aff1 = value >> 16 & 0xff;
            let first = (value >> 44 & 0xf) * 16;
            let named = if value >> 40 & 1 == 1 {
                v != sender
            } else {
                let v = v as u64;
                let listed = v >= first && v < first + 16 && value >> (v - first) & 1 == 1;
                aff3 == 0 && aff2 == 0 && aff1 == 0 && listed
            };
            let irq = self.irq(v, id).unwrap();
            if named && (any_group || !irq.group1) {
                irq.soft = true;
            }
        }
    }

    fn bit(irq: &Irq, what: &str) -> bool {
        match what {
            "group" => irq.group1,
            "set enable" | "clear enable" => irq.enabled,
            "set pending" | "clear pending" => irq.pending(),
            _ => irq.active,
        }
    }

    fn set_bit(irq: &mut Irq, what: &str, one: bool) {
        match (what, one) {
            ("group", _) => irq.group1 = one,
            ("set enable", true) => irq.enabled = true,
            ("clear enable", true) => irq.enabled = false,
            ("set pending", true) => irq.soft = true,
            ("clear pending", true) => irq.soft = false,
            ("set active", true) => irq.active = true,
            ("clear active", true) => irq.active = false,
            _ => {}
        }
    }

    /// The arrays that GICD has for SPIs and SGI_base for private interrupts.
    fn read_arrays(&self, v: usize, ids: std::ops::Range<u32>, offset: u64, size: u64) -> u64 {
        let there = |id: u32| ids.contains(&id).then(|| self.look(v, id).unwrap());
        let mut value = 0;
        if (0x400..0x800).contains(&offset)
            && (size == 1 || size == 4)
            && offset.is_multiple_of(size)
        {
            for n in 0..size {
                let id = (offset - 0x400 + n) as u32;
                value |= there(id).map_or(0, |irq| u64::from(irq.priority)) << (8 * n);
            }
        }
        if size != 4 || !offset.is_multiple_of(4) {
            return value;
        }
        for (base, what) in BIT_ARRAYS {
            if (base..base + 0x80).contains(&offset) {
                for n in 0..32 {
                    let id = ((offset - base) * 8) as u32 + n;
                    value |= u64::from(there(id).is_some_and(|irq| Self::bit(irq, what))) << n;
                }
            }
        }
        if (0xc00..0xd00).contains(&offset) {
            for n in 0..16 {
                let id = ((offset - 0xc00) * 4) as u32 + n;
                value |= u64::from(there(id).is_some_and(|irq| irq.edge)) << (2 * n + 1);
            }
        }
        value
    }

    fn write_arrays(
        &mut self,
        v: usize,
        ids: std::ops::Range<u32>,
        offset: u64,
        size: u64,
        value: u64,
    ) {
        if (0x400..0x800).contains(&offset)
            && (size == 1 || size == 4)
            && offset.is_multiple_of(size)
        {
            for n in 0..size {
                let id = (offset - 0x400 + n) as u32;
                if ids.contains(&id) {
                    self.irq(v, id).unwrap().priority = (value >> (8 * n)) as u8 & 0xf8;
                }
            }
        }
        if size != 4 || !offset.is_multiple_of(4) {
            return;
        }
        for (base, what) in BIT_ARRAYS {
            if (base..base + 0x80).contains(&offset) {
                for n in 0..32 {
                    let id = ((offset - base) * 8) as u32 + n;
                    if ids.contains(&id) {
                        Self::set_bit(self.irq(v, id).unwrap(), what, value >> n & 1 == 1);
                    }
                }
            }
        }
        if (0xc00..0xd00).contains(&offset) {
            for n in 0..16 {
                let id = ((offset - 0xc00) * 4) as u32 + n;
                // SGIs are edges; ours are level-sensitive PPIs; neither can be changed.
                if ids.contains(&id) && id >= 32 {
                    self.irq(v, id).unwrap().edge = value >> (2 * n + 1) & 1 == 1;
                }
            }
        }
    }

    fn id_register(offset: u64, pidr0: u64) -> u64 {
        match offset {
            0xffd0 => 0x44,
            0xffe0 => pidr0,
            0xffe4 => 0xb4,
            0xffe8 => 0x3b,
            0xfff0 => 0x0d,
            0xfff4 => 0xf0,
            0xfff8 => 0x05,
            0xfffc => 0xb1,
            _ => 0,
        }
    }

    pub(crate) fn gicd_read(&self, offset: u64, size: u64) -> u64 {
        if (0x6100..0x6800).contains(&offset) && size >= 4 && offset.is_multiple_of(size) {
            let irq = &self.spi[(offset as usize - 0x6100) / 8];
            return u64::from(irq.route) >> (8 * (offset % 8));
        }
        match (offset, size) {
            (0x0, 4) => 0x50 | u64::from(self.enable_grp0) | u64::from(self.enable_grp1) << 1,
            // With an ITS: IDbits 13, LPIS, 2^10 LPIs.
            (0x4, 4) if self.its.is_some() => 0x006b_4807,
            (0x4, 4) => 0x0049_0007,
            (0x8, 4) => 0x5300_043b,
            (0x80..0xe00, _) => self.read_arrays(0, 32..256, offset, size),
            (0xffd0.., 4) => Self::id_register(offset, 0x92),
            _ => 0,
        }
    }

    pub(crate) fn gicd_write(&mut self, offset: u64, size: u64, value: u64) {
        if (0x6100..0x6800).contains(&offset) && size >= 4 && offset.is_multiple_of(8) {
            let irq = &mut self.spi[(offset as usize - 0x6100) / 8];
            irq.route = value as u32 & 0x80ff_ffff;
        }
        match (offset, size) {
            (0x0, 4) => {
                self.enable_grp0 = value & 1 == 1;
                self.enable_grp1 = value >> 1 & 1 == 1;
            }
            (0x40 | 0x48, 2 | 4) => {
                let id = value as u32 & 0x1fff;
                if id < 32 {
                    return;
                }
                if let Some(irq) = self.irq(0, id) {
                    match (offset, irq.edge) {
                        (0x40, true) => irq.soft = true,
                        (0x40, false) => irq.message = true,
                        (_, true) => (irq.soft, irq.message) = (false, false),
                        (_, false) => irq.message = false,
                    }
                }
            }
            (0x80..0xe00, _) => self.write_arrays(0, 32..256, offset, size, value),
            _ => {}
        }
    }

    pub(crate) fn gicr_read(&self, v: usize, offset: u64, size: u64) -> u64 {
        let last = u64::from(v + 1 == self.n) << 4;
        let plpis = u64::from(self.its.is_some());
        if let Some(its) = &self.its
            && let Some(value) = its.gicr_read(v, offset, size)
        {
            return value;
        }
        match (offset, size) {
            (0x04, 4) => 0x5300_043b,
            (0x08, 8) => (v as u64) << 32 | (v as u64) << 8 | last | plpis,
            (0x08, 4) => (v as u64) << 8 | last | plpis,
            (0x0c, 4) => v as u64,
            (0x14, 4) => 6 * u64::from(self.cpu[v].asleep),
            (0xffd0..0x1_0000, 4) => Self::id_register(offset, 0x93),
            (0x1_0080..0x1_0e00, _) => self.read_arrays(v, 0..32, offset - 0x1_0000, size),
            _ => 0,
        }
    }

    pub(crate) fn gicr_write(&mut self, v: usize, offset: u64, size: u64, value: u64) {
        if let Some(its) = &mut self.its {
            its.gicr_write(v, offset, size, value);
        }
        match (offset, size) {
            (0x14, 4) => self.cpu[v].asleep = value >> 1 & 1 == 1,
            (0x1_0080..0x1_0e00, _) => {
                self.write_arrays(v, 0..32, offset - 0x1_0000, size, value);
            }
            _ => {}
        }
    }
}
