//! The controller against the oracle: random guests, devices and schedules.

use std::panic::catch_unwind;

use crate::its_spec::ItsSpec;
use crate::machine::Machine;
use crate::ops::{HARDWARE_PPIS, HARDWARE_SPIS, IDS, Op, Rng};
use crate::spec::Spec;

mod found;

/// Both sides of the comparison.
struct Pair {
    machine: Machine,
    spec: Spec,
}

impl Pair {
    fn new(vcpus: usize, lrs: u8, open: bool, its: WithIts) -> Self {
        let mut hardware: Vec<(usize, u32)> = HARDWARE_SPIS.map(|id| (0, id)).to_vec();
        for v in 0..vcpus {
            hardware.extend(HARDWARE_PPIS.map(|id| (v, id)));
        }
        let mut pair = Self {
            machine: Machine::new(vcpus, lrs, &hardware),
            spec: Spec::new(vcpus),
        };
        if let WithIts::Yes { keeps_lpis } = its {
            pair.machine = pair.machine.with_its(keeps_lpis);
            pair.spec.its = Some(ItsSpec::new(vcpus));
            if open {
                pair.open_its(vcpus as u64);
            }
        }
        for v in 0..vcpus {
            pair.apply(&Op::Unpark(v));
        }
        if open {
            pair.apply(&Op::DistWrite(0, 4, 0x13));
            for n in 1..8 {
                pair.apply(&Op::DistWrite(0x80 + 4 * n, 4, u64::MAX));
                pair.apply(&Op::DistWrite(0x100 + 4 * n, 4, u64::MAX));
            }
            for v in 0..vcpus {
                pair.apply(&Op::RedistWrite(v, 0x1_0080, 4, 0xffff_fff0));
                pair.apply(&Op::RedistWrite(v, 0x1_0100, 4, u64::MAX));
            }
            // Priorities all over, so that acknowledgements nest.
            for (n, id) in IDS[..18].iter().enumerate() {
                for v in 0..vcpus {
                    pair.apply(&Op::Priority(v, *id, (n as u8 * 5 % 18) << 3));
                }
            }
        }
        pair
    }

    /// Sets the ITS up as Linux does, with a few events mapped.
    fn open_its(&mut self, vcpus: u64) {
        for v in 0..vcpus {
            let table = 0x4002_0000 + (v << 16);
            let v = v as usize;
            self.apply(&Op::RedistWrite(v, 0x70, 8, 0x4001_078d));
            self.apply(&Op::RedistWrite(v, 0x78, 8, table | 1 << 62));
            self.apply(&Op::RedistWrite(v, 0, 4, 1));
        }
        self.apply(&Op::ItsWrite(0x80, 8, 1 << 63 | 0x4000_0400));
        self.apply(&Op::ItsWrite(0, 4, 1));
        for v in 0..vcpus {
            self.apply(&Op::Command([0x09, 0, 1 << 63 | v << 16 | v, 0]));
        }
        for device in [0, 8, 16] {
            self.apply(&Op::Command([
                device << 32 | 0x08,
                4,
                1 << 63 | 0x4009_0000,
                0,
            ]));
        }
        for (n, lpi) in [0, 1, 2, 31, 32, 63, 1023].into_iter().enumerate() {
            self.apply(&Op::Store(0x1_0000 + lpi, 0x81 | (n as u8) << 3));
            let event = [0, 1, 2, 3, 15, 16, 31][n];
            let words = [
                8 << 32 | 0x0a,
                (8192 + lpi) << 32 | event,
                n as u64 % vcpus,
                0,
            ];
            self.apply(&Op::Command(words));
        }
    }

