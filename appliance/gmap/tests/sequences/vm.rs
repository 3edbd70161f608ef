//! One VM on the fake machine, for tests of a single behaviour.

use crate::machine::Fake;
use arch::Ipa;
use gmap::{Access, Cache, FaultError, Features, Gmap, Key, KeyError, Policy};

/// Where the RAM of these tests begins.
pub(crate) const RAM: u64 = 1 << 30;
/// Bytes of a page, and of a large block.
pub(crate) const PAGE: u64 = 4096;
pub(crate) const LARGE: u64 = 2 << 20;

pub(crate) struct Vm {
    pub(crate) machine: Fake,
    pub(crate) gmap: Gmap,
    pub(crate) cache: Cache,
    pub(crate) vtcr: u64,
}

pub(crate) fn ipa(raw: u64) -> Ipa {
    Ipa::new(raw).expect("below 2^48")
}

impl Vm {
    /// A VM of 40 bits with `bytes` of RAM at [`RAM`].
    pub(crate) fn new(bytes: u64, hafdbs: bool) -> Self {
        let mut machine = Fake::new(10_000);
        let features = Features { fwb: true, hafdbs };
        let mut gmap = Gmap::new(&mut machine, 3, 40, features).expect("there is memory");
        gmap.set_policy(Policy {
            eager: false,
            ..Policy::default()
        });
        let mut vm = Self {
            machine,
            gmap,
            cache: Cache::new(),
            vtcr: 0x8005_3558 | if hafdbs { 3 << 21 } else { 0 },
        };
        if bytes > 0 {
            let ram = ipa(RAM);
            vm.gmap.add_ram(&mut vm.machine, ram, bytes).expect("free");
        }
        vm
    }

    /// What the guest does at `at`: tries, faults, tries again. Returns the faults it took.
    pub(crate) fn touch(&mut self, at: u64, write: bool) -> Result<u32, FaultError> {
        let access = if write { Access::WRITE } else { Access::READ };
        for faults in 0..4 {
            if !self.machine.guest(self.gmap.vttbr(), self.vtcr, at, write) {
                return Ok(faults);
            }
            self.gmap.fault(&mut self.machine, ipa(at), access)?;
        }
        panic!("the guest faults for ever at {at:#x}");
    }

    /// Level and raw leaf that a walk written from the manual finds, old or young.
    pub(crate) fn leaf(&self, at: u64) -> Option<(u8, u64)> {
        let vtcr = self.vtcr | 1 << 21;
        let seen = self.machine.fresh(self.gmap.vttbr(), vtcr, at);
        seen.ok().map(|t| (t.level, t.raw))
    }

    pub(crate) fn fill_cache(&mut self) {
        self.cache.topup(&mut self.machine, 8).expect("memory");
    }

    pub(crate) fn enable_keys(&mut self) {
        loop {
            self.fill_cache();
            let slice = gmap::Budget::leaves(2);
            match self.gmap.enable_keys(&self.machine, &mut self.cache, slice) {
                Ok(None) => return,
                Ok(Some(_)) | Err(KeyError::NoMemory) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn set_key(&mut self, at: u64, key: Key) {
        self.fill_cache();
        let result = self
            .gmap
            .set_key(&self.machine, &mut self.cache, ipa(at), key);
        result.expect("a page of RAM");
    }

    /// Ends the VM and checks that every frame is back.
    pub(crate) fn end(mut self) {
        self.machine.run_vcpus(0, 0, &[]);
        while self.gmap.destroy(&mut self.machine, 5) == gmap::Progress::More {}
        self.cache.release(&mut self.machine);
        assert!(self.machine.held.borrow().is_empty(), "frames leaked");
    }
}
