//! Another width for an IPA space that has no vCPUs yet.

use crate::desc::{Descriptor, Entry};
use crate::level::Level;
use crate::machine::Machine;
use crate::range::uniform;
use crate::shape::Shape;
use crate::space::{Error, Gmap, new_root};
use arch::{Ipa, Pa};

impl Gmap {
    /// Makes the space `ipa_bits` wide. What lies below the new limit stays as it is; VTTBR
    /// and VTCR change.
    ///
    /// Fails with [`Error::HasVcpus`], [`Error::IpaBits`], [`Error::Occupied`] if something
    /// lies above the new limit, or [`Error::NoTables`].
    pub fn set_ipa_bits(&mut self, machine: &mut impl Machine, ipa_bits: u8) -> Result<(), Error> {
        if self.vcpus > 0 {
            return Err(Error::HasVcpus);
        }
        let shape = Shape::new(ipa_bits).ok_or(Error::IpaBits)?;
        if self.dead {
            return Err(Error::OutOfSpace);
        }
        if let Some(limit) = Ipa::new(shape.limit()).filter(|_| shape.limit() < self.shape.limit())
        {
            self.check_no_slot(limit.raw(), self.shape.limit())?;
            self.check_unmapped(machine, limit, self.shape.limit())?;
        }
        let root = new_root(machine, shape).ok_or(Error::NoTables)?;
        let old = self.shape;
        self.counters.tables(1 << shape.root_order());
        match (old.start(), shape.start()) {
            (from, to) if from == to => {
                let pages = old.pages().min(shape.pages());
                for page in 0..pages {
                    copy(machine, nth(self.root, page), nth(root, page));
                }
                machine.invalidate_vmid(self.vmid);
                machine.free(self.root, old.root_order());
                self.counters.untables(old.pages());
            }
            (Level::L1, _) => self.push_down(machine, root),
            _ => self.pull_up(machine, root, shape.pages()),
        }
        (self.root, self.shape) = (root, shape);
        Ok(())
    }

    /// Hangs the pages of a level 1 root below the level 0 root at `root`.
    fn push_down(&self, machine: &mut impl Machine, root: Pa) {
        machine.invalidate_vmid(self.vmid);
        for page in 0..self.shape.pages() {
            let table = nth(self.root, page);
            let entry = match uniform(machine, table) {
                Some(token) => {
                    machine.free(table, 0);
                    self.counters.untables(1);
                    token
                }
                None => Descriptor::table(table),
            };
            let index = usize::try_from(page).expect("at most sixteen pages");
            machine.store(root, index, entry.raw());
        }
    }

    /// Copies the tables below a level 0 root into the level 1 root at `root`.
    fn pull_up(&self, machine: &mut impl Machine, root: Pa, pages: u64) {
        machine.invalidate_vmid(self.vmid);
        for page in 0..pages {
            let index = usize::try_from(page).expect("at most sixteen pages");
            let entry = Descriptor::from_raw(machine.load(self.root, index));
            match entry.decode(Level::L0) {
                Entry::Table(table) => {
                    copy(machine, table, nth(root, page));
                    machine.free(table, 0);
                    self.counters.untables(1);
                }
                _ => (0..512).for_each(|i| machine.store(nth(root, page), i, entry.raw())),
            }
        }
        machine.free(self.root, 0);
        self.counters.untables(1);
    }
}

fn nth(root: Pa, page: u64) -> Pa {
    let at = root.checked_add(page.saturating_mul(4096));
    at.expect("a root lies below 2^48")
}

fn copy(machine: &impl Machine, from: Pa, to: Pa) {
    for index in 0..512 {
        machine.store(to, index, machine.load(from, index));
    }
}
