//! Tables against a flat map.

use crate::cases;
use crate::machine::Fake;
use arch::{Ipa, Pa};
use gmap::{
    Access, Attr, Budget, Error, Fault, FaultError, Features, Gmap, Perm, Policy, Progress,
};
use model::flat::Flat;
use proptest::prelude::*;

const K: u64 = 12;
const M2: u64 = 21;
const G: u64 = 30;

/// Few enough that operations meet; each differs from another in one bit that only one
/// level looks at; the last ones are outside a space of 32, 40 or 44 bits.
const ADDRESSES: [u64; 24] = [
    0,
    1 << K,
    2 << K,
    511 << K,
    1 << M2,
    (1 << M2) + (1 << K),
    (1 << M2) + (256 << K),
    2 << M2,
    3 << M2,
    4 << M2,
    256 << M2,
    511 << M2,
    1 << G,
    (1 << G) + (1 << K),
    (1 << G) + (1 << M2),
    2 << G,
    3 << G,
    (4 << G) - (1 << K),
    4 << G,
    1 << 39,
    (1 << 40) - (1 << K),
    1 << 40,
    1 << 44,
    (1 << 48) - (1 << K),
];

const SIZES: [u64; 14] = [
    1 << K,
    2 << K,
    3 << K,
    511 << K,
    1 << M2,
    (1 << M2) + (1 << K),
    2 << M2,
    3 << M2,
    1 << G,
    (1 << G) + (1 << K),
    2 << G,
    0,
    100,
    u64::MAX - 4095,
];

/// Outputs of fixed mappings, with every congruence; none is in the fake RAM.
const OUTPUTS: [u64; 7] = [
    1 << 40,
    (1 << 40) + (1 << M2),
    (1 << 41) + (1 << K),
    (1 << 42) + (3 << M2) + (5 << K),
    2 << G,
    (1 << 48) - (1 << M2),
    7,
];

#[derive(Clone, Debug)]
enum Op {
    AddRam(u64, u64),
    DeleteRam(u64),
    Reclaim(u64, u64),
    Touch(u64, bool),
    Map(u64, u64, u64, Attr, Perm),
    Unmap(u64, u64),
    Fault(u64, Access),
    Populate(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let at = || prop::sample::select(&ADDRESSES[..]);
    let near = || {
        (
            at(),
            prop::sample::select(&[0_u64, 0, 0, 8, 4096, 0x3f_f000][..]),
        )
    };
    let touch = near().prop_map(|(at, off)| (at + off) & ((1 << 48) - 1));
    let size = || prop::sample::select(&SIZES[..]);
    let out = prop::sample::select(&OUTPUTS[..]);
    let attr = prop::sample::select(&[Attr::Normal, Attr::NormalNc, Attr::Device][..]);
    let perm =
        any::<(bool, bool, bool)>().prop_map(|(read, write, exec)| Perm { read, write, exec });
    let access = prop::sample::select(&[Access::READ, Access::WRITE, Access::EXEC][..]);
    prop_oneof![
        3 => (at(), size()).prop_map(|(a, s)| Op::AddRam(a, s)),
        1 => at().prop_map(Op::DeleteRam),
        2 => (near(), size()).prop_map(|((a, o), s)| Op::Reclaim((a + o) & ((1 << 48) - 1), s)),
        2 => (touch.clone(), any::<bool>()).prop_map(|(a, w)| Op::Touch(a, w)),
        3 => (at(), out, size(), attr, perm).prop_map(|(a, o, s, t, p)| Op::Map(a, o, s, t, p)),
        3 => (near(), size()).prop_map(|((a, o), s)| Op::Unmap((a + o) & ((1 << 48) - 1), s)),
        5 => (touch.clone(), access).prop_map(|(a, x)| Op::Fault(a, x)),
        1 => touch.prop_map(Op::Populate),
    ]
}

/// What the flat map knows of a page: MemAttr, permissions, and whether it is RAM.
type Tag = (u8, Perm, bool);

struct Pair {
    machine: Fake,
    gmap: Gmap,
    flat: Flat<Tag>,
    slots: Flat<()>,
    bits: u8,
    features: Features,
    vtcr: u64,
}

fn ipa(raw: u64) -> Ipa {
    Ipa::new(raw).expect("below 2^48")
}

impl Pair {
    fn new(
        budget: usize,
        bits: u8,
        features: Features,
        (bbm2, wipe, eager): (bool, bool, bool),
    ) -> Option<Self> {
        let mut machine = Fake::new(budget);
        let mut gmap = Gmap::new(&mut machine, 7, bits, features).ok()?;
        gmap.set_bbm2(bbm2);
        gmap.set_policy(Policy {
            wipe,
            eager,
            ..Policy::default()
        });
        // T0SZ, SL0 and the walk attributes as the manual wants them for the width.
        let sl0 = if bits > 43 { 2 } else { 1 };
        let hafdbs = if features.hafdbs { 3 << 21 } else { 0 };
        let vtcr = (64 - u64::from(bits)) | sl0 << 6 | 0x3500 | 5 << 16 | hafdbs | 1 << 31;
        assert_eq!(vtcr, gmap::vtcr(bits, 5, features.hafdbs));
        machine.run_vcpus(gmap.vttbr(), vtcr, &ADDRESSES);
        Some(Self {
            machine,
            gmap,
            flat: Flat::default(),
            slots: Flat::default(),
            bits,
            features,
            vtcr,
        })
    }

