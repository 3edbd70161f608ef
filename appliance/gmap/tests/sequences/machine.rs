//! A machine for the stage-2 manager: memory, a pool with a limit, a TLB that forgets nothing.

use arch::{Ipa, Pa};
use gmap::{Event, Level, Machine};
use model::hardware_walk::{Fault, Translation};
use model::stale_tlb::StaleTlb;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

/// First byte of the fake RAM.
const RAM: u64 = 1 << 32;
/// Frames of 2 MiB it has; the first is cut into pages at need.
const LARGE: u64 = 6;
/// Most users of a page besides the first.
pub(crate) const MOST_USERS: u32 = 5;
/// When interrupts wait, of the times that somebody looks: mostly not, sometimes twice in a row.
const INTERRUPTS: u64 = 0x8c10_4041_0408_6010;
/// What a racing store leaves in its page.
pub(crate) const RACING: u64 = 7777;

/// A frame that the manager holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) order: u8,
    pub(crate) scrubbed: bool,
    /// Pages from the first on that were copied to, where it is copied in parts.
    pub(crate) copied: u64,
}

#[derive(Debug)]
pub(crate) struct Fake {
    tables: RefCell<BTreeMap<u64, Box<[u64; 512]>>>,
    pub(crate) held: RefCell<BTreeMap<u64, Held>>,
    free_large: BTreeSet<u64>,
    free_pages: BTreeSet<u64>,
    /// Allocations that will still succeed.
    pub(crate) budget: usize,
    tlb: RefCell<StaleTlb>,
    /// Tables that nothing points to yet: no vCPU can tell what is stored there.
    unlinked: RefCell<BTreeSet<u64>>,
    /// VTTBR, VTCR and the addresses that vCPUs touch between any two steps, for each VM.
    touch: RefCell<Vec<(u64, u64, Vec<u64>)>>,
    /// What each page of a frame holds, as one number; 0 where there is none.
    content: RefCell<BTreeMap<u64, u64>>,
    /// Users of a page besides the first.
    pub(crate) users: RefCell<BTreeMap<u64, u32>>,
    /// The block of zeroes, if there is one, and its order.
    pub(crate) zeroes: Cell<Option<(u64, u8)>>,
    free_huge: BTreeSet<u64>,
    pub(crate) invalidations: Cell<u64>,
    pub(crate) scrubs: Cell<u64>,
    /// How many allocations succeed before one fails, and whether all after it fail too.
    failed: Cell<bool>,
    /// A store by the guest that comes just before the next compare-and-swap.
    racing: Cell<Option<(u64, u64, u64)>>,
    pub(crate) fail_at: Cell<Option<(u32, bool)>>,
    /// An allocation failed since this was last cleared.
    pub(crate) starved: Cell<bool>,
    pub(crate) events: RefCell<Vec<Event>>,
    /// Pages that a device reaches, by their guest-physical addresses.
    pub(crate) reached: RefCell<BTreeSet<u64>>,
    /// Whether an interrupt waits: the lowest bit, and the next one at each look.
    pub(crate) interrupts: Cell<u64>,
}

impl Fake {
    pub(crate) fn new(budget: usize) -> Self {
        Self {
            tables: RefCell::default(),
            held: RefCell::default(),
            content: RefCell::default(),
            users: RefCell::default(),
            zeroes: Cell::new(None),
            free_huge: (1..3).map(|n| RAM + (n << 30)).collect(),
            free_large: (1..LARGE).map(|n| RAM + (n << 21)).collect(),
            free_pages: (0..512).map(|n| RAM + (n << 12)).collect(),
            budget,
            tlb: RefCell::default(),
            unlinked: RefCell::default(),
            touch: RefCell::default(),
            invalidations: Cell::new(0),
            scrubs: Cell::new(0),
            failed: Cell::new(false),
            racing: Cell::new(None),
            fail_at: Cell::new(None),
            starved: Cell::new(false),
            events: RefCell::default(),
            reached: RefCell::default(),
            interrupts: Cell::new(INTERRUPTS),
        }
    }