    /// Whether a guest in its right mind may do this; the rest is UNPREDICTABLE in the
    /// manual. See `madness` for those.
    fn is_defined(&mut self, op: &Op) -> bool {
        let running: Vec<u32> = (0..self.spec.n)
            .filter(|v| !self.spec.cpu[*v].split_eoi)
            .flat_map(|v| self.spec.cpu[v].running.iter().map(|(id, _)| *id))
            .collect();
        match op {
            // Changing the priority or active state of what it is handling.
            Op::Bit(_, 0x380 | 0x300, id) | Op::Priority(_, id, _) => !running.contains(id),
            Op::DistWrite(o, ..) if (0x300..0x800).contains(o) => running.is_empty(),
            Op::RedistWrite(_, o, ..) if (0x1_0300..0x1_0800).contains(o) => running.is_empty(),
            // Changing the trigger of a physical interrupt behind core's back.
            Op::DistWrite(o, ..) if (0xc00..0xd00).contains(o) => {
                let ids = (*o as u32 - 0xc00) * 4;
                !HARDWARE_SPIS.iter().any(|id| (ids..ids + 16).contains(id))
            }
            // Switching the EOI mode while handling something.
            Op::SplitEoi(v, _) => {
                let active = (0..256).any(|id| self.spec.irq(*v, id).unwrap().active);
                !active && self.spec.cpu[*v].running.is_empty()
            }
            _ => true,
        }
    }

    /// Performs an operation and all that core owes for it, and compares what pends.
    fn apply(&mut self, op: &Op) {
        if self.is_defined(op) {
            self.perform(op);
            self.compare_pending();
        }
    }

    /// Performs an operation on both sides.
    fn perform(&mut self, op: &Op) {
        let Self { machine, spec } = self;
        match *op {
            Op::DistRead(o, s) => assert_eq!(
                machine.gicd_read(o, s),
                spec.gicd_read(o, s),
                "GICD {o:#x} {s}"
            ),
            Op::DistWrite(o, s, value) => {
                machine.gicd_write(o, s, value);
                spec.gicd_write(o, s, mask(value, s));
            }
            Op::RedistRead(v, o, s) => assert_eq!(
                machine.gicr_read(v, o, s),
                spec.gicr_read(v, o, s),
                "GICR{v} {o:#x} {s}"
            ),
            Op::RedistWrite(v, o, s, value) => {
                machine.gicr_write(v, o, s, value);
                spec.gicr_write(v, o, s, mask(value, s));
            }
            Op::Bit(v, array, id) => {
                let (o, value) = (array + u64::from(id / 32 * 4), 1u64 << (id % 32));
                if id < 32 {
                    machine.gicr_write(v, 0x1_0000 + o, 4, value);
                    spec.gicr_write(v, 0x1_0000 + o, 4, value);
                } else {
                    machine.gicd_write(o, 4, value);
                    spec.gicd_write(o, 4, value);
                }
            }
            Op::Priority(v, id, priority) => {
                let (o, value) = (0x400 + u64::from(id), u64::from(priority));
                if id < 32 {
                    machine.gicr_write(v, 0x1_0000 + o, 1, value);
                    spec.gicr_write(v, 0x1_0000 + o, 1, value);
                } else {
                    machine.gicd_write(o, 1, value);
                    spec.gicd_write(o, 1, value);
                }
            }
            Op::Route(id, value) => {
                machine.gicd_write(0x6000 + 8 * u64::from(id), 8, value);
                spec.gicd_write(0x6000 + 8 * u64::from(id), 8, value);
            }
            Op::Message(o, id) => {
                machine.gicd_write(o, 4, u64::from(id));
                spec.gicd_write(o, 4, u64::from(id));
            }
            Op::Sgi(v, value, any_group) => {
                let register = if any_group {
                    vgic::SgiRegister::Group1
                } else {
                    vgic::SgiRegister::Group0
                };
                let kick = machine.gic.sgi_from(v, register, value);
                machine.check_kick(kick);
                spec.sgi(v, value, any_group);
            }
            Op::Wire(v, id, high) => {
                machine.wire(v, id, high);
                spec.wire(v, id, high);
            }
            Op::Pulse(v, id) => {
                let kick = machine.gic.pulse(v, id);
                machine.check_kick(kick);
                spec.pulse(v, id);
            }
            Op::Acknowledge(v, group1) => self.acknowledge(v, group1),
            Op::End(v) => {
                if machine.cpu[v].running
                    && let Some((id, _)) = spec.cpu[v].running.last().copied()
                {
                    machine.end(v, id);
                    spec.end(v, id);
                }
            }
            Op::Dir(v, id) => {
                if machine.cpu[v].running && id < 256 {
                    machine.deactivate(v, id);
                    if spec.cpu[v].split_eoi {
                        spec.deactivate(v, id);
                    }
                }
            }
            Op::PriorityMask(v, pmr) => {
                let pmr = pmr & 0xf8;
                machine.cpu[v].vmcr = machine.cpu[v].vmcr & !(0xff << 24) | u64::from(pmr) << 24;
                spec.cpu[v].pmr = pmr;
            }
            Op::Groups(v, groups) => {
                machine.cpu[v].vmcr = machine.cpu[v].vmcr & !3 | groups;
                spec.cpu[v].enable0 = groups & 1 == 1;
                spec.cpu[v].enable1 = groups >> 1 & 1 == 1;
            }
            Op::SplitEoi(v, split) => {
                machine.cpu[v].vmcr = machine.cpu[v].vmcr & !(1 << 9) | u64::from(split) << 9;
                spec.cpu[v].split_eoi = split;
            }
            Op::ItsRead(..)
            | Op::ItsWrite(..)
            | Op::Command(..)
            | Op::DeviceWrites(..)
            | Op::Store(..) => self.perform_its(op),
            Op::Park(v) => machine.park(v),
            Op::Unpark(v) => machine.unpark(v),
            Op::Touch(v) => {
                if machine.cpu[v].running {
                    machine.fold(v);
                    machine.fill(v);
                }
            }
        }
        self.machine.serve();
    }

