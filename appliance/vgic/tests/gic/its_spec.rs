//! An ITS and its LPIs written naively from IHI 0069H, chapter 5 and 12.11, 12.18: maps and sets,
//! literal numbers, no bound on a write. What the manual leaves open is what ours says it does:
//! a wrong command is ignored, and devices have 2048 events together, in sixteens.

use std::collections::{BTreeMap, BTreeSet};

/// Guest memory, from where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Memory(pub(crate) Vec<u8>);

pub(crate) const RAM: u64 = 0x4000_0000;
pub(crate) const RAM_BYTES: u64 = 0xb_0000;

impl Memory {
    pub(crate) fn new() -> Self {
        Self(vec![0; RAM_BYTES as usize])
    }

    /// Bytes in RAM and in one page.
    pub(crate) fn slice(&mut self, at: u64, len: usize) -> Option<&mut [u8]> {
        let start = at.checked_sub(RAM)?;
        let end = start + len as u64;
        if end > RAM_BYTES || start / 4096 != (end - 1) / 4096 {
            return None;
        }
        Some(&mut self.0[start as usize..end as usize])
    }

    fn u64(&mut self, at: u64) -> u64 {
        self.slice(at, 8)
            .map_or(0, |b| u64::from_le_bytes((&*b).try_into().unwrap()))
    }