    /// From now on, vCPUs touch `addresses` between any two steps of the manager; none do if
    /// there are none.
    pub(crate) fn run_vcpus(&self, vttbr: u64, vtcr: u64, addresses: &[u64]) {
        let mut touch = self.touch.borrow_mut();
        if addresses.is_empty() {
            return touch.clear();
        }
        touch.retain(|(other, ..)| other >> 48 != vttbr >> 48);
        touch.push((vttbr, vtcr, addresses.to_vec()));
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        let large = u64::try_from(self.free_large.len()).expect("few");
        let pages = u64::try_from(self.free_pages.len()).expect("few");
        (large << 21) + (pages << 12)
    }

    /// What a core that caches nothing sees.
    pub(crate) fn fresh(&self, vttbr: u64, vtcr: u64, ipa: u64) -> Result<Translation, Fault> {
        model::hardware_walk::walk(&|pa| self.word(pa), vttbr, vtcr, ipa)
    }

    /// What a core that caches everything sees.
    pub(crate) fn stale(&self, vttbr: u64, vtcr: u64, ipa: u64) -> Result<Translation, Fault> {
        let memory = |pa| self.word(pa);
        self.tlb.borrow_mut().access(&memory, vttbr, vtcr, ipa)
    }

    fn word(&self, pa: u64) -> u64 {
        let tables = self.tables.borrow();
        let table = tables
            .get(&(pa & !4095))
            .expect("walk into what is no table");
        table[usize::try_from(pa / 8 % 512).expect("small")]
    }

    /// Lets every vCPU touch its addresses.
    fn interleave(&self) {
        for (vttbr, vtcr, addresses) in self.touch.borrow().iter() {
            for &ipa in addresses {
                let _ = self.stale(*vttbr, *vtcr, ipa);
            }
        }
    }

    /// M10: what an entry leads to, table or frame, was scrubbed or copied as a whole since it
    /// was taken; either ends with its lines at the point of coherency.
    fn check_handed_over(&self, value: u64) {
        let pa = value & 0xffff_ffff_f000;
        let held = self.held.borrow();
        let frame = held.range(..=pa).next_back();
        let frame = frame.filter(|(base, frame)| pa < *base + (4096 << frame.order));
        let clean = frame.is_none_or(|(_, frame)| frame.scrubbed);
        assert!(value & 1 == 0 || clean, "{pa:#x} is handed over as it was");
    }

    fn with<T>(&self, table: Pa, f: impl FnOnce(&mut [u64; 512]) -> T) -> T {
        let mut tables = self.tables.borrow_mut();
        f(tables.get_mut(&table.raw()).expect("not a scrubbed frame"))
    }
}

impl Machine for Fake {
    fn holds(&self, ipa: Ipa, level: Level) -> bool {
        let end = ipa.raw() + level.span();
        self.reached.borrow().range(ipa.raw()..end).next().is_some()
    }

    fn load(&self, table: Pa, index: usize) -> u64 {
        self.with(table, |entries| entries[index])
    }

    fn store(&self, table: Pa, index: usize, value: u64) {
        self.check_handed_over(value);
        self.with(table, |entries| entries[index] = value);
        let mut unlinked = self.unlinked.borrow_mut();
        if value & 3 == 3 {
            unlinked.remove(&(value & 0xffff_ffff_f000));
        }
        if !unlinked.contains(&table.raw()) {
            drop(unlinked);
            self.interleave();
        }
    }