    /// Why a range is refused, from what the documentation says.
    fn range_error(&self, at: u64, bytes: u64) -> Option<Error> {
        if !at.is_multiple_of(4096) || !bytes.is_multiple_of(4096) || bytes == 0 {
            return Some(Error::Unaligned);
        }
        let past = u128::from(at) + u128::from(bytes) > 1 << self.bits;
        past.then_some(Error::OutOfSpace)
    }

    fn memattr(&self, attr: Attr) -> u8 {
        match (attr, self.features.fwb) {
            (Attr::Normal, false) => 0xf,
            (Attr::Normal, true) => 0x6,
            (Attr::NormalNc, _) => 0x5,
            (Attr::Device, _) => 0x1,
        }
    }

    fn apply(&mut self, op: &Op) {
        self.machine.starved.set(false);
        let before = (self.machine.free_bytes(), self.gmap.stats());
        let failed = match *op {
            Op::AddRam(at, bytes) => self.add_ram(at, bytes),
            Op::DeleteRam(at) => self.delete_ram(at),
            Op::Reclaim(at, bytes) => self.reclaim(at, bytes),
            Op::Touch(at, write) => {
                let vttbr = self.gmap.vttbr();
                let faulted = self.machine.guest(vttbr, self.vtcr, at, write);
                if self.flat.get(at).is_none() {
                    assert!(faulted);
                }
                false
            }
            Op::Map(at, out, bytes, attr, perm) => self.map(at, out, bytes, attr, perm),
            Op::Unmap(at, bytes) => self.unmap(at, bytes),
            Op::Fault(at, access) => self.fault(at, access),
            Op::Populate(at) => self.populate(at),
        };
        if failed {
            let mut stats = self.gmap.stats();
            stats.faults = before.1.faults;
            stats.splits = before.1.splits;
            let after = (self.machine.free_bytes(), stats);
            assert_eq!(after, before, "an error changed something: {op:?}");
        }
    }

    fn add_ram(&mut self, at: u64, bytes: u64) -> bool {
        let result = self.gmap.add_ram(&mut self.machine, ipa(at), bytes);
        if let Some(error) = self.range_error(at, bytes) {
            assert_eq!(result, Err(error));
        } else if !self.slots.is_free(at, at + bytes) || !self.flat.is_free(at, at + bytes) {
            assert!(matches!(result, Err(Error::Occupied { .. })), "{result:?}");
        } else if self.slots.runs().len() == 16 {
            assert_eq!(result, Err(Error::TooManySlots));
        } else if result == Err(Error::NoTables) {
            assert!(self.machine.starved.get());
        } else {
            assert_eq!(result, Ok(()));
            self.slots.insert(at, at + bytes, 0, ());
        }
        result.is_err()
    }

    fn delete_ram(&mut self, at: u64) -> bool {
        let slot = self.slots.runs().iter().find(|slot| slot.start == at);
        let slot = slot.copied();
        let slice = Budget::leaves(1);
        let mut result = self.gmap.delete_ram(&mut self.machine, ipa(at), slice);
        match slot {
            None => assert_eq!(result, Err(Error::NotRam)),
            Some(_) if result == Err(Error::NoTables) => assert!(self.machine.starved.get()),
            Some(slot) => {
                while result.expect("goes on").is_some() {
                    let fault = self.gmap.fault(&mut self.machine, ipa(at), Access::READ);
                    assert_eq!(fault, Err(FaultError::NoSlot), "RAM in a slot that goes");
                    result = self.gmap.delete_ram(&mut self.machine, ipa(at), slice);
                }
                self.slots.remove(slot.start, slot.end);
                self.flat.remove(slot.start, slot.end);
            }
        }
        result.is_err()
    }

