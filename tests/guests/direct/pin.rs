//! Moves vCPUs from core to core, as fast as it can and at odd times.

use crate::calls;
use crate::vm::Vm;
use payload::timer;

/// The mover: which core is next, and how long until then.
pub(crate) struct Pin {
    steps: u64,
    seed: u64,
}

impl Pin {
    pub(crate) fn new() -> Self {
        Self { steps: 0, seed: 1 }
    }

    /// Moves every VM's first vCPU on. Where there are three cores or more, the first, where
    /// this program runs, is left out. Returns false if the core has to be given away first.
    pub(crate) fn step(&mut self, vms: &[Option<Vm>]) -> bool {
        let cores = u64::from(calls::root_boot().cores);
        let first = u64::from(cores > 2);
        self.steps += 1;
        let core = first + self.steps % (cores - first);
        for vm in vms.iter().flatten() {
            vm.pin(0, 1 << core);
        }
        // 20 to 120 microseconds, by a generator that any sequence will do for: long enough for
        // most moves to have happened, which the call does not wait for.
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        timer::spin(20_000 + (self.seed >> 33) % 100_000);
        cores > 2
    }
}