    fn compare_exchange(&self, table: Pa, index: usize, old: u64, new: u64) -> Result<(), u64> {
        if let Some((vttbr, vtcr, ipa)) = self.racing.take() {
            let pa = self.reach(vttbr, vtcr, ipa, true);
            self.set_content(pa.expect("the racing store does not fault"), RACING);
        }
        self.check_handed_over(new);
        let result = self.with(table, |entries| {
            let found = entries[index];
            if found != old {
                return Err(found);
            }
            entries[index] = new;
            Ok(())
        });
        self.interleave();
        result
    }

    fn scrub(&self, pa: Pa, order: u8) {
        self.scrubs.set(self.scrubs.get() + 1);
        let mut held = self.held.borrow_mut();
        let frame = held.range_mut(..=pa.raw()).next_back();
        let (&base, frame) = frame.expect("scrub of a frame not held");
        let end = pa.raw() + (4096 << order);
        assert!(
            end <= base + (4096 << frame.order),
            "scrub of more than is held"
        );
        frame.scrubbed |= frame.order == order;
        let pages = pa.raw()..end;
        self.content
            .borrow_mut()
            .retain(|page, _| !pages.contains(page));
        if order == 0 {
            self.unlinked.borrow_mut().insert(pa.raw());
        }
        if order < 9 && (order == 0 || frame.order == order) {
            let pages = (0..1_u64 << order).map(|n| pa.raw() + (n << 12));
            let mut tables = self.tables.borrow_mut();
            tables.extend(pages.map(|page| (page, Box::new([0; 512]))));
        }
    }

    fn copy(&self, to: Pa, from: Pa, order: u8) {
        let mut held = self.held.borrow_mut();
        let frame = held.range_mut(..=to.raw()).next_back();
        let (base, frame) = frame.expect("a copy to a frame held");
        assert!(to.raw() + (4096 << order) <= base + (4096 << frame.order));
        if to.raw() == *base + (frame.copied << 12) {
            frame.copied += 1 << order;
        } else {
            // It is begun anew.
            assert_eq!(to.raw(), *base, "a part of a copy is left out");
            frame.copied = 1 << order;
        }
        frame.scrubbed |= frame.copied == 1 << frame.order;
        let mut content = self.content.borrow_mut();
        for offset in (0..4096_u64 << order).step_by(4096) {
            match content.get(&(from.raw() + offset)).copied() {
                Some(value) => content.insert(to.raw() + offset, value),
                None => content.remove(&(to.raw() + offset)),
            };
        }
    }

    fn is_zero(&self, pa: Pa, order: u8) -> bool {
        let content = self.content.borrow();
        let mut pages = content.range(pa.raw()..pa.raw() + (4096 << order));
        pages.all(|(_, value)| *value == 0)
    }

    fn share(&self, pa: Pa, order: u8) -> bool {
        if self.is_zeroes(pa.raw()) {
            return true;
        }
        let mut users = self.users.borrow_mut();
        let pages = || (pa.raw()..pa.raw() + (4096 << order)).step_by(4096);
        if pages().any(|page| users.get(&page) == Some(&MOST_USERS)) {
            return false;
        }
        for page in pages() {
            let held = self.held.borrow();
            let (base, frame) = held.range(..=page).next_back().expect("held");
            assert!(page < base + (4096 << frame.order), "{page:#x} is not held");
            *users.entry(page).or_default() += 1;
        }
        true
    }

    fn shared(&self, pa: Pa, order: u8) -> bool {
        let users = self.users.borrow();
        let mut more = users.range(pa.raw()..pa.raw() + (4096 << order));
        self.is_zeroes(pa.raw()) || more.any(|(_, more)| *more > 0)
    }

    fn release(&mut self, pa: Pa, order: u8) {
        if self.is_zeroes(pa.raw()) {
            return;
        }
        if !self.shared(pa, order) {
            return self.free(pa, order);
        }
        for page in (pa.raw()..pa.raw() + (4096 << order)).step_by(4096) {
            match self.users.get_mut().get_mut(&page) {
                Some(more) if *more > 0 => *more -= 1,
                _ => self.free(Pa::new(page).expect("an address"), 0),
            }
        }
    }