    fn reclaim(&mut self, at: u64, bytes: u64) -> bool {
        let slice = Budget::leaves(1);
        let (mut from, mut left) = (at, bytes);
        let result = loop {
            let result = self.gmap.reclaim(&mut self.machine, ipa(from), left, slice);
            match result {
                Ok(Some(next)) => (from, left) = (next.raw(), left - (next.raw() - from)),
                other => break other,
            }
        };
        if let Some(error) = self.range_error(at, bytes) {
            assert_eq!(result, Err(error));
        } else if !self
            .slots
            .runs()
            .iter()
            .any(|s| s.start <= at && at + bytes <= s.end)
        {
            assert_eq!(result, Err(Error::NotRam));
        } else if result == Err(Error::NoTables) {
            assert!(self.machine.starved.get());
        } else {
            assert_eq!(result, Ok(None));
            self.flat.remove(at, at + bytes);
        }
        result.is_err()
    }

    fn map(&mut self, at: u64, out: u64, bytes: u64, attr: Attr, perm: Perm) -> bool {
        // Tens of thousands of pages that are not congruent would only take time.
        if bytes > 3 << (M2 - 1) && !(at ^ out).is_multiple_of(1 << M2) {
            return false;
        }
        let pa = Pa::new(out).expect("an address");
        let result = self
            .gmap
            .map(&mut self.machine, ipa(at), pa, bytes, attr, perm);
        if let Some(error) = self.range_error(at, bytes) {
            assert_eq!(result, Err(error));
        } else if !out.is_multiple_of(4096) {
            assert_eq!(result, Err(Error::Unaligned));
        } else if out + bytes > 1 << 48 {
            assert_eq!(result, Err(Error::OutOfSpace));
        } else if !self.slots.is_free(at, at + bytes) || !self.flat.is_free(at, at + bytes) {
            assert!(matches!(result, Err(Error::Occupied { .. })), "{result:?}");
        } else if result != Err(Error::NoTables) {
            assert_eq!(result, Ok(()));
            let exec = perm.exec && attr != Attr::Device;
            let tag = (self.memattr(attr), Perm { exec, ..perm }, false);
            self.flat.insert(at, at + bytes, out, tag);
        } else {
            assert!(self.machine.starved.get());
        }
        result.is_err()
    }

    fn unmap(&mut self, at: u64, bytes: u64) -> bool {
        let result = self.gmap.unmap(&mut self.machine, ipa(at), bytes);
        if let Some(error) = self.range_error(at, bytes) {
            assert_eq!(result, Err(error));
        } else if !self.slots.is_free(at, at + bytes) {
            assert!(matches!(result, Err(Error::NotFixed { .. })), "{result:?}");
        } else if result != Err(Error::NoTables) {
            assert_eq!(result, Ok(()));
            self.flat.remove(at, at + bytes);
        } else {
            assert!(self.machine.starved.get());
        }
        result.is_err()
    }

    fn fault(&mut self, at: u64, access: Access) -> bool {
        let result = self.gmap.fault(&mut self.machine, ipa(at), access);
        match self.flat.get(at) {
            Some((_, (_, perm, _))) => {
                let allowed = if access.write {
                    perm.write
                } else if access.exec {
                    perm.exec
                } else {
                    perm.read
                };
                let expected = match allowed {
                    true => Ok(Fault::AlreadyMapped),
                    false => Err(FaultError::Permission),
                };
                assert_eq!(result, expected);
            }
            None if self.slots.get(at).is_some() => match result {
                Ok(Fault::Mapped { order }) => self.populated(at, order),
                other => {
                    assert_eq!(other, Err(FaultError::OutOfMemory));
                    assert!(self.machine.starved.get());
                }
            },
            None => assert_eq!(result, Err(FaultError::NoSlot)),
        }
        result.is_err()
    }

    fn populate(&mut self, at: u64) -> bool {
        let result = self.gmap.populate(&mut self.machine, ipa(at));
        match (result, self.flat.get(at)) {
            (Ok(pa), Some((out, (_, perm, _)))) => {
                assert!(perm.write);
                assert_eq!(pa.raw(), out & !4095);
            }
            (Ok(pa), None) => {
                let seen = self.machine.fresh(self.gmap.vttbr(), self.vtcr, at);
                let seen = seen.expect("populated");
                self.populated(at, if seen.level == 2 { 9 } else { 0 });
                assert_eq!(pa.raw(), seen.pa & !4095);
            }
            (Err(FaultError::NoSlot), _) => assert_eq!(self.slots.get(at), None),
            (Err(FaultError::Permission), found) => assert!(!found.expect("mapped").1.1.write),
            (Err(error), found) => {
                assert_eq!(error, FaultError::OutOfMemory);
                assert!(found.is_none() && self.slots.get(at).is_some());
            }
        }
        result.is_err()
    }

