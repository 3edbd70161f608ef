//! What happens at an exception: an expected one is noted and stepped over, an interrupt
//! is handled, anything else ends the guest with a report.

#![expect(unsafe_code, reason = "crash_for_ever branches away")]

use crate::{cpu, gic, mem, println, psci, test};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use guest_abi::map::VCPUS_MAX;

/// The registers of the interrupted code, as the vectors store them.
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// CNTVCT_EL0 at the vector's third instruction.
    pub entered: u64,
    /// ELR_EL1.
    pub elr: u64,
    /// SPSR_EL1.
    pub spsr: u64,
    /// ESR_EL1; means nothing for an interrupt.
    pub esr: u64,
    /// FAR_EL1; means something for aborts only.
    pub far: u64,
    /// Number of the vector, 0 to 15, in the order of DDI 0487 D1.4.1.
    pub vector: u64,
}

const EL1H_SYNC: u64 = 4;
const EL1H_IRQ: u64 = 5;
/// Exception class of a single step of the same level, and what masks the next.
const STEP: u64 = 0x33;
const SPSR_D: u64 = 1 << 9;
const EL1H_SERROR: u64 = 7;
const SPSR_A: u64 = 1 << 8;

/// A synchronous exception, or an SError, that [`catch`] caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
    /// ELR_EL1.
    pub elr: u64,
}

impl Fault {
    /// Exception class of an unknown or undefined instruction (DDI 0487, ESR_ELx.EC).
    pub const UNDEFINED: u64 = 0x00;
    /// Exception class of a trapped MSR or MRS.
    pub const TRAPPED_REGISTER: u64 = 0x18;
    /// Exception class of an instruction abort from the same level.
    pub const INSTRUCTION_ABORT: u64 = 0x21;
    /// Exception class of a data abort from the same level.
    pub const DATA_ABORT: u64 = 0x25;
    /// Fault status code of a synchronous external abort, not on a table walk.
    pub const EXTERNAL: u64 = 0x10;

    /// Returns ESR_EL1.EC.
    pub const fn class(&self) -> u64 {
        self.esr >> 26 & 0x3f
    }

    /// Returns DFSC or IFSC, which only an abort has.
    pub const fn status(&self) -> u64 {
        self.esr & 0x3f
    }

    /// Returns whether the instruction was undefined, with the syndrome this has.
    ///
    /// With FEAT_IDST an access in the identification space (op0 3, CRn 0, op1 not 4 and up)
    /// has class 0x18 and says which.
    pub const fn is_undefined(&self) -> bool {
        let iss = self.esr & 0x1ff_ffff;
        match self.class() {
            Self::UNDEFINED => iss == 0,
            Self::TRAPPED_REGISTER => {
                iss >> 20 & 3 == 3 && iss >> 14 & 7 < 4 && iss >> 10 & 15 == 0
            }
            _ => false,
        }
    }

    /// Returns whether this is a synchronous external abort on a load or store.
    pub const fn is_external_data_abort(&self) -> bool {
        self.class() == Self::DATA_ABORT && self.status() == Self::EXTERNAL
    }
}

/// What one vCPU expects and found.
struct Expectation {
    armed: AtomicBool,
    hits: AtomicU64,
    esr: AtomicU64,
    far: AtomicU64,
    elr: AtomicU64,
}

static EXPECTED: [Expectation; VCPUS_MAX as usize] = [const {
    Expectation {
        armed: AtomicBool::new(false),
        hits: AtomicU64::new(0),
        esr: AtomicU64::new(0),
        far: AtomicU64::new(0),
        elr: AtomicU64::new(0),
    }
}; VCPUS_MAX as usize];

/// Runs `f`, stepping over every instruction that takes a synchronous exception.
///
/// Returns what `f` returned, or the first fault. Outside the image the vCPU goes on at x30,
/// that is after the call that jumped there; inside at the next instruction. Does not nest.
pub fn catch<R>(f: impl FnOnce() -> R) -> Result<R, Fault> {
    let expected = &EXPECTED[cpu::index()];
    expected.hits.store(0, Ordering::Relaxed);
    expected.armed.store(true, Ordering::SeqCst);
    let result = f();
    expected.armed.store(false, Ordering::SeqCst);
    if expected.hits.load(Ordering::Relaxed) == 0 {
        return Ok(result);
    }
    Err(Fault {
        esr: expected.esr.load(Ordering::Relaxed),
        far: expected.far.load(Ordering::Relaxed),
        elr: expected.elr.load(Ordering::Relaxed),
    })
}

pub(crate) fn taken(frame: &mut Frame) {
    let expected = &EXPECTED[cpu::index()];
    match frame.vector {
        EL1H_IRQ => gic::handle(frame.entered),
        EL1H_SERROR if expected.armed.load(Ordering::SeqCst) => {
            let hits = expected.hits.load(Ordering::Relaxed);
            expected.esr.store(frame.esr, Ordering::Relaxed);
            expected.hits.store(hits + 1, Ordering::Relaxed);
            // Once: whatever pends another has to wait.
            frame.spsr |= SPSR_A;
        }
        EL1H_SYNC if expected.armed.load(Ordering::SeqCst) => {
            let hits = expected.hits.load(Ordering::Relaxed);
            if hits == 0 {
                expected.esr.store(frame.esr, Ordering::Relaxed);
                expected.far.store(frame.far, Ordering::Relaxed);
                expected.elr.store(frame.elr, Ordering::Relaxed);
            }
            expected.hits.store(hits + 1, Ordering::Relaxed);
            // A step was performed: it goes on from there, and is not stepped any more.
            if frame.esr >> 26 & 0x3f == STEP {
                frame.spsr |= SPSR_D;
                return;
            }
            let (start, end) = mem::image();
            frame.elr = if (start..end).contains(&frame.elr) {
                frame.elr.wrapping_add(4)
            } else {
                frame.x[30]
            };
        }
        _ => die(format_args!("unexpected exception\n{frame}")),
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "vector {} esr {:#x} far {:#x} elr {:#x} spsr {:#x}",
            self.vector, self.esr, self.far, self.elr, self.spsr
        )?;
        for (n, x) in self.x.iter().enumerate() {
            let end = if n % 4 == 3 { "\n" } else { " " };
            write!(f, "x{n:<2} {x:#018x}{end}")?;
        }
        Ok(())
    }
}

/// Takes exceptions for ever: jumps to `nowhere`, with the vectors there too.
///
/// Every fetch of the vector aborts and goes to the same vector. Where there is memory at
/// `nowhere` after all, what happens is what that memory says.
pub fn crash_for_ever(nowhere: u64) -> ! {
    let (start, end) = mem::image();
    assert!(!(start..end).contains(&nowhere), "that is code of ours");
    // SAFETY: No instruction of the program runs after the branch, so that nothing of it
    // can be broken.
    unsafe {
        core::arch::asm!(
            "msr vbar_el1, {nowhere}", "isb", "br {nowhere}",
            nowhere = in(reg) nowhere,
            options(noreturn)
        )
    }
}

/// Reports what cannot be continued, counts it as a failed test, and ends the machine.
pub fn die(why: fmt::Arguments<'_>) -> ! {
    println!("FATAL cpu {}: {why}", cpu::index());
    test::abandon();
    psci::system_off()
}