    fn zeroes(&self) -> Option<(Pa, u8)> {
        let (pa, order) = self.zeroes.get()?;
        Some((Pa::new(pa)?, order))
    }

    fn alloc(&mut self, order: u8) -> Option<Pa> {
        let taken = self.take(order);
        self.starved.set(self.starved.get() || taken.is_none());
        let frame = Held {
            order,
            scrubbed: false,
            copied: 0,
        };
        let taken = taken?;
        assert_eq!(self.held.borrow_mut().insert(taken, frame), None);
        Pa::new(taken)
    }

    fn event(&self, event: Event) {
        if let Event::HeldLost { ipa, level } = event {
            let end = ipa.raw() + level.span();
            let inside = |at: &u64| (ipa.raw()..end).contains(at);
            self.reached.borrow_mut().retain(|at| !inside(at));
        }
        self.events.borrow_mut().push(event);
    }

    fn free(&mut self, pa: Pa, order: u8) {
        assert!(
            !self.shared(pa, order),
            "{pa:?} is freed while it has users"
        );
        let pa = pa.raw();
        self.drop_part(pa, order);
        self.budget += 1;
        let reached = self.tlb.borrow().reaches(pa, 4096 << order);
        assert!(!reached, "{pa:#x} is freed while a TLB reaches it");
        if order >= 9 {
            let frame = pa..pa + (4096 << order);
            self.tables.borrow_mut().retain(|at, _| !frame.contains(at));
        }
        if order == 18 {
            self.free_huge.insert(pa);
        } else if order == 9 {
            self.free_large.insert(pa);
        } else {
            for page in (0..1_u64 << order).map(|n| pa + (n << 12)) {
                self.tables.borrow_mut().remove(&page);
                self.unlinked.borrow_mut().remove(&page);
                self.free_pages.insert(page);
            }
        }
        let pages: Vec<u64> = (0..512)
            .map(|n| (pa & !((1 << 21) - 1)) + (n << 12))
            .collect();
        if order != 9
            && pages.iter().all(|page| self.free_pages.contains(page))
            && pa >> 21 != RAM >> 21
        {
            self.free_pages.retain(|page| !pages.contains(page));
            self.free_large.insert(pages[0]);
        }
    }

    fn interrupted(&self) -> bool {
        let now = self.interrupts.get();
        self.interrupts.set(now.rotate_right(1));
        now & 1 == 1
    }

    fn invalidate_ipa(&self, vmid: u16, ipa: Ipa, level: u8) {
        self.invalidations.set(self.invalidations.get() + 1);
        self.tlb.borrow_mut().invalidate_ipa(vmid, ipa.raw(), level);
    }

    fn invalidate_vmid(&self, vmid: u16) {
        self.invalidations.set(self.invalidations.get() + 1);
        self.tlb.borrow_mut().invalidate_vmid(vmid);
    }
}

impl Fake {
    /// Forgets that `pa` is held; if it is a part of a larger frame, the rest stays held in
    /// buddies.
    fn drop_part(&self, pa: u64, order: u8) {
        let mut held = self.held.borrow_mut();
        let (&base, &frame) = held
            .range(..=pa)
            .next_back()
            .expect("free of a frame not held");
        if frame.order < order {
            // Parts that became one again.
            let mut at = pa;
            while at < pa + (4096 << order) {
                let part = held.remove(&at).expect("a part is not held");
                at += 4096 << part.order;
            }
            assert_eq!(at, pa + (4096 << order));
            return;
        }
        assert!(pa + (4096 << order) <= base + (4096 << frame.order));
        held.remove(&base);
        let mut order_now = frame.order;
        let mut base = base;
        while order_now > order {
            order_now -= 1;
            let half = base + (4096 << order_now);
            let (kept, going) = if pa < half {
                (half, base)
            } else {
                (base, half)
            };
            let rest = Held {
                order: order_now,
                ..frame
            };
            held.insert(kept, rest);
            base = going;
        }
        assert_eq!(base, pa);
    }

