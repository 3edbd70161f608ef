//! A machine for the stage-2 manager: memory, a pool with a limit, a TLB that forgets nothing.

use arch::{Ipa, Pa};
use gmap::Machine;
use model::hardware_walk::{Fault, Translation};
use model::stale_tlb::StaleTlb;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

/// First byte of the fake RAM.
const RAM: u64 = 1 << 32;
/// Frames of 2 MiB it has; the first is cut into pages at need.
const LARGE: u64 = 6;

/// A frame that the manager holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) order: u8,
    pub(crate) scrubbed: bool,
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
    /// VTTBR, VTCR and the addresses that vCPUs touch between any two steps.
    touch: RefCell<(u64, u64, Vec<u64>)>,
    pub(crate) invalidations: Cell<u64>,
}

impl Fake {
    pub(crate) fn new(budget: usize) -> Self {
        Self {
            tables: RefCell::default(),
            held: RefCell::default(),
            free_large: (1..LARGE).map(|n| RAM + (n << 21)).collect(),
            free_pages: (0..512).map(|n| RAM + (n << 12)).collect(),
            budget,
            tlb: RefCell::default(),
            unlinked: RefCell::default(),
            touch: RefCell::default(),
            invalidations: Cell::new(0),
        }
    }

    /// From now on, vCPUs touch `addresses` between any two steps of the manager.
    pub(crate) fn run_vcpus(&self, vttbr: u64, vtcr: u64, addresses: &[u64]) {
        *self.touch.borrow_mut() = (vttbr, vtcr, addresses.to_vec());
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
        let (vttbr, vtcr, addresses) = self.touch.borrow().clone();
        for ipa in addresses {
            let _ = self.stale(vttbr, vtcr, ipa);
        }
    }

    fn with<T>(&self, table: Pa, f: impl FnOnce(&mut [u64; 512]) -> T) -> T {
        let mut tables = self.tables.borrow_mut();
        f(tables.get_mut(&table.raw()).expect("not a scrubbed frame"))
    }
}

impl Machine for Fake {
    fn load(&self, table: Pa, index: usize) -> u64 {
        self.with(table, |entries| entries[index])
    }

    fn store(&self, table: Pa, index: usize, value: u64) {
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
        let mut held = self.held.borrow_mut();
        let frame = held.get_mut(&pa.raw()).expect("scrub of a frame not held");
        assert_eq!(frame.order, order);
        frame.scrubbed = true;
        if order == 0 {
            self.unlinked.borrow_mut().insert(pa.raw());
        }
        if order < 9 {
            let pages = (0..1_u64 << order).map(|n| pa.raw() + (n << 12));
            let mut tables = self.tables.borrow_mut();
            tables.extend(pages.map(|page| (page, Box::new([0; 512]))));
        }
    }

    fn alloc(&mut self, order: u8) -> Option<Pa> {
        self.budget = self.budget.checked_sub(1)?;
        let taken = match order {
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
        let frame = Held {
            order,
            scrubbed: false,
        };
        assert_eq!(self.held.borrow_mut().insert(taken, frame), None);
        Pa::new(taken)
    }

    fn free(&mut self, pa: Pa, order: u8) {
        let pa = pa.raw();
        let frame = self.held.borrow_mut().remove(&pa);
        assert_eq!(frame.map(|f| f.order), Some(order), "free of {pa:#x}");
        let reached = self.tlb.borrow().reaches(pa, 4096 << order);
        assert!(!reached, "{pa:#x} is freed while a TLB reaches it");
        self.budget += 1;
        if order == 9 {
            self.free_large.insert(pa);
        } else {
            for page in (0..1_u64 << order).map(|n| pa + (n << 12)) {
                self.tables.borrow_mut().remove(&page);
                self.free_pages.insert(page);
            }
        }
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
