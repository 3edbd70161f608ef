//! Several VMs over one machine: what each reads is what it wrote, whoever shares with whom.

use crate::cases;
use crate::machine::Fake;
use crate::vm::{LARGE, PAGE, RAM, ipa};
use arch::Pa;
use gmap::{
    Access, Budget, Cache, Error, Fault, FaultError, Features, Flags, Gmap, Level, Machine, Policy,
    Progress,
};
use proptest::prelude::*;

const PAGES: usize = 2 * 512 + 3;
const BYTES: u64 = 2 * LARGE + 3 * PAGE;
const VMS: usize = 3;
/// Pages that operations meet in; the last lie where no block fits.
const SAMPLE: [usize; 9] = [0, 1, 255, 511, 512, 513, 1023, 1024, 1026];
const SLICE: Budget = Budget::leaves(3);

#[derive(Clone, Debug)]
enum Op {
    Write(usize, usize, u64),
    Read(usize, usize),
    Populate(usize, usize),
    Share(usize, usize, usize, usize),
    Image(usize, usize, bool),
    UnshareAll(usize),
    Reclaim(usize, usize, usize),
    Split(usize, usize),
    Sync(usize),
    Age(usize),
    Restart(usize),
    Modes(usize, bool, Level),
    /// Moves frames of which the number of the page, in units of its order, is even or odd, in
    /// so many slices at the most: a block may stay half moved.
    Move(usize, usize, usize, u64, usize),
    /// A guest that is to write a page helps with such a block.
    Help(usize, usize),
    Collapse(usize),
    /// In so many slices at the most.
    DropZeroes(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let vm = || 0..VMS;
    let page = || prop::sample::select(&SAMPLE[..]);
    let count = || prop::sample::select(&[1_usize, 2, 512, 600, PAGES][..]);
    let level = prop::sample::select(&[Level::L2, Level::L3][..]);
    let slices = || prop::sample::select(&[1_usize, 2, 9, 33, usize::MAX][..]);
    prop_oneof![
        8 => (vm(), page(), 0..6_u64).prop_map(|(v, p, x)| Op::Write(v, p, x)),
        4 => (vm(), page()).prop_map(|(v, p)| Op::Read(v, p)),
        1 => (vm(), page()).prop_map(|(v, p)| Op::Populate(v, p)),
        4 => (vm(), vm(), page(), count()).prop_map(|(a, b, p, n)| Op::Share(a, b, p, n)),
        2 => (vm(), page(), any::<bool>()).prop_map(|(v, p, l)| Op::Image(v, p, l)),
        1 => vm().prop_map(Op::UnshareAll),
        2 => (vm(), page(), count()).prop_map(|(v, p, n)| Op::Reclaim(v, p, n)),
        1 => (vm(), page()).prop_map(|(v, p)| Op::Split(v, p)),
        1 => vm().prop_map(Op::Sync),
        1 => vm().prop_map(Op::Age),
        1 => vm().prop_map(Op::Restart),
        4 => (vm(), page(), count(), 0..2_u64, slices())
            .prop_map(|(v, p, n, o, s)| Op::Move(v, p, n, o, s)),
        2 => (vm(), page()).prop_map(|(v, p)| Op::Help(v, p)),
        2 => vm().prop_map(Op::Collapse),
        3 => (vm(), slices()).prop_map(|(v, s)| Op::DropZeroes(v, s)),
        1 => (vm(), any::<bool>(), level).prop_map(|(v, z, l)| Op::Modes(v, z, l)),
    ]
}

/// One VM, what its pages hold, and what a migration that copies dirty pages has.
struct Guest {
    gmap: Gmap,
    cache: Cache,
    vtcr: u64,
    value: Vec<u64>,
    migrated: Vec<u64>,
    /// Sharing was ended.
    alone: bool,
}

struct World {
    machine: Fake,
    guests: Vec<Guest>,
    features: Features,
    bbm2: bool,
    /// A block whose pages hold their number plus a thousand.
    image: u64,
    block: Option<u64>,
}

fn address(page: usize) -> u64 {
    RAM + u64::try_from(page).expect("small") * PAGE
}

fn start(machine: &mut Fake, vmid: usize, features: Features, bbm2: bool) -> Option<Guest> {
    let vmid = u16::try_from(vmid + 1).expect("small");
    let mut gmap = Gmap::new(machine, vmid, 36, features).ok()?;
    gmap.set_bbm2(bbm2);
    gmap.set_policy(Policy {
        eager: false,
        ..Policy::default()
    });
    if gmap.add_ram(machine, ipa(RAM), BYTES).is_err() {
        while gmap.destroy(machine, 9) == Progress::More {}
        return None;
    }
    let vtcr = 0x8005_3500 | 28 | 1 << 6 | if features.hafdbs { 3 << 21 } else { 0 };
    assert_eq!(vtcr, gmap::vtcr(36, 5, features.hafdbs));
    let touched: Vec<u64> = SAMPLE.iter().map(|page| address(*page)).collect();
    machine.run_vcpus(gmap.vttbr(), vtcr, &touched);
    Some(Guest {
        gmap,
        cache: Cache::new(),
        vtcr,
        value: vec![0; PAGES],
        migrated: vec![0; PAGES],
        alone: false,
    })
}

impl World {
    fn new(budget: usize, features: Features, bbm2: bool, zeroes: Option<u8>) -> Option<Self> {
        let mut machine = Fake::new(400);
        if let Some(order) = zeroes {
            let block = machine.alloc(order).expect("memory");
            machine.scrub(block, order);
            machine.zeroes.set(Some((block.raw(), order)));
        }
        let block = machine.alloc(9).expect("memory");
        machine.scrub(block, 9);
        for page in 0..512 {
            machine.set_content(block.raw() + page * PAGE, 1000 + page);
        }
        machine.budget = budget;
        let start = |machine: &mut Fake, n| start(machine, n, features, bbm2);
        let guests = (0..VMS).map_while(|n| start(&mut machine, n)).collect();
        let world = Self {
            machine,
            guests,
            features,
            bbm2,
            image: block.raw(),
            block: Some(block.raw()),
        };
        (world.guests.len() == VMS).then_some(world)
    }

