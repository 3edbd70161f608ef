//! Pointer authentication: the five keys of a vCPU that uses them.
#![expect(unsafe_code, reason = "system registers are moved in assembly")]

use core::arch::asm;

macro_rules! keys {
    ($($name:ident = $reg:literal,)*) => {
        /// APIAKey_EL1 to APGAKey_EL1, low and high.
        #[derive(Clone, Copy, Debug)]
        pub(super) struct Keys {
            $($name: u64,)*
        }

        impl Keys {
            pub(super) const ZERO: Self = Self { $($name: 0,)* };

            /// Takes the keys from this core.
            pub(super) fn save(&mut self) {
                // SAFETY: reading the guest's keys changes nothing.
                $(unsafe {
                    asm!(concat!("mrs {}, ", $reg), out(reg) self.$name,
                         options(nomem, nostack, preserves_flags));
                })*
            }

            /// Puts the keys into this core.
            pub(super) fn load(&self) {
                // SAFETY: core authenticates no pointers; the keys act on EL1 and EL0 alone.
                $(unsafe {
                    asm!(concat!("msr ", $reg, ", {}"), in(reg) self.$name,
                         options(nostack, preserves_flags));
                })*
            }
        }
    };
}

keys! {
    ia_low = "s3_0_c2_c1_0",
    ia_high = "s3_0_c2_c1_1",
    ib_low = "s3_0_c2_c1_2",
    ib_high = "s3_0_c2_c1_3",
    da_low = "s3_0_c2_c2_0",
    da_high = "s3_0_c2_c2_1",
    db_low = "s3_0_c2_c2_2",
    db_high = "s3_0_c2_c2_3",
    ga_low = "s3_0_c2_c3_0",
    ga_high = "s3_0_c2_c3_1",
}