    /// Performs an operation of the ITS's on both sides.
    fn perform_its(&mut self, op: &Op) {
        let Self { machine, spec } = self;
        let Some(its) = spec.its.as_mut() else { return };
        match *op {
            Op::ItsRead(o, s) => assert_eq!(machine.its_read(o, s), its.read(o, s), "{o:#x} {s}"),
            Op::ItsWrite(o, s, value) => {
                machine.its_write(o, s, value);
                its.write(o, s, mask(value, s));
            }
            Op::Command(words) => {
                let base = its.read(0x80, 8) & 0x000f_ffff_ffff_f000;
                let bytes = ((its.read(0x80, 8) & 0xff) + 1) * 4096;
                let at = its.read(0x88, 8);
                for (n, word) in words.into_iter().enumerate() {
                    let place = base + at + 8 * n as u64;
                    for memory in [&mut machine.memory, &mut its.memory] {
                        if let Some(bytes) = memory.slice(place, 8) {
                            bytes.copy_from_slice(&word.to_le_bytes());
                        }
                    }
                }
                let next = (at + 32) % bytes;
                machine.its_write(0x88, 8, next);
                its.write(0x88, 8, next);
            }
            Op::DeviceWrites(device, event) => {
                machine.message(device, event);
                its.message(u64::from(device), u64::from(event));
            }
            Op::Store(offset, byte) => {
                machine.memory.0[offset as usize] = byte;
                its.memory.0[offset as usize] = byte;
            }
            _ => {}
        }
    }

    fn acknowledge(&mut self, v: usize, group1: bool) {
        if !self.machine.cpu[v].running {
            return;
        }
        let legal = self.spec.acknowledgeable(v);
        let id = self.machine.acknowledge(v, group1);
        if id == 1023 {
            // Among equals the interface may have looked at one of the other group.
            assert!(
                legal.is_empty() || legal.iter().any(|(.., g1)| *g1 != group1),
                "lost: {legal:?}"
            );
        } else {
            assert!(
                legal.iter().any(|(i, _, g1)| *i == id && *g1 == group1),
                "{id} is not among {legal:?}"
            );
            self.spec.acknowledge(v, id);
        }
    }

