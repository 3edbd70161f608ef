//! The command queue (IHI 0069H, 5.3).

use super::{BUDGET, Its, Machine, Progress};
use crate::lpi::{CONFIG_BYTES, LPI_FIRST, lpi_of};
use crate::{Kick, index};

/// Bytes of a command.
pub(crate) const COMMAND_BYTES: u64 = 32;
/// What INVALL costs of the budget: it looks at every LPI.
const INVALL_COST: u32 = 16;

/// A command, its fields in range as far as their width says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    /// Maps a device to a table of 2^`bits` events.
    MapDevice {
        device: u32,
        bits: u32,
    },
    UnmapDevice {
        device: u32,
    },
    /// Maps a collection to a redistributor, or to none.
    MapCollection {
        collection: u32,
        target: Option<u64>,
    },
    MapEvent {
        device: u32,
        event: u32,
        intid: u32,
        collection: u32,
    },
    Move {
        device: u32,
        event: u32,
        collection: u32,
    },
    MoveAll {
        from: u64,
        to: u64,
    },
    Discard {
        device: u32,
        event: u32,
    },
    Invalidate {
        device: u32,
        event: u32,
    },
    InvalidateAll {
        collection: u32,
    },
    Interrupt {
        device: u32,
        event: u32,
    },
    Clear {
        device: u32,
        event: u32,
    },
    /// Everything is done when its command is: nothing to wait for.
    Sync,
}

impl Command {
    fn decode(words: [u64; 4]) -> Option<Self> {
        const VALID: u64 = 1 << 63;
        let [a, b, c, d] = words;
        let [code, ..] = a.to_le_bytes();
        let device = high(a);
        let event = low(b);
        let collection = low(c & 0xffff);
        let target = |word: u64| word >> 16 & 0x7_ffff_ffff;
        Some(match code {
            0x08 if c & VALID == 0 => Self::UnmapDevice { device },
            // Size is the number of bits, less one.
            0x08 => Self::MapDevice {
                device,
                bits: (event & 0x1f).wrapping_add(1),
            },
            0x09 => Self::MapCollection {
                collection,
                target: (c & VALID != 0).then_some(target(c)),
            },
            0x0a => Self::MapEvent {
                device,
                event,
                intid: high(b),
                collection,
            },
            0x0b => Self::MapEvent {
                device,
                event,
                intid: event,
                collection,
            },
            0x01 => Self::Move {
                device,
                event,
                collection,
            },
            0x0e => Self::MoveAll {
                from: target(c),
                to: target(d),
            },
            0x0f => Self::Discard { device, event },
            0x0c => Self::Invalidate { device, event },
            0x0d => Self::InvalidateAll { collection },
            0x03 => Self::Interrupt { device, event },
            0x04 => Self::Clear { device, event },
            0x05 => Self::Sync,
            // Those for virtual LPIs are GICv4's.
            _ => return None,
        })
    }
}

impl Its {
    /// Handles commands, as far as the budget goes.
    pub(super) fn run(&mut self, machine: &mut impl Machine) -> Progress {
        const VALID: u64 = 1 << 63;
        let mut spent = 0u32;
        while self.enabled && self.cbaser & VALID != 0 && self.creadr != self.cwriter {
            if spent >= BUDGET {
                return Progress::More;
            }
            let mut bytes = [0; 32];
            let at = self.queue().wrapping_add(self.creadr);
            let there = machine.read(at, &mut bytes);
            self.creadr = self.creadr.wrapping_add(COMMAND_BYTES);
            if self.creadr >= self.queue_bytes() {
                self.creadr = 0;
            }
            spent = spent.wrapping_add(1);
            let words = words(&bytes);
            if let Some(command) = Command::decode(words).filter(|_| there) {
                spent = spent.wrapping_add(self.execute(machine, command));
            }
        }
        Progress::Done
    }

