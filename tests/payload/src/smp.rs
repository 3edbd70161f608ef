//! Further vCPUs.
#![expect(unsafe_code, reason = "the address of an assembly entry")]

use crate::{cpu, psci, timer};

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

/// How long a test waits for what must happen, in nanoseconds, before it fails.
pub const PATIENCE_NS: u64 = 3_000_000_000;

/// Waits until vCPU `index` is off; returns whether it is.
pub fn wait_off(index: usize) -> bool {
    wait(|| psci::affinity_info(index as u64, 0) == 1)
}

/// Spins until `done`, yielding, for [`PATIENCE_NS`] at most; returns whether it was done.
pub fn wait(done: impl Fn() -> bool) -> bool {
    let start = timer::now();
    let patience = timer::ticks(PATIENCE_NS);
    while timer::now() - start < patience {
        if done() {
            return true;
        }
        cpu::yield_now();
    }
    done()
}

/// Switches every other vCPU on to run `run`, which must not wait for this one.
pub fn start_all(run: extern "C" fn()) {
    for index in 1..crate::machine::cpus() {
        let status = start(index, run);
        if status != psci::SUCCESS {
            crate::println!("CPU_ON {index}: {status}");
        }
    }
}
