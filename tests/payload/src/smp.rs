//! Further vCPUs.
#![expect(unsafe_code, reason = "the address of an assembly entry")]

use crate::{cpu, psci};

unsafe extern "C" {
    fn payload_secondary();
}

/// Returns the address at which a vCPU can be switched on.
pub fn entry() -> u64 {
    (payload_secondary as *const ()).addr() as u64
}

/// Switches vCPU `index` on to run `run`; returns what PSCI CPU_ON returned.
///
/// The MMU of the new vCPU is off. When `run` returns, the vCPU switches itself off.
pub fn start(index: usize, run: extern "C" fn()) -> i64 {
    psci::cpu_on(index as u64, entry(), (run as *const ()).addr() as u64)
}

/// Waits until vCPU `index` is off, yielding `patience` times at most.
pub fn wait_off(index: usize, patience: u64) -> bool {
    wait(patience, || psci::affinity_info(index as u64, 0) == 1)
}

/// Spins until `done`, yielding `patience` times at most; returns whether it was done.
pub fn wait(patience: u64, done: impl Fn() -> bool) -> bool {
    for _ in 0..patience {
        if done() {
            return true;
        }
        cpu::yield_now();
    }
    done()
}