    fn take(&mut self, order: u8) -> Option<u64> {
        match self.fail_at.get() {
            Some((0, true)) => return None,
            Some((0, false)) if !self.failed.replace(true) => return None,
            Some((n, forever)) if n > 0 => self.fail_at.set(Some((n - 1, forever))),
            _ => {}
        }
        if self.budget == 0 {
            return None;
        }
        self.budget -= 1;
        let taken = match order {
            18 => self.free_huge.pop_first()?,
            9 => self.free_large.pop_first()?,
            0..=4 => {
                let size = 4096_u64 << order;
                let fits = |at: &u64| {
                    let pages = (0..1_u64 << order).map(|n| at + (n << 12));
                    at.is_multiple_of(size)
                        && pages.into_iter().all(|p| self.free_pages.contains(&p))
                };
                let at = self.free_pages.iter().copied().find(fits)?;
                self.free_pages
                    .retain(|page| !(at..at + size).contains(page));
                at
            }
            _ => return None,
        };
        Some(taken)
    }

    /// Lets the guest store at `ipa` just before the next compare-and-swap.
    pub(crate) fn write_before_swap(&self, vttbr: u64, vtcr: u64, ipa: u64) {
        self.racing.set(Some((vttbr, vtcr, ipa)));
    }

    /// What a vCPU does that loads, or stores, at `ipa`: the TLB first, then memory, then the
    /// updates that hardware makes by itself. Returns whether it faulted instead.
    pub(crate) fn guest(&self, vttbr: u64, vtcr: u64, ipa: u64, write: bool) -> bool {
        self.reach(vttbr, vtcr, ipa, write).is_none()
    }

    /// As [`Self::guest`]; returns the physical address it reaches, if it does not fault.
    pub(crate) fn reach(&self, vttbr: u64, vtcr: u64, ipa: u64, write: bool) -> Option<u64> {
        let hd = vtcr >> 22 & 1 == 1;
        let seen = self.stale(vttbr, vtcr, ipa).ok()?;
        // A descriptor is updated as it is in memory, never as it was cached.
        let needs = (seen.raw >> 10 & 1 == 0) || (write && seen.raw >> 7 & 1 == 0);
        if !needs {
            return (seen.read && (!write || seen.write)).then_some(seen.pa);
        }
        let fresh = self.fresh(vttbr, vtcr, ipa).ok()?;
        let mut bits = fresh.raw | 1 << 10;
        if write && fresh.raw >> 7 & 1 == 0 {
            if !(hd && fresh.raw >> 51 & 1 == 1) {
                return None;
            }
            bits |= 1 << 7;
        }
        let page = Pa::new(fresh.entry & !4095).expect("an address");
        let index = usize::try_from(fresh.entry / 8 % 512).expect("small");
        self.with(page, |entries| entries[index] = bits);
        let vmid = u16::try_from(vttbr >> 48).expect("16 bits");
        self.tlb.borrow_mut().invalidate_ipa(vmid, ipa, fresh.level);
        let again = self.stale(vttbr, vtcr, ipa).expect("just updated");
        (again.read && (!write || again.write)).then_some(again.pa)
    }

    /// What the page at `pa` holds.
    pub(crate) fn content(&self, pa: u64) -> u64 {
        let content = self.content.borrow();
        content.get(&(pa & !4095)).copied().unwrap_or(0)
    }

    /// Stores `value` in the page at `pa`.
    pub(crate) fn set_content(&self, pa: u64, value: u64) {
        self.content.borrow_mut().insert(pa & !4095, value);
    }

    fn is_zeroes(&self, pa: u64) -> bool {
        let block = self.zeroes.get();
        block.is_some_and(|(at, order)| (at..at + (4096 << order)).contains(&pa))
    }
}
