//! The EL1 registers of a vCPU that hardware holds while it runs, and moving them.
#![expect(
    unsafe_code,
    reason = "system registers and FP registers are moved in assembly"
)]

use core::arch::{asm, global_asm};

// SAFETY: leaf functions that move FP registers from and to the block x0 points at.
global_asm!(include_str!("fp.S"));

unsafe extern "C" {
    fn fp_save(to: *mut FpRegs);
    fn fp_load(from: *const FpRegs);
}

/// Q0 to Q31, FPCR, FPSR.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub(crate) struct FpRegs([u64; 66]);

impl FpRegs {
    pub(crate) const ZERO: Self = Self([0; 66]);

    /// Returns V0 to V31.
    pub(crate) fn vectors(&self) -> impl Iterator<Item = u128> {
        let (pairs, _) = self.0.as_chunks::<2>();
        let pairs = pairs.iter().take(32);
        pairs.map(|[low, high]| u128::from(*high) << 64 | u128::from(*low))
    }

    /// Sets V0 to V31.
    pub(crate) fn set_vectors(&mut self, values: impl Iterator<Item = u128>) {
        let (pairs, _) = self.0.as_chunks_mut::<2>();
        for ([low, high], value) in pairs.iter_mut().take(32).zip(values) {
            (*low, *high) = (value as u64, (value >> 64) as u64);
        }
    }

    /// Takes the registers from this core.
    pub(crate) fn save(&mut self) {
        // SAFETY: `fp_save` writes 528 bytes, which is the size of the block.
        unsafe { fp_save(self) }
    }

    /// Puts the registers into this core.
    pub(crate) fn load(&self) {
        // SAFETY: `fp_load` reads 528 bytes; core itself is soft-float and loses nothing.
        unsafe { fp_load(self) }
    }
}

/// Defines the block of EL1 registers, and how it is saved and loaded.
macro_rules! el1_registers {
    ($($name:ident = $reg:literal $encoding:tt,)*) => {
        /// EL0 and EL1 system registers of a vCPU that is not on a core.
        #[derive(Clone, Copy, Debug, Default)]
        pub(crate) struct El1Regs {
            $(#[doc = $reg] pub(crate) $name: u64,)*
        }

        impl El1Regs {
            /// Takes the registers from this core.
            pub(crate) fn save(&mut self) {
                // SAFETY: reading the guest's registers changes nothing.
                $(unsafe {
                    asm!(concat!("mrs {}, ", $reg), out(reg) self.$name,
                         options(nomem, nostack, preserves_flags));
                })*
            }

            /// Puts the registers into this core.
            pub(crate) fn load(&self) {
                // SAFETY: these registers act on EL1 and EL0 alone.
                $(unsafe {
                    asm!(concat!("msr ", $reg, ", {}"), in(reg) self.$name,
                         options(nostack, preserves_flags));
                })*
            }
        }
    };
}

::vcpu::el1_context!(el1_registers);