    fn byte(&mut self, at: u64) -> u8 {
        self.slice(at, 1).map_or(0, |b| b[0])
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ItsSpec {
    n: usize,
    pub(crate) memory: Memory,
    enabled: bool,
    cbaser: u64,
    cwriter: u64,
    creadr: u64,
    propbaser: u64,
    pendbaser: Vec<u64>,
    pub(crate) lpis_on: Vec<bool>,
    /// Collection to vCPU.
    collections: BTreeMap<u64, usize>,
    /// Device to bits and first unit.
    devices: BTreeMap<u64, (u64, usize)>,
    /// Owner of each sixteen events.
    units: Vec<bool>,
    /// Device and event to INTID and collection.
    events: BTreeMap<(u64, u64), (u64, u64)>,
    /// Configuration as last looked at.
    config: BTreeMap<u64, u8>,
    pending: Vec<BTreeSet<u64>>,
}

impl ItsSpec {
    pub(crate) fn new(n: usize) -> Self {
        Self {
            n,
            memory: Memory::new(),
            enabled: false,
            cbaser: 0,
            cwriter: 0,
            creadr: 0,
            propbaser: 0,
            pendbaser: vec![0; n],
            lpis_on: vec![false; n],
            collections: BTreeMap::new(),
            devices: BTreeMap::new(),
            units: vec![false; 128],
            events: BTreeMap::new(),
            config: BTreeMap::new(),
            pending: vec![BTreeSet::new(); n],
        }
    }

    fn config(&self, id: u64) -> u8 {
        self.config.get(&id).copied().unwrap_or(0)
    }

    pub(crate) fn priority(&self, id: u32) -> u8 {
        self.config(u64::from(id)) & 0xf8
    }

    /// LPIs that the redistributor of `v` would forward.
    pub(crate) fn deliverable(&self, v: usize) -> Vec<(u32, u8)> {
        if !self.lpis_on[v] {
            return Vec::new();
        }
        let enabled = self.pending[v]
            .iter()
            .filter(|id| self.config(**id) & 1 == 1);
        enabled
            .map(|id| (*id as u32, self.priority(*id as u32)))
            .collect()
    }

    pub(crate) fn acknowledge(&mut self, v: usize, id: u32) {
        assert!(self.pending[v].remove(&u64::from(id)));
    }

    /// Only INTIDs below 2^(IDbits+1) exist, and no more than 1024 LPIs.
    fn exists(&self, id: u64) -> bool {
        let bits = (self.propbaser & 0x1f) + 1;
        (8192..9216).contains(&id) && id < 1 << bits
    }

    fn pend(&mut self, v: usize, id: u64) {
        if self.lpis_on[v] {
            self.pending[v].insert(id);
        }
    }

    fn load_config(&mut self, id: u64) {
        let at = (self.propbaser & 0x000f_ffff_ffff_f000) + id - 8192;
        let byte = if self.exists(id) {
            self.memory.byte(at)
        } else {
            0
        };
        self.config.insert(id, byte);
    }

    fn load_all(&mut self) {
        for id in 8192..9216 {
            self.load_config(id);
        }
    }

    /// Where an event leads, if all of the way is mapped.
    fn translate(&self, device: u64, event: u64) -> Option<(u64, usize)> {
        let (id, collection) = *self.events.get(&(device, event))?;
        Some((id, *self.collections.get(&collection)?))
    }

    pub(crate) fn message(&mut self, device: u64, event: u64) {
        if self.enabled
            && let Some((id, v)) = self.translate(device, event)
        {
            self.pend(v, id);
        }
    }

    fn drop_device(&mut self, device: u64) {
        if let Some((bits, first)) = self.devices.remove(&device) {
            let units = (1_usize << bits).div_ceil(16);
            self.units[first..first + units].fill(false);
            self.events.retain(|(d, _), _| *d != device);
        }
    }

    fn command(&mut self, dw: [u64; 4]) {
        let device = dw[0] >> 32;
        let event = dw[1] & 0xffff_ffff;
        let valid = dw[2] >> 63 == 1;
        let icid = dw[2] & 0xffff;
        let rd = |word: u64| (word >> 16 & 0x7_ffff_ffff) as usize;
        match dw[0] & 0xff {
            // MAPD
            0x08 => {
                let bits = (dw[1] & 0x1f) + 1;
                if device > 255 || valid && bits > 11 {
                    return;
                }
                self.drop_device(device);
                if !valid {
                    return;
                }
                let units = (1_usize << bits).div_ceil(16);
                let free = (0..128 / units)
                    .map(|n| n * units)
                    .find(|first| !self.units[*first..*first + units].contains(&true));
                if let Some(first) = free {
                    self.units[first..first + units].fill(true);
                    self.devices.insert(device, (bits, first));
                }
            }
            // MAPC
            0x09 if icid < 16 => {
                if !valid {
                    self.collections.remove(&icid);
                } else if rd(dw[2]) < self.n {
                    self.collections.insert(icid, rd(dw[2]));
                }
            }
            // MAPTI, MAPI
            code @ (0x0a | 0x0b) => {
                let id = if code == 0x0a { dw[1] >> 32 } else { event };
                let Some((bits, _)) = self.devices.get(&device) else {
                    return;
                };
                if event >> bits == 0 && icid < 16 && self.exists(id) {
                    self.events.insert((device, event), (id, icid));
                    self.load_config(id);
                }
            }
            // MOVI
            0x01 => {
                if let Some((id, from)) = self.translate(device, event)
                    && let Some(to) = self.collections.get(&icid).copied()
                {
                    self.events.insert((device, event), (id, icid));
                    if from != to && self.pending[from].remove(&id) {
                        self.pend(to, id);
                    }
                }
            }
            // MOVALL
            0x0e => {
                let (from, to) = (rd(dw[2]), rd(dw[3]));
                if from < self.n && to < self.n && from != to {
                    for id in std::mem::take(&mut self.pending[from]) {
                        self.pend(to, id);
                    }
                }
            }
            // DISCARD
            0x0f => {
                if let Some((id, v)) = self.translate(device, event) {
                    self.pending[v].remove(&id);
                    self.events.remove(&(device, event));
                }
            }
            // INV
            0x0c => {
                if let Some((id, _)) = self.translate(device, event) {
                    self.load_config(id);
                }
            }
            // INVALL
            0x0d if self.collections.contains_key(&icid) => self.load_all(),
            // INT
            0x03 => {
                if let Some((id, v)) = self.translate(device, event) {
                    self.pend(v, id);
                }
            }
            // CLEAR
            0x04 => {
                if let Some((id, v)) = self.translate(device, event) {
                    self.pending[v].remove(&id);
                }
            }
            _ => {}
        }
    }

    fn run(&mut self) {
        let bytes = ((self.cbaser & 0xff) + 1) * 4096;
        while self.enabled && self.cbaser >> 63 == 1 && self.creadr != self.cwriter {
            let at = (self.cbaser & 0x000f_ffff_ffff_f000) + self.creadr;
            let dw = [0, 8, 16, 24].map(|n| self.memory.u64(at + n));
            self.creadr = (self.creadr + 32) % bytes;
            self.command(dw);
        }
    }

    /// Registers of eight bytes are read and written whole or in half.
    fn part(offset: u64, size: u64) -> Option<(u64, u64)> {
        match (size, offset % 8) {
            (8 | 4, 0) => Some((offset, 0)),
            (4, 4) => Some((offset - 4, 32)),
            _ => None,
        }
    }

    fn merge(old: u64, size: u64, shift: u64, value: u64) -> u64 {
        match (size, shift) {
            (8, _) => value,
            (_, 0) => old & !0xffff_ffff | value & 0xffff_ffff,
            _ => old & 0xffff_ffff | value << 32,
        }
    }

    pub(crate) fn read(&self, offset: u64, size: u64) -> u64 {
        let four = |value: u64| if size == 4 { value } else { 0 };
        match offset {
            0x0 if self.enabled => return four(1),
            0x0 => return four(0x8000_0000),
            0x4 => return four(0x5300_043b),
            0xffd0.. => {
                return four(match offset {
                    0xffd0 => 0x44,
                    0xffe0 => 0x94,
                    0xffe4 => 0xb4,
                    0xffe8 => 0x3b,
                    0xfff0 => 0x0d,
                    0xfff4 => 0xf0,
                    0xfff8 => 0x05,
                    0xfffc => 0xb1,
                    _ => 0,
                });
            }
            _ => {}
        }
        let Some((register, shift)) = Self::part(offset, size) else {
            return 0;
        };
        let value = match register {
            // HCC 16, CIL, CIDbits 4, Devbits 8, ID_bits 11, entries of 8 bytes, Physical.
            0x8 => 0x0000_0013_1000_ea71,
            0x80 => self.cbaser,
            0x88 => self.cwriter,
            0x90 => self.creadr,
            _ => 0,
        };
        if size == 8 {
            value
        } else {
            value >> shift & 0xffff_ffff
        }
    }

    pub(crate) fn write(&mut self, offset: u64, size: u64, value: u64) {
        if (offset, size) == (0, 4) {
            self.enabled = value & 1 == 1;
            self.run();
            return;
        }
        let Some((register, shift)) = Self::part(offset, size) else {
            return;
        };
        match register {
            0x80 if !self.enabled => {
                let merged = Self::merge(self.cbaser, size, shift, value);
                self.cbaser = merged & 0xb8ef_ffff_ffff_fcff;
                self.cwriter = 0;
                self.creadr = 0;
            }
            0x88 if shift == 0 => {
                let offset = value & 0xf_ffe0;
                if offset < ((self.cbaser & 0xff) + 1) * 4096 {
                    self.cwriter = offset;
                    self.run();
                }
            }
            _ => {}
        }
    }

    /// GICR_CTLR, GICR_PROPBASER, GICR_PENDBASER.
    pub(crate) fn gicr_read(&self, v: usize, offset: u64, size: u64) -> Option<u64> {
        if (offset, size) == (0, 4) {
            return Some(2 | u64::from(self.lpis_on[v]));
        }
        let (register, shift) = Self::part(offset, size)?;
        let value = match register {
            0x70 => self.propbaser,
            0x78 => self.pendbaser[v] & !(1 << 62),
            _ => return None,
        };
        Some(if size == 8 {
            value
        } else {
            value >> shift & 0xffff_ffff
        })
    }

    pub(crate) fn gicr_write(&mut self, v: usize, offset: u64, size: u64, value: u64) {
        if (offset, size) == (0, 4) {
            self.switch(v, value & 1 == 1);
            return;
        }
        let Some((register, shift)) = Self::part(offset, size) else {
            return;
        };
        match register {
            0x70 if !self.lpis_on.contains(&true) => {
                let merged = Self::merge(self.propbaser, size, shift, value);
                self.propbaser = merged & 0x070f_ffff_ffff_ff9f;
            }
            0x78 if !self.lpis_on[v] => {
                let merged = Self::merge(self.pendbaser[v], size, shift, value);
                self.pendbaser[v] = merged & 0x470f_ffff_ffff_0f80;
            }
            _ => {}
        }
    }

    fn switch(&mut self, v: usize, on: bool) {
        if on == self.lpis_on[v] {
            return;
        }
        self.lpis_on[v] = on;
        let table = self.pendbaser[v] & 0x000f_ffff_ffff_0000;
        if on {
            self.pending[v].clear();
            if self.pendbaser[v] >> 62 & 1 == 0 {
                for id in 8192..9216 {
                    if self.memory.byte(table + id / 8) >> (id % 8) & 1 == 1 {
                        self.pending[v].insert(id);
                    }
                }
            }
            self.load_all();
            return;
        }
        let pending = std::mem::take(&mut self.pending[v]);
        if let Some(bytes) = self.memory.slice(table + 1024, 128) {
            bytes.fill(0);
            for id in pending {
                bytes[(id - 8192) as usize / 8] |= 1 << (id % 8);
            }
        }
    }
}