    /// An access of a guest; returns where it goes, unless there is no memory.
    fn access(&mut self, vm: usize, page: usize, write: bool) -> Option<u64> {
        let guest = &mut self.guests[vm];
        let at = address(page);
        let access = if write { Access::WRITE } else { Access::READ };
        for _ in 0..6 {
            let vttbr = guest.gmap.vttbr();
            if let Some(pa) = self.machine.reach(vttbr, guest.vtcr, at, write) {
                return Some(pa);
            }
            let mut result = guest.gmap.fault(&mut self.machine, ipa(at), access);
            if result == Ok(Fault::Shared) {
                let (machine, cache) = (&mut self.machine, &mut guest.cache);
                result = guest.gmap.unshare(machine, cache, ipa(at), access);
                guest.cache.release(&mut self.machine);
                assert_ne!(result, Ok(Fault::Shared));
            }
            if let Err(error) = result {
                assert_eq!(error, FaultError::OutOfMemory);
                assert!(self.machine.starved.get());
                return None;
            }
        }
        panic!("the guest faults for ever at {at:#x}");
    }

    fn write(&mut self, vm: usize, page: usize, value: u64) {
        if let Some(pa) = self.access(vm, page, true) {
            assert!(!self.machine.shared(Pa::new(pa & !4095).expect("fits"), 0));
            self.machine.set_content(pa, value);
            self.guests[vm].value[page] = value;
        }
    }

