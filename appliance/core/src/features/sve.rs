//! SVE: Z, P and FFR of a vCPU that uses them, in place of its V registers.
#![expect(unsafe_code, reason = "SVE registers are moved in assembly")]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicUsize, Ordering};

use ::vcpu::features::sve::{VECTOR_BYTES_MAX, ZCR_EL2};

use crate::hw;
use crate::regs::FpRegs;

// SAFETY: leaf functions that move SVE registers from and to the blocks x0 to x2 point at.
global_asm!(include_str!("sve.S"));

unsafe extern "C" {
    fn sve_save(z: *mut [u8; Z_BYTES], p: *mut [u8; P_BYTES], fp: *mut FpRegs);
    fn sve_load(z: *const [u8; Z_BYTES], p: *const [u8; P_BYTES], fp: *const FpRegs);
    fn sve_bytes() -> usize;
}

const Z_BYTES: usize = 32 * VECTOR_BYTES_MAX;
/// P0 to P15 and FFR: a bit for each byte of a vector.
const P_BYTES: usize = 17 * VECTOR_BYTES_MAX / 8;
/// Bytes of a V register, the low end of a Z register.
const V_BYTES: usize = 16;

/// Bytes of a vector on this machine, as guests have it.
static VECTOR_BYTES: AtomicUsize = AtomicUsize::new(V_BYTES);

hw::readers! { zcr_el1 = "s3_0_c1_c2_0"; }
hw::writers! {
    set_zcr_el1 = "s3_0_c1_c2_0";
    set_zcr_el2 = "s3_4_c1_c2_0";
}

/// Z0 to Z31, P0 to P15, FFR, and the length that EL1 chose.
#[derive(Debug)]
#[repr(C, align(16))]
pub(super) struct SveRegs {
    z: [u8; Z_BYTES],
    p: [u8; P_BYTES],
    zcr: u64,
}

/// Sets the longest vector of this core. The trap is open.
pub(super) fn init_cpu() {
    set_zcr_el2(ZCR_EL2);
    hw::isb();
    // SAFETY: RDVL reads a length.
    let bytes = unsafe { sve_bytes() };
    VECTOR_BYTES.store(bytes.clamp(V_BYTES, VECTOR_BYTES_MAX), Ordering::Relaxed);
}

impl SveRegs {
    pub(super) const ZERO: Self = Self {
        z: [0; Z_BYTES],
        p: [0; P_BYTES],
        zcr: 0,
    };

    /// Takes the registers from this core, whose trap is open. Of `fp` FPCR and FPSR are set.
    pub(super) fn save(&mut self, fp: &mut FpRegs) {
        self.zcr = zcr_el1();
        // SAFETY: the blocks have room for vectors of 512 bits, the most ZCR_EL2 allows.
        unsafe { sve_save(&raw mut self.z, &raw mut self.p, fp) }
    }

    /// Puts the registers into this core, whose trap is open, with `fp`'s FPCR and FPSR.
    pub(super) fn load(&self, fp: &FpRegs) {
        set_zcr_el1(self.zcr);
        // SAFETY: as above.
        unsafe { sve_load(&raw const self.z, &raw const self.p, fp) }
    }

    /// Takes the V registers over; everything beyond them becomes zero.
    pub(super) fn widen(&mut self, fp: &FpRegs) {
        let bytes = VECTOR_BYTES.load(Ordering::Relaxed);
        self.z = [0; Z_BYTES];
        self.p = [0; P_BYTES];
        for (z, v) in self.z.chunks_exact_mut(bytes).zip(fp.vectors()) {
            if let Some(low) = z.first_chunk_mut::<V_BYTES>() {
                *low = v.to_le_bytes();
            }
        }
    }

    /// Gives the V registers back if there is nothing beyond them; says whether it did.
    pub(super) fn narrow(&self, fp: &mut FpRegs) -> bool {
        let bytes = VECTOR_BYTES.load(Ordering::Relaxed);
        let is_zero = |bytes: &[u8]| bytes.iter().all(|b| *b == 0);
        let narrow = |z: &[u8]| z.get(V_BYTES..).is_none_or(is_zero);
        if !is_zero(&self.p) || !self.z.chunks_exact(bytes).take(32).all(narrow) {
            return false;
        }
        let low = self.z.chunks_exact(bytes).take(32).map(|z| {
            let v = z.first_chunk::<V_BYTES>().copied();
            u128::from_le_bytes(v.unwrap_or_default())
        });
        fp.set_vectors(low);
        true
    }
}
