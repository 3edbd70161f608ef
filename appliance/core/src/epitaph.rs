//! The last words of core: what died where, then reset.
//!
//! Only a bug of core's own ends here. The report names the function's address and, for a
//! panic, file and line; `cargo xtask` turns addresses into function names.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::{console, hw};

static DYING: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if !DYING.swap(true, Ordering::AcqRel) {
        console::print_dying(format_args!(
            "\nskete: core died on core {}: {}\n",
            hw::mpidr_el1() & 0xff_ffff,
            info
        ));
        backtrace(frame_pointer());
    }
    stop()
}

/// Reports an exception taken at EL2, which never happens unless core is wrong.
#[expect(unsafe_code, reason = "called from vectors.S by name")]
#[unsafe(no_mangle)]
extern "C" fn fatal_exception(
    elr: u64,
    esr: u64,
    far: u64,
    vector: u64,
    sp: u64,
    spsr: u64,
    lr: u64,
) -> ! {
    if !DYING.swap(true, Ordering::AcqRel) {
        const KINDS: [&str; 4] = ["synchronous exception", "irq", "fiq", "serror"];
        let kind = usize::try_from(vector & 3)
            .ok()
            .and_then(|n| KINDS.get(n))
            .unwrap_or(&"?");
        console::print_dying(format_args!(
            "\nskete: core died on core {}: {kind} at EL2\n  pc {elr:#x} lr {lr:#x} esr {esr:#x} far {far:#x} sp {sp:#x} spsr {spsr:#x}\n",
            hw::mpidr_el1() & 0xff_ffff,
        ));
        backtrace(frame_pointer());
    }
    stop()
}

/// Prints the return addresses that the frame records lead to.
#[expect(unsafe_code, reason = "walks the stack of the dying core")]
fn backtrace(mut fp: u64) {
    for _ in 0..16 {
        let in_image = fp >= crate::layout::image_start() && fp < crate::layout::image_end();
        if !in_image || fp & 7 != 0 {
            break;
        }
        // SAFETY: the frame record lies in core's image, whose stacks are mapped; a broken
        // chain leads to a wrong number at worst, and a fault here ends in `stop` again.
        let (next, lr) = unsafe { *(fp as *const (u64, u64)) };
        console::print_dying(format_args!("  called from pc {lr:#x}\n"));
        if next <= fp {
            break;
        }
        fp = next;
    }
}

#[expect(unsafe_code, reason = "reads x29")]
fn frame_pointer() -> u64 {
    let fp: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, x29", out(reg) fp, options(nomem, nostack)) }
    fp
}

/// Resets the machine, or waits if the firmware cannot.
pub(crate) fn stop() -> ! {
    let _ = smccc::psci::system_reset::<smccc::Smc>();
    loop {
        hw::wfi();
    }
}
