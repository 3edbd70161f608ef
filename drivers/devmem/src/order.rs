//! Which leaf to map: the largest that congruence and bounds allow.

use crate::region::Region;
use arch::{Ipa, Pa};

/// Size of a leaf of stage 2 with the 4 KiB granule (DDI 0487 D8.2.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// A level 3 page, 4 KiB.
    Page,
    /// Sixteen level 3 pages with the Contiguous hint, 64 KiB.
    Group64K,
    /// A level 2 block, 2 MiB.
    Block2M,
    /// A level 1 block, 1 GiB.
    Block1G,
}

impl Order {
    /// Every size, largest first.
    pub const LARGEST_FIRST: [Self; 4] = [Self::Block1G, Self::Block2M, Self::Group64K, Self::Page];

    /// Returns the bytes of a leaf.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Page => 1 << 12,
            Self::Group64K => 1 << 16,
            Self::Block2M => 1 << 21,
            Self::Block1G => 1 << 30,
        }
    }

    /// Returns the next smaller size, if there is one.
    pub const fn smaller(self) -> Option<Self> {
        match self {
            Self::Block1G => Some(Self::Block2M),
            Self::Block2M => Some(Self::Group64K),
            Self::Group64K => Some(Self::Page),
            Self::Page => None,
        }
    }

    /// Returns its place in a histogram: 0 for a page, 3 for 1 GiB.
    pub const fn index(self) -> usize {
        match self {
            Self::Page => 0,
            Self::Group64K => 1,
            Self::Block2M => 2,
            Self::Block1G => 3,
        }
    }
}

/// A leaf to map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// First address in the guest.
    pub ipa: Ipa,
    /// First address in the machine.
    pub pa: Pa,
    /// Its size.
    pub order: Order,
}

/// Returns the largest leaf, `largest` at most, that covers `at` and lies in `region`.
///
/// A size fits if the leaf's two addresses are multiples of it and the whole leaf is memory of
/// the device. Nothing is ever rounded up: past the end of the memory there may be another
/// device. `None` if not even a page fits, which is so behind the memory and in its last page
/// if that is not whole.
pub fn block_at(region: &Region, at: Ipa, largest: Order) -> Option<Block> {
    Order::LARGEST_FIRST
        .into_iter()
        .filter(|order| *order <= largest)
        .find_map(|order| {
            let bytes = order.bytes();
            let ipa = at.align_down(bytes);
            let offset = ipa.raw().checked_sub(region.ipa().raw())?;
            if offset.checked_add(bytes)? > region.len() {
                return None;
            }
            let pa = region.pa().checked_add(offset)?;
            pa.is_aligned(bytes).then_some(Block { ipa, pa, order })
        })
}
