//! Stolen time and the preempt hint: what each vCPU's line says (guest-abi's `pv`).
//!
//! A VM has one frame of lines, core's own, which its stage 2 shows read-only for as long as
//! the VM lives: nothing is registered, moved or taken back. The account behind a line
//! ([`sched::Turns`]) changes with the vCPU's run state, under the lock of its queue.
#![expect(unsafe_code, reason = "lines live in a frame, reached by pointer")]

use core::sync::atomic::Ordering;

use ::vcpu::paravirt::Paravirt;
use ::vcpu::psci::Power;
use arch::{Ipa, Pa};
use gmap::{Attr, Gmap, Perm};
use guest_abi::core_call::{VM_NO_CORE_NUMBER, VM_NO_PREEMPT_HINT, VM_NO_PV_TIME, VM_NO_YIELD_TO};
use guest_abi::map::PV_BASE;
use guest_abi::pv::{Call, LINES_BYTES, PREEMPTED, PvLine, STRIDE};
use sched::Phase;

use crate::guest::{Run, VcpuControl};
use crate::hypercall::Vcpus;
use crate::memory;
use crate::stage2::Stage2;
use crate::{hw, per_cpu, schedule, timer};

const _: () = assert!(LINES_BYTES == memory::FRAME);
const _: () = assert!(guest_abi::map::VCPUS_MAX as u64 * STRIDE <= LINES_BYTES);

/// Shows the frame of lines at `pa` to the guest whose stage 2 this is.
pub(crate) fn show(gmap: &mut Gmap, machine: &mut Stage2<'_>, pa: Pa) -> Result<(), gmap::Error> {
    let ipa = Ipa::new(PV_BASE).expect("PV_BASE is below 2^48");
    gmap.map(machine, ipa, pa, LINES_BYTES, Attr::Normal, Perm::R)
}

/// Returns vCPU `index`'s line in the frame at `pa`.
fn line(pa: Pa, index: usize) -> &'static PvLine {
    let line = memory::ptr::<PvLine>(pa).wrapping_add(index);
    // SAFETY: 1. the frame holds a line for each vCPU a VM can have (asserted above), was
    // allocated zeroed, and lives as long as the VM and its vCPUs; 2. a line is atomics and
    // bytes nobody writes, and the guest's stage 2 lets it only read.
    unsafe { &*line }
}

impl VcpuControl {
    fn line(&self) -> Option<&'static PvLine> {
        self.vm().lines.map(|pa| line(pa, self.index))
    }

    /// Changes whether it wants to run, and tells its guest. The caller holds its queue.
    pub(crate) fn set_run(&self, run: Run, now: u64) {
        let phase = match run {
            Run::Off => Phase::Off,
            Run::Queued => Phase::Queued,
            Run::Running => Phase::Running,
            Run::Blocked => Phase::Waiting,
        };
        let wants = |run| matches!(run, Run::Queued | Run::Running);
        let busy = &self.vm().busy;
        match (wants(self.run()), wants(run)) {
            (false, true) => _ = busy.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = busy.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
        self.store_run(run);
        self.enter(phase, now);
    }

    /// Returns whether it wants to run and was switched out against its will.
    pub(crate) fn is_preempted(&self) -> bool {
        self.turns.lock().is_preempted()
    }

    /// Makes it wait for its core, which it did not give up. The caller holds its queue.
    pub(crate) fn set_preempted(&self, now: u64) {
        self.store_run(Run::Queued);
        let mut turns = self.turns.lock();
        turns.preempt(now);
        self.tell(&mut turns);
    }

    /// Notes that it waits on the core that it holds, or runs there again.
    pub(crate) fn enter(&self, phase: Phase, now: u64) {
        let mut turns = self.turns.lock();
        let waited = matches!(turns.phase(), Phase::Queued | Phase::Parked);
        turns.enter(phase, now);
        if waited {
            // The hint first: by the time it runs, it must not say that it does not.
            self.tell(&mut turns);
            self.publish(&turns, now);
        }
    }

    /// Notes that answering a fault took from `start` until now.
    pub(crate) fn count_fault(&self, start: u64) {
        let now = hw::cntpct();
        let mut turns = self.turns.lock();
        turns.add_fault(now.saturating_sub(start));
        self.publish(&turns, now);
    }

    /// Writes the hint, if it is not what the guest has been told already.
    fn tell(&self, turns: &mut sched::Turns) {
        let Some(line) = self.line() else { return };
        if self.vm().flags & VM_NO_PREEMPT_HINT != 0 {
            return;
        }
        if let Some(preempted) = turns.news() {
            let byte = if preempted { PREEMPTED } else { 0 };
            line.preempted.store(byte, Ordering::Release);
            // Who waits for this by WFE looks again.
            hw::sev();
        }
    }

    fn publish(&self, turns: &sched::Turns, now: u64) {
        let Some(line) = self.line() else { return };
        let queued = timer::nanoseconds(turns.queued(now));
        let fault = timer::nanoseconds(turns.fault());
        let device = timer::nanoseconds(turns.parked(now));
        line.queued_ns.store(queued, Ordering::Relaxed);
        line.fault_ns.store(fault, Ordering::Relaxed);
        line.device_ns.store(device, Ordering::Relaxed);
        line.stolen_ns
            .store(queued + fault + device, Ordering::Relaxed);
    }

    /// Notes that core `index` holds its registers from now on.
    pub(crate) fn put_on(&self, index: usize) {
        if let Some(line) = self.line() {
            if self.vm().flags & VM_NO_CORE_NUMBER == 0 {
                line.pcpu.store(index as u32, Ordering::Relaxed);
            }
            line.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Notes that no core holds its registers from now on.
    pub(crate) fn taken_off(&self) {
        if let Some(line) = self.line() {
            line.generation.fetch_add(1, Ordering::Release);
        }
    }
}

/// Sets a new frame of lines to what they are before a vCPU ever ran.
pub(crate) fn init(pa: Pa, vcpus: usize) {
    for index in 0..vcpus {
        // Off every core is odd.
        line(pa, index).generation.store(1, Ordering::Relaxed);
    }
}

impl Paravirt for Vcpus {
    fn stolen_time(&self) -> Option<u64> {
        self.vm.lines?;
        Some(PV_BASE + self.index as u64 * STRIDE)
    }

    fn functions(&self) -> u128 {
        let mut there = 1 | guest_abi::pv::bitmap(&Call::ALL.map(Call::number));
        there |= crate::guest_memory::functions(self.vm);
        let hint = match self.vm.lines {
            Some(_) => VM_NO_PV_TIME | VM_NO_PREEMPT_HINT,
            None => u32::MAX,
        };
        for (call, hides) in [
            (Call::PvPreemptInfo, hint),
            (Call::YieldTo, VM_NO_YIELD_TO),
            (Call::PcpuInfo, VM_NO_CORE_NUMBER),
        ] {
            if self.vm.flags & hides != 0 {
                there &= !(1 << call.number());
            }
        }
        there
    }

    fn lines(&self) -> u64 {
        PV_BASE
    }

    fn core(&self) -> u64 {
        per_cpu::this().index.load(Ordering::Relaxed) as u64
    }

    fn yield_to(&mut self, affinity: u64) -> bool {
        let Some(target) = self.target(affinity) else {
            return false;
        };
        schedule::yield_to(target);
        true
    }
}