    fn compare_pending(&self) {
        for (v, cpu) in self.machine.cpu.iter().enumerate() {
            let deliverable = self.spec.deliverable(v);
            if !cpu.running {
                assert_eq!(
                    self.machine.gic.pending(v),
                    !deliverable.is_empty(),
                    "pending {v}"
                );
                assert_eq!(self.machine.gic.signals(v, cpu.vmcr), self.spec.signals(v));
            } else if !deliverable.is_empty() {
                assert!(
                    self.machine.gic.pending(v),
                    "{deliverable:?} not pending {v}"
                );
            }
        }
    }

    /// Reads every register of every frame. Odd widths and offsets are left to the operations.
    fn compare_registers(&mut self) {
        if let Some(its) = &self.spec.its {
            for o in (0..0x200).chain(0xffc0..0x1_0000).step_by(4) {
                assert_eq!(self.machine.its_read(o, 4), its.read(o, 4), "GITS {o:#x}");
            }
            assert!(self.machine.memory == its.memory, "guest memory differs");
        }
        let frame = |ends: &[std::ops::Range<u64>]| -> Vec<u64> {
            ends.iter().cloned().flat_map(|r| r.step_by(4)).collect()
        };
        for o in frame(&[0..0xe00, 0x60f0..0x6810, 0xffc0..0x1_0000]) {
            let (is, ought) = (self.machine.gicd_read(o, 4), self.spec.gicd_read(o, 4));
            assert_eq!(is, ought, "GICD {o:#x}");
        }
        for v in 0..self.spec.n {
            for o in frame(&[0..0x120, 0xffc0..0x1_0e00]) {
                let (is, ought) = (
                    self.machine.gicr_read(v, o, 4),
                    self.spec.gicr_read(v, o, 4),
                );
                assert_eq!(is, ought, "GICR{v} {o:#x}");
            }
        }
    }

    /// Ends everything, opens everything and handles interrupts until nothing is left: all
    /// that pends is acknowledged, once, and no physical interrupt stays active.
    fn drain(&mut self) {
        let n = self.spec.n;
        for v in 0..n {
            self.apply(&Op::Unpark(v));
            while !self.spec.cpu[v].running.is_empty() {
                self.apply(&Op::End(v));
            }
            for id in 0..256 {
                self.perform(&Op::Wire(v, id, false));
                if v == 0 {
                    self.perform(&Op::Message(0x48, id));
                    self.perform(&Op::Route(id, 0));
                }
            }
            for word in 0..8 {
                self.perform(&Op::RedistWrite(v, 0x1_0400 + 4 * word, 4, 0x8080_8080));
            }
            self.perform(&Op::RedistWrite(v, 0x1_0380, 4, u64::MAX));
            self.perform(&Op::RedistWrite(v, 0x1_0100, 4, u64::MAX));
            self.perform(&Op::PriorityMask(v, 0xf8));
            self.perform(&Op::Groups(v, 3));
        }
        for word in 1..64 {
            self.perform(&Op::DistWrite(0x400 + 4 * word, 4, 0x8080_8080));
        }
        for word in 1..8 {
            self.perform(&Op::DistWrite(0x380 + 4 * word, 4, u64::MAX));
            self.perform(&Op::DistWrite(0x100 + 4 * word, 4, u64::MAX));
        }
        for v in 0..n {
            self.apply(&Op::SplitEoi(v, false));
            // LPIs go to their pending tables, and are compared there.
            if self.spec.its.is_some() {
                self.apply(&Op::RedistWrite(v, 0, 4, 0));
            }
        }
        if let Some(its) = &self.spec.its {
            let both = self.machine.memory.0.iter().zip(&its.memory.0);
            let differ = (0..).zip(both).find(|(_, (is, ought))| is != ought);
            assert_eq!(differ, None::<(usize, (&u8, &u8))>, "pending tables differ");
        }
        self.apply(&Op::DistWrite(0, 4, 3));
        let mut handled = 0;
        loop {
            let before = handled;
            for v in 0..n {
                for group1 in [true, false] {
                    self.apply(&Op::Acknowledge(v, group1));
                    if !self.spec.cpu[v].running.is_empty() {
                        handled += 1;
                        self.apply(&Op::End(v));
                    }
                }
            }
            assert!(handled < 4000, "interrupts without end");
            if handled == before {
                break;
            }
        }
        for v in 0..n {
            assert_eq!(self.spec.deliverable(v), []);
            self.apply(&Op::Park(v));
            assert!(!self.machine.gic.pending(v));
            assert_eq!(self.machine.gic.held_ppis(v), 0);
        }
        let active: Vec<_> = self
            .machine
            .physical
            .iter()
            .filter(|(_, p)| p.active)
            .collect();
        assert!(active.is_empty(), "left active: {active:?}");
    }
}

