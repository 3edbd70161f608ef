//! Levels of the translation tables with the 4 KiB granule (DDI 0487 D8.2).

/// A table level, numbered as the manual does: 3 holds pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// 512 GiB an entry; tables only.
    L0,
    /// 1 GiB an entry.
    L1,
    /// 2 MiB an entry.
    L2,
    /// 4 KiB an entry; pages only.
    L3,
}

impl Level {
    /// The levels that may hold a leaf, largest leaf first.
    pub const LEAVES: [Self; 3] = [Self::L1, Self::L2, Self::L3];

    /// Returns the lowest address bit that indexes a table of this level.
    pub const fn shift(self) -> u32 {
        match self {
            Self::L0 => 39,
            Self::L1 => 30,
            Self::L2 => 21,
            Self::L3 => 12,
        }
    }

    /// Returns the bytes that one entry covers.
    pub const fn span(self) -> u64 {
        1 << self.shift()
    }

    /// Returns the level of the tables that entries of this level point to.
    pub const fn below(self) -> Option<Self> {
        match self {
            Self::L0 => Some(Self::L1),
            Self::L1 => Some(Self::L2),
            Self::L2 => Some(Self::L3),
            Self::L3 => None,
        }
    }

    /// Returns the level whose entries point to tables of this level.
    pub const fn above(self) -> Option<Self> {
        match self {
            Self::L0 => None,
            Self::L1 => Some(Self::L0),
            Self::L2 => Some(Self::L1),
            Self::L3 => Some(Self::L2),
        }
    }

    /// Returns the pool order of a frame that fills one entry: 0 is 4 KiB.
    pub const fn order(self) -> u8 {
        match self {
            Self::L0 => 27,
            Self::L1 => 18,
            Self::L2 => 9,
            Self::L3 => 0,
        }
    }

    /// Returns the number the manual gives the level.
    pub const fn number(self) -> u8 {
        match self {
            Self::L0 => 0,
            Self::L1 => 1,
            Self::L2 => 2,
            Self::L3 => 3,
        }
    }
}
