//! A guest out of its mind: it ends what it never took, changes what it is handling, and core
//! is slow. The manual says UNPREDICTABLE; here it must harm nobody but the guest.

use vgic::{Level, Lr, LrSet, Vgic};

use crate::machine::{Machine, width};
use crate::ops::{HARDWARE_PPIS, HARDWARE_SPIS, Op, Rng};

/// Few under Miri, which runs each of them some thousand times slower.
const CASES: u64 = if cfg!(miri) { 1 } else { 300 };

fn perform(m: &mut Machine, rng: &mut Rng, op: &Op) {
    match *op {
        Op::DistRead(o, s) => {
            let _ = m.gic.dist_read(o, width(s));
        }
        Op::DistWrite(o, s, value) => m.gicd_write(o, s, value),
        Op::RedistRead(v, o, s) => {
            let _ = m.gic.redist_read(v, o, width(s));
        }
        Op::RedistWrite(v, o, s, value) => m.gicr_write(v, o, s, value),
        Op::Bit(v, array, id) if id < 32 => m.gicr_write(v, 0x1_0000 + array, 4, 1 << id),
        Op::Bit(_, array, id) => m.gicd_write(array + u64::from(id / 32 * 4), 4, 1 << (id % 32)),
        Op::Priority(v, id, p) if id < 32 => {
            m.gicr_write(v, 0x1_0400 + u64::from(id), 1, u64::from(p));
        }
        Op::Priority(_, id, p) => m.gicd_write(0x400 + u64::from(id), 1, u64::from(p)),
        Op::Route(id, value) => m.gicd_write(0x6000 + 8 * u64::from(id), 8, value),
        Op::Message(o, id) => m.gicd_write(o, 4, u64::from(id)),
        Op::Sgi(v, value, _) => {
            let kick = m.gic.sgi(v, value);
            m.check_kick(kick);
        }
        Op::Wire(v, id, high) => m.wire(v, id, high),
        Op::Pulse(v, id) => {
            let kick = m.gic.pulse(v, id);
            m.check_kick(kick);
        }
        Op::Acknowledge(v, group1) => {
            if m.cpu[v].running {
                m.acknowledge(v, group1);
            }
        }
        // Any INTID, taken or not.
        Op::End(v) => {
            let id = rng.pick(&crate::ops::IDS);
            if m.cpu[v].running {
                m.end(v, id);
            }
        }
        Op::Dir(v, id) => {
            if m.cpu[v].running {
                m.deactivate(v, id);
            }
        }
        Op::PriorityMask(v, pmr) => {
            m.cpu[v].vmcr = m.cpu[v].vmcr & !(0xff << 24) | u64::from(pmr) << 24;
        }
        Op::Groups(v, groups) => m.cpu[v].vmcr = m.cpu[v].vmcr & !3 | groups,
        Op::SplitEoi(v, split) => {
            m.cpu[v].vmcr = m.cpu[v].vmcr & !(1 << 9) | u64::from(split) << 9;
        }
        Op::ItsRead(o, s) => {
            m.its_read(o, s);
        }
        Op::ItsWrite(o, s, value) => m.its_write(o, s, value),
        Op::Command(words) => {
            let at = m.its_read(0x88, 8);
            for (n, word) in words.into_iter().enumerate() {
                if let Some(bytes) = m.memory.slice(0x4000_0000 + at + 8 * n as u64, 8) {
                    bytes.copy_from_slice(&word.to_le_bytes());
                }
            }
            m.its_write(0x88, 8, at + 32);
        }
        Op::DeviceWrites(device, event) => m.message(device, event),
        Op::Store(offset, byte) => m.memory.0[offset as usize] = byte,
        Op::Park(v) => m.park(v),
        Op::Unpark(v) => m.unpark(v),
        Op::Touch(v) => {
            if m.cpu[v].running {
                m.fold(v);
                m.fill(v);
            }
        }
    }
}