    /// Does what a command says, or nothing if it is wrong; returns what it cost.
    fn execute(&mut self, machine: &mut impl Machine, command: Command) -> u32 {
        match command {
            Command::MapDevice { device, bits } => self.tables.map_device(device, bits),
            Command::UnmapDevice { device } => self.tables.unmap_device(device),
            Command::MapCollection { collection, target } => match target {
                None => self.tables.map_collection(collection, None),
                Some(target) => {
                    if let Some(vcpu) = self.processor(target) {
                        let vcpu = u8::try_from(vcpu).ok();
                        self.tables.map_collection(collection, vcpu);
                    }
                }
            },
            Command::MapEvent {
                device,
                event,
                intid,
                collection,
            } => {
                let intid = if self.is_lpi(intid) { intid } else { 0 };
                if let Some(lpi) = self.tables.map_event(device, event, intid, collection) {
                    self.configure(machine, lpi);
                    return 1;
                }
            }
            Command::Move {
                device,
                event,
                collection,
            } => {
                let to = self.tables.vcpu_of(collection);
                if let Some((mapped, to)) = self.tables.mapped(device, event).zip(to) {
                    self.tables.move_event(device, event, collection);
                    machine.gic(|gic| gic.move_lpi(mapped.lpi, mapped.vcpu, to));
                }
            }
            Command::MoveAll { from, to } => {
                if let Some((from, to)) = self.processor(from).zip(self.processor(to)) {
                    machine.gic(|gic| gic.move_all_lpis(from, to));
                }
            }
            Command::Discard { device, event } => {
                if let Some(mapped) = self.tables.mapped(device, event) {
                    self.tables.unmap_event(device, event);
                    machine.gic(|gic| gic.clear_lpi(mapped.vcpu, mapped.lpi));
                }
            }
            Command::Invalidate { device, event } => {
                if let Some(mapped) = self.tables.mapped(device, event) {
                    self.configure(machine, mapped.lpi);
                    return 1;
                }
            }
            Command::InvalidateAll { collection } => {
                if self.tables.vcpu_of(collection).is_some() {
                    self.configure_all(machine);
                    return INVALL_COST;
                }
            }
            Command::Interrupt { device, event } => {
                if let Some(mapped) = self.tables.mapped(device, event) {
                    machine.gic(|gic| gic.pend_lpi(mapped.vcpu, mapped.lpi));
                }
            }
            Command::Clear { device, event } => {
                if let Some(mapped) = self.tables.mapped(device, event) {
                    machine.gic(|gic| gic.clear_lpi(mapped.vcpu, mapped.lpi));
                }
            }
            Command::Sync => {}
        }
        0
    }

    /// Returns the vCPU with this processor number (`GITS_TYPER.PTA` is 0).
    fn processor(&self, target: u64) -> Option<usize> {
        let n = usize::try_from(target).ok()?;
        (n < usize::from(self.vcpus)).then_some(n)
    }

    /// Returns whether the redistributors have an LPI of this INTID (`GICR_PROPBASER.IDbits`).
    fn is_lpi(&self, intid: u32) -> bool {
        intid < self.lpi_end() && lpi_of(intid).is_some()
    }

    /// Reads the configuration of `lpi`.
    fn configure(&self, machine: &mut impl Machine, lpi: u16) {
        let mut byte = [0];
        let at = self.config_table().wrapping_add(u64::from(lpi));
        let intid = LPI_FIRST | u32::from(lpi);
        let there = self.is_lpi(intid) && machine.read(at, &mut byte);
        let [config] = if there { byte } else { [0] };
        machine.gic(|gic| gic.configure_lpi(lpi, config));
    }

    /// Reads the configuration of all LPIs.
    pub(super) fn configure_all(&self, machine: &mut impl Machine) {
        let mut table = [0; CONFIG_BYTES];
        let end = self.lpi_end().saturating_sub(LPI_FIRST);
        let count = index(end).min(CONFIG_BYTES);
        let there = table
            .get_mut(..count)
            .is_some_and(|part| !part.is_empty() && machine.read(self.config_table(), part));
        if !there {
            table = [0; CONFIG_BYTES];
        }
        machine.gic(|gic| {
            let mut kick = Kick::NONE;
            for (lpi, config) in (0..).zip(table) {
                kick |= gic.configure_lpi(lpi, config);
            }
            kick
        });
    }
}

fn words(bytes: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*chunk);
    }
    words
}

const fn low(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

const fn high(word: u64) -> u32 {
    low(word >> 32)
}