    fn apply(&mut self, op: &Op) {
        self.machine.starved.set(false);
        match *op {
            Op::Write(vm, page, value) => self.write(vm, page, value),
            Op::Read(vm, page) => {
                if let Some(pa) = self.access(vm, page, false) {
                    assert_eq!(self.machine.content(pa), self.guests[vm].value[page]);
                }
            }
            Op::Populate(vm, page) => {
                let gmap = &mut self.guests[vm].gmap;
                if let Ok(pa) = gmap.populate_own(&mut self.machine, ipa(address(page))) {
                    assert!(!self.machine.shared(pa, 0));
                    self.machine.set_content(pa.raw(), 77);
                    self.guests[vm].value[page] = 77;
                }
            }
            Op::Share(from, to, page, count) => self.share(from, to, page, count),
            Op::Image(vm, page, large) => self.link_image(vm, page, large),
            Op::UnshareAll(vm) => self.unshare_all(vm),
            Op::Reclaim(vm, page, count) => self.reclaim(vm, page, count),
            Op::Split(vm, page) => {
                let guest = &mut self.guests[vm];
                let _ = guest.cache.topup(&mut self.machine, 3);
                let (machine, cache) = (&self.machine, &mut guest.cache);
                let at = ipa(address(page));
                let _ = guest.gmap.walk(machine, cache, at, Level::L3, Flags::SPLIT);
                guest.cache.release(&mut self.machine);
            }
            Op::Sync(vm) => self.sync(vm),
            Op::Age(vm) => {
                let (guest, end) = (&self.guests[vm], RAM + BYTES);
                let mut at = RAM;
                while let Some(next) = guest.gmap.age(&self.machine, at, end, SLICE, |_, _| ()) {
                    at = next.raw();
                }
            }
            Op::Restart(vm) => {
                self.end(vm);
                let fresh = start(&mut self.machine, vm, self.features, self.bbm2);
                self.guests[vm] = fresh.expect("its own memory is free again");
            }
            Op::Help(vm, page) => {
                let (gmap, machine) = (&mut self.guests[vm].gmap, &mut self.machine);
                while gmap.help(machine, ipa(address(page))) {}
            }
            Op::Move(vm, page, count, odd, slices) => {
                let (mut at, end) = (address(page), address((page + count).min(PAGES)));
                let wanted = |pa: Pa, order: u8| pa.raw() >> (12 + order) & 1 == odd;
                for _ in 0..slices {
                    let (gmap, machine) = (&mut self.guests[vm].gmap, &mut self.machine);
                    let moved = gmap.move_frames(machine, (at, end), SLICE, wanted);
                    match moved.next {
                        Some(next) if !moved.short => at = next.raw(),
                        _ => {
                            assert!(!moved.short || self.machine.starved.get());
                            break;
                        }
                    }
                }
            }
            Op::Collapse(vm) => {
                let (mut at, end) = (RAM, RAM + BYTES);
                loop {
                    let (gmap, machine) = (&mut self.guests[vm].gmap, &mut self.machine);
                    let collapsed = gmap.collapse(machine, (at, end), SLICE);
                    assert!(collapsed.short == 0 || self.machine.starved.get());
                    match collapsed.next {
                        Some(next) => at = next.raw(),
                        None => break,
                    }
                }
            }
            Op::DropZeroes(vm, slices) => {
                let guest = &mut self.guests[vm];
                let before = guest.gmap.stats();
                let (mut at, end) = (RAM, RAM + BYTES);
                for _ in 0..slices {
                    let (migrated, value) = (&mut guest.migrated, &guest.value);
                    let report = |from: arch::Ipa, bytes: u64| {
                        let pages = index(from.raw())..index(from.raw() + bytes);
                        migrated[pages.clone()].copy_from_slice(&value[pages]);
                    };
                    let machine = &mut self.machine;
                    match guest.gmap.drop_zeroes(machine, (at, end), SLICE, report) {
                        Some(next) => at = next.raw(),
                        None => at = end,
                    }
                    if at == end {
                        break;
                    }
                }
                for page in 0..if at == end { PAGES } else { 0 } {
                    let leaf = guest.gmap.leaf(&self.machine, ipa(address(page)));
                    let own = leaf.filter(|(leaf, level)| !leaf.shared() && *level == Level::L3);
                    assert!(
                        own.is_none() || guest.value[page] != 0,
                        "page {page} is zero"
                    );
                }
                let after = guest.gmap.stats();
                let gone = before.resident_bytes - after.resident_bytes;
                assert_eq!(after.zero_bytes - before.zero_bytes, gone);
            }
            Op::Modes(vm, zeroes, copy) => {
                let gmap = &mut self.guests[vm].gmap;
                gmap.set_policy(Policy {
                    zeroes,
                    copy,
                    ..gmap.policy()
                });
            }
        }
    }

