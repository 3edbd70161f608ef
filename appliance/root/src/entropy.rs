//! Randomness: a ChaCha generator, seeded by the machine.

#![expect(unsafe_code, reason = "RNDR")]

use core::arch::asm;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256};
use virtio_drivers::transport::DeviceType;

use crate::boot::root_boot;
use crate::dma::Dma;
use crate::{clock, devices};

/// How long a virtio-rng device may take.
const PATIENCE_NS: u64 = 1_000_000_000;

/// Makes the generator from all sources there are: virtio-rng, RNDR, the boot seed.
/// Returns `None` if there is none of them: then no secret can be made.
pub(crate) fn generator() -> Option<ChaCha20Rng> {
    let mut pool = Sha256::new();
    let mut sources: u32 = 0;

    let mut bytes = [0; 32];
    if let Some(transport) = devices::find(DeviceType::EntropySource).and_then(devices::transport) {
        let end = clock::uptime_ns().saturating_add(PATIENCE_NS);
        let given = virtio_host::fill::<Dma, _>(transport, &mut bytes, || clock::uptime_ns() < end);
        if given.is_ok_and(|given| given == bytes.len()) {
            pool.update(bytes);
            sources = sources.saturating_add(1);
        }
    }
    if let Some(words) = rndr() {
        words
            .iter()
            .for_each(|word| pool.update(word.to_le_bytes()));
        sources = sources.saturating_add(1);
    }
    let boot = root_boot();
    let length = usize::try_from(boot.rng_seed_len).unwrap_or(0);
    if let Some(seed) = boot.rng_seed.get(..length).filter(|seed| seed.len() >= 16) {
        pool.update(seed);
        // The same seed serves every start of root: keep their streams apart.
        pool.update(boot.generation.to_le_bytes());
        pool.update(clock::ticks().to_le_bytes());
        sources = sources.saturating_add(1);
    }
    (sources > 0).then(|| ChaCha20Rng::from_seed(pool.finalize().into()))
}

/// Makes a generator that an attacker may guess: for what need not be secret.
pub(crate) fn weak_generator() -> ChaCha20Rng {
    let mut pool = Sha256::new();
    pool.update(clock::ticks().to_le_bytes());
    pool.update(clock::unix_ns().unwrap_or(0).to_le_bytes());
    ChaCha20Rng::from_seed(pool.finalize().into())
}

/// Reads 256 bits by RNDR (FEAT_RNG), if the core has it and it delivers.
fn rndr() -> Option<[u64; 4]> {
    let isar0: u64;
    // SAFETY: reads an ID register.
    unsafe {
        asm!("mrs {}, id_aa64isar0_el1", out(reg) isar0, options(nomem, nostack, preserves_flags));
    }
    // ID_AA64ISAR0_EL1.RNDR, bits 63:60.
    if isar0 >> 60 == 0 {
        return None;
    }
    let mut words = [0; 4];
    for word in &mut words {
        *word = (0..16).find_map(|_| rndr_once())?;
    }
    Some(words)
}

fn rndr_once() -> Option<u64> {
    let (word, failed): (u64, u64);
    // SAFETY: reads RNDR, S3_3_C2_C4_0, which the core has; Z set means that it failed.
    unsafe {
        asm!(
            "mrs {word}, s3_3_c2_c4_0",
            "cset {failed}, eq",
            word = out(reg) word,
            failed = out(reg) failed,
            options(nomem, nostack),
        );
    }
    (failed == 0).then_some(word)
}
