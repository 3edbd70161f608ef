//! VMIDs: the tags of a VM's TLB entries, 8 or 16 bits of them.
//!
//! A VMID is given to one live VM at a time and comes back when [`crate::Gmap::destroy`] has
//! invalidated it. The next one given is the one unused for longest, more or less: the search
//! goes round. When all are in use the next VM is refused; nothing is ever shared.

/// Which VMIDs are in use.
#[derive(Debug)]
pub struct Vmids<'m> {
    used: &'m mut [u64],
    bits: u8,
    last: u32,
}

impl<'m> Vmids<'m> {
    /// Returns the words of memory that `bits` bits (8 or 16) of VMID need.
    pub const fn words(bits: u8) -> usize {
        if bits <= 8 { 4 } else { 1024 }
    }

    /// Creates the set with VMID 0 in use: it is what VTTBR_EL2 holds before any VM.
    ///
    /// `None` if `bits` is neither 8 nor 16 (ID_AA64MMFR1_EL1.VMIDBits knows no others) or
    /// `memory`, whose contents do not matter, is too small.
    pub fn new(memory: &'m mut [u64], bits: u8) -> Option<Self> {
        if bits != 8 && bits != 16 {
            return None;
        }
        let used = memory.get_mut(..Self::words(bits))?;
        used.fill(0);
        *used.first_mut()? = 1;
        Some(Self {
            used,
            bits,
            last: 0,
        })
    }

    /// Gives a VMID that no live VM has, or `None` if there is none.
    pub fn alloc(&mut self) -> Option<u16> {
        let count = 1_u32 << self.bits;
        for step in 1..=count {
            let id = self.last.wrapping_add(step) & count.wrapping_sub(1);
            let (word, mask) = self.word(id)?;
            if *word & mask == 0 {
                *word |= mask;
                self.last = id;
                return u16::try_from(id).ok();
            }
        }
        None
    }

    /// Takes a VMID back, after its TLB entries are gone.
    ///
    /// Returns whether it was in use.
    pub fn free(&mut self, vmid: u16) -> bool {
        if vmid == 0 {
            return false;
        }
        match self.word(u32::from(vmid)) {
            Some((word, mask)) if *word & mask != 0 => {
                *word &= !mask;
                true
            }
            _ => false,
        }
    }

    fn word(&mut self, id: u32) -> Option<(&mut u64, u64)> {
        let index = usize::try_from(id >> 6).ok()?;
        Some((self.used.get_mut(index)?, 1 << (id & 63)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_live_vms_share_a_vmid_and_one_too_many_is_refused() {
        for (bits, most) in [(8, 255_u32), (16, 65_535)] {
            let mut memory = [u64::MAX; 1024];
            let mut vmids = Vmids::new(&mut memory, bits).expect("large enough");
            let mut live = [false; 1 << 16];
            for _ in 0..most {
                let id = usize::from(vmids.alloc().expect("not all used"));
                assert!(id != 0 && !live[id], "{id} is shared");
                live[id] = true;
            }
            assert_eq!(vmids.alloc(), None);
            // Some are freed late: they, and only they, come again.
            for id in [200, 3, 77] {
                assert!(vmids.free(id));
                assert!(!vmids.free(id), "freed once");
            }
            let mut again = [0; 3].map(|_| vmids.alloc().expect("freed"));
            again.sort_unstable();
            assert_eq!(again, [3, 77, 200]);
            assert_eq!(vmids.alloc(), None);
            assert!(!vmids.free(0), "never anybody's");
        }
    }

    #[test]
    fn a_freed_vmid_is_not_the_next_one_given() {
        let mut memory = [0; 4];
        let mut vmids = Vmids::new(&mut memory, 8).expect("large enough");
        let first = vmids.alloc().expect("free");
        assert!(vmids.free(first));
        assert_ne!(vmids.alloc(), Some(first));
        assert!(Vmids::new(&mut [0; 4], 16).is_none(), "too small");
        assert!(Vmids::new(&mut [0; 4], 12).is_none(), "no such width");
    }
}