    /// A frame of RAM appeared around `at`: takes it over into the flat map if it may be.
    fn populated(&mut self, at: u64, order: u8) {
        let size = 4096_u64 << order;
        let (start, end) = (at / size * size, at / size * size + size);
        let inside = self
            .slots
            .runs()
            .iter()
            .any(|s| s.start <= start && end <= s.end);
        assert!(inside, "a frame reaches out of its slot");
        let seen = self.machine.fresh(self.gmap.vttbr(), self.vtcr, start);
        let base = seen.expect("mapped").pa;
        let held = self.machine.held.borrow();
        let held = held.get(&base).expect("the frame is held");
        assert!(held.scrubbed && held.order == order);
        let tag = (self.memattr(Attr::Normal), Perm::RWX, true);
        self.flat.insert(start, end, base, tag);
    }

    /// Compares what every kind of walker sees with the flat map.
    fn check(&self) {
        let vttbr = self.gmap.vttbr();
        for &base in &ADDRESSES {
            for at in [
                base,
                base | 8,
                base ^ 4096,
                base ^ (1 << M2),
                base ^ (5 << K),
            ] {
                let expected = self.flat.get(at);
                let fresh = self.machine.fresh(vttbr, self.vtcr, at);
                let plain = fresh.map(|t| {
                    let perm = Perm {
                        read: t.read,
                        // DBM: clean RAM becomes writable by hardware or by a fix-up.
                        write: t.write || t.raw >> 51 & 1 == 1,
                        exec: t.exec,
                    };
                    (t.pa, (t.memattr, perm))
                });
                let expected_plain = expected.map(|(pa, (m, p, _))| (pa, (m, p)));
                assert_eq!(plain.ok(), expected_plain, "at {at:#x}");
                let seen = self.gmap.translate(&self.machine, ipa(at));
                let seen = seen.map(|(pa, perm)| (pa.raw(), perm));
                assert_eq!(seen, expected.map(|(pa, (_, p, _))| (pa, p)));
                if let Ok(stale) = self.machine.stale(vttbr, self.vtcr, at) {
                    let fresh = fresh.expect("a TLB translates what is unmapped");
                    assert_eq!((stale.pa, stale.memattr), (fresh.pa, fresh.memattr));
                    assert!(stale.write <= fresh.write && stale.exec <= fresh.exec);
                }
            }
        }
        let ram = self.flat.runs().iter().filter(|run| run.tag.2);
        let resident: u64 = ram.map(|run| run.end - run.start).sum();
        let stats = self.gmap.stats();
        assert_eq!(stats.resident_bytes, resident);
        let held = self.machine.held.borrow();
        let bytes: u64 = held.values().map(|frame| 4096 << frame.order).sum();
        assert_eq!(bytes, resident + stats.table_bytes);
        let leaves = stats.leaves[0] << K;
        let mapped: u64 = self.flat.runs().iter().map(|run| run.end - run.start).sum();
        assert_eq!(
            leaves + (stats.leaves[1] << M2) + (stats.leaves[2] << G),
            mapped
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(10_000)))]

    /// Whatever is asked, and however little memory there is, the tables translate every
    /// page as a flat map would, errors change nothing, and no TLB is ever behind.
    #[test]
    fn tables_agree_with_a_flat_map(
        ops in prop::collection::vec(op(), 1..16),
        budget in prop_oneof![1..24_usize, Just(400)],
        bits in prop::sample::select(&[32_u8, 36, 39, 40, 43, 44, 48][..]),
        fwb in any::<bool>(),
        hafdbs in any::<bool>(),
        modes in any::<(bool, bool, bool)>(),
        slice in 1..4_usize,
    ) {
        let features = Features { fwb, hafdbs };
        let Some(mut pair) = Pair::new(budget, bits, features, modes) else { return Ok(()) };
        for op in &ops {
            pair.apply(op);
            pair.check();
        }
        pair.machine.run_vcpus(0, 0, &[]);
        while pair.gmap.destroy(&mut pair.machine, slice) == Progress::More {}
        prop_assert!(pair.machine.held.borrow().is_empty(), "frames leaked");
        prop_assert_eq!(pair.gmap.translate(&pair.machine, ipa(0)), None);
    }
}
