//! What a guest is told about its own vCPUs' turns: stolen time and the preempt hint.
//!
//! Every vCPU of a guest has a [`PvLine`] at [`crate::map::PV_BASE`]` + vcpu * `[`STRIDE`]. The
//! first 16 bytes are Arm's stolen time structure (DEN 0057A, 3.2.3), which a stock kernel
//! uses; the rest is ours, and found by [`Call::PvPreemptInfo`]. The lines are the
//! hypervisor's memory, outside RAM: read-only, never executable, Normal write-back. Nothing
//! has to be registered, so nothing has to be taken back before a guest starts another kernel.
//!
//! Of the 64 KiB at `PV_BASE` the first 4 KiB hold lines; the rest reads as zero.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Bytes from one vCPU's line to the next.
pub const STRIDE: u64 = 64;
/// Bytes that hold lines: what is mapped of the window.
pub const LINES_BYTES: u64 = 4096;
/// Offset in a line of the byte that says whether its vCPU is preempted.
pub const PREEMPTED_OFFSET: u64 = 16;
/// The bit of that byte.
pub const PREEMPTED: u8 = 1;

/// One vCPU's line. All numbers are little-endian. The hypervisor writes, the guest reads.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct PvLine {
    /// Revision of the stolen time structure: 0.
    pub revision: AtomicU32,
    /// Attributes of the stolen time structure: 0.
    pub attributes: AtomicU32,
    /// Nanoseconds for which the vCPU wanted to run and did not: the sum of the three below.
    /// Time it waits by WFI does not count. Never goes back, not even when the vCPU is
    /// switched off and on.
    pub stolen_ns: AtomicU64,
    /// [`PREEMPTED`] while the vCPU wants to run and was switched out against its will. A
    /// hint: it may be old by the time it is read. An event (SEV) follows each change.
    pub preempted: AtomicU8,
    /// Zero.
    pub reserved: [u8; 3],
    /// The physical core that the vCPU is on, or was on last; 0 where that is hidden.
    pub pcpu: AtomicU32,
    /// How often the vCPU was put on a core and taken off again: even while it is on one.
    /// The same even number before and after means that it stayed on [`Self::pcpu`].
    pub generation: AtomicU64,
    /// Nanoseconds in a core's queue, or held back by the VM's limit.
    pub queued_ns: AtomicU64,
    /// Nanoseconds in which the hypervisor found memory for a page the vCPU touched.
    pub fault_ns: AtomicU64,
    /// Nanoseconds parked until a device that the vCPU touched was ready.
    pub device_ns: AtomicU64,
    /// Zero.
    pub reserved_end: u64,
}
const _: () = assert!(size_of::<PvLine>() == 64);
const _: () = assert!(core::mem::offset_of!(PvLine, stolen_ns) == 8);
const _: () = assert!(core::mem::offset_of!(PvLine, preempted) == 16);
const _: () = assert!(core::mem::offset_of!(PvLine, pcpu) == 20);
const _: () = assert!(core::mem::offset_of!(PvLine, generation) == 24);
const _: () = assert!(core::mem::offset_of!(PvLine, queued_ns) == 32);

impl PvLine {
    /// Returns whether the vCPU was switched out against its will, when last written.
    #[inline(always)]
    pub fn is_preempted(&self) -> bool {
        self.preempted.load(Ordering::Relaxed) & PREEMPTED != 0
    }
}

/// PV_TIME_FEATURES (DEN 0057A): 0 for itself and for [`PV_TIME_ST`] where there is a line.
pub const PV_TIME_FEATURES: u32 = 0xc500_0020;
/// PV_TIME_ST (DEN 0057A): the IPA of the calling vCPU's line, or −1.
pub const PV_TIME_ST: u32 = 0xc500_0021;

/// A call of the vendor service that any guest may make (SMCCC fast HVC64, owner 6). Which
/// of them a VM has is in the bitmap that FEATURES (0x8600_0000) returns, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Call {
    /// `() -> (0, window IPA, stride, byte offset | mask << 32)`: where [`PvLine`]s are.
    PvPreemptInfo = 0xc600_0010,
    /// `(mpidr) -> 0`: gives the core to a vCPU of this VM that wants to run and does not,
    /// as far as its VM's share allows. −3 if the VM has no such vCPU.
    YieldTo = 0xc600_0011,
    /// `() -> index`: the physical core this runs on now.
    PcpuInfo = 0xc600_0012,
}

impl Call {
    /// Every call, for FEATURES and for the test that pins the numbers.
    pub const ALL: [Self; 3] = [Self::PvPreemptInfo, Self::YieldTo, Self::PcpuInfo];

    /// Returns the number in the FEATURES bitmap.
    pub const fn number(self) -> u32 {
        self as u32 & 0xffff
    }
}

/// Where a guest finds the hints: what [`Call::PvPreemptInfo`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hints {
    first: u64,
    stride: u64,
    mask: u8,
}

impl Hints {
    /// Reads x0 to x3 after the call; `None` if there are no hints (or no Skete).
    pub fn found([x0, window, stride, at]: [u64; 4]) -> Option<Self> {
        let mask = u8::try_from(at >> 32).ok()?;
        let first = window.checked_add(at & 0xffff_ffff)?;
        (x0 == 0 && stride != 0 && mask != 0).then_some(Self {
            first,
            stride,
            mask,
        })
    }

    /// Returns the IPA of the byte of vCPU `index`.
    pub const fn byte(&self, index: usize) -> u64 {
        self.first
            .wrapping_add(self.stride.wrapping_mul(index as u64))
    }

    /// Returns whether that byte says that its vCPU is preempted.
    pub const fn is_preempted(&self, byte: u8) -> bool {
        byte & self.mask != 0
    }
}

/// Returns FEATURES' bitmap of these function numbers (below 128), for w0 to w3.
pub const fn bitmap(numbers: &[u32]) -> u128 {
    let mut bits = 0;
    let mut rest = numbers;
    while let [number, tail @ ..] = rest {
        bits |= 1_u128 << (*number & 127);
        rest = tail;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a number that guests rely on moves. Do not edit; add lines.
    #[test]
    fn numbers_are_forever() {
        assert_eq!(Call::PvPreemptInfo as u32, 0xc600_0010);
        assert_eq!(Call::YieldTo as u32, 0xc600_0011);
        assert_eq!(Call::PcpuInfo as u32, 0xc600_0012);
        assert_eq!(Call::ALL.map(Call::number), [0x10, 0x11, 0x12]);
        assert_eq!(bitmap(&[0, 0x10, 0x21]), 1 | 1 << 16 | 1 << 33);
        assert_eq!(crate::map::PV_BASE, 0x090a_0000);
        assert_eq!(PREEMPTED_OFFSET, 16);
    }

    #[test]
    fn hints_are_found_where_the_call_says() {
        let hints = Hints::found([0, 0x090a_0000, 64, 0x1_0000_0010]).expect("are there");
        assert_eq!(hints.byte(3), 0x090a_00d0);
        assert!(hints.is_preempted(1) && !hints.is_preempted(2));
        assert_eq!(Hints::found([u64::MAX, 0, 0, 0]), None);
        assert_eq!(Hints::found([u64::MAX, 1, 64, 0x1_0000_0010]), None);
    }
}