fn mask(value: u64, bytes: u64) -> u64 {
    if bytes == 8 {
        value
    } else {
        value & ((1 << (8 * bytes)) - 1)
    }
}

/// Whether the VM has an ITS.
#[derive(Clone, Copy, Debug)]
enum WithIts {
    No,
    Yes { keeps_lpis: bool },
}

fn run(vcpus: usize, lrs: u8, open: bool, ops: &[Op]) {
    run_with(WithIts::No, vcpus, lrs, open, ops);
}

fn run_with(its: WithIts, vcpus: usize, lrs: u8, open: bool, ops: &[Op]) {
    let mut pair = Pair::new(vcpus, lrs, open, its);
    for op in ops {
        pair.apply(op);
    }
    pair.compare_registers();
    pair.drain();
}

/// Operations in the longest sequence; half of that on average.
const OPS: u64 = 1000;
/// Few under Miri, which runs each of them some thousand times slower.
const CASES: u64 = if cfg!(miri) { 1 } else { 400 };

/// Runs the sequences of `seeds`. The first that fails is cut down to what it needs, so that
/// what is reported can be pasted into a test of its own.
fn search(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let mut rng = Rng(seed);
        let vcpus = rng.pick(&[1, 2, 2, 3, 8]);
        let lrs = rng.pick(&[4, 4, 4, 1, 2, 3, 16]);
        let open = !rng.once_in(4);
        let len = rng.below(OPS);
        // Half of them have an ITS, and half of their operations are its.
        let its = match rng.below(4) {
            0 => WithIts::Yes { keeps_lpis: true },
            1 => WithIts::Yes { keeps_lpis: false },
            _ => WithIts::No,
        };
        let mut one = || match its {
            WithIts::Yes { .. } if rng.once_in(2) => rng.its_op(vcpus),
            _ => rng.op(vcpus),
        };
        let mut ops: Vec<Op> = (0..len).map(|_| one()).collect();
        let fails = |ops: &[Op]| catch_unwind(|| run_with(its, vcpus, lrs, open, ops)).is_err();
        if !fails(&ops) {
            continue;
        }
        let mut chunk = ops.len();
        while chunk > 0 {
            let (mut at, before) = (0, ops.len());
            while at < ops.len() {
                let mut fewer = ops.clone();
                fewer.drain(at..ops.len().min(at + chunk));
                if fails(&fewer) {
                    ops = fewer;
                } else {
                    at += chunk;
                }
            }
            if chunk > 1 || ops.len() == before {
                chunk /= 2;
            }
        }
        println!("seed {seed}: run_with({its:?}, {vcpus}, {lrs}, {open}, &{ops:?})");
        run_with(its, vcpus, lrs, open, &ops);
    }
}

/// Whatever guests, devices and the scheduler do, every register reads as in the manual's
/// tables, and every interrupt is signalled exactly when the manual says.
#[test]
fn the_controller_is_the_one_in_the_manual() {
    search(0..CASES);
}

/// The same with ten million operations that nobody tried before, where `SKETE_LONG` is set.
#[test]
fn the_controller_is_the_one_in_the_manual_for_long() {
    if std::env::var_os("SKETE_LONG").is_none() {
        return;
    }
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
    let first = now.expect("after 1970").as_secs() << 20;
    search(first..first + 20_000);
}