    fn share(&mut self, from: usize, to: usize, page: usize, count: usize) {
        let Ok([a, b]) = self.guests.get_disjoint_mut([from, to]) else {
            return;
        };
        let end = address((page + count).min(PAGES));
        let mut at = address(page);
        loop {
            let (first, machine) = (at, &mut self.machine);
            let result = a.gmap.share_with(&mut b.gmap, machine, (at, end), SLICE);
            match result {
                Ok(next) => at = next.map_or(end, arch::Ipa::raw),
                Err(Error::NotShared) => return assert!(a.alone || b.alone),
                Err(Error::TooManyUsers | Error::Occupied { .. }) => {}
                Err(error) => {
                    assert_eq!(error, Error::NoTables);
                    assert!(self.machine.starved.get());
                }
            }
            // Whatever was shared, also before it failed, the child has now.
            let last = if result.is_ok() { at } else { end };
            for page in index(first)..index(last) {
                let at = address(page);
                let there = b.gmap.leaf(&self.machine, ipa(at)).map(|(leaf, _)| leaf);
                let here = a.gmap.leaf(&self.machine, ipa(at)).map(|(leaf, _)| leaf);
                if let (Some(here), Some(there)) = (here, there)
                    && here.shared()
                    && there.shared()
                    && here.base() == there.base()
                {
                    b.value[page] = a.value[page];
                } else if result.is_ok() {
                    assert!(here.is_none(), "page {page} was not shared");
                }
            }
            if result.is_err() || at >= end {
                return;
            }
        }
    }

    fn link_image(&mut self, vm: usize, page: usize, large: bool) {
        let Some(block) = self.block else { return };
        let guest = &mut self.guests[vm];
        let (level, page) = match large {
            true => (Level::L2, page / 512 * 512),
            false => (Level::L3, page),
        };
        let offset = if large { 0 } else { page % 512 };
        let number = u64::try_from(offset).expect("small");
        let frame = Pa::new(block + number * PAGE).expect("fits");
        let (machine, cache) = (&mut self.machine, &mut guest.cache);
        let at = ipa(address(page));
        let result = guest.gmap.link_shared(machine, cache, at, frame, level);
        guest.cache.release(&mut self.machine);
        let count = if large { 512 } else { 1 };
        match result {
            Ok(()) => {
                for (value, page) in (1000 + number..).zip(page..page + count) {
                    assert_eq!(guest.value[page], 0, "linked over what was there");
                    guest.value[page] = value;
                }
            }
            Err(Error::NotShared) => assert!(guest.alone),
            Err(Error::NotRam) => assert!(large && page == 1024),
            Err(Error::Occupied { .. } | Error::TooManyUsers) => {}
            Err(error) => {
                assert_eq!(error, Error::NoTables);
                assert!(self.machine.starved.get());
            }
        }
    }

    fn unshare_all(&mut self, vm: usize) {
        let guest = &mut self.guests[vm];
        guest.alone = true;
        let mut at = RAM;
        loop {
            let (machine, end) = (&mut self.machine, RAM + BYTES);
            match guest.gmap.unshare_all(machine, at, end, SLICE) {
                Ok(Some(next)) => at = next.raw(),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(error, Error::NoTables);
                    return assert!(self.machine.starved.get());
                }
            }
        }
        let stats = guest.gmap.stats();
        assert_eq!((stats.shared_leaves, stats.shared_bytes), (0, 0));
    }

    fn reclaim(&mut self, vm: usize, page: usize, count: usize) {
        let guest = &mut self.guests[vm];
        let to = (page + count).min(PAGES);
        let (mut at, end) = (address(page), address(to));
        while at < end {
            let (machine, left) = (&mut self.machine, end - at);
            let Ok(next) = guest.gmap.reclaim(machine, ipa(at), left, SLICE) else {
                return assert!(self.machine.starved.get());
            };
            at = next.map_or(end, arch::Ipa::raw);
        }
        // Who reclaims knows what is lost.
        guest.value[page..to].fill(0);
        guest.migrated[page..to].fill(0);
    }

