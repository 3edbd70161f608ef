//! Debug registers: what `vcpu::features::debug` says the core is to have.
#![expect(unsafe_code, reason = "system registers are moved in assembly")]

use core::arch::asm;

use ::vcpu::features::debug::{Comparator, Comparators, Debug};
use spin::Once;

use crate::hw;

static THERE: Once<Comparators> = Once::new();

hw::writers! { set_mdscr_el1 = "mdscr_el1"; }

pub(super) fn detect() {
    THERE.call_once(|| Comparators::detect(hw::id_aa64dfr0()));
}

/// Returns how many comparators the machine has.
pub(super) fn there() -> Comparators {
    THERE.get().copied().unwrap_or_default()
}

/// Ends all debug exceptions of this core but BRK.
pub(super) fn quiet() {
    set_mdscr_el1(0);
}

/// Lets this core have what `debug` says. What it no longer says stays without effect: all
/// comparators are written before any can match.
pub(super) fn load(debug: &Debug) {
    if debug.compares() {
        for n in 0..there().breakpoints {
            breakpoint(n, debug.breakpoint(n));
        }
        for n in 0..there().watchpoints {
            watchpoint(n, debug.watchpoint(n));
        }
        hw::isb();
    }
    set_mdscr_el1(debug.mdscr());
}

macro_rules! comparators {
    ($function:ident, $value:literal, $control:literal: $($n:literal)*) => {
        fn $function(n: usize, own: Comparator) {
            match n {
                // SAFETY: a comparator acts on EL1 and EL0 alone: MDCR_EL2.TDE is zero, and
                // so are MDSCR_EL1.HDE and EL2's part of it.
                $($n => unsafe {
                    asm!(concat!("msr ", $value, $n, "_el1, {}"),
                         concat!("msr ", $control, $n, "_el1, {}"),
                         in(reg) own.value, in(reg) own.control,
                         options(nostack, preserves_flags));
                },)*
                _ => {}
            }
        }
    };
}
comparators!(breakpoint, "dbgbvr", "dbgbcr": 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
comparators!(watchpoint, "dbgwvr", "dbgwcr": 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
