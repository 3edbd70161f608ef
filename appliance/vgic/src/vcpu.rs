//! What one vCPU has: its redistributor and its view of the SPIs.

use crate::bank::Bank;

/// Bit of [`Vcpu::waiting`]: an LPI waits for a list register.
pub(crate) const LPIS_WAIT: u16 = 1 << 8;

/// One vCPU's share of 32 interrupts; word 0 is its private interrupts, word n SPIs 32n and up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// Interrupts that wait for one of this vCPU's list registers.
    pub(crate) waiting: u32,
    /// SPIs routed here.
    pub(crate) target: u32,
    /// SPIs in this vCPU's list registers, or active on it.
    pub(crate) holds: u32,
}

/// One vCPU as the GIC sees it.
#[derive(Debug)]
pub(crate) struct Vcpu {
    /// SGIs and PPIs.
    pub(crate) bank: Bank,
    /// This vCPU's part of each bank.
    pub(crate) share: [Share; 8],
    /// Bit n: `share[n].waiting` is not zero. Bit 8: an LPI waits.
    pub(crate) waiting: u16,
    /// Bit n: `share[n].holds` is not zero.
    pub(crate) holding: u8,
    /// `GICR_WAKER.ProcessorSleep`.
    pub(crate) asleep: bool,
}

impl Vcpu {
    /// SGIs are edge-triggered, PPIs level-sensitive.
    const EDGE: u32 = 0x0000_ffff;

    /// Creates a vCPU at reset: redistributor asleep, all SPIs routed to vCPU 0.
    pub(crate) const fn new() -> Self {
        Self {
            bank: Bank::new(Self::EDGE),
            share: [Share {
                waiting: 0,
                target: 0,
                holds: 0,
            }; 8],
            waiting: 0,
            holding: 0,
            asleep: true,
        }
    }

    /// Records what waits for this vCPU in word `word`.
    pub(crate) fn set_waiting(&mut self, word: usize, waiting: u32) {
        if let Some(share) = self.share.get_mut(word) {
            share.waiting = waiting;
        }
        let [mut words, lpis] = self.waiting.to_le_bytes();
        flag(&mut words, word, waiting);
        self.waiting = u16::from_le_bytes([words, lpis]);
    }

    /// Records which SPIs of word `word` this vCPU holds.
    pub(crate) fn set_holds(&mut self, word: usize, holds: u32) {
        if let Some(share) = self.share.get_mut(word) {
            share.holds = holds;
        }
        flag(&mut self.holding, word, holds);
    }

    /// Returns this vCPU's part of word `word`.
    pub(crate) fn share(&self, word: usize) -> Share {
        self.share.get(word).copied().unwrap_or(Share {
            waiting: 0,
            target: 0,
            holds: 0,
        })
    }
}

/// Sets bit `word` of `summary` to whether `bits` is not zero.
fn flag(summary: &mut u8, word: usize, bits: u32) {
    let mask = mask(word);
    *summary &= !mask;
    if bits != 0 {
        *summary |= mask;
    }
}

/// Returns a byte with bit `n` set, or zero if `n` is 8 or more.
pub(crate) fn mask(n: usize) -> u8 {
    u32::try_from(n)
        .ok()
        .and_then(|n| 1u8.checked_shl(n))
        .unwrap_or(0)
}