    /// Copies what is dirty, as a migration does; then nothing may differ.
    fn sync(&mut self, vm: usize) {
        let guest = &mut self.guests[vm];
        let (mut at, end) = (RAM, RAM + BYTES);
        loop {
            let (migrated, value) = (&mut guest.migrated, &guest.value);
            let report = |from: arch::Ipa, bytes: u64| {
                let pages = index(from.raw())..index(from.raw() + bytes);
                migrated[pages.clone()].copy_from_slice(&value[pages]);
            };
            match guest.gmap.sync_dirty(&self.machine, at, end, SLICE, report) {
                Some(next) => at = next.raw(),
                None => break,
            }
        }
        assert_eq!(guest.value, guest.migrated, "a write is not in the log");
    }

    fn end(&mut self, vm: usize) {
        let (vttbr, vtcr) = (self.guests[vm].gmap.vttbr(), self.guests[vm].vtcr);
        // Its vCPUs have stopped.
        self.machine.run_vcpus(vttbr, vtcr, &[1 << 35]);
        let gmap = &mut self.guests[vm].gmap;
        while gmap.destroy(&mut self.machine, 2) == Progress::More {}
        self.machine.run_vcpus(0, 0, &[]);
        for (n, guest) in self.guests.iter().enumerate() {
            if n != vm {
                let touched: Vec<u64> = SAMPLE.iter().map(|page| address(*page)).collect();
                let (vttbr, vtcr) = (guest.gmap.vttbr(), guest.vtcr);
                self.machine.run_vcpus(vttbr, vtcr, &touched);
            }
        }
    }

    /// Whatever a core has cached, each guest sees what it wrote.
    fn check(&self) {
        for (vm, guest) in self.guests.iter().enumerate() {
            for page in SAMPLE {
                let (at, vttbr) = (address(page), guest.gmap.vttbr());
                let vtcr = guest.vtcr | 1 << 21;
                let seen = self.machine.fresh(vttbr, vtcr, at);
                let held = seen.map_or(0, |seen| self.machine.content(seen.pa));
                assert_eq!(held, guest.value[page], "VM {vm}, page {page}");
                if let Ok(cached) = self.machine.stale(vttbr, guest.vtcr, at) {
                    let fresh = seen.expect("a TLB translates what is unmapped");
                    assert_eq!(cached.pa, fresh.pa);
                    assert!(cached.write <= fresh.write);
                    let page = Pa::new(cached.pa & !4095).expect("fits");
                    assert!(!cached.write || !self.machine.shared(page, 0));
                }
            }
        }
        for page in 0..512 {
            assert_eq!(self.machine.content(self.image + page * PAGE), 1000 + page);
        }
    }

    /// Every page that is held has exactly the users that are counted.
    fn check_frames(&self) {
        let mut uses = std::collections::BTreeMap::<u64, u32>::new();
        for guest in &self.guests {
            let (mut resident, mut shared, mut at) = (0, 0, 0);
            while at < PAGES {
                let leaf = guest.gmap.leaf(&self.machine, ipa(address(at)));
                let pages = leaf.map_or(1, |(_, level)| if level == Level::L2 { 512 } else { 1 });
                if let Some((leaf, _)) = leaf {
                    let bytes = u64::try_from(pages).expect("small") * PAGE;
                    *(if leaf.shared() {
                        &mut shared
                    } else {
                        &mut resident
                    }) += bytes;
                    for page in (leaf.base().raw()..leaf.base().raw() + bytes).step_by(4096) {
                        *uses.entry(page).or_default() += 1;
                    }
                }
                at += pages;
            }
            let stats = guest.gmap.stats();
            let counted = (stats.resident_bytes, stats.shared_bytes);
            assert_eq!(counted, (resident, shared));
        }
        if let Some(block) = self.block {
            for page in (block..block + LARGE).step_by(4096) {
                *uses.entry(page).or_default() += 1;
            }
        }
        let users = self.machine.users.borrow();
        for (page, more) in users.iter().filter(|(_, more)| **more > 0) {
            assert_eq!(uses.get(page), Some(&(more + 1)), "{page:#x}");
        }
        let zeroes = self.machine.zeroes.get();
        for (page, count) in uses.iter().filter(|(_, count)| **count > 1) {
            let zero = zeroes.is_some_and(|(at, order)| (at..at + (4096 << order)).contains(page));
            let more = users.get(page).copied().unwrap_or(0);
            assert!(zero || more + 1 == *count, "{page:#x} is used unseen");
        }
    }