/// Brings the controller to rest as a guest that starts anew would.
fn calm(m: &mut Machine, vcpus: usize) {
    for v in 0..vcpus {
        for id in 0..256 {
            m.wire(v, id, false);
        }
        if m.its.is_some() {
            m.gicr_write(v, 0, 4, 0);
        }
        m.gicr_write(v, 0x1_0280, 4, u64::MAX);
        m.gicr_write(v, 0x1_0380, 4, u64::MAX);
    }
    for id in 32..256 {
        m.gicd_write(0x48, 4, id);
    }
    for word in 1..8 {
        m.gicd_write(0x280 + 4 * word, 4, u64::MAX);
        m.gicd_write(0x380 + 4 * word, 4, u64::MAX);
    }
    m.serve();
    for v in 0..vcpus {
        m.park(v);
        m.serve();
        assert!(!m.gic.pending(v) && !m.gic.owes_deactivation(v));
        assert_eq!(m.gic.held_ppis(v), 0);
        let mut lrs = LrSet::new(4);
        let _ = m.gic.fill(v, &mut lrs);
        assert_eq!(lrs.used, 0);
    }
    assert!(m.physical.values().all(|p| !p.active));
}

#[test]
fn a_guest_out_of_its_mind_breaks_nothing() {
    for seed in 0..CASES {
        let mut rng = Rng(seed);
        let vcpus = rng.pick(&[1, 2, 3, 8]);
        let mut hardware: Vec<(usize, u32)> = HARDWARE_SPIS.map(|id| (0, id)).to_vec();
        for v in 0..vcpus {
            hardware.extend(HARDWARE_PPIS.map(|id| (v, id)));
        }
        let lrs = rng.pick(&[1, 2, 4, 16]);
        let mut m = Machine::new(vcpus, lrs, &hardware);
        let its = rng.once_in(2);
        if its {
            m = m.with_its(rng.once_in(2));
            for v in 0..vcpus {
                m.gicr_write(v, 0x70, 8, 0x4001_000d);
                m.gicr_write(v, 0, 4, 1);
            }
            m.its_write(0x80, 8, 1 << 63 | 0x4000_0000);
            m.its_write(0, 4, 1);
        }
        for v in 0..vcpus {
            m.unpark(v);
        }
        for _ in 0..rng.below(1500) {
            let op = match its && rng.once_in(2) {
                true => rng.its_op(vcpus),
                false => rng.op(vcpus),
            };
            perform(&mut m, &mut rng, &op);
            // Core comes when it comes.
            if rng.once_in(5) {
                m.serve();
            }
        }
        calm(&mut m, vcpus);
    }
}

#[test]
fn list_registers_that_no_hardware_would_show_are_survived() {
    let mut rng = Rng(7);
    let mut gic = Vgic::new(2);
    for _ in 0..CASES * 200 {
        let mut lrs = LrSet::new(rng.next() as u8);
        let v = rng.below(4) as usize;
        let id = rng.below(300) as u32;
        let _ = gic.set_level(
            v,
            id,
            if rng.once_in(2) {
                Level::High
            } else {
                Level::Low
            },
        );
        let _ = gic.set_hardware(v, id, rng.once_in(2).then_some(rng.next() as u32));
        let _ = gic.dist_write(rng.below(0x1000), width(4), rng.next());
        let _ = gic.redist_write(v, 0x1_0000 + rng.below(0x1000), width(4), rng.next());
        let _ = gic.fill(v, &mut lrs);
        for lr in &mut lrs.lr {
            if rng.once_in(2) {
                *lr = Lr::from_raw(rng.next() & !0xffff_fe00);
            }
        }
        lrs.used = rng.next() as u16;
        lrs.hcr = rng.next();
        let _ = gic.fold(v, &lrs);
        let _ = gic.deactivate(v, id);
        let _ = gic.next_deactivation(v);
        let _ = gic.signals(v, rng.next());
    }
}
