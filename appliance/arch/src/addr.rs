//! Addresses that know which space they are in.

use core::fmt;
use core::marker::PhantomData;

/// A byte address in the address space `S`, below 2^48.
///
/// An [`Ipa`] is what a guest believes; a [`Pa`] is where the bytes are. Only a
/// stage-2 walk turns one into the other, so no function here converts them.
#[repr(transparent)]
pub struct Addr<S>(u64, PhantomData<S>);

/// Guest intermediate-physical space, the input of stage 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Intermediate {}
/// Machine physical space, the output of stage 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Physical {}
/// EL2 virtual space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Virtual {}

/// A guest's intermediate physical address.
pub type Ipa = Addr<Intermediate>;
/// A machine physical address.
pub type Pa = Addr<Physical>;
/// An address in core's own stage 1.
pub type Va = Addr<Virtual>;

impl<S> Clone for Addr<S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S> Copy for Addr<S> {}
impl<S> PartialEq for Addr<S> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<S> Eq for Addr<S> {}
impl<S> PartialOrd for Addr<S> {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<S> Ord for Addr<S> {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
impl<S> core::hash::Hash for Addr<S> {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl<S> Addr<S> {
    /// Number of address bits a valid value may use.
    pub const BITS: u32 = 48;

    /// Accepts `raw` if it fits in [`Self::BITS`] bits.
    ///
    /// Returns `None` rather than masking: an address that silently loses its
    /// top bits aliases another page (Xen learnt this as XSA-301).
    pub const fn new(raw: u64) -> Option<Self> {
        if raw >> Self::BITS == 0 {
            Some(Self(raw, PhantomData))
        } else {
            None
        }
    }

    /// Returns the address `bytes` further on, if that is still an address.
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(raw) => Self::new(raw),
            None => None,
        }
    }

    /// Returns the address as the number hardware expects.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Returns whether the address is a multiple of `size`, a power of two.
    pub const fn is_aligned(self, size: u64) -> bool {
        self.0 & size.wrapping_sub(1) == 0
    }

    /// Returns the largest multiple of `size`, a power of two, not above the address.
    pub const fn align_down(self, size: u64) -> Self {
        Self(self.0 & !size.wrapping_sub(1), PhantomData)
    }
}

impl fmt::Debug for Ipa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ipa:{:#x}", self.0)
    }
}
impl fmt::Debug for Pa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pa:{:#x}", self.0)
    }
}
impl fmt::Debug for Va {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "va:{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_past_48_bits_is_refused_not_masked() {
        assert_eq!(Ipa::new(1 << 48), None);
        assert_eq!(Pa::new(u64::MAX), None);
        let last = Ipa::new((1 << 48) - 1).expect("fits");
        assert_eq!(last.checked_add(1), None);
        assert_eq!(last.checked_add(u64::MAX), None);
        assert_eq!(last.align_down(4096).raw(), 0xffff_ffff_f000);
    }
}