    fn finish(mut self) {
        self.machine.run_vcpus(0, 0, &[]);
        for guest in &mut self.guests {
            while guest.gmap.destroy(&mut self.machine, 2) == Progress::More {}
        }
        if let Some(block) = self.block.take() {
            self.machine.release(Pa::new(block).expect("fits"), 9);
        }
        let zeroes = self.machine.zeroes.get().map(|(at, _)| at);
        let held = self.machine.held.borrow();
        let left: Vec<u64> = held.keys().copied().collect();
        assert_eq!(
            left,
            zeroes.into_iter().collect::<Vec<_>>(),
            "frames leaked"
        );
    }
}

fn index(at: u64) -> usize {
    usize::try_from((at - RAM) / PAGE).expect("small")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(2_000)))]

    /// Whoever shares with whom, and however little memory there is: each guest reads what
    /// it wrote through the worst of TLBs, no shared frame is ever written, the dirty log
    /// loses no write, and every frame goes back once, with its last user.
    #[test]
    fn what_a_guest_reads_is_what_it_wrote_whoever_shares_with_whom(
        ops in prop::collection::vec(op(), 1..30),
        budget in prop_oneof![1 => 8..24_usize, 2 => Just(400)],
        modes in any::<(bool, bool, bool)>(),
        zeroes in prop::option::of(prop::sample::select(&[0_u8, 9][..])),
    ) {
        let (fwb, hafdbs, bbm2) = modes;
        let features = Features { fwb, hafdbs };
        let Some(mut world) = World::new(budget, features, bbm2, zeroes) else { return Ok(()) };
        for (step, op) in ops.iter().enumerate() {
            world.apply(op);
            world.check();
            if step % 6 == 0 {
                world.check_frames();
            }
        }
        world.check_frames();
        world.finish();
    }
}

#[test]
fn a_copy_of_what_a_frame_held_before_it_was_shared_again_is_refused() {
    let features = Features {
        fwb: true,
        hafdbs: true,
    };
    let mut machine = Fake::new(400);
    let mut guest = |vmid| start(&mut machine, vmid, features, false).expect("memory");
    let (mut a, mut b, mut c) = (guest(0), guest(1), guest(2));
    machine.run_vcpus(0, 0, &[]);
    let at = ipa(RAM + 2 * LARGE);
    let range = (at.raw(), at.raw() + PAGE);
    a.gmap.populate(&mut machine, at).expect("memory");
    let share = |a: &mut Guest, b: &mut Guest, machine: &mut Fake| {
        let done = a.gmap.share_with(&mut b.gmap, machine, range, SLICE);
        assert_eq!(done, Ok(None));
    };
    share(&mut a, &mut b, &mut machine);
    let look = a.gmap.look(&machine, at, Access::WRITE);
    let Ok(gmap::Look::Shared(want)) = look else {
        panic!("{look:?}")
    };
    let copy = want.prepare(&mut machine).expect("memory");
    // The other lets go; the page is written in place, and then shared with a third.
    while b.gmap.destroy(&mut machine, 9) == Progress::More {}
    a.gmap
        .fault(&mut machine, at, Access::WRITE)
        .expect("its own");
    let (leaf, _) = a.gmap.leaf(&machine, at).expect("mapped");
    assert!(!leaf.shared());
    machine.set_content(leaf.base().raw(), 42);
    share(&mut a, &mut c, &mut machine);
    let (machine, cache) = (&mut machine, &mut a.cache);
    let linked = a.gmap.link_copy(machine, cache, want, copy);
    assert_eq!(linked, Err(gmap::LinkError::Again), "42 would be lost");
    machine.free(copy, 0);
    for mut guest in [a, c] {
        while guest.gmap.destroy(machine, 9) == Progress::More {}
    }
    assert!(machine.held.borrow().is_empty());
}
